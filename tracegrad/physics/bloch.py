r"""Bloch sums of blocks: :math:`H(k) = \sum_R H(R)\, e^{+2\pi i k \cdot R}`, and the same for the overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from tracegrad.data import Blocks, Structure
from tracegrad.errors import DataError


@dataclass(frozen=True)
class BlochSum:
    """One matrix over all orbitals of the cell, ready for any k: entries of H(k) are ``weights @ phases(k)``.

    Args:
        size: n, orbitals of the cell (times two with spin); atom by atom, per atom all spin-up orbitals first.
        rows: (U,) rows of the entries that are not zero by their pairs.
        columns: (U,) their columns.
        shifts: (nR, 3) the cells R.
        weights: (U, nR) sparse, the entry of every H(R).
    """

    size: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shifts: NDArray[np.int64]
    weights: Any

    @classmethod
    def from_blocks(cls, blocks: Blocks, sizes: NDArray[np.int64]) -> BlochSum:
        """Arrange blocks once for all k.

        Args:
            blocks: a Hermitian half or both directions.
            sizes: (N,) rows of the on-site block of every atom.
        """
        complete = blocks.completed()
        starts = np.concatenate([[0], np.cumsum(sizes)])
        size = int(starts[-1])
        shifts, cell = np.unique(complete.cell_shift, axis=0, return_inverse=True)
        place = np.empty(len(complete.values), dtype=np.int64)
        which = np.empty(len(complete.values), dtype=np.int64)
        for (rows, columns), edges, positions in complete.grouped():
            i, j = complete.edge_index[:, edges]
            row = starts[i][:, None, None] + np.arange(rows)[:, None]
            place[positions] = row * size + starts[j][:, None, None] + np.arange(columns)
            which[positions] = cell.reshape(-1)[edges][:, None, None]
        entries, entry = np.unique(place, return_inverse=True)
        shape = (len(entries), len(shifts))
        weights = scipy.sparse.csr_array((complete.values, (entry.reshape(-1), which)), shape=shape)
        return cls(size, entries // size, entries % size, shifts, weights)

    def entries(self, k: ArrayLike) -> NDArray[np.complex128]:
        """(U,) entries at one k (fractional coordinates), in the order of ``rows`` and ``columns``."""
        angle = 2 * np.pi * (self.shifts @ np.asarray(k, dtype=np.float64))
        entries: NDArray[np.complex128] = self.weights @ np.cos(angle) + 1j * (self.weights @ np.sin(angle))
        return entries

    def dense(self, k: ArrayLike) -> NDArray[np.complex128]:
        """(n, n) matrix at one k."""
        matrix = np.zeros((self.size, self.size), dtype=np.complex128)
        matrix[self.rows, self.columns] = self.entries(k)
        return matrix

    def sparse(self, k: ArrayLike) -> Any:
        """(n, n) compressed sparse matrix at one k."""
        return scipy.sparse.csc_array((self.entries(k), (self.rows, self.columns)), shape=(self.size, self.size))


def bloch_matrices(structure: Structure) -> tuple[BlochSum, BlochSum]:
    """H and S of a structure, both with spin where the Hamiltonian has it.

    Raises:
        DataError: if one of the two matrices is missing.
    """
    for label in ("hamiltonian", "overlap"):
        if getattr(structure, label) is None:
            raise DataError(
                f"{structure.name or 'structure'}: expected {label} blocks for energies and states, found none; "
                "give a folder with both matrices (an overlap can be computed where the basis is ours)"
            )
    hamiltonian, overlap = structure.hamiltonian, structure.overlap
    assert hamiltonian is not None
    assert overlap is not None
    sizes = structure.n_orbitals * (2 if structure.spinful else 1)
    metric = with_spin(overlap) if structure.spinful else overlap
    return BlochSum.from_blocks(hamiltonian, sizes), BlochSum.from_blocks(metric, sizes)


def with_spin(overlap: Blocks) -> Blocks:
    """1 ⊗ S: the spinless blocks on both spin diagonals, spin-major."""
    full = Blocks(overlap.edge_index, overlap.cell_shift, 2 * overlap.shapes, np.zeros(4 * len(overlap.values)))
    for (rows, columns), edges, positions in overlap.grouped():
        block = np.zeros((len(edges), 2, rows, 2, columns))
        block[:, 0, :, 0] = block[:, 1, :, 1] = overlap.values[positions]
        full.values[full.offsets[edges][:, None] + np.arange(4 * rows * columns)] = block.reshape(len(edges), -1)
    return full


def periodic_directions(structure: Structure) -> NDArray[np.bool_]:
    """(3,) directions along which some block reaches a neighbouring cell; across a vacuum there is none."""
    reached = np.zeros(3, dtype=np.bool_)
    for blocks in (structure.hamiltonian, structure.overlap):
        if blocks is not None:
            reached |= (blocks.cell_shift != 0).any(axis=0)
    return reached & structure.pbc
