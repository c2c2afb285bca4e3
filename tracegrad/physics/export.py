"""Export to sisl, whose tools compute transport, projections and more (extra ``physics``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from ase.data import chemical_symbols

from tracegrad.data import Structure
from tracegrad.errors import DataError
from tracegrad.physics.bloch import bloch_matrices


def to_sisl(structure: Structure) -> Any:
    """A ``sisl.Hamiltonian`` with overlap: same atoms, orbitals m = -l..l per shell, eV and Å.

    Args:
        structure: spinless, with Hamiltonian and overlap.

    Returns:
        ``sisl.Hamiltonian``; its H(k) in the lattice gauge is ours.

    Raises:
        DataError: sisl is not installed, the structure has spin, or a matrix is missing.
    """
    try:
        import sisl
    except ImportError as error:
        raise DataError("the export needs sisl; install it with: pip install tracegrad[physics]") from error
    if structure.spinful:
        raise DataError(f"{structure.name}: expected a spinless Hamiltonian to export to sisl, found a spinful one")
    hamiltonian, overlap = bloch_matrices(structure)
    atoms = [sisl.Atom(chemical_symbols[z], _orbitals(sisl, structure.orbitals[z])) for z in structure.numbers.tolist()]
    reach = np.abs(np.concatenate([hamiltonian.shifts, overlap.shifts])).max(axis=0)
    lattice = sisl.Lattice(structure.cell, nsc=(2 * reach + 1).tolist())
    geometry = sisl.Geometry(structure.positions, atoms, lattice)
    wide = (hamiltonian.size, hamiltonian.size * int(np.prod(2 * reach + 1)))
    matrices = []
    for matrix in (hamiltonian, overlap):
        offset = np.array([lattice.sc_index(shift) for shift in matrix.shifts.tolist()], dtype=np.int64)
        weights = matrix.weights.tocoo()
        entry, cell = weights.coords
        columns = matrix.columns[entry] + offset[cell] * matrix.size
        matrices.append(scipy.sparse.csr_matrix((weights.data, (matrix.rows[entry], columns)), shape=wide))
    return sisl.Hamiltonian.fromsp(geometry, matrices[0], S=matrices[1])


def _orbitals(sisl: Any, shells: tuple[int, ...]) -> list[Any]:
    """Orbitals named s1(0), p1(-1), ..."""
    names = []
    for n, l in enumerate(shells):
        count = shells[: n + 1].count(l)
        names += [f"{'spdfghi'[l]}{count}({m})" for m in range(-l, l + 1)]
    return [sisl.Orbital(-1, tag=name) for name in names]
