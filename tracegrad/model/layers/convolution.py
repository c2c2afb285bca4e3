r"""The equivariant convolution of DeepH-E3, evaluated in the frames of the edges (derivation: ``docs/core.md``).

.. math:: y^{l_3}_w = \mathrm{gate}\Big(\sum_{l_1 l_2 u} c_{l_1 l_2 l_3} W^{l_1 l_2 l_3}_{uw}
          \big(x^{l_1}_u \otimes Y^{l_2}(\hat r)\big)^{l_3}\Big) \cdot f_w(r), \qquad x = [x_i \| x_j \| e_{ij}]

The weights ``W`` are the same for every edge. In the frame of the edge ``Y^{l_2}`` has only ``m = 0``, so the sum over
``l_2`` gives one matrix per ``|m|``, common to all edges (core.md, Eq. 4), and the tensor product is one matrix product
per ``|m|``. A self-loop has no direction, so ``Y^{l_2} = 0`` for ``l_2 > 0``: it keeps the paths with ``l_2 = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps, wigner_3j
from torch import Tensor, nn

from tracegrad.model.layers.constant import Constant
from tracegrad.model.layers.linear import EquivariantLinear, group_slices
from tracegrad.so3.frames import FrameBlocks, FrameLayout

@dataclass(frozen=True)
class NodeMessages:
    """Node features as the edges see them.

    Attributes:
        scalars: ``(N, K_0)`` channels of degree 0, not gathered.
        blocks: for every ``m``, the channels with ``l >= max(m, 1)`` in the frame of the edge, ``(E, 1 or 2, 2 K)``: of
            each irrep those of the centre and then those of the neighbour; empty where there are only scalars.
        centre: ``(E,)`` index of the receiving node.
        neighbour: ``(E,)`` index of the other node.
    """

    scalars: Tensor
    blocks: FrameBlocks
    centre: Tensor
    neighbour: Tensor


@dataclass(frozen=True)
class _Path:
    """One term ``l_1 x l_2 -> l_3`` of the tensor product, for one source (0: ``x_i``, 1: ``x_j``, 2: ``e_ij``)."""

    source: int
    rows: slice
    columns: slice
    l1: int
    l2: int
    l3: int
    natural1: bool
    natural3: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def slot(self) -> int:
        """Number of the harmonic among those that connect ``l_1`` and ``l_3`` with the right parity."""
        return (self.l2 - abs(self.l1 - self.l3)) // 2

    def pole_coefficient(self, m: int) -> float:
        """Factor from the even row of the input to the even row of the output, with ``Y`` at the pole (core.md, Eq. 3)."""
        w = wigner_3j(self.l1, self.l2, self.l3, dtype=torch.float64)
        row = m if self.natural1 else -m
        column = m if self.natural3 else -m
        return math.sqrt(2 * self.l2 + 1) * float(w[self.l1 + row, self.l2, self.l3 + column])


class _SourceTable:
    """Where the weights of some sources of one layout stand, and their coefficients for every ``m``."""

    def __init__(self, paths: list[_Path], norms: list[float], first: int, layout: FrameLayout, out: FrameLayout) -> None:
        self.layout, self.out = layout, out
        sources = [path.source for path in paths]
        self.num_sources = max(sources) - min(sources) + 1
        self.num_slots = max(path.slot for path in paths) + 1
        self.weights = slice(first, first + sum(math.prod(path.shape) for path in paths))
        shape = (self.num_slots, self.num_sources, layout.num_channels, out.num_channels)
        place = torch.arange(math.prod(shape)).view(shape)
        pieces = [place[p.slot, p.source - min(sources), p.rows, p.columns].flatten() for p in paths]
        self.shape, self.index = shape, Constant(torch.cat(pieces))
        self.coefficients = []
        for m in range(min(layout.lmax, out.lmax) + 1):
            table = torch.zeros(self.num_slots, 1, layout.num_channels, out.num_channels, dtype=torch.float64)
            for path, norm in zip(paths, norms, strict=True):
                if m <= min(path.l1, path.l3):
                    table[path.slot, 0, path.rows, path.columns] = norm * path.pole_coefficient(m)
            self.coefficients.append(Constant(table[:, :, layout.starts[m] :, out.starts[m] :].contiguous()))
        loop = torch.zeros(layout.num_channels, out.num_channels, dtype=torch.float64)
        for path, norm in zip(paths, norms, strict=True):
            if path.l2 == 0:
                loop[path.rows, path.columns] = norm / math.sqrt(2 * path.l1 + 1)
        self.loop = Constant(loop)

    def matrices(self, weight: Tensor) -> tuple[list[Tensor], Tensor]:
        """``(sources, K_in(m), K_out(m))`` for every ``m`` on pairs, and ``(sources, K_in, K_out)`` on self-loops."""
        dense = weight.new_zeros(math.prod(self.shape)).index_put((self.index.like(weight),), weight[self.weights])
        dense = dense.view(self.shape)
        starts, starts_out = self.layout.starts, self.out.starts
        pairs = [
            (dense[:, :, starts[m] :, starts_out[m] :] * table.like(dense)).sum(0)
            for m, table in enumerate(self.coefficients)
        ]
        return pairs, dense[0] * self.loop.like(dense)


class TensorProductWeights(nn.Module):
    """Weights of the tensor product of ``[x_i | x_j | e_ij]`` with spherical harmonics, and their matrices per ``|m|``.

    ``weight`` is laid out as e3nn's ``TensorProduct`` with ``uvw`` instructions orders it: for every source, input
    irrep, harmonic and output irrep in turn, a matrix ``(mul_in, mul_out)``.

    Args:
        layout_node: channels of ``x_i`` and ``x_j``.
        layout_edge: channels of ``e_ij``.
        layout_out: channels of the output.
        lmax_sh: largest degree of the spherical harmonics.
    """

    def __init__(self, layout_node: FrameLayout, layout_edge: FrameLayout, layout_out: FrameLayout, lmax_sh: int) -> None:
        super().__init__()
        paths = _paths([layout_node, layout_node, layout_edge], layout_out, lmax_sh)
        norms = _path_norms(paths)
        split = sum(path.source < 2 for path in paths)
        self.node = _SourceTable(paths[:split], norms[:split], 0, layout_node, layout_out)
        self.edge = _SourceTable(paths[split:], norms[split:], self.node.weights.stop, layout_edge, layout_out)
        self.weight = nn.Parameter(torch.randn(self.edge.weights.stop))


def _paths(layouts: list[FrameLayout], layout_out: FrameLayout, lmax_sh: int) -> list[_Path]:
    """All paths that parity and the triangle rule allow, in e3nn's order."""
    paths = []
    for source, layout in enumerate(layouts):
        for rows, (l1, natural1) in group_slices(layout):
            for l2 in range(lmax_sh + 1):
                for columns, (l3, natural3) in group_slices(layout_out):
                    even = (l1 + l2 + l3) % 2 == 0
                    if abs(l1 - l2) <= l3 <= l1 + l2 and even == (natural1 == natural3):
                        paths.append(_Path(source, rows, columns, l1, l2, l3, natural1, natural3))
    return paths


def _path_norms(paths: list[_Path]) -> list[float]:
    """e3nn's normalisation ``sqrt((2 l_3 + 1) / fan_in)`` of every path."""
    fans: dict[int, int] = {}
    for path in paths:
        fans[path.columns.start] = fans.get(path.columns.start, 0) + path.shape[0]
    return [math.sqrt((2 * path.l3 + 1) / fans[path.columns.start]) for path in paths]


class RadialNetwork(nn.Sequential):
    """Multilayer perceptron from the radial basis to one factor per channel, ``(..., num_basis) -> (..., num_channels)``."""

    def __init__(self, num_basis: int, num_channels: int, hidden: int = 64) -> None:
        super().__init__(
            nn.Linear(num_basis, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, num_channels),
        )


class EdgeConvolution(nn.Module):
    """Messages of all edges: tensor product, gate, radial factor (``EquiConv`` of DeepH-E3).

    Args:
        layout_node: channels of the node features.
        layout_edge: channels of the edge features.
        layout_out: channels of the messages.
        lmax_sh: largest degree of the spherical harmonics.
        num_basis: length of the radial basis.
    """

    def __init__(
        self, layout_node: FrameLayout, layout_edge: FrameLayout, layout_out: FrameLayout, lmax_sh: int, num_basis: int
    ) -> None:
        super().__init__()
        self.layout_out, self.lmax_sh = layout_out, lmax_sh
        scalars = {natural: mul for mul, l, natural in layout_out.groups if l == 0}
        self.num_even, self.num_odd = scalars.get(True, 0), scalars.get(False, 0)
        self.num_gates = layout_out.num_channels - self.num_even - self.num_odd
        higher = [(mul, ir) for mul, ir in layout_out.sorted_irreps if (ir.l, ir.p) != (0, 1)]
        self.layout_gate = FrameLayout(Irreps([(self.num_even, "0e"), (self.num_gates, "0e"), *higher]))
        self.tp = TensorProductWeights(layout_node, layout_edge, self.layout_gate, lmax_sh)
        self.fc = RadialNetwork(num_basis, layout_out.num_channels)
        self.interleaved = [Constant(_interleave(layout_node, m)) for m in range(layout_node.lmax + 1)]
        moments = [_second_moment_factor(f) for f in (nn.functional.silu, torch.tanh, torch.sigmoid)]
        repeats = torch.tensor([self.num_even, self.num_odd, self.num_gates])
        self.moments = Constant(torch.tensor(moments, dtype=torch.float64).repeat_interleave(repeats))

    def forward(
        self,
        nodes: NodeMessages,
        edge_feats: FrameBlocks,
        radial_basis: Tensor,
        *,
        node_linear: EquivariantLinear | None = None,
        edge_linear: EquivariantLinear | None = None,
    ) -> FrameBlocks:
        """Messages in the frames of the edges.

        Args:
            nodes: node features as the edges see them.
            edge_feats: features of the edges, blocks ``(E, 1 or 2, K_m)``.
            radial_basis: ``(1 + P, num_basis)``, first at distance 0, then of every pair.
            node_linear: linear map to apply to the node features before.
            edge_linear: the same for the edge features.
        """
        num_nodes = len(nodes.scalars)
        pairs, loops = self._edge_part(edge_feats, edge_linear, num_nodes)
        self._add_node_part(pairs, loops, nodes, node_linear)
        joined = []
        for m, (loop, pair) in enumerate(zip(loops, pairs, strict=True)):
            rows = 1 if m == 0 else 2
            if pair is None or loop is None:
                joined.append(edge_feats[0].new_zeros(len(edge_feats[0]), rows, self.layout_gate.widths[m]))
            else:
                joined.append(torch.cat([loop, pair]).view(len(edge_feats[0]), rows, -1))
        radial = self.fc(radial_basis) * self.moments.like(radial_basis)
        return self._gate(joined, torch.cat([radial[:1].expand(num_nodes, -1), radial[1:], radial[1:]]))

    def _edge_part(
        self, edge_feats: FrameBlocks, linear: EquivariantLinear | None, num_nodes: int
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Contribution of ``e_ij``: per ``m``, rows of pairs and rows of self-loops."""
        matrices, (loop,) = self.tp.edge.matrices(self.tp.weight)
        starts, starts_out = self.tp.edge.layout.starts, self.layout_gate.starts
        before = None if linear is None else linear.matrix()
        pairs: list[Tensor | None] = [None] * len(starts_out)
        loops: list[Tensor | None] = [None] * len(starts_out)
        for m, (matrix,) in enumerate(matrices):
            loop_matrix = loop[starts[m] :, starts_out[m] :]
            if before is not None:
                both = before[starts[m] :, starts[m] :] @ torch.cat([matrix, loop_matrix], dim=1)
                folded, loop_folded = both.chunk(2, dim=1)
            else:
                folded, loop_folded = matrix, loop_matrix
            block = edge_feats[m].flatten(0, 1)
            rows = num_nodes * (1 if m == 0 else 2)
            on_site, off_site = torch.split(block, [rows, len(block) - rows])
            if m == 0 and linear is not None and linear.bias is not None:
                bias = linear.padded_bias()
                pairs[m] = torch.addmm(bias @ matrix, off_site, folded)
                loops[m] = torch.addmm(bias @ loop_matrix, on_site, loop_folded)
            else:
                pairs[m], loops[m] = off_site @ folded, on_site @ loop_folded
        return pairs, loops

    def _add_node_part(
        self,
        pairs: list[Tensor | None],
        loops: list[Tensor | None],
        nodes: NodeMessages,
        linear: EquivariantLinear | None,
    ) -> None:
        """Add the contribution of ``x_i`` and ``x_j``: scalars are mixed on the nodes, the rest on the edges."""
        matrices, loop = self.tp.node.matrices(self.tp.weight)
        layout = self.tp.node.layout
        before = None if linear is None else linear.matrix()
        scalars, num_nodes, first = nodes.scalars, len(nodes.scalars), nodes.scalars.shape[1]
        if linear is not None:
            assert before is not None
            scalars = scalars @ before[:first, :first]
            if linear.bias is not None:
                scalars = scalars + linear.padded_bias()[:first]
        from_centre, from_neighbour = scalars @ matrices[0][:, :first]
        centre, neighbour = nodes.centre[num_nodes:], nodes.neighbour[num_nodes:]
        gathered = from_centre.index_select(0, centre) + from_neighbour.index_select(0, neighbour)
        pairs[0] = gathered if pairs[0] is None else pairs[0] + gathered
        on_site = scalars @ loop[:, :first].sum(0)
        loops[0] = on_site if loops[0] is None else loops[0] + on_site
        for m, block in enumerate(nodes.blocks):
            if m > self.layout_gate.lmax:
                break
            start, start_out = layout.starts[max(m, 1)], self.layout_gate.starts[m]
            both = torch.cat([matrices[m][:, start - layout.starts[m] :], loop[:, start:, start_out:]], dim=2)
            if before is not None:
                both = before[start:, start:] @ both
            matrix, loop_matrix = both.flatten(0, 1).index_select(0, self.interleaved[m].like(both)).chunk(2, dim=1)
            rows = num_nodes * (1 if m == 0 else 2)
            flat = block.flatten(0, 1)
            on_site, off_site = torch.split(flat, [rows, len(flat) - rows])
            pairs[m] = _addmm(pairs[m], off_site, matrix)
            loops[m] = _addmm(loops[m], on_site, loop_matrix)

    def _gate(self, blocks: FrameBlocks, factor: Tensor) -> FrameBlocks:
        """Scalars through SiLU or tanh, the rest times the sigmoid of its gate; all times the radial factor."""
        sizes = [self.num_even, self.num_gates, self.num_odd, blocks[0].shape[2] - self.num_scalars - self.num_gates]
        even, gates, odd, higher = torch.split(blocks[0].squeeze(1), sizes, dim=1)
        factor_even, factor_odd, factor_gate = torch.split(factor, [self.num_even, self.num_odd, self.num_gates], dim=1)
        gate = torch.sigmoid(gates) * factor_gate
        parts = [nn.functional.silu(even) * factor_even, higher * gate]
        if self.num_odd:
            parts.insert(1, torch.tanh(odd) * factor_odd)
        gated = [torch.cat(parts, dim=1).unsqueeze(1)]
        for m in range(1, len(blocks)):
            gated.append(blocks[m] * gate[:, None, self.layout_out.starts[m] - self.num_scalars :])
        return gated

    @property
    def num_scalars(self) -> int:
        """Number of scalar channels of both parities."""
        return self.num_even + self.num_odd


def _interleave(layout: FrameLayout, m: int) -> Tensor:
    """Rows of ``[all of x_i | all of x_j]`` with ``l >= max(m, 1)``, taken irrep by irrep: first ``x_i``, then ``x_j``."""
    slices = [rows for rows, (l, _) in group_slices(layout) if l >= max(m, 1)]
    if not slices:
        return torch.zeros(0, dtype=torch.long)
    first, count = slices[0].start, layout.num_channels - slices[0].start
    return torch.cat(
        [torch.arange(s.start - first, s.stop - first) + source * count for s in slices for source in (0, 1)]
    )


def _addmm(total: Tensor | None, block: Tensor, matrix: Tensor) -> Tensor:
    return block @ matrix if total is None else torch.addmm(total, block, matrix)


def _second_moment_factor(function: Callable[[Tensor], Tensor]) -> float:
    """Factor that gives a function of a normal variable the second moment 1 (e3nn's ``normalize2mom``)."""
    return float(normalize2mom(function).cst)
