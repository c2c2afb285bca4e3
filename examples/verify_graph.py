"""Gate a graph network with energies and forces: the fields of its graph are declared, what follows is rebuilt."""

import torch
from torch_geometric.data import Data

from tracegrad.verify import DataAdapter, Field, verify_model


def rebuild(graph):
    """Recompute what the graph stores besides its declared fields, after every rotation, shift or renumbering."""
    i, j = graph.edge_index
    graph.edge_vec = graph.pos[j] - graph.pos[i]
    return graph


class Network(torch.nn.Module):
    """Energies of the atoms from charges and distances, summed over each molecule of a batch."""

    def forward(self, graph):
        i, j = graph.edge_index
        pairs = graph.charge[i] * graph.charge[j] * torch.exp(-graph.edge_vec.square().sum(1, keepdim=True))
        batch = graph.batch if "batch" in graph else torch.zeros(len(graph.pos), dtype=torch.long)
        return pairs.new_zeros(int(batch.max()) + 1, 1).index_add(0, batch[i], pairs)


def forward(model, graph):
    """Energy and forces of a graph; rebuilt once more, so that the energy depends on the positions."""
    graph = graph.clone()  # the caller's stays as it is
    graph.pos.requires_grad_()
    energy = model(rebuild(graph))
    return energy, -torch.autograd.grad(energy.sum(), graph.pos, create_graph=True)[0]


torch.manual_seed(0)
pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
edge_index = pairs[:, pairs[0] != pairs[1]]
molecule = rebuild(Data(pos=torch.randn(5, 3), charge=torch.rand(5, 1), edge_index=edge_index))
adapter = DataAdapter(
    {"pos": Field("cartesian_points"), "charge": Field("1x0e")},
    {"energy": Field("1x0e", "total"), "forces": Field("1x1o", "node")},
    rebuild=rebuild,
    forward=forward,
)
report = verify_model(Network(), molecule, adapter=adapter)
print(report.to_text())
