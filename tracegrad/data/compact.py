"""The compact form: a whole set of structures in one HDF5 file, quantised and compressed.

Layout 2 (written here)::

    /                        attributes: format = "tracegrad-compact", layout = 2, manifest (JSON)
    /structures/<id>         attributes: split, n_pairs, n_overlap_pairs, metadata (JSON)
        numbers (N,) int32   positions (N, 3) float64 Å   cell (3, 3) float64 Å, rows   pbc (3,) bool
        pairs                packed int32, the (5, P) columns of (Rx, Ry, Rz, i, j), 0-based, Hermitian half
        hamiltonian          packed int32, multiples of the manifest's ``hamiltonian_quantum`` hartree
        spin_orbit           packed int32, (3, V) W_x, W_y, W_z in the same unit; spinful sets only
        overlap              packed int32, multiples of ``overlap_quantum``; blocks of equal shape (a, b) stored
                             together as (a, b, n); on the same pairs, or on ``overlap_pairs`` if they differ

"Packed" is the stream of ``tracegrad.data.codec``. Pairs are sorted by block shape, then by length, because that
compresses best. Spinful H = 1 ⊗ H + i Σ σ_a ⊗ W_a. Layout 1, the plain gzip layout, is read as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tracegrad.atomic import atomic_write
from tracegrad.data.blocks import Blocks
from tracegrad.data.codec import pack, quantise, unpack
from tracegrad.data.hdf5 import open_hdf5, read_array
from tracegrad.data.spin import scalar_and_spin_orbit, spinful_blocks
from tracegrad.data.splits import SUBSETS
from tracegrad.data.structure import Orbitals, Structure, check_fermi_energy, orbital_table, parse_orbitals
from tracegrad.errors import DataError

HARTREE_EV = 27.211386245988  # eV, CODATA 2018
HAMILTONIAN_QUANTUM = 1e-6  # hartree; error at most 5e-7 hartree = 0.0136 meV
OVERLAP_QUANTUM = 1e-8  # dimensionless; far below the smallest eigenvalues of S, about 2e-3
FORMAT = "tracegrad-compact"
LAYOUT = 2
HDF5_FORMATS = ("earliest", "v110")  # what every supported h5py reads; newer ones than h5py 3.15 write other types
MAX_PAIRS_PER_ATOM = 20_000  # a bound against damaged counts


@dataclass(frozen=True)
class CompactFile:
    """The table of contents of a compact file; structures are read one by one.

    Args:
        path: the file.
        layout: 1 (plain) or 2 (packed).
        manifest: engine, settings, licence and so on.
        orbitals: atomic number -> angular momenta of the shells.
        spinful: whether the Hamiltonians have spin-orbit coupling.
        subsets: subset -> identifiers, sorted.
    """

    path: Path
    layout: int
    manifest: Mapping[str, Any]
    orbitals: Orbitals
    spinful: bool
    subsets: Mapping[str, tuple[str, ...]]

    def read(self, name: str, validate: bool = True) -> Structure:
        """Read one structure, and check it unless ``validate`` is False (then ``data check`` judges).

        Raises:
            DataError: if it is missing, damaged or cannot be right.
        """
        where = f"{self.path}, structure {name!r}"
        with open_hdf5(self.path) as handle:
            group = handle.get(f"structures/{name}")
            if not isinstance(group, h5py.Group):
                raise DataError(f"{where}: not in this file")
            structure = _read_packed(self, group, where) if self.layout == LAYOUT else _read_plain(self, group, where)
        return structure.validate(str(self.path)) if validate else structure


@dataclass(frozen=True)
class CompactSet:
    """Several compact files of one system as one set.

    Args:
        parts: the files; the first one's manifest speaks for the set.
    """

    parts: tuple[CompactFile, ...]

    def __post_init__(self) -> None:
        """Refuse parts that do not go together."""
        first, names = self.parts[0], [name for part in self.parts for ids in part.subsets.values() for name in ids]
        for part in self.parts[1:]:
            if (part.orbitals, part.spinful) != (first.orbitals, first.spinful):
                raise DataError(f"{part.path} and {first.path} are not of one system (orbitals, spin)")
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise DataError(f"{first.path.parent}: structure {twice[0]!r} is in more than one part of the set")

    @property
    def subsets(self) -> dict[str, tuple[str, ...]]:
        """Subset -> identifiers, sorted, over all parts."""
        return {s: tuple(sorted(name for part in self.parts for name in part.subsets[s])) for s in SUBSETS}

    def read(self, name: str, validate: bool = True) -> Structure:
        """Read one structure from the part that holds it; see ``CompactFile.read``."""
        holders = [part for part in self.parts if any(name in ids for ids in part.subsets.values())]
        return (holders or self.parts[:1])[0].read(name, validate)


def open_compact(path: str | Path) -> CompactFile:
    """Read the table of contents of a compact file (layout 1 or 2).

    Raises:
        DataError: if the file is missing, no HDF5 file, of another layout, or does not say what it holds.
    """
    path = Path(path)
    with open_hdf5(path) as handle:
        attributes = {name: plain_value(value) for name, value in handle.attrs.items()}
        groups = handle.get("structures")
        if not isinstance(groups, h5py.Group) or ("orbitals" not in attributes and "manifest" not in attributes):
            raise DataError(f"{path}: no compact file; expected a group 'structures' and the attribute 'manifest'")
        subsets: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
        for name in sorted(groups):
            split = str(plain_value(groups[name].attrs.get("split", "")))
            if split not in subsets:
                raise DataError(f"{path}, structure {name!r}: split {split!r} is none of {', '.join(SUBSETS)}")
            subsets[split].append(name)
    layout = attributes.get("layout", 1)
    if type(layout) is not int or layout not in (1, LAYOUT):
        raise DataError(f"{path}: layout {str(layout)[:80]} is unknown, expected 1 or {LAYOUT}; update tracegrad")
    if layout == LAYOUT and "manifest" not in attributes:
        raise DataError(f"{path}: no attribute 'manifest', which layout {LAYOUT} needs; copy or write the file again")
    manifest = _json(attributes["manifest"], str(path)) if layout == LAYOUT else attributes
    orbitals = manifest.get("orbitals")
    table = _json(orbitals, str(path)) if isinstance(orbitals, str) else orbitals
    spin_name = "spin_orbit" if layout == 1 else "spinful"
    spinful = manifest.get(spin_name, False)
    if spinful not in (True, False):
        raise DataError(f"{path}: expected {spin_name!r} as true or false, found {str(spinful)[:80]!r}")
    return CompactFile(
        path,
        layout,
        manifest,
        parse_orbitals(table if isinstance(table, dict) else {}, str(path)),
        bool(spinful),
        {subset: tuple(names) for subset, names in subsets.items()},
    )


def write_compact(
    path: str | Path, structures: Iterable[tuple[str, Structure]], manifest: Mapping[str, Any] | None = None
) -> None:
    """Write a set of structures in the compact form (layout 2), atomically.

    Args:
        path: the file to make.
        structures: pairs (subset, structure), at least one; all of the same orbitals (per element) and spin. Each is
            checked before it is written; the Hermitian part of its matrices is kept.
        manifest: facts about the whole set; counts, orbitals, spin and quanta are added.

    Raises:
        DataError: if there is no structure, or one of them cannot be right (``check_structure``), breaks time reversal
            (the form stores H and W only) or has metadata that JSON cannot hold; or if they disagree. There is no file
            then, or the old one.
    """
    path = Path(path)
    orbitals: Orbitals = {}
    spinful: bool | None = None
    counts = dict.fromkeys(SUBSETS, 0)
    with atomic_write(path) as temporary, h5py.File(temporary, "w", libver=HDF5_FORMATS) as handle:
        groups = handle.create_group("structures")
        for subset, structure in structures:
            if subset not in SUBSETS:
                raise DataError(f"unknown subset {subset!r}; expected one of {', '.join(SUBSETS)}")
            structure.validate()
            _merge_orbitals(orbitals, structure)
            spinful = structure.spinful if spinful is None else spinful
            if spinful != structure.spinful:
                raise DataError(f"structure {structure.name!r}: spinful and spinless structures in one set")
            usable = structure.name not in ("", ".", "..") and not {"/", "\0"} & set(structure.name)
            if not usable or structure.name in groups:
                raise DataError(
                    f"structure name {structure.name!r}: expected a new one, neither '.' nor '..', without '/' and NUL"
                )
            _write_structure(groups.create_group(structure.name), subset, structure)
            counts[subset] += 1
        if spinful is None:
            raise DataError(f"{path}: no structures to write; expected at least one")
        full = {
            **_json_facts(manifest or {}, f"{path}, manifest"),
            "counts": counts,
            "orbitals": orbital_table(orbitals),
            "spinful": spinful,
            "hamiltonian_quantum": HAMILTONIAN_QUANTUM,
            "overlap_quantum": OVERLAP_QUANTUM,
        }
        handle.attrs.update(format=FORMAT, layout=LAYOUT, manifest=json.dumps(full))


def _merge_orbitals(orbitals: Orbitals, structure: Structure) -> None:
    for number in sorted(set(structure.numbers.tolist())):
        shells = structure.orbitals[number]
        if orbitals.setdefault(number, shells) != shells:
            raise DataError(
                f"structure {structure.name!r}: element {number} has shells {list(shells)}, "
                f"the structures before have {list(orbitals[number])}; write them to two files"
            )


def _write_structure(group: h5py.Group, subset: str, structure: Structure) -> None:
    hamiltonian = structure.hamiltonian and _storage_order(structure, structure.hamiltonian.hermitian_part())
    overlap = structure.overlap and _storage_order(structure, structure.overlap.hermitian_part())
    told = {name: value for name, value in structure.metadata.items() if name not in ("source", "split")}
    facts = _json_facts(told, f"structure {structure.name!r}, metadata")
    group.attrs.update(split=subset, metadata=json.dumps(facts))
    group["numbers"] = structure.numbers.astype(np.int32)
    group["positions"], group["cell"], group["pbc"] = structure.positions, structure.cell, structure.pbc
    if hamiltonian is not None:
        spin_orbit = None
        if structure.spinful:
            hamiltonian, spin_orbit, defect = scalar_and_spin_orbit(hamiltonian)
            if defect > HAMILTONIAN_QUANTUM * HARTREE_EV:
                raise DataError(
                    f"structure {structure.name!r}: breaks time reversal by {defect:.2e} eV; the compact form holds "
                    "non-magnetic data only. Write DeepH folders instead (--to deeph)"
                )
            group["spin_orbit"] = pack(quantise(spin_orbit, HAMILTONIAN_QUANTUM * HARTREE_EV))
        _write_pairs(group, "pairs", hamiltonian)
        group["hamiltonian"] = pack(quantise(hamiltonian.values, HAMILTONIAN_QUANTUM * HARTREE_EV))
    if overlap is not None:
        if hamiltonian is None or not np.array_equal(hamiltonian.keys(), overlap.keys()):
            _write_pairs(group, "overlap_pairs", overlap)
        columns = [overlap.values[p].transpose(1, 2, 0).reshape(-1) for _, _, p in overlap.grouped()]
        group["overlap"] = pack(quantise(np.concatenate(columns), OVERLAP_QUANTUM))


def _write_pairs(group: h5py.Group, name: str, blocks: Blocks) -> None:
    group[name] = pack(blocks.keys().T.astype(np.int32))
    group.attrs[f"n_{name}"] = blocks.n_edges


def _storage_order(structure: Structure, blocks: Blocks) -> Blocks:
    """Pairs sorted by block shape, then by length, then by key."""
    lengths = np.linalg.norm(structure.edge_vectors(blocks), axis=1).round(9)
    return blocks.select(np.lexsort([*blocks.keys().T[::-1], lengths, *blocks.shapes.T[::-1]]))


def _read_packed(source: CompactFile, group: h5py.Group, where: str) -> Structure:
    structure = _read_atoms(source, group, where)
    hamiltonian = overlap = None
    if "hamiltonian" in group:
        unit = _quantum(source, "hamiltonian_quantum") * HARTREE_EV
        frame = _read_pairs(structure, group, "pairs", where)
        hamiltonian = frame.with_values(_numbers(group, "hamiltonian", len(frame.values), unit, where))
        if source.spinful:
            flat = _numbers(group, "spin_orbit", 3 * len(frame.values), unit, where)
            hamiltonian = spinful_blocks(hamiltonian, flat.reshape(3, -1))
    if "overlap" in group:
        frame = _read_pairs(structure, group, "overlap_pairs" if "overlap_pairs" in group else "pairs", where)
        flat = _numbers(group, "overlap", len(frame.values), _quantum(source, "overlap_quantum"), where)
        start = 0
        for (rows, columns), edges, positions in frame.grouped():
            stop = start + rows * columns * len(edges)
            frame.values[positions] = flat[start:stop].reshape(rows, columns, len(edges)).transpose(2, 0, 1)
            start = stop
        overlap = frame
    return _with_blocks(structure, hamiltonian, overlap)


def _quantum(source: CompactFile, name: str) -> float:
    value: Any = source.manifest.get(name)
    if type(value) not in (float, int) or not 0 < value <= 1:
        raise DataError(
            f"{source.path}: expected {name!r} of the manifest as a number above 0 and at most 1, found "
            f"{str(value)[:80]!r}; copy or write the file again"
        )
    return float(value)


def _read_plain(source: CompactFile, group: h5py.Group, where: str) -> Structure:
    """Layout 1: int32 and float64 arrays as they are, in 1e-6 hartree."""
    structure = _read_atoms(source, group, where)
    pairs = read_array(group, "pairs", (None, 5), "iu", where).astype(np.int64)
    frame = _frame(structure, pairs, where)
    size = len(frame.values)
    unit = 1e-6 * HARTREE_EV
    hamiltonian = frame.with_values(read_array(group, "hamiltonian", (size,), "iuf", where) * unit)
    if source.spinful:
        hamiltonian = spinful_blocks(hamiltonian, read_array(group, "spin_orbit", (3, size), "iuf", where) * unit)
    overlap = frame.with_values(read_array(group, "overlap", (size,), "iuf", where)) if "overlap" in group else None
    return _with_blocks(structure, hamiltonian, overlap)


def _read_atoms(source: CompactFile, group: h5py.Group, where: str) -> Structure:
    numbers = read_array(group, "numbers", (None,), "iu", where)
    if "metadata" in group.attrs:
        metadata = _json(plain_value(group.attrs["metadata"]), where)
    else:
        metadata = {name: plain_value(value) for name, value in group.attrs.items()}
    if source.spinful and "fermi_energy_spin_orbit_eV" in metadata:
        metadata = {**metadata, "fermi_energy_scalar_eV": metadata.get("fermi_energy_eV")}
        metadata["fermi_energy_eV"] = metadata.pop("fermi_energy_spin_orbit_eV")
    check_fermi_energy(metadata.get("fermi_energy_eV"), where)
    pbc = read_array(group, "pbc", (3,), "biu", where).astype(np.bool_) if "pbc" in group else np.ones(3, np.bool_)
    return Structure(
        numbers=numbers,
        positions=read_array(group, "positions", (len(numbers), 3), "iuf", where),
        cell=read_array(group, "cell", (3, 3), "iuf", where),
        pbc=pbc,
        orbitals=source.orbitals,
        spinful=source.spinful,
        name=group.name.rsplit("/", 1)[-1],
        metadata={**metadata, "source": str(source.path)},
    )


def _read_pairs(structure: Structure, group: h5py.Group, name: str, where: str) -> Blocks:
    count, largest = plain_value(group.attrs.get(f"n_{name}")), MAX_PAIRS_PER_ATOM * structure.n_atoms
    if type(count) is not int or not 0 <= count <= largest:
        raise DataError(
            f"{where}: {str(count)[:80]} pairs for {structure.n_atoms} atoms; expected a count between 0 and {largest} "
            f"as attribute 'n_{name}'"
        )
    columns = unpack(read_array(group, name, (None,), "u", where).astype(np.uint8, copy=False), 5 * count, where)
    return _frame(structure, columns.reshape(5, count).T.astype(np.int64), where)


def _frame(structure: Structure, pairs: NDArray[np.int64], where: str) -> Blocks:
    """Zero blocks on the given pairs, with the shapes that the orbitals ask for."""
    atoms = pairs[:, 3:]
    if len(atoms) and not (atoms.min() >= 0 and atoms.max() < structure.n_atoms):
        raise DataError(f"{where}: a pair names an atom outside 0..{structure.n_atoms - 1}; the file is damaged")
    missing = sorted(set(structure.numbers.tolist()) - set(structure.orbitals))
    if missing:
        raise DataError(f"{where}: no orbitals for atomic number {missing[0]} in the manifest")
    shapes = structure.n_orbitals[atoms]
    size = int((shapes[:, 0] * shapes[:, 1]).sum())
    return Blocks(np.ascontiguousarray(atoms.T), pairs[:, :3].copy(), shapes, np.zeros(size))


def _numbers(group: h5py.Group, name: str, count: int, quantum: float, where: str) -> NDArray[np.float64]:
    stream = read_array(group, name, (None,), "u", where).astype(np.uint8, copy=False)
    return unpack(stream, count, f"{where}, {name}").astype(np.float64) * quantum


def _with_blocks(structure: Structure, hamiltonian: Blocks | None, overlap: Blocks | None) -> Structure:
    return Structure(**{**structure.fields(), "hamiltonian": hamiltonian, "overlap": overlap})


def _json(text: Any, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected JSON text ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _json_facts(facts: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Facts as plain values; one that JSON cannot hold is refused by its name."""
    plain = {}
    for name, value in facts.items():
        try:
            plain[name] = plain_value(value)
            json.dumps({name: plain[name]})
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: {name!r} holds what JSON cannot ({error}); expected texts, numbers, lists and dictionaries"
            ) from error
    return plain


def plain_value(value: Any) -> Any:
    """Numpy scalars, arrays and byte strings as plain Python values."""
    if isinstance(value, dict):
        return {str(name): plain_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
