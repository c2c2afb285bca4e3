"""Pairs of atoms within a cutoff, found in linear time by a cell-list library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from vesin import NeighborList

from tracegrad.errors import DataError

OPEN_CELL_MARGIN = 1.0  # Å of space around an open structure
ROUND_OFF = 1e-10  # of r_max; distances in float64 err by less, in cells of up to 1e5 Å


def neighbor_pairs(
    positions: ArrayLike, cell: ArrayLike, pbc: Sequence[bool] | NDArray[np.bool_], r_max: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """One direction of every pair with |r_j + R·cell - r_i| <= r_max, in O(N).

    A pair at r_max itself is found whatever the round-off of its distance: the search goes 1e-10 of r_max further.
    The direction kept is that of the stored Hamiltonian blocks: i < j, or i = j and R > 0 lexicographically.
    On-site pairs (i, i, 0) are not returned.

    Args:
        positions: (N, 3) Cartesian positions in Å, inside the cell or not.
        cell: (3, 3) lattice vectors in Å, one per row; not used along directions without periodicity.
        pbc: (3,) which directions are periodic.
        r_max: cutoff in Å.

    Returns:
        i: (P,) int64 centre atoms, in the home cell.
        j: (P,) int64 neighbours.
        shift: (P, 3) int64 cell R of the neighbour. Pairs are sorted by (i, j, R).

    Raises:
        DataError: if positions or cell are not finite, a periodic cell is singular, or r_max is not positive.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    periodic = np.asarray(pbc, dtype=np.bool_)
    _check(positions, np.asarray(cell, dtype=np.float64), periodic, r_max)
    box = _full_box(np.asarray(cell, dtype=np.float64), periodic)
    search = NeighborList(cutoff=float(r_max) * (1 + ROUND_OFF), full_list=False, n_threads=1)
    first, second, vectors = search.compute(positions, box, periodic.tolist(), quantities="ijS")
    i, j, shift = first.astype(np.int64), second.astype(np.int64), vectors.astype(np.int64)
    x, y, z = shift.T
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    swap = (i > j) | ((i == j) & ~positive)
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    shift = np.where(swap[:, None], -shift, shift)
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    return i[order], j[order], shift[order]


def _check(positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], r_max: float) -> None:
    if not np.isfinite(r_max) or r_max <= 0:
        raise DataError(f"expected a cutoff r_max > 0 Å, found {r_max}")
    if positions.ndim != 2 or positions.shape[1] != 3 or cell.shape != (3, 3) or pbc.shape != (3,):
        raise DataError(
            f"expected positions (N, 3), cell (3, 3), pbc (3,); found {positions.shape}, {cell.shape}, {pbc.shape}"
        )
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        raise DataError("positions or cell hold NaN or infinite numbers")


def _full_box(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with a unit vector at right angles in place of every direction that is not periodic."""
    if not pbc.any():
        return np.zeros((3, 3))
    box = cell.copy()
    rows = np.flatnonzero(pbc)
    if np.linalg.matrix_rank(cell[rows], tol=1e-6) < len(rows):
        raise DataError(f"the periodic lattice vectors are linearly dependent: {cell[rows].tolist()}")
    if len(rows) < 3:
        box[~pbc] = np.linalg.svd(cell[rows])[2][len(rows) :] * OPEN_CELL_MARGIN
    return box
