"""Adapter for the graphs and networks of this package: rebuilt from atoms and pairs, so nothing stale is rotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from e3nn.o3 import Irreps
from torch import Tensor

from tracegrad.errors import VerificationError
from tracegrad.graph import TargetLayout, cast_graph, collate, graph_from_pairs
from tracegrad.graph.targets import irreps_to_blocks

from .adapters import FRAGMENT_BOND, FRAGMENT_DISTANCE, cells, tiled_edges
from .group import Elements
from .representation import POINTS, VECTOR, Representation
from .subject import Leaf, OutputSpec
from .wigner import Array


class TraceGradAdapter:
    """Graphs of :func:`tracegrad.graph.build_graph`; outputs are z-polar irreps, rotations are physical.

    Args:
        layout: the model's targets.
        hermitian: False for a model that predicts every directed edge on its own: hermiticity is then not claimed.
    """

    def __init__(self, layout: TargetLayout, hermitian: bool = True) -> None:
        self.layout, self.hermitian = layout, hermitian
        self.time_reversal = layout.spinful and layout.time_reversal
        self._points = Representation.parse(POINTS)

    def specs(self, model: Any, graph: Any) -> tuple[OutputSpec, ...]:
        """The irreps of the blocks, and the trace labels where the model predicts them (in training mode).

        Raises:
            VerificationError: the graph is empty, or the model declares other irreps than its targets have.
        """
        if int(graph.num_nodes) == 0:
            raise VerificationError("the graph has no atoms: an empty graph verifies nothing")
        if not bool(torch.isfinite(graph.positions).all()):
            raise VerificationError("the graph's positions hold NaN or infinity: give a finite graph")
        wanted = {"edge_irreps": self.layout.irreps, "trace": Irreps(f"{self.layout.num_channels}x0e")}
        claimed = getattr(model, "irreps_out", None)
        for name, irreps in (claimed if isinstance(claimed, Mapping) else {}).items():
            if name in wanted and Irreps(irreps) != wanted[name]:
                raise VerificationError(
                    f"irreps_out[{name!r}] of {type(model).__name__} is {irreps}, expected {wanted[name]}, those of "
                    "its targets"
                )
        specs = [OutputSpec("edge_irreps", Representation.parse(self.layout.irreps, "z-polar"), "edge")]
        if "trace" in model(self.cast(graph, _dtype_of(model))):
            specs.append(OutputSpec("trace", Representation.parse(wanted["trace"]), "edge"))
        return tuple(specs)

    def evaluate(self, model: Any, graph: Any) -> list[Tensor]:
        """``"edge_irreps"`` and ``"trace"`` of ``model(graph)``, those that are there, for all edges."""
        outputs = model(graph)
        return [outputs["edge_irreps"], *([self._all_edges(outputs["trace"], graph)] if "trace" in outputs else [])]

    def energies(self, graph: Any) -> dict[str, Tensor]:
        """Components of the blocks that both atoms of an edge have; no trace labels, which are in eV².

        The network also has outputs for blocks that a pair of elements lacks: no target trains them, and no prediction
        holds them.
        """
        present = self.layout.block_mask[:, self.layout.component_block].to(graph.edge_type.device)
        return {"edge_irreps": present[graph.edge_type]}

    def _all_edges(self, trace: Tensor, graph: Any) -> Tensor:
        """Labels of all edges from those of the self-loops and of one direction per pair: T is that of the partner."""
        if len(trace) == graph.edge_index.shape[1]:
            return trace
        return torch.cat([trace, trace[graph.num_nodes :, self.layout.partner_block.to(trace.device)]])

    def num_nodes(self, graph: Any) -> int:
        """Number of atoms."""
        return int(graph.num_nodes)

    def edge_keys(self, graph: Any) -> np.ndarray:
        """(E, 5) integers (i, j, R)."""
        return torch.cat([graph.edge_index.T, graph.cell_shift], dim=1).cpu().numpy()

    def edge_vectors(self, graph: Any) -> Array:
        """Vectors of the pairs."""
        return np.asarray(graph.edge_vectors[graph.num_nodes :].detach().cpu().double().numpy())

    def leaves(self, graph: Any) -> list[Leaf]:
        """The positions, and the lattice vectors of a periodic structure."""
        found = [Leaf("positions", self._points, graph.positions, given=True)]
        return found if self._is_molecule(graph) else [*found, Leaf("cell", VECTOR, graph.cell[0], given=True)]

    def with_leaves(self, graph: Any, values: Sequence[Tensor]) -> Any:
        """The graph at other positions and lattice vectors, pairs kept."""
        cell = values[1] if len(values) > 1 else graph.cell[0]
        return self._rebuilt(graph, graph.numbers, values[0], cell, *self._pairs(graph))

    @staticmethod
    def _is_molecule(graph: Any) -> bool:
        return float(torch.linalg.det(graph.cell[0].detach().double()).abs()) < 1e-9

    def _pairs(self, graph: Any) -> tuple[Tensor, Tensor]:
        chosen = slice(graph.num_nodes, graph.num_nodes + graph.num_pairs)
        return graph.edge_index[:, chosen], graph.cell_shift[chosen]

    def _rebuilt(
        self, graph: Any, numbers: Tensor, positions: Tensor, cell: Tensor, pairs: Tensor, shift: Tensor
    ) -> Any:
        device = graph.positions.device
        made = graph_from_pairs(
            numbers, positions.to(device), cell.to(device), pairs, shift, self.layout, lmax=len(graph.wigner) - 1
        )
        return cast_graph(made, graph.positions.dtype)

    def transform(self, graph: Any, element: Elements) -> Any:
        """Atoms and cell moved in float64, everything else computed again."""
        positions = element.move(graph.positions.detach().cpu().double().numpy()[None])[0]
        cell = graph.cell[0].detach().cpu().double().numpy() @ element.matrix[0].T
        return self._rebuilt(
            graph, graph.numbers, torch.from_numpy(positions), torch.from_numpy(cell), *self._pairs(graph)
        )

    def cast(self, graph: Any, dtype: torch.dtype) -> Any:
        """A new graph in that dtype."""
        pairs, shift = self._pairs(graph)
        made = graph_from_pairs(
            graph.numbers,
            graph.positions.double(),
            graph.cell[0].double(),
            pairs,
            shift,
            self.layout,
            lmax=len(graph.wigner) - 1,
        )
        return cast_graph(made, dtype)

    def permute_nodes(self, graph: Any, order: np.ndarray) -> Any | None:
        """Atoms renumbered, pairs with them."""
        pairs, shift = self._pairs(graph)
        index = torch.from_numpy(order).to(pairs.device)
        return self._rebuilt(
            graph, graph.numbers[index], graph.positions[index], graph.cell[0], torch.argsort(index)[pairs], shift
        )

    def permute_edges(self, graph: Any, rng: np.random.Generator) -> Any | None:
        """Pairs in another order, some of them named from their other end."""
        pairs, shift = self._pairs(graph)
        order = torch.from_numpy(rng.permutation(pairs.shape[1])).to(pairs.device)
        flip = torch.from_numpy(rng.random(pairs.shape[1]) < 0.5).to(pairs.device)
        pairs, shift = pairs[:, order], shift[order]
        pairs = torch.where(flip, pairs.flip(0), pairs)
        shift = torch.where(flip[:, None], -shift, shift)
        return self._rebuilt(graph, graph.numbers, graph.positions, graph.cell[0], pairs, shift)

    def batch(self, graphs: Sequence[Any]) -> Any | None:
        """The graphs collated."""
        return collate(list(graphs))

    def with_fragment(self, graph: Any) -> Any | None:
        """Two more atoms, of the elements of the first and the last, bound to each other only."""
        n = graph.num_nodes
        far = graph.positions.mean(0, keepdim=True) + torch.tensor([[FRAGMENT_DISTANCE, 0.0, 0.0]]).to(graph.positions)
        positions = torch.cat([graph.positions, far, far + torch.tensor([FRAGMENT_BOND]).to(far)])
        pairs, shift = self._pairs(graph)
        pairs = torch.cat([pairs, torch.tensor([[n], [n + 1]]).to(pairs)], dim=1)
        shift = torch.cat([shift, shift.new_zeros(1, 3)])
        numbers = torch.cat([graph.numbers, graph.numbers[[0, -1]]])
        return self._rebuilt(graph, numbers, positions, graph.cell[0], pairs, shift)

    def tile(self, graph: Any, repeats: tuple[int, int, int]) -> Any | None:
        """Supercell of a periodic structure; None for a molecule, whose cell is zero."""
        if self._is_molecule(graph):
            return None
        cell = graph.cell[0]
        pairs, shift = self._pairs(graph)
        keys = torch.cat([pairs.T, shift], dim=1).cpu().numpy()
        edges = torch.from_numpy(tiled_edges(keys, graph.num_nodes, repeats))
        offsets = torch.from_numpy(np.repeat(cells(repeats), graph.num_nodes, axis=0)).to(cell) @ cell
        count = int(np.prod(repeats))
        positions = torch.cat([graph.positions] * count) + offsets
        larger = torch.tensor(repeats).to(cell)[:, None] * cell
        return self._rebuilt(graph, torch.cat([graph.numbers] * count), positions, larger, edges[:, :2].T, edges[:, 2:])

    def recell(self, graph: Any, basis: np.ndarray, moves: np.ndarray) -> Any | None:
        """Other lattice vectors of the lattice, atoms in other cells; None for a molecule."""
        if self._is_molecule(graph):
            return None
        cell = graph.cell[0]
        pairs, shift = self._pairs(graph)
        inverse = torch.from_numpy(np.rint(np.linalg.inv(basis)).astype(np.int64)).to(shift)
        cells_of = torch.from_numpy(moves).to(shift)
        shift = (shift + cells_of[pairs[0]] - cells_of[pairs[1]]) @ inverse
        positions = graph.positions + cells_of.to(cell) @ cell
        return self._rebuilt(graph, graph.numbers, positions, torch.from_numpy(basis).to(cell) @ cell, pairs, shift)

    def subset(self, graph: Any, nodes: Sequence[int]) -> Any | None:
        """Some of the atoms and the pairs among them; None when no pair is left."""
        pairs, shift = self._pairs(graph)
        index = torch.tensor(sorted(nodes), device=pairs.device)
        position = torch.full((graph.num_nodes,), -1, device=pairs.device)
        position[index] = torch.arange(len(index), device=pairs.device)
        inside = (position[pairs] >= 0).all(0)
        if not bool(inside.any()):
            return None
        return self._rebuilt(
            graph,
            graph.numbers[index],
            graph.positions[index],
            graph.cell[0],
            position[pairs][:, inside],
            shift[inside],
        )

    def nearest(self, graph: Any, atoms: int) -> Any:
        """Graph of the atoms nearest to the first one, with the pairs among them."""
        if graph.num_nodes <= atoms:
            return graph
        distances = (graph.positions - graph.positions[:1]).norm(dim=1)
        smaller = self.subset(graph, torch.argsort(distances)[: max(atoms, 1)].tolist())
        return graph if smaller is None else smaller

    def blocks(self, model: Any, graph: Any) -> Mapping[tuple[int, ...], np.ndarray] | None:
        """Blocks of all directed edges."""
        if not self.hermitian:
            return None
        irreps = model(graph)["edge_irreps"].detach().double().cpu()
        keys = torch.cat([graph.cell_shift, graph.edge_index.T], dim=1).cpu().numpy()
        found = irreps_to_blocks(irreps, keys, graph.edge_type.cpu(), self.layout)
        return {tuple(int(v) for v in key): np.asarray(found.block(e)) for e, key in enumerate(found.keys())}

    def source(self, graph: Any) -> str:
        """Source of the graph from its atoms and pairs."""
        from .replay import MAX_PRINTED, tensor_source

        pairs, shift = self._pairs(graph)
        parts = [graph.numbers, graph.positions, graph.cell[0], pairs, shift]
        if sum(p.numel() for p in parts) > MAX_PRINTED:
            return ""
        body = "".join(f"    {tensor_source(p)},\n" for p in parts)
        return (
            f"from tracegrad.graph import graph_from_pairs\n\ngraph = graph_from_pairs(\n{body}    adapter.layout,\n)\n"
        )


def _dtype_of(model: Any) -> torch.dtype:
    """Dtype of a model's weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
