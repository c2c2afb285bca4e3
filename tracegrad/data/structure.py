"""A structure with its orbitals and its Hamiltonian and overlap blocks, and the checks made on every load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks, duplicate_keys, match_keys
from tracegrad.errors import DataError

HERMITICITY_TOLERANCE = 1e-6  # eV (and dimensionless for the overlap); real DeepH folders reach 1e-8
NEGLIGIBLE_OVERLAP = 1e-6  # overlap blocks below this may be stored without a Hamiltonian block
MAX_L = 6  # largest angular momentum of a shell
MAX_EXACT = 2**53  # every integer below has a float64 of its own

Orbitals = dict[int, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms in a cell, the shells of every element, and the matrices between them.

    Blocks are in one convention: real spherical harmonics with m = -l..l and z polar (s; y, z, x; xy, yz, z2, xz,
    x2-y2), shells in the order of ``orbitals``; spinful blocks are spin-major [[uu, ud], [du, dd]].

    Lists, and arrays of other types that hold such numbers, are converted; what has its type already is not copied.

    Args:
        numbers: (N,) int64 atomic numbers.
        positions: (N, 3) Cartesian positions in Å, not folded into the cell.
        cell: (3, 3) lattice vectors in Å, one per row.
        pbc: (3,) bool, the periodic directions.
        orbitals: atomic number -> angular momenta of its shells, e.g. {6: (0, 0, 1, 1, 2)}.
        spinful: whether the Hamiltonian has spin blocks (complex, twice the size).
        hamiltonian: H(i, j, R) in eV, the Hermitian half or complete, or None.
        overlap: S(i, j, R), always spinless and real, or None.
        name: the identifier within its dataset.
        metadata: further facts, e.g. ``fermi_energy_eV``, ``source``, ``seed``.

    Raises:
        DataError: if atoms, cell or shells are not numbers of their kind; ``validate`` judges the rest.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    orbitals: Orbitals
    spinful: bool = False
    hamiltonian: Blocks | None = None
    overlap: Blocks | None = None
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give arrays and shells the types stated above."""
        where = f"structure {self.name!r}" if self.name else "structure"
        fitting = {
            "numbers": _integers(self.numbers, f"{where}: numbers"),
            "positions": _lengths(self.positions, f"{where}: positions"),
            "cell": _lengths(self.cell, f"{where}: cell"),
            "pbc": _directions(self.pbc, f"{where}: pbc"),
            "orbitals": _shells(self.orbitals, where),
        }
        for name, value in fitting.items():
            object.__setattr__(self, name, value)

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.numbers)

    @cached_property
    def n_orbitals(self) -> NDArray[np.int64]:
        """(N,) spatial orbitals of every atom, sum of 2l+1 over its shells."""
        counts = np.zeros(
            max(len(chemical_symbols), 1 + max(*self.numbers.tolist(), *self.orbitals, 0, 0)), dtype=np.int64
        )
        for number, shells in self.orbitals.items():
            counts[number] = sum(2 * l + 1 for l in shells)
        return counts[self.numbers]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols of the species present, by atomic number."""
        return tuple(chemical_symbols[z] for z in sorted(set(self.numbers.tolist())))

    def edge_vectors(self, blocks: Blocks) -> NDArray[np.float64]:
        """(E, 3) vectors r_j + R·cell - r_i in Å of the pairs of ``blocks``."""
        i, j = blocks.edge_index
        vectors: NDArray[np.float64] = self.positions[j] + blocks.cell_shift @ self.cell - self.positions[i]
        return vectors

    def block_shapes(self, blocks: Blocks, *, spinful: bool) -> NDArray[np.int64]:
        """(E, 2) the shapes that the orbitals ask for."""
        i, j = blocks.edge_index
        factor = 2 if spinful else 1
        return factor * np.stack([self.n_orbitals[i], self.n_orbitals[j]], axis=1)

    def fields(self) -> dict[str, Any]:
        """The fields by name, to build a changed copy: ``Structure(**{**structure.fields(), "name": "b"})``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def validate(self, source: str = "") -> Structure:
        """Check the structure (see ``check_structure``) and return it."""
        check_structure(self, source)
        return self


def check_structure(structure: Structure, source: str = "") -> None:
    """Refuse a structure that cannot be right.

    Checked: known elements with orbitals, non-singular cell, finite numbers, Fermi level, block shapes against the
    orbitals, pairs within the structure and stored once, on-site blocks present, Hermiticity within 1e-6 eV, overlap
    keys against Hamiltonian keys.

    Args:
        structure: what was read.
        source: the file or folder it came from, named in the message.

    Raises:
        DataError: with file, structure, what was expected, what was found and what to do.
    """
    where = ", ".join(part for part in (source, f"structure {structure.name!r}" if structure.name else "") if part)
    where = where or "structure"
    _check_atoms(structure, where)
    check_fermi_energy(structure.metadata.get("fermi_energy_eV"), where)
    for label, blocks in (("hamiltonian", structure.hamiltonian), ("overlap", structure.overlap)):
        if blocks is not None:
            _check_blocks(structure, blocks, label, where)
    if structure.hamiltonian is not None and structure.overlap is not None:
        _check_key_sets(structure.hamiltonian, structure.overlap, where)


def check_fermi_energy(value: Any, where: str) -> None:
    """Refuse a Fermi level that is no finite number.

    Args:
        value: eV, or None where it is not known.
        where: file or structure for the message.

    Raises:
        DataError: if it is something else.
    """
    if value is not None and not _is_finite(value):
        raise DataError(f"{where}: expected the Fermi level as a finite number in eV, found {str(value)[:80]!r}")


def parse_orbitals(table: Mapping[str, Any], where: str) -> Orbitals:
    """Orbitals by atomic number from a table element symbol -> list of l.

    Raises:
        DataError: for an unknown element or a list that is not made of angular momenta.
    """
    orbitals: Orbitals = {}
    for symbol, shells in table.items():
        if symbol not in atomic_numbers or symbol == "X":
            raise DataError(f"{where}: unknown element {symbol!r} in the orbital table; expected a chemical symbol")
        if not isinstance(shells, list | tuple) or not all(type(s) is int and 0 <= s <= MAX_L for s in shells):
            raise DataError(f"{where}: orbitals of {symbol} must be a list of l = 0..{MAX_L}, found {shells!r}")
        orbitals[int(atomic_numbers[symbol])] = tuple(shells)
    return orbitals


def orbital_table(orbitals: Orbitals) -> dict[str, list[int]]:
    """Element symbol -> list of l, the inverse of ``parse_orbitals``."""
    return {chemical_symbols[z]: list(shells) for z, shells in sorted(orbitals.items())}


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(float(value))
    except OverflowError:
        return False


def _array(value: Any, kinds: str, expected: str, what: str) -> NDArray[Any]:
    """``value`` as an array whose type is of one of some kinds; an empty list is of any."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of unequal length
        raise DataError(f"{what}: expected {expected}, found no array ({error})") from error
    if array.dtype.kind not in kinds and array.size:
        raise DataError(f"{what}: expected {expected}, found {array.dtype}")
    return array


def _integers(value: Any, what: str) -> NDArray[np.int64]:
    array = _array(value, "iuf", "integers", what)
    if array.dtype.kind == "f":
        array = array.astype(np.float64, copy=False)
        broken = array[~((np.abs(array) < MAX_EXACT) & (array == np.rint(array)))]
        if broken.size:
            raise DataError(f"{what}: expected integers, found {broken.flat[0]}")
    return array.astype(np.int64, copy=False)


def _lengths(value: Any, what: str) -> NDArray[np.float64]:
    return _array(value, "iuf", "real numbers in Å", what).astype(np.float64, copy=False)


def _directions(value: Any, what: str) -> NDArray[np.bool_]:
    array = _array(value, "biu", "three truth values", what)
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise DataError(f"{what}: expected three truth values, found {array.tolist()}")
    return array.astype(np.bool_, copy=False)


def _shells(table: Any, where: str) -> Orbitals:
    """The table with plain integers; it is not copied if it has them already."""
    try:
        parts = [(shells, (number, *shells)) for number, shells in table.items()]
    except (AttributeError, TypeError):
        parts = [((), (None,))]
    if not all(not isinstance(part, bool) and isinstance(part, Integral) for _, row in parts for part in row):
        raise DataError(
            f"{where}: expected orbitals {{atomic number: (l, ...)}} with integers l, found {str(table)[:80]}"
        )
    if all(type(shells) is tuple and all(type(part) is int for part in row) for shells, row in parts):
        plain: Orbitals = table
        return plain
    return {int(row[0]): tuple(map(int, row[1:])) for _, row in parts}


def _check_atoms(structure: Structure, where: str) -> None:
    n_atoms = structure.numbers.size
    for name, shape in (("numbers", (n_atoms,)), ("positions", (n_atoms, 3)), ("cell", (3, 3)), ("pbc", (3,))):
        found = np.shape(getattr(structure, name))
        if found != shape:
            raise DataError(f"{where}: expected {name} of shape {shape}, found {found}")
    if n_atoms == 0:
        raise DataError(f"{where}: holds no atoms; expected at least one")
    for name in ("positions", "cell"):
        if not np.isfinite(getattr(structure, name)).all():
            raise DataError(f"{where}: {name} holds NaN or infinite numbers; make the file again")
    unknown = sorted({z for z in structure.numbers.tolist() if not 1 <= z < len(chemical_symbols)})
    if unknown:
        raise DataError(
            f"{where}: unknown element, atomic number {unknown[0]}; expected 1..{len(chemical_symbols) - 1}"
        )
    for number, shells in structure.orbitals.items():
        if not (1 <= number < len(chemical_symbols) and all(0 <= l <= MAX_L for l in shells)):
            raise DataError(
                f"{where}: expected orbitals of atomic numbers 1..{len(chemical_symbols) - 1} with l = 0..{MAX_L}, "
                f"found {number}: {shells}"
            )
    missing = sorted(set(structure.numbers.tolist()) - set(structure.orbitals))
    if missing:
        raise DataError(
            f"{where}: no orbitals for {chemical_symbols[missing[0]]}; the orbital table names "
            f"{', '.join(orbital_table(structure.orbitals)) or 'no element'}"
        )
    volume = abs(float(np.linalg.det(structure.cell)))
    if structure.pbc.any() and volume < 1e-6:
        raise DataError(f"{where}: the lattice vectors are linearly dependent (volume {volume:.2e} Å^3)")


def _check_blocks(structure: Structure, blocks: Blocks, label: str, where: str) -> None:
    where = f"{where}, {label}"
    keys = blocks.keys()
    outside = np.flatnonzero((blocks.edge_index < 0).any(0) | (blocks.edge_index >= structure.n_atoms).any(0))
    if len(outside):
        raise DataError(
            f"{where}: key {keys[outside[0]].tolist()} names an atom outside 0..{structure.n_atoms - 1} (0-based)"
        )
    spinful = structure.spinful and label == "hamiltonian"
    expected = structure.block_shapes(blocks, spinful=spinful)
    wrong = np.flatnonzero((expected != blocks.shapes).any(axis=1))
    if len(wrong):
        edge = int(wrong[0])
        raise DataError(
            f"{where}: block {keys[edge].tolist()} should be {expected[edge].tolist()} for the orbitals of its atoms"
            f"{' (spinful)' if spinful else ''}, found {blocks.shapes[edge].tolist()}; check the orbital list"
        )
    if blocks.is_complex != spinful:
        kind = ("complex", "real") if spinful else ("real", "complex")
        raise DataError(f"{where}: expected {kind[0]} values (spinful = {spinful}), found {kind[1]} ones")
    finite = np.isfinite(blocks.values)
    if not finite.all():
        edge = int(np.searchsorted(blocks.offsets, int(np.flatnonzero(~finite)[0]), side="right")) - 1
        raise DataError(f"{where}: block {keys[edge].tolist()} holds NaN or infinite numbers; leave it out or redo it")
    duplicates = duplicate_keys(keys)
    if len(duplicates):
        raise DataError(f"{where}: the pair {keys[duplicates[0]].tolist()} is stored twice")
    _check_on_site(structure.n_atoms, keys, where)
    defect = blocks.hermiticity_defect()
    if defect > HERMITICITY_TOLERANCE:
        raise DataError(
            f"{where}: not Hermitian, H(i,j,R) and H(j,i,-R)^dagger differ by {defect:.3e}, "
            f"expected at most {HERMITICITY_TOLERANCE:.0e}; check the sign of R and the order of the atoms"
        )


def _check_on_site(n_atoms: int, keys: NDArray[np.int64], where: str) -> None:
    on_site = np.zeros((n_atoms, 5), dtype=np.int64)
    on_site[:, 3] = on_site[:, 4] = np.arange(n_atoms)
    missing = np.flatnonzero(match_keys(keys, on_site) < 0)
    if len(missing):
        raise DataError(
            f"{where}: atom {missing[0]} (0-based) has no on-site block [0, 0, 0, {missing[0]}, {missing[0]}]"
        )


def _check_key_sets(hamiltonian: Blocks, overlap: Blocks, where: str) -> None:
    """Every overlap block that is not negligible needs a Hamiltonian block (the reverse may be missing)."""
    keys = np.concatenate([hamiltonian.keys(), hamiltonian.adjoint().keys()])
    lonely = np.flatnonzero(match_keys(keys, overlap.keys()) < 0)
    largest = np.array([np.abs(overlap.block(int(edge))).max(initial=0.0) for edge in lonely])
    if len(lonely) and largest.max() > NEGLIGIBLE_OVERLAP:
        edge = int(lonely[int(largest.argmax())])
        raise DataError(
            f"{where}: {len(lonely)} overlap pairs have no Hamiltonian block, e.g. {overlap.keys()[edge].tolist()} "
            f"with |S| = {largest.max():.2e}; expected at most {NEGLIGIBLE_OVERLAP:.0e} there. "
            "Cut both matrices at the same distance"
        )
