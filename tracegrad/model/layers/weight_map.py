"""Matrices of a layer from its flat weights: one sparse linear map per layer, gathered in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracegrad.model.layers.constant import Constant


class WeightMap:
    r"""A constant sparse linear map from a flat weight to matrices of given shapes.

    .. math:: M_t = \sum_s c_{ts}\, w_{i(t, s)}

    Few entries of ``w`` meet in one entry of the matrices, and few entries of the matrices come from one of ``w``; both
    the map and its transpose are therefore a gather of fixed width and a short sum, without any scattering.

    Args:
        num_weights: length of the flat weight.
        shapes: shapes of the matrices.
    """

    def __init__(self, num_weights: int, shapes: Sequence[tuple[int, ...]]) -> None:
        self.num_weights, self.shapes = num_weights, list(shapes)
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self._entries: list[tuple[Tensor, Tensor, Tensor]] = []
        self._tables: tuple[_Gather, _Gather] | None = None

    def add(self, number: int, position: Tensor, weight: Tensor, coefficient: float) -> None:
        """Add ``coefficient * w[weight]`` at positions of a matrix, flat indices of equal shape."""
        start = sum(self.sizes[:number])
        values = torch.full((weight.numel(),), coefficient, dtype=torch.float64)
        self._entries.append((position.flatten() + start, weight.flatten(), values))

    def __call__(self, weight: Tensor) -> list[Tensor]:
        """The matrices."""
        if self._tables is None:
            self._tables = self._build()
        flat: Tensor = _GatherSum.apply(weight, *self._tables)
        return [piece.view(shape) for piece, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def _build(self) -> tuple[_Gather, _Gather]:
        total = sum(self.sizes)
        empty = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
        position, weight, value = (torch.cat(parts) for parts in zip(*(self._entries or [empty]), strict=True))
        with torch.inference_mode(False):
            return _Gather.of(position, weight, value, total), _Gather.of(weight, position, value, self.num_weights)


@dataclass(frozen=True)
class _Gather:
    """Padded table of a sparse linear map: ``y[t] = sum_s coefficient[s, t] * x[index[s, t]]``."""

    index: Constant
    coefficient: Constant
    width: int

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, num_rows: int) -> _Gather:
        order = torch.argsort(rows, stable=True)
        counts = torch.bincount(rows, minlength=num_rows)
        rank = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows[order]]
        width = int(counts.max()) if len(rows) else 1
        index = torch.zeros(width, num_rows, dtype=torch.int32)
        coefficient = torch.zeros(width, num_rows, dtype=torch.float64)
        index[rank, rows[order]] = columns[order].to(torch.int32)
        coefficient[rank, rows[order]] = values[order]
        return cls(Constant(index.flatten()), Constant(coefficient), width)

    def __call__(self, x: Tensor) -> Tensor:
        coefficient = self.coefficient.like(x)
        if not len(x):
            return x.new_zeros(coefficient.shape[1])
        products = x.index_select(0, self.index.like(x)).view_as(coefficient).mul_(coefficient)
        return products[0] if self.width == 1 else products.sum(0)


class _GatherSum(torch.autograd.Function):
    """A gather whose derivative is its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: _Gather, transpose: _Gather) -> Tensor:
        ctx.gather, ctx.transpose = gather, transpose
        return gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _GatherSum.apply(gradients[0], ctx.transpose, ctx.gather), None, None
