"""How one tensor transforms: as irreps, as points, or not at all; and its blocks, the unit of every judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from tracegrad.errors import VerificationError

from .group import Elements
from .wigner import Array, Basis, generators

POINTS = "cartesian_points"


@dataclass(frozen=True)
class Block:
    """One ``mul x ir`` slice of an irreps tensor: columns start..stop, mul copies of degree l and the given parity."""

    name: str
    mul: int
    l: int
    parity: int
    start: int
    stop: int

    @property
    def centred(self) -> bool:
        """True for invariants: a constant offset must not enter the scale."""
        return self.l == 0 and self.parity == 1


@dataclass(frozen=True)
class Representation:
    """Transformation law of the last axis of a tensor.

    Args:
        kind: ``"irreps"``, ``"points"`` (rotated and shifted), ``"fixed"`` (does not transform).
        blocks: slices of the last axis; for points one of degree 1, for fixed data none.
        basis: component order of the irreps.
    """

    kind: str
    blocks: tuple[Block, ...]
    basis: Basis = "e3nn"

    @classmethod
    def parse(cls, entry: Any, basis: Basis = "e3nn") -> Representation:
        """Law of an entry: e3nn Irreps, their string, ``"cartesian_points"``, or None for data that does not transform.

        Raises:
            VerificationError: the entry is none of these.
        """
        if entry is None:
            return cls("fixed", (), basis)
        if isinstance(entry, Representation):
            return entry
        if isinstance(entry, str) and entry in (POINTS, "cartesian"):
            return cls("points", (Block("cartesian_points", 1, 1, -1, 0, 3),), "e3nn")
        from e3nn.o3 import Irreps

        try:
            irreps = Irreps(entry)
        except (ValueError, TypeError, AttributeError, AssertionError) as error:
            raise VerificationError(
                f"irreps entry {entry!r} is not understood: expected e3nn Irreps, a string such as '8x0e+4x1o', "
                f"'{POINTS}' or None"
            ) from error
        blocks, start = [], 0
        for mul, (l, parity) in irreps:
            stop = start + mul * (2 * l + 1)
            if stop > start:
                blocks.append(Block(f"{mul}x{l}{'e' if parity == 1 else 'o'}", mul, l, parity, start, stop))
            start = stop
        if not blocks:
            raise VerificationError(f"irreps entry {entry!r} is empty: there is nothing to verify")
        return cls("irreps", tuple(blocks), basis)

    @property
    def dim(self) -> int | None:
        """Length of the last axis; None when the law does not fix it."""
        return self.blocks[-1].stop if self.blocks else None

    @property
    def degrees(self) -> list[int]:
        """Degrees that occur in irreps."""
        return sorted({b.l for b in self.blocks}) if self.kind == "irreps" else []

    @property
    def lmax(self) -> int:
        """Largest degree, 0 for fixed data."""
        return max((b.l for b in self.blocks), default=0)

    @property
    def text(self) -> str:
        """The entry as text."""
        if self.kind != "irreps":
            return POINTS if self.kind == "points" else "None"
        return "+".join(b.name for b in self.blocks)

    def blocks_of(self, width: int) -> tuple[Block, ...]:
        """Blocks of a tensor with that last axis; fixed data are one invariant block."""
        return self.blocks or (Block("invariant", width, 0, 1, 0, width),)

    @cached_property
    def _groups(self) -> list[tuple[int, int, np.ndarray]]:
        """(l, parity, columns (copies, 2l+1)) for every kind of irrep: one matrix product each."""
        columns: dict[tuple[int, int], list[np.ndarray]] = {}
        for b in self.blocks:
            columns.setdefault((b.l, b.parity), []).append(np.arange(b.start, b.stop).reshape(b.mul, -1))
        return [(l, parity, np.concatenate(rows)) for (l, parity), rows in columns.items()]

    def turning(self, width: int) -> np.ndarray:
        """(width,) True for the columns that rotations mix."""
        return np.concatenate([np.full(b.stop - b.start, b.l > 0) for b in self.blocks_of(width)])

    def vector_sizes(self, values: Tensor) -> Tensor:
        """RMS of the irrep (2l + 1 components) or of the point that every component belongs to, of the shape given."""
        sizes = values.abs()
        for b in self.blocks:
            parts = values[..., b.start : b.stop].unflatten(-1, (b.mul, 2 * b.l + 1))
            rms = parts.square().mean(-1, keepdim=True).sqrt().expand_as(parts)
            sizes[..., b.start : b.stop] = rms.flatten(-2)
        return sizes

    def act(self, values: Array, elements: Elements, shift: bool = True) -> Array:
        """Image of a batch under one group element per entry of the first axis.

        Args:
            values: (n, ..., dim) float64.
            elements: n elements.
            shift: False leaves the translation out (differences and gradients of points).

        Returns:
            (n, ..., dim) float64.
        """
        if self.kind == "fixed":
            return values
        if self.kind == "points":
            return (elements if shift else Elements.of(elements.quaternions, elements.inversion)).move(values)
        degrees = [l for l in self.degrees if l > 0]
        matrices = elements.wigner(degrees, self.basis) if degrees else {}
        sign = np.where(elements.inversion, -1.0, 1.0)[:, None, None]
        return self._mix(values, lambda l, parity: (matrices.get(l), sign if parity == -1 else None))

    def act_generator(self, values: Array, axis: int) -> Array:
        """Image of values (n, ..., dim) under the generator of rotations about axis 0, 1, 2 (x, y, z)."""
        if self.kind == "fixed":
            return np.zeros_like(values)
        basis: Basis = "e3nn" if self.kind == "points" else self.basis
        count = len(values)

        def matrix(l: int, _parity: int) -> tuple[Array, None]:
            return np.broadcast_to(generators(l, basis)[axis], (count, 2 * l + 1, 2 * l + 1)), None

        return self._mix(values, matrix)

    def _mix(self, values: Array, matrix: Any) -> Array:
        result = np.empty_like(values)
        n, width = len(values), values.shape[-1]
        rows = int(np.prod(values.shape[1:-1]))
        flat, out = values.reshape(n, rows, width), result.reshape(n, rows, width)
        for l, parity, columns in self._groups:
            d, sign = matrix(l, parity)
            part = flat[:, :, columns.ravel()].reshape(n, rows * len(columns), 2 * l + 1)
            if d is not None:
                part = np.matmul(part, d.transpose(0, 2, 1))
            if sign is not None:
                part = part * sign
            out[:, :, columns.ravel()] = part.reshape(n, rows, columns.size)
        return result


VECTOR = Representation("irreps", (Block("1x1o", 1, 1, -1, 0, 3),), "e3nn")
"""Rows x, y, z that rotate and are not shifted: gradients of points, lattice vectors."""


def parse_entries(entries: Any, what: str, basis: Basis = "e3nn") -> tuple[Representation, ...]:
    """Laws of all inputs or outputs: a list of entries, or a single entry.

    Raises:
        VerificationError: there is no entry, or one is not understood.
    """
    from e3nn.o3 import Irreps

    single = entries is None or isinstance(entries, (str, Irreps, Representation))
    items: Sequence[Any] = [entries] if single else list(entries)
    if not items:
        raise VerificationError(f"{what} is empty: give one entry per tensor")
    if not single and all(isinstance(i, tuple) and len(i) == 2 and isinstance(i[0], int) for i in items):
        items = [Irreps(items)]  # e3nn's list form of one irreps: [(mul, (l, p)), ...]
    return tuple(Representation.parse(item, basis) for item in items)
