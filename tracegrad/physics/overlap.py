"""Overlap integrals of the Gaussian basis of the bundled data, analytic, by PySCF; and its valence electrons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tracegrad.data import Blocks, Structure
from tracegrad.data.deeph import reorder_orbitals
from tracegrad.data.dft.spin_orbit import PYSCF_BASIS, import_pyscf
from tracegrad.data.dft.systems import BOHR_IN_ANGSTROM, ELEMENTS
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError
from tracegrad.so3.conventions import from_convention

PRUNED_BASIS = Path(__file__).parents[1] / "data" / "dft" / "BASIS_PRUNED"


def is_gaussian_basis(orbitals: dict[int, tuple[int, ...]]) -> bool:
    """Whether the shells of all elements are those of the basis of the bundled data (other bases can share them)."""
    symbols = {chemical_symbols[z]: tuple(shells) for z, shells in orbitals.items()}
    return all(symbol in ELEMENTS and ELEMENTS[symbol].shells == shells for symbol, shells in symbols.items())


def valence_electrons(structure: Structure) -> int | None:
    """Valence electrons of the cell, or None where the shells are not those of the bundled data."""
    species = {int(z): tuple(structure.orbitals[int(z)]) for z in set(structure.numbers.tolist())}
    if not is_gaussian_basis(species):
        return None
    return sum(ELEMENTS[chemical_symbols[z]].valence for z in structure.numbers.tolist())


def gaussian_overlap(structure: Structure, r_max: float) -> Blocks:
    """S(i, j, R) of all pairs within a cutoff, in the basis of the bundled data (MOLOPT-SR double zeta; Mo pruned).

    Args:
        structure: atoms, cell and orbitals.
        r_max: cutoff in Å.

    Returns:
        The Hermitian half, on-site blocks first; m = -l..l.

    Raises:
        DataError: PySCF is missing, or the shells are not those of the basis.
    """
    i, j, shift = neighbor_pairs(structure.positions, structure.cell, structure.pbc, r_max)
    atoms = np.arange(structure.n_atoms)
    shifts = np.concatenate([np.zeros((structure.n_atoms, 3), dtype=np.int64), shift])
    return overlap_of_pairs(structure, np.stack([np.concatenate([atoms, i]), np.concatenate([atoms, j])]), shifts)


def overlap_of_pairs(structure: Structure, edge_index: NDArray[np.int64], cell_shift: NDArray[np.int64]) -> Blocks:
    """S(i, j, R) of some pairs, as :func:`gaussian_overlap` gives it.

    Args:
        structure: atoms, cell and orbitals.
        edge_index: (2, E) atoms of the pairs.
        cell_shift: (E, 3) cells of the second atoms.
    """
    species = {int(z): tuple(structure.orbitals[int(z)]) for z in set(structure.numbers.tolist())}
    if not is_gaussian_basis(species):
        raise DataError(
            f"{structure.name or 'structure'}: expected the shells of the bundled data's basis, found {species}; "
            "give the overlap as a file"
        )
    shapes = structure.n_orbitals[edge_index].T.copy()
    empty = Blocks(edge_index, cell_shift, shapes, np.zeros(int((shapes[:, 0] * shapes[:, 1]).sum())))
    values = _integrals(structure, empty)
    raw = Structure(**{**structure.fields(), "hamiltonian": None, "overlap": empty.with_values(values)})
    overlap = reorder_orbitals(raw, "pyscf", from_convention).overlap
    assert overlap is not None
    return overlap


def _integrals(structure: Structure, pairs: Blocks) -> NDArray[np.float64]:
    """Values of all blocks in PySCF's order: one call of libcint per centre atom with all its neighbours."""
    gto = import_pyscf("S of a Gaussian basis is computed with PySCF, unless an overlap or none is asked for")
    numbers = structure.numbers
    template, shells_of = _template(gto, sorted(set(numbers.tolist())))
    vectors = structure.edge_vectors(pairs) / BOHR_IN_ANGSTROM
    shells_of_edge = [shells_of[z] for z in numbers[pairs.edge_index[1]].tolist()]
    values = np.empty(len(pairs.values))
    order = np.argsort(pairs.edge_index[0], kind="stable")
    bounds = np.searchsorted(pairs.edge_index[0][order], np.arange(structure.n_atoms + 1))
    for atom in np.unique(pairs.edge_index[0]).tolist():
        edges = order[bounds[atom] : bounds[atom + 1]]
        centre = shells_of[int(numbers[atom])]
        rows = [centre] + [shells_of_edge[e] for e in edges.tolist()]
        places = np.concatenate([np.zeros((1, 3)), vectors[edges]])
        bas = np.concatenate(rows)
        bas[:, gto.ATOM_OF] = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        atm = np.zeros((len(rows), template._atm.shape[1]), dtype=np.int32)
        atm[:, gto.CHARGE_OF if hasattr(gto, "CHARGE_OF") else 0] = 1
        atm[:, gto.PTR_COORD] = len(template._env) + 3 * np.arange(len(rows))
        env = np.concatenate([template._env, places.reshape(-1)])
        slices = (0, len(centre), len(centre), len(bas))
        table = gto.moleintor.getints("int1e_ovlp_sph", atm, bas, env, slices)
        start = 0
        for edge in edges.tolist():
            stop = start + int(pairs.shapes[edge, 1])
            values[pairs.offsets[edge] : pairs.offsets[edge + 1]] = table[:, start:stop].reshape(-1)
            start = stop
    return values


def _template(gto: Any, species: list[int]) -> tuple[Any, dict[int, NDArray[np.int32]]]:
    """One molecule with an atom of every element, and the rows of its shell table by element."""
    symbols = [chemical_symbols[z] for z in species]
    text = PRUNED_BASIS.read_text(encoding="utf-8")
    pruned = {s: gto.basis.parse_cp2k.parse(text, s) for s in symbols if ELEMENTS[s].basis.endswith("PRUNED")}
    basis = {s: pruned.get(s) or gto.basis.load(PYSCF_BASIS, s) for s in symbols}
    places = [(s, (0.0, 0.0, 10.0 * n)) for n, s in enumerate(symbols)]
    molecule = gto.M(atom=places, basis=basis, unit="B", spin=None, verbose=0)
    owner = molecule._bas[:, gto.ATOM_OF]
    return molecule, {z: molecule._bas[owner == n].copy() for n, z in enumerate(species)}
