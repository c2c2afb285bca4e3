"""Tensors of a graph: what is declared of them, their rows, and those that follow from the cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracegrad.errors import VerificationError, did_you_mean

LEVELS = ("node", "edge", "graph", "total")


@dataclass(frozen=True)
class Field:
    """One tensor of a graph, or one output.

    Args:
        irreps: its law: e3nn Irreps, their string, or ``"cartesian_points"``; None for a tensor of a graph that does
            not transform, of which only the level is declared.
        level: what its rows are: ``"node"``, ``"edge"``, ``"graph"`` (one row per graph), or ``"total"`` (a sum over
            all atoms, which may be one row for a whole batch).

    Raises:
        VerificationError: the level is none of these.
    """

    irreps: Any
    level: str = "node"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise VerificationError(f"Field(..., {self.level!r}): unknown level. {did_you_mean(self.level, LEVELS)}")


def rows_of(value: Any, index: Tensor) -> Any:
    """Rows of a tensor or an array, items of a list.

    Args:
        value: with one row or item per node or edge.
        index: (k,) which.
    """
    if isinstance(value, (list, tuple)):
        return [value[i] for i in index.tolist()]
    return value[index.to(value.device)] if isinstance(value, Tensor) else value[index.numpy()]


def are_shifts(vectors: Tensor, cell_shift: Tensor, cell: Tensor) -> bool:
    """Whether vectors of edges are the cells of their second nodes, R @ cell.

    Args:
        vectors: (E, 3) Å.
        cell_shift: (E, 3) integers R.
        cell: (3, 3) lattice vectors as rows, Å.
    """
    expected = cell_shift.to(cell) @ cell
    return vectors.shape == expected.shape and bool(torch.allclose(vectors.to(cell), expected, atol=1e-6))
