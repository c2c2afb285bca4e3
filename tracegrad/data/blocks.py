"""Blocks of a matrix between atom pairs: H(i, j, R) and S(i, j, R) as one flat array.

A key is the row (Rx, Ry, Rz, i, j) with 0-based atoms: rows of the block are the orbitals of atom i in the home
cell, columns those of atom j in the cell R. The law that ties the two directions is H(j, i, -R) = H(i, j, R)^dagger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracegrad.errors import DataError

IntArray = NDArray[np.int64]
ValueArray = NDArray[Any]  # float64, or complex128 for spinful blocks
Key = tuple[int, int, int, int, int]

MAX_CODE = 2**62  # largest packed key that leaves room for the sums made with it


@dataclass(frozen=True, eq=False)
class Blocks:
    """Matrix blocks of E directed atom pairs, stored one after another.

    Args:
        edge_index: (2, E) int64, row 0 = atom i of the home cell, row 1 = atom j.
        cell_shift: (E, 3) int64, the cell R of atom j in units of the lattice vectors.
        shapes: (E, 2) int64, (orbitals of i, orbitals of j), doubled for spinful blocks.
        values: (sum of a*b over ``shapes``,) float64 or complex128, row-major blocks in the order of the pairs.

    Integers of another width are converted: -R has no place in an unsigned type.

    Raises:
        DataError: if the lengths of the arrays do not fit each other, or the first three hold no integers.
    """

    edge_index: IntArray
    cell_shift: IntArray
    shapes: IntArray
    values: ValueArray

    def __post_init__(self) -> None:
        """Check that the four arrays describe the same pairs."""
        n_edges = self.edge_index.shape[-1]
        expected = {"edge_index": (2, n_edges), "cell_shift": (n_edges, 3), "shapes": (n_edges, 2)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise DataError(f"Blocks: expected {name} of shape {shape}, found {array.shape}")
            if array.dtype.kind not in "iu" and array.size:
                raise DataError(f"Blocks: expected integers in {name}, found {array.dtype}")
            object.__setattr__(self, name, array.astype(np.int64, copy=False))
        if self.values.shape != (int(self.offsets[-1]),):
            raise DataError(
                f"Blocks: the shapes of {n_edges} blocks ask for {int(self.offsets[-1])} values, "
                f"found an array of shape {self.values.shape}"
            )

    @property
    def n_edges(self) -> int:
        """Number of directed pairs E."""
        return int(self.edge_index.shape[1])

    @property
    def is_complex(self) -> bool:
        """Whether the values are complex (spinful blocks)."""
        return bool(np.iscomplexobj(self.values))

    @cached_property
    def sizes(self) -> IntArray:
        """(E,) number of values of each block."""
        return self.shapes[:, 0] * self.shapes[:, 1]

    @cached_property
    def offsets(self) -> IntArray:
        """(E + 1,) start of each block in ``values``; the last entry is the total."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.sizes)])

    def keys(self) -> IntArray:
        """(E, 5) int64 rows (Rx, Ry, Rz, i, j), 0-based atoms."""
        return np.concatenate([self.cell_shift, self.edge_index.T], axis=1)

    def block(self, edge: int) -> ValueArray:
        """(a, b) view of the block of one pair."""
        start, stop = int(self.offsets[edge]), int(self.offsets[edge + 1])
        rows, columns = self.shapes[edge]
        return self.values[start:stop].reshape(int(rows), int(columns))

    def index(self, key: Key) -> int:
        """Position of the pair (Rx, Ry, Rz, i, j).

        Raises:
            KeyError: if the pair is not stored.
        """
        try:
            return self._positions[key]
        except KeyError:
            raise KeyError(f"no block (Rx, Ry, Rz, i, j) = {tuple(key)} among {self.n_edges} pairs") from None

    @cached_property
    def _positions(self) -> dict[Key, int]:
        return {(r[0], r[1], r[2], r[3], r[4]): e for e, r in enumerate(self.keys().tolist())}

    @classmethod
    def from_dict(cls, blocks: Mapping[Key, ValueArray]) -> Blocks:
        """Blocks from a mapping (Rx, Ry, Rz, i, j) -> (a, b) array, in the order of the mapping."""
        keys = np.array(list(blocks), dtype=np.int64).reshape(len(blocks), 5)
        arrays = [np.asarray(block) for block in blocks.values()]
        dtype = np.complex128 if any(np.iscomplexobj(a) for a in arrays) else np.float64
        values = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.zeros(0)
        shapes = np.array([a.shape for a in arrays], dtype=np.int64).reshape(len(arrays), 2)
        return cls(np.ascontiguousarray(keys[:, 3:].T), keys[:, :3].copy(), shapes, values.astype(dtype, copy=False))

    def to_dict(self) -> dict[Key, ValueArray]:
        """Mapping (Rx, Ry, Rz, i, j) -> (a, b) view of the block."""
        return {key: self.block(edge) for key, edge in self._positions.items()}

    def with_values(self, values: ValueArray) -> Blocks:
        """The same pairs with other values of the same total length."""
        return Blocks(self.edge_index, self.cell_shift, self.shapes, values)

    def select(self, edges: NDArray[np.int64] | NDArray[np.bool_]) -> Blocks:
        """The blocks of some pairs, in the order asked for (indices) or kept (a mask)."""
        edges = np.flatnonzero(edges) if edges.dtype == np.bool_ else edges
        sizes = self.sizes[edges]
        ends = np.cumsum(sizes)
        start = np.repeat(self.offsets[:-1][edges] - (ends - sizes), sizes)
        values = self.values[start + np.arange(int(sizes.sum()))]
        return Blocks(self.edge_index[:, edges], self.cell_shift[edges], self.shapes[edges], values)

    def grouped(self) -> Iterator[tuple[tuple[int, int], IntArray, IntArray]]:
        """Groups of equal shape: (shape, edges (n,), positions in ``values`` (n, a, b)).

        ``blocks.values[positions]`` is the (n, a, b) array of all blocks of that shape.
        """
        if not self.n_edges:
            return
        shapes, group = np.unique(self.shapes, axis=0, return_inverse=True)
        for g, (rows, columns) in enumerate(shapes.tolist()):
            edges = np.flatnonzero(group.reshape(-1) == g)
            inner = np.arange(rows * columns).reshape(rows, columns)
            yield (rows, columns), edges, self.offsets[edges][:, None, None] + inner

    def adjoint(self) -> Blocks:
        """The reversed pairs in the same order: H(j, i, -R) = H(i, j, R)^dagger."""
        values = np.empty_like(self.values)
        for (rows, columns), edges, positions in self.grouped():
            turned = np.conj(self.values[positions]).transpose(0, 2, 1)
            values[positions.reshape(len(edges), rows * columns)] = turned.reshape(len(edges), rows * columns)
        return Blocks(self.edge_index[::-1].copy(), -self.cell_shift, self.shapes[:, ::-1].copy(), values)

    @cached_property
    def reverse_index(self) -> IntArray:
        """(E,) position of the pair (j, i, -R) of each pair (i, j, R); -1 where it is not stored."""
        return match_keys(self.keys(), reverse_keys(self.keys()))

    @cached_property
    def canonical(self) -> NDArray[np.bool_]:
        """(E,) whether a pair belongs to the Hermitian half: i < j, or i = j and R = 0 or R > 0 lexicographically."""
        i, j = self.edge_index
        x, y, z = self.cell_shift.T
        positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z >= 0))))
        canonical: NDArray[np.bool_] = (i < j) | ((i == j) & positive)
        return canonical

    @cached_property
    def is_half(self) -> bool:
        """Whether only the Hermitian half is stored (every pair is canonical)."""
        return bool(self.canonical.all())

    @cached_property
    def is_complete(self) -> bool:
        """Whether the reverse of every pair is stored too."""
        return bool((self.reverse_index >= 0).all())

    def completed(self) -> Blocks:
        """All pairs with both directions: the missing reverses H(j, i, -R) = H(i, j, R)^dagger are appended."""
        missing = np.flatnonzero(self.reverse_index < 0)
        return self if not len(missing) else concatenate(self, self.select(missing).adjoint())

    def hermitian_half(self) -> Blocks:
        """One direction of every pair: the canonical ones as they are, then those known only by their reverse."""
        if self.is_half:
            return self
        only_reverse = np.flatnonzero(~self.canonical & (self.reverse_index < 0))
        kept = self.select(np.flatnonzero(self.canonical))
        return concatenate(kept, self.select(only_reverse).adjoint()) if len(only_reverse) else kept

    def hermitian_part(self) -> Blocks:
        """½ (H + H†) as the Hermitian half; for matrices whose two directions were computed independently."""
        complete = self.completed()
        partner = complete.select(complete.reverse_index).adjoint()
        return complete.with_values((complete.values + partner.values) / 2).hermitian_half()

    def hermiticity_defect(self) -> float:
        """Largest |H(i, j, R) - H(j, i, -R)^dagger| over the pairs stored both ways, on-site included.

        Returns:
            The defect in the unit of the values; infinity where a block is not finite or the shapes disagree.
        """
        paired = np.flatnonzero(self.reverse_index >= 0)
        if not len(paired):
            return 0.0
        partner = self.select(self.reverse_index[paired])
        if not np.array_equal(self.shapes[paired], partner.shapes[:, ::-1]):
            return float("inf")
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            difference = self.select(paired).values - partner.adjoint().values
        return float(np.abs(difference).max()) if np.isfinite(difference).all() else float("inf")


def concatenate(*parts: Blocks) -> Blocks:
    """The pairs of several Blocks, one after the other."""
    return Blocks(
        np.concatenate([part.edge_index for part in parts], axis=1),
        np.concatenate([part.cell_shift for part in parts]),
        np.concatenate([part.shapes for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def reverse_keys(keys: IntArray) -> IntArray:
    """(E, 5) keys of the reversed pairs: (Rx, Ry, Rz, i, j) -> (-Rx, -Ry, -Rz, j, i)."""
    return np.concatenate([-keys[:, :3], keys[:, 4:5], keys[:, 3:4]], axis=1)


def match_keys(keys: IntArray, wanted: IntArray) -> IntArray:
    """Position in ``keys`` of every row of ``wanted``.

    Args:
        keys: (E, 5) stored keys; of a key stored twice the first counts.
        wanted: (W, 5) keys to look up.

    Returns:
        (W,) int64 positions, -1 where a key is not stored.
    """
    if not len(keys) or not len(wanted):
        return np.full(len(wanted), -1, dtype=np.int64)
    codes = _key_codes(np.concatenate([keys, wanted]))
    stored, searched = codes[: len(keys)], codes[len(keys) :]
    order = np.argsort(stored, kind="stable")
    place = np.minimum(np.searchsorted(stored[order], searched), len(keys) - 1)
    return np.where(stored[order][place] == searched, order[place], -1)


def duplicate_keys(keys: IntArray) -> IntArray:
    """(D,) positions of the rows of ``keys`` that repeat an earlier one."""
    return np.flatnonzero(match_keys(keys, keys) != np.arange(len(keys)))


def _key_codes(keys: IntArray) -> IntArray:
    """One integer per row, equal for equal rows (mixed radix, or ranks where that would overflow)."""
    low, high = keys.min(axis=0), keys.max(axis=0)
    spans = [int(h) - int(lo) + 1 for h, lo in zip(high, low, strict=True)]
    total = 1
    for span in spans:
        total *= span
    if total > MAX_CODE:
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    codes = np.zeros(len(keys), dtype=np.int64)
    for column, span in enumerate(spans):
        codes = codes * span + (keys[:, column] - low[column])
    return codes
