"""Normalisation of irreps features over a structure (for parity with DeepH-E3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracegrad.so3.frames import FrameBlocks, FrameLayout

EPS = 1e-5


class GraphNorm(nn.Module):
    r"""The layer norm of DeepH-E3: statistics over all nodes or edges of a structure.

    .. math:: x_u \to w_u\, (x_u - \bar x), \qquad l = 0: \; w_u\, \frac{x_u - \bar x}{\mathrm{rms} + \epsilon} + b_u

    The mean runs over the channels of an irrep and over all rows of the structure, so that the result depends on atoms
    far away. It is kept for parity and the published recipe only.

    Args:
        layout: channels of the features.
    """

    def __init__(self, layout: FrameLayout) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.ones(layout.num_channels))
        self.num_biases = sum(mul for mul, l, natural in layout.groups if l == 0 and natural)
        self.bias = nn.Parameter(torch.zeros(self.num_biases))

    def forward(
        self, blocks: FrameBlocks, batch: Tensor, num_graphs: int, wigner: list[Tensor] | None = None
    ) -> FrameBlocks:
        """Normalise frame blocks.

        Args:
            blocks: features, ``(rows, 1 or 2, K_m)``.
            batch: ``(rows,)`` structure of every row.
            num_graphs: number of structures.
            wigner: frames of the rows, where they differ: the mean is taken in the global frame.
        """
        fields, start = [], 0
        for field, (mul, l, natural) in zip(self.layout.to_fields(blocks), self.layout.groups, strict=True):
            field = field - self._mean(field, l, natural, batch, num_graphs, wigner)
            if l == 0:
                field = field / (_graph_mean(field.square().mean(2), batch, num_graphs).sqrt() + EPS)[batch][:, :, None]
            field = field * self.weight[start : start + mul]
            fields.append(field + self.bias if l == 0 and natural else field)
            start += mul
        return self.layout.from_fields(fields)

    def _mean(
        self, field: Tensor, l: int, natural: bool, batch: Tensor, num_graphs: int, wigner: list[Tensor] | None
    ) -> Tensor:
        """Mean of one irrep over the channels and rows of a structure, in the frame of every row, ``(rows, 2l+1, 1)``."""
        mean = field.mean(dim=2, keepdim=True)
        if l == 0 or wigner is None:
            return _graph_mean(mean.squeeze(2), batch, num_graphs)[batch][:, :, None]
        one = FrameLayout([(1, (l, (-1) ** l if natural else -((-1) ** l)))])
        (turned,) = one.rotate_fields([mean], wigner, inverse=True)
        average = _graph_mean(turned.squeeze(2), batch, num_graphs)[batch][:, :, None]
        return one.rotate_fields([average], wigner)[0]


def _graph_mean(rows: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Mean over the rows of every structure, ``(num_graphs, columns)``."""
    total = rows.new_zeros(num_graphs, rows.shape[1]).index_add(0, batch, rows)
    return total / torch.bincount(batch, minlength=num_graphs).clamp(min=1).to(rows)[:, None]
