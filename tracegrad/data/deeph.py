"""Reading DeepH structure folders, the legacy form and that of 2026, into the order and units of ``Structure``.

Legacy: ``element.dat``, ``lat.dat`` and ``site_positions.dat`` (columns are vectors, Å), ``orbital_types.dat``,
``info.json``, ``hamiltonians.h5`` and ``overlaps.h5`` with one dataset per pair, key "[Rx, Ry, Rz, i, j]" with
1-based atoms, blocks in OpenMX order, eV. New: ``POSCAR``, ``info.json``, ``hamiltonian.h5`` and ``overlap.h5`` with
four flat arrays, 0-based atoms, blocks with m = -l..l. The overlap is spinless in both. A key of our own in
``info.json``, ``pbc``, names the periodic directions where not all three are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols
from ase.io import read as ase_read
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks
from tracegrad.data.hdf5 import open_hdf5, read_array
from tracegrad.data.structure import Orbitals, Structure, check_fermi_energy, parse_orbitals
from tracegrad.errors import DataError
from tracegrad.so3.conventions import from_convention

LEGACY_FILES = ("element.dat", "lat.dat", "site_positions.dat", "orbital_types.dat")
LEGACY_MATRICES = {"hamiltonian": "hamiltonians.h5", "overlap": "overlaps.h5"}
NEW_FILES = ("POSCAR", "info.json")
NEW_MATRICES = {"hamiltonian": "hamiltonian.h5", "overlap": "overlap.h5"}


def folder_form(folder: Path) -> str | None:
    """``legacy``, ``new``, or None where the folder holds no DeepH structure."""
    if (folder / LEGACY_FILES[0]).is_file():
        return "legacy"
    return "new" if all((folder / name).is_file() for name in NEW_FILES) else None


def find_deeph_folders(root: str | Path) -> list[Path]:
    """All structure folders in and below ``root``, sorted by path.

    Raises:
        DataError: if there is none.
    """
    root = Path(root)
    folders = sorted(folder for folder in _walk(root) if folder_form(folder))
    if not folders:
        raise DataError(
            f"{root}: no DeepH structure in it or below; expected folders with {', '.join(LEGACY_FILES)} "
            f"(legacy) or {', '.join(NEW_FILES)} (new form)"
        )
    return folders


def _walk(root: Path) -> Iterator[Path]:
    """Folders in and below ``root`` that are not hidden, each real one once; links are followed, but not upwards.

    Nothing is looked for below a structure.
    """
    top = root.resolve()
    seen = {top}
    for folder, inner, _ in os.walk(root, followlinks=True):
        yield Path(folder)
        found, inner[:] = sorted(inner, key=lambda name: (Path(folder, name).is_symlink(), name)), []
        if folder_form(Path(folder)):
            continue
        for name in found:
            real = Path(folder, name).resolve()
            if not name.startswith(".") and real not in seen and not top.is_relative_to(real):
                seen.add(real)
                inner.append(name)


def read_deeph(folder: str | Path, validate: bool = True) -> Structure:
    """Read and check one DeepH folder of either form.

    Args:
        folder: the folder of one structure.
        validate: whether to refuse what cannot be right (``check_structure``); False leaves it to ``data check``.

    Returns:
        The structure; ``hamiltonian`` and ``overlap`` are None where their files are absent, else they hold the
        pairs as stored (normally both directions).

    Raises:
        DataError: with file, expected and found value, if anything is missing or cannot be right.
    """
    folder = Path(folder)
    structure = read_deeph_atoms(folder)
    legacy = folder_form(folder) == "legacy"
    read = _read_legacy_matrix if legacy else _read_new_matrix
    blocks: dict[str, Blocks | None] = {}
    for label, name in (LEGACY_MATRICES if legacy else NEW_MATRICES).items():
        path = folder / name
        _refuse_hidden_matrix(path, (NEW_MATRICES if legacy else LEGACY_MATRICES)[label])
        blocks[label] = read(structure, path, label == "hamiltonian") if path.is_file() else None
    structure = Structure(**{**structure.fields(), **blocks})
    if validate:
        structure.validate(str(folder))
    return reorder_orbitals(structure, "openmx", from_convention) if legacy else structure


def _refuse_hidden_matrix(path: Path, other: str) -> None:
    """Refuse a matrix that is there and would be passed over: no file, or a file under the other form's name."""
    if path.is_file():
        return
    if path.exists() or path.is_symlink():
        found = "a folder" if path.is_dir() else "a link to nothing, or a device"
        raise DataError(f"{path}: expected an HDF5 file, found {found}; move it away")
    if (path.parent / other).is_file():
        raise DataError(
            f"{path.parent}: {other} has its name from the other DeepH form than the atoms; expected {path.name} here. "
            "Keep the two forms apart"
        )


def read_deeph_atoms(folder: str | Path) -> Structure:
    """Read atoms, cell and orbitals of a DeepH folder without its matrices.

    Raises:
        DataError: if a file is missing or cannot be right.
    """
    folder = Path(folder)
    form = folder_form(folder)
    if form is None:
        state = "no such folder" if not folder.is_dir() else "no DeepH structure"
        raise DataError(
            f"{folder}: {state}; expected {', '.join(LEGACY_FILES)} (legacy) or {', '.join(NEW_FILES)} (new form)"
        )
    return _legacy_atoms(folder) if form == "legacy" else _new_atoms(folder)


def reorder_orbitals(structure: Structure, convention: str, transform: Callable[..., Any]) -> Structure:
    """Apply ``from_convention`` or ``to_convention`` to all blocks of a structure.

    Args:
        structure: with any blocks.
        convention: the other program's convention, e.g. ``openmx``.
        transform: ``tracegrad.so3.conventions.from_convention`` or ``to_convention``.
    """
    changed = {}
    for label in ("hamiltonian", "overlap"):
        blocks: Blocks | None = getattr(structure, label)
        if blocks is None:
            continue
        spinful = structure.spinful and label == "hamiltonian"
        values = np.empty_like(blocks.values)
        species = structure.numbers[blocks.edge_index]
        for first, second in np.unique(species, axis=1).T.tolist():
            edges = np.flatnonzero((species[0] == first) & (species[1] == second))
            rows, columns = blocks.shapes[edges[0]].tolist()
            positions = blocks.offsets[edges][:, None, None] + np.arange(rows * columns).reshape(rows, columns)
            shells = structure.orbitals[first], structure.orbitals[second]
            with np.errstate(invalid="ignore"):  # infinite values are judged later
                values[positions] = transform(blocks.values[positions], *shells, convention, spinful=spinful)
        changed[label] = blocks.with_values(values)
    return Structure(**{**structure.fields(), **changed})


def _legacy_atoms(folder: Path) -> Structure:
    missing = [name for name in LEGACY_FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is missing; a legacy DeepH folder needs {', '.join(LEGACY_FILES)}")
    numbers = _table(folder / "element.dat").reshape(-1)
    if not np.array_equal(numbers, np.rint(numbers)) or not ((numbers > 0) & (numbers < len(chemical_symbols))).all():
        raise DataError(
            f"{folder / 'element.dat'}: expected atomic numbers 1..{len(chemical_symbols) - 1}, one per line"
        )
    atomic = numbers.astype(np.int64)
    info = _info(folder) if (folder / "info.json").is_file() else {}
    metadata: dict[str, Any] = {"source": str(folder)}
    metadata.update({k: v for k, v in info.items() if k not in ("fermi_level", "pbc")})
    if "fermi_level" in info:
        metadata["fermi_energy_eV"] = info["fermi_level"]
    check_fermi_energy(metadata.get("fermi_energy_eV"), str(folder / "info.json"))
    return Structure(
        numbers=atomic,
        positions=_table(folder / "site_positions.dat", (3, len(atomic))).T.copy(),
        cell=_table(folder / "lat.dat", (3, 3)).T.copy(),
        pbc=_periodic(info, folder),
        orbitals=_legacy_orbitals(folder / "orbital_types.dat", atomic),
        spinful=_flag(info, "isspinful", folder) if "isspinful" in info else _has_complex_blocks(folder),
        name=folder.resolve().name,
        metadata=metadata,
    )


def _has_complex_blocks(folder: Path) -> bool:
    """Spin of a folder that does not tell it: blocks with spin are complex."""
    path = folder / LEGACY_MATRICES["hamiltonian"]
    if not path.is_file():
        return False
    with open_hdf5(path) as handle:
        first: Any = next(iter(handle.values()), None)
        return getattr(getattr(first, "dtype", None), "kind", "") == "c"


def _legacy_orbitals(path: Path, numbers: NDArray[np.int64]) -> Orbitals:
    lines = [line.split() for line in _text(path).splitlines() if line.strip()]
    if len(lines) != len(numbers):
        raise DataError(f"{path}: expected {len(numbers)} lines, one per atom, found {len(lines)}")
    table: dict[str, list[int]] = {}
    for line, (number, words) in enumerate(zip(numbers.tolist(), lines, strict=True), start=1):
        symbol = chemical_symbols[number]
        shells = [int(word) if word.isdecimal() else -1 for word in words]
        if table.setdefault(symbol, shells) != shells:
            raise DataError(f"{path}, line {line}: {symbol} has shells {shells}, another {symbol} has {table[symbol]}")
    return parse_orbitals(table, str(path))


def _new_atoms(folder: Path) -> Structure:
    info = _info(folder)
    path = folder / "POSCAR"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            atoms: Any = ase_read(path, format="vasp")
    except Exception as error:
        raise DataError(f"{path}: not a readable POSCAR file ({type(error).__name__}: {error})") from error
    orbitals = info.get("elements_orbital_map")
    if not isinstance(orbitals, dict):
        raise DataError(
            f"{folder / 'info.json'}: expected 'elements_orbital_map' {{element: [l, ...]}}, found {orbitals!r}"
        )
    metadata: dict[str, Any] = {"source": str(folder)}
    told = ("elements_orbital_map", "spinful", "atoms_quantity", "pbc")
    metadata.update({k: v for k, v in info.items() if k not in told})
    check_fermi_energy(info.get("fermi_energy_eV"), str(folder / "info.json"))
    structure = Structure(
        numbers=atoms.numbers.astype(np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell.array, dtype=np.float64),
        pbc=_periodic(info, folder),
        orbitals=parse_orbitals(orbitals, str(folder / "info.json")),
        spinful=_flag(info, "spinful", folder),
        name=folder.resolve().name,
        metadata=metadata,
    )
    quantity = info.get("atoms_quantity", structure.n_atoms)
    if quantity != structure.n_atoms:
        raise DataError(f"{folder}: info.json says {quantity} atoms, POSCAR holds {structure.n_atoms}")
    return structure


def _read_legacy_matrix(structure: Structure, path: Path, is_hamiltonian: bool) -> Blocks:
    """One dataset per pair; the shape of each is compared with the orbitals before it is read."""
    counts = structure.n_orbitals.tolist()
    spin = 2 if is_hamiltonian and structure.spinful else 1
    blocks = {}
    with open_hdf5(path) as handle:
        for text in handle:
            x, y, z, i, j = parse_key(text, structure.n_atoms, path)
            expected = (spin * counts[i], spin * counts[j])
            item = handle[text]
            shape = item.shape if isinstance(item, h5py.Dataset) else None
            if shape != expected or item.dtype.kind not in "fc":
                raise DataError(
                    f"{path}: block {text} should be a float or complex array of shape {expected} for the orbitals "
                    f"of atoms {i + 1} and {j + 1}, found {shape}; check orbital_types.dat and isspinful"
                )
            blocks[(x, y, z, i, j)] = item[()]
    matrix = Blocks.from_dict(blocks)
    return _as_complex(matrix) if is_hamiltonian and structure.spinful else matrix


def parse_key(text: str, n_atoms: int, path: Path) -> tuple[int, int, int, int, int]:
    """Key "[Rx, Ry, Rz, i, j]" of the legacy form as integers with 0-based atoms.

    Raises:
        DataError: if it is not a list of exactly five integers, or names an atom that is not there.
    """
    try:
        key = json.loads(text)
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != 5 or not all(type(part) is int for part in key):
        raise DataError(f'{path}: key {text!r} is not five integers; expected "[Rx, Ry, Rz, i, j]" with 1-based atoms')
    x, y, z, i, j = key
    if not (1 <= i <= n_atoms and 1 <= j <= n_atoms) or max(abs(x), abs(y), abs(z)) > 10_000:
        raise DataError(f"{path}: key {text!r} names an atom outside 1..{n_atoms} or a cell beyond 10000")
    return x, y, z, i - 1, j - 1


def _read_new_matrix(structure: Structure, path: Path, is_hamiltonian: bool) -> Blocks:
    """Four flat arrays; shapes and boundaries are compared with the orbitals before the entries are read."""
    with open_hdf5(path) as handle:
        keys = read_array(handle, "atom_pairs", (None, 5), "iu", str(path)).astype(np.int64)
        shapes = read_array(handle, "chunk_shapes", (len(keys), 2), "iu", str(path)).astype(np.int64)
        boundaries = read_array(handle, "chunk_boundaries", (len(keys) + 1,), "iu", str(path)).astype(np.int64)
        atoms = keys[:, 3:]
        if len(atoms) and not (atoms.min() >= 0 and atoms.max() < structure.n_atoms):
            raise DataError(f"{path}: atom_pairs names an atom outside 0..{structure.n_atoms - 1} (0-based)")
        expected = structure.n_orbitals[atoms] * (2 if is_hamiltonian and structure.spinful else 1)
        wrong = np.flatnonzero((expected != shapes).any(axis=1))
        if len(wrong):
            edge = int(wrong[0])
            raise DataError(
                f"{path}: block {keys[edge].tolist()} should be {expected[edge].tolist()} for the orbitals of its "
                f"atoms, found {shapes[edge].tolist()}; check elements_orbital_map and spinful in info.json"
            )
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(shapes[:, 0] * shapes[:, 1])])
        if not np.array_equal(ends, boundaries):
            raise DataError(f"{path}: chunk_boundaries do not fit chunk_shapes; expected their running sum, from 0")
        entries = read_array(handle, "entries", (int(ends[-1]),), "fc", str(path))
    dtype = np.complex128 if entries.dtype.kind == "c" else np.float64
    values = np.asarray(entries, dtype=dtype)
    matrix = Blocks(np.ascontiguousarray(atoms.T), keys[:, :3].copy(), shapes, values)
    return _as_complex(matrix) if is_hamiltonian and structure.spinful else matrix


def _as_complex(matrix: Blocks) -> Blocks:
    return matrix.with_values(matrix.values.astype(np.complex128, copy=False))


def _info(folder: Path) -> dict[str, Any]:
    path = folder / "info.json"
    try:
        info = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(info, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(info).__name__}")
    return info


def _flag(info: dict[str, Any], name: str, folder: Path) -> bool:
    value = info.get(name, False)
    if not isinstance(value, bool):
        raise DataError(f"{folder / 'info.json'}: {name} must be true or false, found {value!r}")
    return value


def _periodic(info: dict[str, Any], folder: Path) -> NDArray[np.bool_]:
    """Periodic directions; all three where nothing is said, as in folders of other programs."""
    value = info.get("pbc", [True] * 3)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, bool) for part in value):
        raise DataError(f"{folder / 'info.json'}: pbc must be three of true and false, found {str(value)[:80]!r}")
    return np.array(value, dtype=np.bool_)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors of Windows put a byte order mark first
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as text ({error})") from error


def _table(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """Numbers of a text file; a file of one row or column is read as any other."""
    rows = [line.split("#")[0].split() for line in _text(path).splitlines()]
    rows = [row for row in rows if row]
    try:
        table = np.array([[float(word) for word in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: expected rows of numbers of equal length ({error})") from error
    if shape is not None and table.shape != shape:
        raise DataError(
            f"{path}: expected {shape[0]} rows of {shape[1]} numbers, found an array of shape {table.shape}"
        )
    if not table.size or not np.isfinite(table).all():
        raise DataError(f"{path}: expected finite numbers, found {'none' if not table.size else 'NaN or infinity'}")
    return table
