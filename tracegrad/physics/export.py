"""Export to sisl, whose tools compute transport, projections and more (extra ``physics``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tracegrad.data import Structure
from tracegrad.errors import DataError
from tracegrad.physics.bloch import BlochSum, bloch_matrices
from tracegrad.so3 import OrbitalBasis

UP, DOWN = 0, 1
# sisl's components of a matrix with spin-orbit coupling: spins of row and column, part of the complex number.
SPIN_ORBIT = (
    (UP, UP, "real"),
    (DOWN, DOWN, "real"),
    (UP, DOWN, "real"),
    (UP, DOWN, "imag"),
    (UP, UP, "imag"),
    (DOWN, DOWN, "imag"),
    (DOWN, UP, "real"),
    (DOWN, UP, "imag"),
)


def to_sisl(structure: Structure) -> Any:
    """A ``sisl.Hamiltonian`` with overlap: same atoms, orbitals m = -l..l per shell, eV and Å.

    With spin it is one of sisl's spin-orbit kind; sisl's H(k) then has the two spins of an orbital next to each other,
    where ours has all spin-up orbitals of an atom first.

    Args:
        structure: with Hamiltonian and overlap.

    Returns:
        ``sisl.Hamiltonian``; its H(k) and S(k) in the lattice gauge are ours.

    Raises:
        DataError: sisl is not installed, or a matrix is missing.
    """
    try:
        import sisl
    except ImportError as error:
        raise DataError("the export needs sisl; install it with: pip install sisl") from error
    hamiltonian, overlap = bloch_matrices(structure)
    atoms = [sisl.Atom(chemical_symbols[z], _orbitals(sisl, structure.orbitals[z])) for z in structure.numbers.tolist()]
    reach = np.abs(np.concatenate([hamiltonian.shifts, overlap.shifts])).max(axis=0)
    lattice = sisl.Lattice(structure.cell, nsc=(2 * reach + 1).tolist())
    geometry = sisl.Geometry(structure.positions, atoms, lattice)
    orbital, spin = _orbital_and_spin(structure)
    both = [
        _spin_blocks(matrix, orbital, spin, [lattice.sc_index(shift) for shift in matrix.shifts.tolist()], geometry.n_s)
        for matrix in (hamiltonian, overlap)
    ]
    components = [both[0][UP, UP]]
    if structure.spinful:
        components = [getattr(both[0][row, column], part).tocsr() for row, column, part in SPIN_ORBIT]
    return sisl.Hamiltonian.fromsp(geometry, components, S=both[1][UP, UP])


def _orbital_and_spin(structure: Structure) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Orbital of the cell and spin of every row of our H(k)."""
    counts, spins = structure.n_orbitals, 2 if structure.spinful else 1
    starts = np.cumsum(counts) - counts
    orbital = [np.tile(start + np.arange(n), spins) for start, n in zip(starts, counts, strict=True)]
    spin = [np.repeat(np.arange(spins), n) for n in counts]
    return np.concatenate(orbital), np.concatenate(spin)


def _spin_blocks(
    matrix: BlochSum, orbital: NDArray[np.int64], spin: NDArray[np.int64], cells: list[int], n_cells: int
) -> dict[tuple[int, int], Any]:
    """(spin of the row, of the column) -> sparse (n, n * cells), columns of all cells side by side."""
    weights = matrix.weights.tocoo()
    entry, cell = weights.coords
    rows, columns = matrix.rows[entry], matrix.columns[entry]
    size = int(orbital.max()) + 1
    place = orbital[columns] + np.array(cells, dtype=np.int64)[cell] * size
    blocks = {}
    for pair in ((s, t) for s in range(spin.max() + 1) for t in range(spin.max() + 1)):
        here = (spin[rows] == pair[0]) & (spin[columns] == pair[1])
        values = (weights.data[here], (orbital[rows[here]], place[here]))
        blocks[pair] = scipy.sparse.csr_matrix(values, shape=(size, size * n_cells))
    return blocks


def _orbitals(sisl: Any, shells: tuple[int, ...]) -> list[Any]:
    """Orbitals named s1(0), p1(-1), ..."""
    named = zip(shells, OrbitalBasis(shells).names, strict=True)
    return [sisl.Orbital(-1, tag=f"{name}({m})") for l, name in named for m in range(-l, l + 1)]
