"""Equivariant linear maps of features that are stored as blocks of ``|m|`` in the frames of their edges."""

from __future__ import annotations

import math

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from tracegrad.model.layers.constant import Constant
from tracegrad.so3.frames import FrameBlocks, FrameLayout


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
    ``layout_out.sorted_irreps``. One matrix over the channels serves every block of ``|m|``: block ``m`` uses the rows
    and columns of the channels with ``l >= m``. With ``num_types > 1`` every row has a type that selects its weights
    (the tensor product with a one-hot vector of the self-connections of DeepH-E3).

    Args:
        layout_in: channels of the input.
        layout_out: channels of the output.
        bias: add a bias to the scalars of even parity.
        num_types: number of row types.
    """

    def __init__(self, layout_in: FrameLayout, layout_out: FrameLayout, *, bias: bool = True, num_types: int = 1) -> None:
        super().__init__()
        self.layout_in, self.layout_out, self.num_types = layout_in, layout_out, num_types
        index, scale = [], []
        for rows, kind in group_slices(layout_in):
            for columns, other in group_slices(layout_out):
                if kind == other:
                    u = torch.arange(rows.start, rows.stop)[:, None, None]
                    t = torch.arange(num_types)[None, :, None]
                    w = torch.arange(columns.start, columns.stop)[None, None, :]
                    flat = (t * layout_in.num_channels + u) * layout_out.num_channels + w
                    index.append(flat.flatten())
                    scale.append(torch.full((flat.numel(),), (len(u) * num_types) ** -0.5, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(sum(len(i) for i in index)))
        self.index = Constant(torch.cat(index) if index else torch.zeros(0, dtype=torch.long))
        self.scale = Constant(torch.cat(scale) if scale else torch.zeros(0))
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

    def matrix(self) -> Tensor:
        """Dense matrix over the channels, ``(K_in, K_out)``, or ``(num_types, K_in, K_out)``."""
        shape = (self.num_types, self.layout_in.num_channels, self.layout_out.num_channels)
        dense = self.weight.new_zeros(math.prod(shape)).index_put(
            (self.index.like(self.weight),), self.weight * self.scale.like(self.weight)
        )
        return dense.view(shape if self.num_types > 1 else shape[1:])

    def forward(self, blocks: FrameBlocks, types: Tensor | None = None) -> FrameBlocks:
        """Apply the map to frame blocks ``(E, 1 or 2, K_m)``; ``types`` is ``(E,)`` where there are row types."""
        matrix = self.matrix()
        rows_in, rows_out = self.layout_in.starts, self.layout_out.starts
        lmax = min(self.layout_in.lmax, self.layout_out.lmax)
        outputs = []
        for m in range(self.layout_out.lmax + 1):
            if m > lmax:
                outputs.append(blocks[0].new_zeros(len(blocks[0]), 2, self.layout_out.widths[m]))
            elif types is None or self.num_types == 1:
                outputs.append(blocks[m] @ matrix[rows_in[m] :, rows_out[m] :])
            else:
                outputs.append(_matmul_by_type(blocks[m], matrix[:, rows_in[m] :, rows_out[m] :], types))
        if self.bias is not None:
            outputs[0] = outputs[0] + self.padded_bias()
        return outputs

    def padded_bias(self) -> Tensor:
        """Bias of all channels, ``(K_out,)``; zero where an irrep has none."""
        assert self.bias is not None
        return nn.functional.pad(self.bias, (0, self.layout_out.num_channels - self.num_biases))


def _matmul_by_type(block: Tensor, matrices: Tensor, types: Tensor) -> Tensor:
    """Rows of ``block`` times the matrix of their type."""
    order = torch.argsort(types, stable=True)
    counts = torch.bincount(types, minlength=len(matrices)).tolist()
    parts = torch.split(block[order], counts)
    return torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])[torch.argsort(order)]
