"""HarmoSE (arXiv:2401.00744): an equivariant first stage, corrected by a graph transformer that is not equivariant.

The second stage sees the first stage's Hamiltonian and features in the global frame. It learns equivariance from
rotated training data; its equivariance error is measured and reported, never taken to be zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from e3nn.o3 import Irreps, spherical_harmonics
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import softmax

from tracegrad.model.deephe3 import DeepHE3
from tracegrad.model.layers.radial import GaussianBasis

LMAX_HARMONICS = 7
MAX_LOGIT = 5.0
NUM_GAUSSIANS = 64


def _branch(width_in: int, width: int) -> nn.Sequential:
    """Linear, LayerNorm, SiLU."""
    return nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width), nn.SiLU())


class TransformerBlock(nn.Module):
    r"""Attention over the edges that enter a node, then new node and edge features (method.md, Section 6).

    The residual of the feed-forward part goes around both of its linear maps.

    .. math:: a_{st} = \mathrm{softmax}_{s \to t}\Big(\mathrm{clip}\frac{\langle q, k \rangle}{\sqrt{d_h}}\Big), \qquad
              (q, k, v) = L\,[n_s \| e_{st} \| n_t]

    Args:
        width: channels of nodes and edges, d.
        heads: attention heads, each with :math:`d_h` = d / heads channels of q, k and v.
        covariants: width of the covariant edge inputs, re-injected at every layer.
    """

    def __init__(self, width: int, heads: int, covariants: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.edge_branch, self.covariant_branch = _branch(width, width), _branch(covariants, width)
        self.distance_branch = _branch(NUM_GAUSSIANS, width)
        self.edge_input = _branch(3 * width, width)
        self.qkv = nn.Linear(3 * width, 3 * width)
        self.mix, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.feed1, self.feed_norm, self.feed2 = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, width)
        self.edge_output = nn.Sequential(_branch(3 * width, width), nn.Linear(width, width))

    def forward(
        self, nodes: Tensor, edges: Tensor, covariants: Tensor, gaussians: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New features of nodes ``(N, d)`` and edges ``(E, d)``."""
        centre, source = edge_index
        branches = [self.edge_branch(edges), self.covariant_branch(covariants), self.distance_branch(gaussians)]
        edge_input = self.edge_input(torch.cat(branches, dim=1))
        triple = torch.cat([nodes[source], edge_input, nodes[centre]], dim=1)
        q, k, v = self.qkv(triple).view(len(edges), 3, self.heads, self.head_width).unbind(1)
        logits = ((q * k).sum(-1) / math.sqrt(self.head_width)).clamp(-MAX_LOGIT, MAX_LOGIT)
        weights = softmax(logits, centre, num_nodes=len(nodes))
        gathered = nodes.new_zeros(len(nodes), self.heads, self.head_width).index_add(0, centre, weights[..., None] * v)
        nodes = self.norm(nodes + self.mix(gathered.flatten(1)))
        nodes = nodes + self.feed2(nn.functional.silu(self.feed_norm(self.feed1(nodes))))
        return nodes, self.edge_output(torch.cat([nodes[source], edge_input, nodes[centre]], dim=1))


class HarmoSE(nn.Module):
    """Two stages: ``first`` (DeepH-E3, with or without the encoding modules of TraceGrad) and a graph transformer.

    Args:
        first: the equivariant stage.
        width: channels of the transformer, d.
        num_blocks: transformer blocks.
        heads: attention heads.
    """

    approximate = True  # equivariance is learned: the verifier measures it against a budget and never calls it exact

    def __init__(self, first: DeepHE3, width: int = 256, num_blocks: int = 4, heads: int = 4) -> None:
        super().__init__()
        if not first.decoder.hermitian:
            raise ValueError("HarmoSE: expected a Hermitian first stage, found hermitian=False. Set hermitian=True.")
        self.first, self.targets = first, first.targets
        self.layout = first.layouts_edge[-1]
        num_harmonics = (LMAX_HARMONICS + 1) ** 2
        covariants = self.targets.irreps.dim + self.layout.dim + num_harmonics
        self.basis = GaussianBasis(first.sizes.r_max, NUM_GAUSSIANS)
        self.embed = _branch(self.targets.irreps.dim + self.layout.dim, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, covariants) for _ in range(num_blocks))
        self.correction = nn.Linear(width, self.targets.irreps.dim)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    @property
    def irreps_out(self) -> dict[str, Irreps]:
        """Irreps that the named outputs have approximately."""
        return self.first.irreps_out

    @property
    def frame_degree(self) -> int:
        """Largest degree of the frames that the first stage needs; the second works in the global frame."""
        return self.first.frame_degree

    def calibrate(self, graphs: Iterable[Data]) -> None:
        """Fit scale and reference of the first stage to the training graphs."""
        self.first.calibrate(graphs)

    def in_frame(self, graph: Data) -> dict[str, Tensor]:
        """Predictions in the frames of the edges, as :meth:`DeepHE3.in_frame` returns them."""
        _, edge_feats, invariants = self.first.encode(graph)
        frame = self.targets.frame
        network = frame.flatten(self.first.decoder(edge_feats, graph))
        covariants = self._covariants(network, edge_feats, graph)
        nodes, edges = self._embed(covariants, graph)
        gaussians = self.basis(graph.edge_vectors.norm(dim=1))
        for block in self.blocks:
            nodes, edges = block(nodes, edges, covariants, gaussians, graph.edge_index)
        correction = self._symmetrise(self.correction(edges), graph)
        rows = len(network)
        flat = network + frame.to_frame(correction, [D[:rows] for D in graph.wigner])
        outputs = {"frame": self.first.output(flat, graph)}
        if self.first.trace_decoder is not None and self.training:
            outputs["trace"] = self.first.trace_decoder(invariants, graph)
        return outputs

    def forward(self, graph: Data) -> dict[str, Tensor]:
        """Predictions in the global frame, as :meth:`DeepHE3.forward` returns them."""
        return self.first.to_global(self.in_frame(graph), graph)

    def _covariants(self, network: Tensor, edge_feats: list[Tensor], graph: Data) -> Tensor:
        """Stage-1 Hamiltonian and features, spherical harmonics of the edges, in the global frame, ``(E, .)``."""
        half = [D[: len(network)] for D in graph.wigner]
        irreps = self.first.all_edges(self.targets.frame.from_frame(network, half), graph)
        features = self.layout.from_frame(self.layout.flatten(edge_feats), graph.wigner)
        directions = graph.edge_vectors[:, [1, 2, 0]]  # e3nn's axes, see docs/conventions.md
        harmonics = spherical_harmonics(
            list(range(LMAX_HARMONICS + 1)), directions, normalize=True, normalization="component"
        )
        return torch.cat([irreps, features, harmonics], dim=1)

    def _embed(self, covariants: Tensor, graph: Data) -> tuple[Tensor, Tensor]:
        """First edge features; a node starts from its self-loop."""
        edges = self.embed(covariants[:, : self.targets.irreps.dim + self.layout.dim])
        return edges[: graph.num_nodes], edges

    def _symmetrise(self, correction: Tensor, graph: Data) -> Tensor:
        """Mean of the correction and of its Hermitian partner, on the Hermitian half, ``(N + P, D)``."""
        index, sign = self.targets.partner
        partner = correction[graph.reverse_edge][:, index.to(correction.device)] * sign.to(correction)
        return 0.5 * (correction + partner)[: graph.num_nodes + graph.num_pairs]
