"""Normalisation of irreps features over a structure (for parity with DeepH-E3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracegrad.model.layers.channels import scale_channels
from tracegrad.model.layers.constant import Constant
from tracegrad.so3.frames import EdgeFrames, FrameBlocks, FrameLayout

EPS = 1e-5


def root(squares: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0: features that vanish by symmetry have no direction to grow in."""
    nonzero = squares != 0
    return torch.where(nonzero, squares, 1.0).sqrt() * nonzero


class GraphNorm(nn.Module):
    r"""The layer norm of DeepH-E3: statistics over all nodes or edges of a structure.

    .. math:: x_u \to w_u\, (x_u - \bar x), \qquad l = 0: \; w_u\, \frac{x_u - \bar x}{\mathrm{rms} + \epsilon} + b_u

    The mean runs over the channels of an irrep and over all rows of the structure, so that the result depends on atoms
    far away. It is kept for parity and the published recipe only. Only the mean over the channels, one channel per
    irrep, has to leave the frames of the edges.

    Args:
        layout: channels of the features.
    """

    def __init__(self, layout: FrameLayout) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.ones(layout.num_channels))
        self.num_biases = sum(mul for mul, l, natural in layout.groups if l == 0 and natural)
        self.bias = nn.Parameter(torch.zeros(self.num_biases))
        self.means = FrameLayout([(1, (l, (-1) ** l if natural else -((-1) ** l))) for _, l, natural in layout.groups])
        muls = torch.tensor([mul for mul, _, _ in layout.groups])
        spread = torch.repeat_interleave(torch.eye(len(muls), dtype=torch.float64), muls, dim=1)
        averages, spreads = (spread / muls[:, None]).T, -spread
        starts = zip(layout.starts, self.means.starts, strict=True)
        self.average = [Constant(averages[k:, g:].contiguous()) for k, g in starts]
        starts = zip(layout.starts, self.means.starts, strict=True)
        self.spread = [Constant(spreads[g:, k:].contiguous()) for k, g in starts]
        self.num_scalars = layout.starts[1] if layout.lmax else layout.num_channels
        self.scalar_groups = self.means.starts[1] if layout.lmax else len(muls)
        self.scalar_average = Constant(averages[: self.num_scalars, : self.scalar_groups])
        self.scalar_spread = Constant(-spreads[: self.scalar_groups])
        self.others = Constant((layout.degrees > 0).double())

    def forward(
        self, blocks: FrameBlocks, batch: Tensor, num_graphs: int, frames: EdgeFrames | None = None
    ) -> FrameBlocks:
        """Normalise frame blocks.

        Args:
            blocks: features, ``(rows, 1 or 2, K_m)``.
            batch: ``(rows,)`` structure of every row.
            num_graphs: number of structures.
            frames: frames of the rows, where they differ: the mean is taken in the global frame.
        """
        structures = _Structures(batch, num_graphs)
        channel_means = [block @ matrix.like(block) for block, matrix in zip(blocks, self.average, strict=True)]
        shifts = self._means(channel_means, structures, frames)
        centred = []
        for block, shift, matrix in zip(blocks, shifts, self.spread, strict=True):
            rows = torch.addmm(block.flatten(0, 1), shift.flatten(0, 1), matrix.like(block))
            centred.append(rows.view_as(block))
        scalars = centred[0].squeeze(1)[:, : self.num_scalars]
        squares = structures.mean(scalars.square() @ self.scalar_average.like(scalars))
        inverse = 1 / (root(squares) + EPS)
        factor = (inverse @ self.scalar_spread.like(scalars) + self.others.like(scalars)) * self.weight
        scaled = scale_channels(centred, structures.spread(factor), self.layout.starts)
        bias = nn.functional.pad(self.bias, (0, self.layout.num_channels - self.num_biases))
        return [scaled[0] + bias, *scaled[1:]]

    def _means(self, means: FrameBlocks, structures: _Structures, frames: EdgeFrames | None) -> FrameBlocks:
        """Means over the structures of features with one channel per irrep, in the frames of the rows."""
        if frames is None:
            return [structures.mean_of_all(block) for block in means]
        fields = self.means.rotate_fields(self.means.to_fields(means), frames, inverse=True)
        return self.means.from_fields(self.means.rotate_fields(structures.mean_of_fields(fields), frames))


class _Structures:
    """Means over the rows of every structure, and back to the rows."""

    def __init__(self, batch: Tensor, num_graphs: int) -> None:
        self.batch, self.num_graphs = batch, num_graphs
        self.counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)[:, None] if num_graphs > 1 else None

    def mean(self, rows: Tensor) -> Tensor:
        """``(rows, columns)`` to ``(num_graphs, columns)``."""
        if self.counts is None:
            return rows.mean(0, keepdim=True)
        total = rows.new_zeros(self.num_graphs, rows.shape[1]).index_add(0, self.batch, rows)
        return total / self.counts.to(rows)

    def mean_of_all(self, features: Tensor) -> Tensor:
        """``(rows, a, b)`` to the mean of its structure in every row."""
        means = self.spread(self.mean(features.flatten(1)))
        return means.view(-1, *features.shape[1:]).expand_as(features)

    def mean_of_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """The same for ``(rows, a_k, 1)`` of several irreps at once."""
        sizes = [field.shape[1] for field in fields]
        return list(self.mean_of_all(torch.cat(fields, dim=1)).split(sizes, dim=1))

    def spread(self, means: Tensor) -> Tensor:
        """``(num_graphs, columns)`` to the rows; of a single structure one row."""
        return means if self.counts is None else means.index_select(0, self.batch)
