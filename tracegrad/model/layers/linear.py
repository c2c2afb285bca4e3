"""Equivariant linear maps of features that are stored as blocks of ``|m|`` in the frames of their edges."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from tracegrad.model.layers.weight_map import WeightMap
from tracegrad.so3.frames import FrameBlocks, FrameLayout
from tracegrad.so3.traces import is_transient


def group_slices(layout: FrameLayout) -> list[tuple[slice, tuple[int, bool]]]:
    """Channels of every irrep of a layout and its ``(degree, natural parity)``."""
    slices, start = [], 0
    for mul, l, natural in layout.groups:
        slices.append((slice(start, start + mul), (l, natural)))
        start += mul
    return slices


class EquivariantLinear(nn.Module):
    r"""Linear map between irreps, with a bias on the ``0e`` channels.

    .. math:: y_w = \frac{1}{\sqrt{n_\mathrm{in}}} \sum_u W_{uw}\, x_u + b_w

    ``weight`` is the flat weight of ``e3nn.o3.Linear`` between ``layout_in.sorted_irreps`` and
    ``layout_out.sorted_irreps``. Block ``m`` is multiplied by the part of one matrix over the channels that has the
    rows and columns with ``l >= m``. With ``num_types > 1`` every row has a type that selects its weights (the tensor
    product with a one-hot vector of the self-connections of DeepH-E3).

    Args:
        layout_in: channels of the input.
        layout_out: channels of the output.
        bias: add a bias to the scalars of even parity.
        num_types: number of row types.

    Attributes:
        matrix_shapes: shapes of the matrices in ``weight``, one for every pair of irreps.
    """

    def __init__(
        self, layout_in: FrameLayout, layout_out: FrameLayout, *, bias: bool = True, num_types: int = 1
    ) -> None:
        super().__init__()
        self.layout_in, self.layout_out, self.num_types = layout_in, layout_out, num_types
        self.lmax = min(layout_in.lmax, layout_out.lmax)
        pairs = [
            (rows, columns, kind[0])
            for rows, kind in group_slices(layout_in)
            for columns, other in group_slices(layout_out)
            if kind == other
        ]
        self.matrix_shapes = [((r.stop - r.start) * num_types, c.stop - c.start) for r, c, _ in pairs]
        num_weights = sum(a * b for a, b in self.matrix_shapes)
        self.weight = nn.Parameter(torch.randn(num_weights))
        widths = [(layout_in.widths[m], layout_out.widths[m]) for m in range(self.lmax + 1)]
        self.map = WeightMap(num_weights, [(num_types, *w) if num_types > 1 else w for w in widths])
        first = 0
        for rows, columns, l in pairs:
            u = torch.arange(rows.start, rows.stop)[:, None, None]
            t, w = torch.arange(num_types)[None, :, None], torch.arange(columns.start, columns.stop)
            flat = (u * 0 + t * 0 + w * 0).flatten()
            index, first = torch.arange(first, first + len(flat)), first + len(flat)
            for m in range(l + 1):
                position = (t * widths[m][0] + u - layout_in.starts[m]) * widths[m][1] + w - layout_out.starts[m]
                self.map.add(m, position, index, (len(u) * num_types) ** -0.5)
        self.map.build()
        num_biases = sum(mul for mul, l, natural in layout_out.groups if l == 0 and natural) if bias else 0
        self.num_biases = num_biases
        self.bias = nn.Parameter(torch.zeros(num_biases)) if num_biases else None

    @property
    def irreps_in(self) -> Irreps:
        """Irreps of the input in the order of the frame."""
        return self.layout_in.sorted_irreps

    @property
    def irreps_out(self) -> Irreps:
        """Irreps of the output in the order of the frame."""
        return self.layout_out.sorted_irreps

    def matrices(self) -> list[Tensor]:
        """Dense matrix over the channels of every block, ``(K_in(m), K_out(m))``, or ``(num_types, K_in, K_out)``."""
        return self.map(self.weight)

    def forward(self, blocks: FrameBlocks, types: Tensor | None = None, plus: FrameBlocks | None = None) -> FrameBlocks:
        """Apply the map.

        Args:
            blocks: frame blocks ``(E, 1 or 2, K_m)``.
            types: ``(E,)`` where there are row types.
            plus: blocks of the output's layout to add.
        """
        order = _TypeOrder.of(types, self.num_types) if types is not None and self.num_types > 1 else None
        outputs = []
        for m, matrix in enumerate(self.matrices()):
            rows = blocks[m].flatten(0, 1)
            total = None if plus is None else plus[m].flatten(0, 1)
            if order is not None:
                product = order.multiply(blocks[m], matrix).flatten(0, 1)
                product = product if total is None else product + total
                product = product if m or self.bias is None else product + self.padded_bias()
            elif m == 0 and self.bias is not None:
                product = torch.addmm(self.padded_bias() if total is None else total + self.padded_bias(), rows, matrix)
            else:
                product = rows @ matrix if total is None else torch.addmm(total, rows, matrix)
            outputs.append(product.view(*blocks[m].shape[:2], -1))
        for m in range(self.lmax + 1, self.layout_out.lmax + 1):
            shape = (len(blocks[0]), 2, self.layout_out.widths[m])
            outputs.append(blocks[0].new_zeros(shape) if plus is None else plus[m])
        return outputs

    def padded_bias(self) -> Tensor:
        """Bias of all channels, ``(K_out,)``; zero where an irrep has none."""
        assert self.bias is not None
        return nn.functional.pad(self.bias, (0, self.layout_out.num_channels - self.num_biases))


class _TypeOrder:
    """Rows sorted by type, so that every type is one matrix product; kept as long as the types of a graph are."""

    _known: MutableMapping[Tensor, _TypeOrder] = WeakTensorKeyDictionary()

    @classmethod
    def of(cls, types: Tensor, num_types: int) -> _TypeOrder:
        """The order of some types, which must not be changed in place; several layers and steps ask for the same."""
        if is_transient(types):
            return cls(types, num_types)
        known = cls._known.get(types)
        if known is None or len(known.counts) != num_types:
            known = cls._known[types] = cls(types, num_types)
        return known

    @torch.inference_mode(False)  # training may meet what a prediction made
    def __init__(self, types: Tensor, num_types: int) -> None:
        self.order = torch.argsort(types, stable=True)
        self.inverse = torch.argsort(self.order)
        self.counts = torch.bincount(types, minlength=num_types).tolist()

    def multiply(self, block: Tensor, matrices: Tensor) -> Tensor:
        """Rows of ``block`` times the matrix of their type."""
        parts = block.index_select(0, self.order).split(self.counts)
        products = [part @ matrix for part, matrix in zip(parts, matrices, strict=True)]
        return torch.cat(products).index_select(0, self.inverse)
