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

from tracegrad.model.layers.channels import scale_channels
from tracegrad.model.layers.constant import Constant
from tracegrad.model.layers.linear import EquivariantLinear, group_slices
from tracegrad.model.layers.row_products import Term, sum_of_products
from tracegrad.model.layers.weight_map import WeightMap
from tracegrad.so3.frames import FrameBlocks, FrameLayout


@dataclass(frozen=True)
class NodeMessages:
    """Node features as the edges see them.

    Attributes:
        scalars: ``(N, K_0)`` channels of degree 0, not gathered.
        blocks: for every ``m``, the channels with ``l >= max(m, 1)`` in the frame of the edge, ``(E, 1 or 2, 2 K)``:
            of each irrep those of the centre, then those of the neighbour; empty where there are only scalars.
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

    def pole_coefficient(self, m: int) -> float:
        """Factor from the even row of the input to that of the output, with ``Y`` at the pole (core.md, Eq. 3)."""
        w = wigner_3j(self.l1, self.l2, self.l3, dtype=torch.float64)
        row = m if self.natural1 else -m
        column = m if self.natural3 else -m
        return math.sqrt(2 * self.l2 + 1) * float(w[self.l1 + row, self.l2, self.l3 + column])

    @property
    def loop_coefficient(self) -> float:
        """Factor on self-loops, which only the harmonic of degree 0 reaches (core.md, self-loops)."""
        return 1 / math.sqrt(2 * self.l1 + 1) if self.l2 == 0 else 0.0


@dataclass(frozen=True)
class _Matrices:
    """Matrices of a tensor product in the frames of the edges; ``N`` is the width of the output in each block.

    Attributes:
        edge: per ``m``: ``(K_m, 2 N_m)``, columns for pairs and then for self-loops.
        node: per ``m``: ``(2, K_m, 2 N_m)`` for ``x_i`` and ``x_j``, channels with ``l >= max(m, 1)``.
        scalars: ``(K, 3 N_0)`` for the scalars of the nodes: as centre, as neighbour, half of that of self-loops.
    """

    edge: list[Tensor]
    node: list[Tensor]
    scalars: Tensor


class TensorProductWeights(nn.Module):
    """Weights of the tensor product of ``[x_i | x_j | e_ij]`` with spherical harmonics, and their matrices per ``|m|``.

    ``weight`` is laid out as e3nn's ``TensorProduct`` with ``uvw`` instructions orders it: for every source, input
    irrep, harmonic and output irrep in turn, a matrix ``(mul_in, mul_out)``.

    Args:
        layout_node: channels of ``x_i`` and ``x_j``.
        layout_edge: channels of ``e_ij``.
        layout_out: channels of the output.
        lmax_sh: largest degree of the spherical harmonics.

    Attributes:
        matrix_shapes: shapes of the matrices in ``weight``, one for every path.
    """

    def __init__(
        self, layout_node: FrameLayout, layout_edge: FrameLayout, layout_out: FrameLayout, lmax_sh: int
    ) -> None:
        super().__init__()
        self.layout_node, self.layout_edge, self.layout_out = layout_node, layout_edge, layout_out
        paths = _paths([layout_node, layout_node, layout_edge], layout_out, lmax_sh)
        self.matrix_shapes = [path.shape for path in paths]
        num_weights = sum(math.prod(shape) for shape in self.matrix_shapes)
        self.weight = nn.Parameter(torch.randn(num_weights))
        self.num_edge = min(layout_edge.lmax, layout_out.lmax) + 1
        self.num_node = min(layout_node.lmax, layout_out.lmax) + 1 if layout_node.lmax else 0
        self.num_scalars = layout_node.starts[1] if layout_node.lmax else layout_node.num_channels
        widths = layout_out.widths
        shapes: list[tuple[int, ...]] = [(layout_edge.widths[m], 2 * widths[m]) for m in range(self.num_edge)]
        shapes += [(2, layout_node.widths[max(m, 1)], 2 * widths[m]) for m in range(self.num_node)]
        self.map = WeightMap(num_weights, [*shapes, (self.num_scalars, 3 * widths[0])])
        self.interleaved = [Constant(_interleaved(layout_node, m)) for m in range(self.num_node)]
        first = 0
        for path, norm in zip(paths, _path_norms(paths), strict=True):
            index = torch.arange(first, first + math.prod(path.shape)).view(path.shape)
            first += index.numel()
            self._add(path, norm, index)
        self.map.build()

    def _add(self, path: _Path, norm: float, index: Tensor) -> None:
        """Enter the weights of a path into the map."""
        u, w = (
            torch.arange(path.rows.start, path.rows.stop)[:, None],
            torch.arange(path.columns.start, path.columns.stop),
        )
        if path.source < 2 and path.l1 == 0:
            width = self.layout_out.widths[0]
            place, number = u * 3 * width + w, self.num_edge + self.num_node
            self.map.add(number, place + path.source * width, index, norm * path.pole_coefficient(0))
            if path.loop_coefficient:
                self.map.add(number, place + 2 * width, index, norm * path.loop_coefficient / 2)
            return
        layout = self.layout_edge if path.source == 2 else self.layout_node
        for m in range(min(path.l1, path.l3) + 1):
            width, number, row = self.layout_out.widths[m], m, u - layout.starts[m]
            if path.source < 2:
                count, number = layout.widths[max(m, 1)], self.num_edge + m
                row = u - layout.starts[max(m, 1)] + path.source * count
            place = row * 2 * width + w - self.layout_out.starts[m]
            self.map.add(number, place, index, norm * path.pole_coefficient(m))
            if path.loop_coefficient:
                self.map.add(number, place + width, index, norm * path.loop_coefficient)

    def matrices(self) -> _Matrices:
        """The matrices for the present weights."""
        *blocks, scalars = self.map(self.weight)
        return _Matrices(blocks[: self.num_edge], blocks[self.num_edge :], scalars)


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
    """Perceptron from the radial basis to one factor per channel, ``(..., num_basis) -> (..., num_channels)``."""

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
            node_linear: linear map to apply to the node features before; it is folded into the weights.
            edge_linear: the same for the edge features.
        """
        num_nodes, num_edges = len(nodes.scalars), len(edge_feats[0])
        matrices = self.tp.matrices()
        of_edges, bias = _edge_terms(edge_feats, matrices.edge, edge_linear)
        of_nodes = _node_terms(nodes.blocks, matrices.node, self.tp.interleaved, node_linear)
        summed = []
        for m, width in enumerate(self.layout_gate.widths):
            size = 1 if m == 0 else 2
            terms = [*of_edges[m : m + 1], *of_nodes[m : m + 1]]
            if m == 0:
                total = sum_of_products(terms, num_nodes, _scalar_sums(nodes, matrices.scalars, node_linear, bias))
            elif terms:
                total = sum_of_products(terms, num_nodes * size)
            else:
                total = edge_feats[0].new_zeros(num_edges * size, width)
            summed.append(total.view(num_edges, size, width))
        radial = self.fc(radial_basis) * self.moments.like(radial_basis)
        return self._gate(summed, torch.cat([radial[:1].expand(num_nodes, -1), radial[1:], radial[1:]]))

    def _gate(self, blocks: FrameBlocks, factor: Tensor) -> FrameBlocks:
        """Scalars through SiLU or tanh, the rest times the sigmoid of its gate; all times the radial factor."""
        sizes = [self.num_even, self.num_gates, self.num_odd, blocks[0].shape[2] - self.num_scalars - self.num_gates]
        even, gates, odd, higher = torch.split(blocks[0].squeeze(1), sizes, dim=1)
        factor_even, factor_odd, factor_gate = torch.split(factor, [self.num_even, self.num_odd, self.num_gates], dim=1)
        starts = [max(0, start - self.num_scalars) for start in self.layout_out.starts]
        gate = torch.sigmoid(gates) * factor_gate
        pole, *others = scale_channels([higher.unsqueeze(1), *blocks[1:]], gate, starts)
        parts = [nn.functional.silu(even) * factor_even, pole.squeeze(1)]
        if self.num_odd:
            parts.insert(1, torch.tanh(odd) * factor_odd)
        return [torch.cat(parts, dim=1).unsqueeze(1), *others]

    @property
    def num_scalars(self) -> int:
        """Number of scalar channels of both parities."""
        return self.num_even + self.num_odd


def _edge_terms(
    blocks: FrameBlocks, matrices: list[Tensor], linear: EquivariantLinear | None
) -> tuple[list[Term], Tensor | None]:
    """Contribution of ``e_ij`` to every block, and the bias ``(2 N_0,)`` that its linear map brings."""
    if linear is None:
        return [(block.flatten(0, 1), matrix) for block, matrix in zip(blocks, matrices, strict=False)], None
    before = linear.matrices()
    terms = [(blocks[m].flatten(0, 1), before[m] @ matrix) for m, matrix in enumerate(matrices)]
    return terms, None if linear.bias is None else linear.bias @ matrices[0][: linear.num_biases]


def _node_terms(
    blocks: FrameBlocks, matrices: list[Tensor], order: list[Constant], linear: EquivariantLinear | None
) -> list[Term]:
    """Contribution of the channels of ``x_i`` and ``x_j`` that are no scalars."""
    before = None if linear is None else linear.matrices()
    terms = []
    for m, matrix in enumerate(matrices):
        if before is not None:
            skipped = before[m].shape[0] - matrix.shape[1]  # the scalars, at m = 0
            matrix = before[m][skipped:, skipped:] @ matrix
        terms.append((blocks[m].flatten(0, 1), matrix.flatten(0, 1).index_select(0, order[m].like(matrix))))
    return terms


def _scalar_sums(
    nodes: NodeMessages, matrix: Tensor, linear: EquivariantLinear | None, edge_bias: Tensor | None
) -> Tensor:
    """Contribution of the scalars of ``x_i`` and ``x_j``, mixed on the nodes before the edges gather them, and biases.

    Self-loops gather the row that is meant for them twice, so it holds half of their sum.
    """
    width = matrix.shape[1] // 3
    bias = matrix.new_zeros(3 * width)
    if edge_bias is not None:
        for_pairs, for_loops = edge_bias.split(width)
        bias = torch.cat([for_pairs, bias[:width], for_loops / 2])
    if linear is not None:
        bias = bias if linear.bias is None else bias + linear.bias @ matrix[: linear.num_biases]
        matrix = linear.matrices()[0][: len(matrix), : len(matrix)] @ matrix
    rows = torch.addmm(bias, nodes.scalars, matrix).view(-1, width)  # of every node: as centre, as neighbour, on site
    loops, pairs = 3 * nodes.centre[: len(nodes.scalars)] + 2, slice(len(nodes.scalars), None)
    centre = torch.cat([loops, 3 * nodes.centre[pairs]])
    neighbour = torch.cat([loops, 3 * nodes.neighbour[pairs] + 1])
    return rows.index_select(0, centre) + rows.index_select(0, neighbour)


def _interleaved(layout: FrameLayout, m: int) -> Tensor:
    """Rows of ``[x_i | x_j]`` with ``l >= max(m, 1)``, taken irrep by irrep: first of ``x_i``, then of ``x_j``."""
    first, count = layout.starts[max(m, 1)], layout.widths[max(m, 1)]
    rows = [rows for rows, (l, _) in group_slices(layout) if l >= max(m, 1)]
    parts = [torch.arange(s.start - first, s.stop - first) + source * count for s in rows for source in (0, 1)]
    return torch.cat(parts)


def _second_moment_factor(function: Callable[[Tensor], Tensor]) -> float:
    """Factor that gives a function of a normal variable the second moment 1 (e3nn's ``normalize2mom``)."""
    return float(normalize2mom(function).cst)
