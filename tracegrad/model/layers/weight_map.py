"""Matrices of a layer from its flat weights: one sparse linear map per layer, gathered in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from tracegrad.model.layers.constant import Constant
from tracegrad.so3.traces import is_traced, is_transient


class WeightMap:
    r"""A constant sparse linear map from a flat weight to matrices of given shapes.

    .. math:: M_t = \sum_s c_{ts}\, w_{i(t, s)}

    Few entries of ``w`` meet in one entry of the matrices, and few entries of the matrices come from one of ``w``; both
    the map and its transpose are therefore gathers and a short sum, without any scattering. :meth:`build` has
    to be called after the last :meth:`add`.

    Args:
        num_weights: length of the flat weight.
        shapes: shapes of the matrices.
    """

    def __init__(self, num_weights: int, shapes: Sequence[tuple[int, ...]]) -> None:
        self.num_weights, self.shapes = num_weights, list(shapes)
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self._entries: list[tuple[Tensor, Tensor, Tensor]] = []
        self._tables: tuple[_Gather, _Gather]
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def add(self, number: int, position: Tensor, weight: Tensor, coefficient: float) -> None:
        """Add ``coefficient * w[weight]`` at positions of a matrix, flat indices of equal shape."""
        start = sum(self.sizes[:number])
        values = torch.full((weight.numel(),), coefficient, dtype=torch.float64)
        self._entries.append((position.flatten() + start, weight.flatten(), values))

    @torch.inference_mode(False)
    def build(self) -> None:
        """Make the tables of what was added: once, and not at the first call, which something may trace."""
        total = sum(self.sizes)
        empty = (
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0, dtype=torch.float64),
        )
        position, weight, value = (torch.cat(parts) for parts in zip(*(self._entries or [empty]), strict=True))
        self._tables = (
            _Gather.of(position, weight, value, total),
            _Gather.of(weight, position, value, self.num_weights),
        )

    def __call__(self, weight: Tensor) -> list[Tensor]:
        """The matrices. Without gradients those of the last call are given again as long as the weights are equal.

        The weights are compared number by number with a copy: that costs a tenth of making the matrices, and no way of
        writing to a parameter goes unseen.
        """
        if torch.is_grad_enabled() or is_transient(weight) or unpack_dual(weight).tangent is not None:
            return self._matrices(weight)
        if self._last is None or not _same(self._last[0], weight):
            with torch.inference_mode(False), torch.no_grad():
                copy = weight.detach().clone()
                matrices = self._matrices(copy)
            if is_transient(copy):
                return matrices
            self._last = copy, matrices
        return list(self._last[1])

    def _matrices(self, weight: Tensor) -> list[Tensor]:
        flat = _gather_sum(weight, *self._tables)
        return [piece.view(shape) for piece, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in dtype, device and every number; a NaN agrees with nothing."""
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@dataclass(frozen=True)
class _Gather:
    """Table of a sparse linear map. Rows with the most entries come first, so that the entries form shrinking layers.

    Attributes:
        index: column of every entry, layer after layer; the last entry of the first layer is empty.
        coefficient: value of every entry.
        layers: length of every layer.
        rows: place of every row in the first layer; rows without entries stand at its empty end.
    """

    index: Constant
    coefficient: Constant
    layers: list[int]
    rows: Constant

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, num_rows: int) -> _Gather:
        counts = torch.bincount(rows, minlength=num_rows)
        place = torch.empty_like(counts)
        place[torch.argsort(counts, descending=True, stable=True)] = torch.arange(num_rows)
        layers = [int((counts > depth).sum()) for depth in range(max(1, int(counts.max())))]
        order = torch.argsort(rows, stable=True)
        depth = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows[order]]
        layers[0] += 1
        starts = torch.tensor(layers).cumsum(0) - torch.tensor(layers)
        entry = starts[depth] + place[rows[order]]
        index = torch.zeros(sum(layers), dtype=torch.long)
        coefficient = torch.zeros(sum(layers), dtype=torch.float64)
        index[entry], coefficient[entry] = columns[order], values[order]
        return cls(Constant(index), Constant(coefficient), layers, Constant(place.clamp(max=layers[0] - 1)))

    def __call__(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_zeros(len(self.rows.value))
        products = x.index_select(0, self.index.like(x)).mul_(self.coefficient.like(x))
        first, *others = products.split(self.layers)
        for layer in others:
            first[: len(layer)].add_(layer)
        chosen: Tensor = first.index_select(0, self.rows.like(x))
        return chosen

    def plain(self, x: Tensor) -> Tensor:
        """The same without writing into anything."""
        if not len(x):
            return x.new_zeros(len(self.rows.value))
        first, *others = (x.index_select(0, self.index.like(x)) * self.coefficient.like(x)).split(self.layers)
        for layer in others:
            first = first + nn.functional.pad(layer, (0, len(first) - len(layer)))
        chosen: Tensor = first.index_select(0, self.rows.like(x))
        return chosen


def _gather_sum(x: Tensor, gather: _Gather, transpose: _Gather) -> Tensor:
    if is_traced():
        return gather.plain(x)
    result: Tensor = _GatherSum.apply(x, gather, transpose)
    return result


class _GatherSum(torch.autograd.Function):
    """A gather whose derivative is its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: _Gather, transpose: _Gather) -> Tensor:
        ctx.gather, ctx.transpose = gather, transpose
        return gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _gather_sum(gradients[0], ctx.transpose, ctx.gather), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _gather_sum(tangents[0], ctx.gather, ctx.transpose)
