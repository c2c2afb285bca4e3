"""What a prediction starts from: atoms, and an overlap of the same atoms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracegrad.data import Blocks, Structure, read_deeph
from tracegrad.data.deeph import parse_key, read_deeph_atoms, reorder_orbitals
from tracegrad.data.hdf5 import open_hdf5
from tracegrad.data.matching import atom_order, renumbered
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError
from tracegrad.graph import SAME_ATOM
from tracegrad.so3.conventions import from_convention

if TYPE_CHECKING:
    from ase import Atoms

OCCUPIED = 1e-6  # round-off of a full occupancy
VACUUM = 15.0  # Å of space around atoms along directions without a lattice vector


def structure_from_atoms(
    atoms: Atoms, orbitals: Mapping[int, tuple[int, ...]], spinful: bool, name: str = ""
) -> Structure:
    """Structure without matrices from ASE atoms.

    Args:
        atoms: Å. A direction without a lattice vector is given a vacuum, at right angles to the others.
        orbitals: shells of all elements that may be there.
        spinful: whether its Hamiltonian is to have spin.
        name: of the structure, by default its formula.

    Raises:
        DataError: no atoms, an element without orbitals, positions that are not finite, or two atoms at one place.
    """
    pbc = np.asarray(atoms.pbc, dtype=np.bool_) & (np.linalg.norm(atoms.cell.array, axis=1) > 0)
    cell = np.array(atoms.cell.array, dtype=np.float64)
    positions = np.array(atoms.positions, dtype=np.float64)
    if not pbc.all() and len(atoms) and np.isfinite(positions).all():
        empty = np.flatnonzero(np.linalg.norm(cell, axis=1) == 0)
        filled = np.array(atoms.cell.complete().array)
        for direction in empty.tolist():
            unit = filled[direction] / np.linalg.norm(filled[direction])
            cell[direction] = unit * (np.ptp(positions @ unit) + 2 * VACUUM)
    structure = Structure(
        numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=positions,
        cell=cell,
        pbc=pbc,
        orbitals=dict(orbitals),
        spinful=spinful,
        name=name or str(atoms.symbols),
    )
    structure.validate()
    near = neighbor_pairs(structure.positions, structure.cell, structure.pbc, SAME_ATOM)
    if len(near[0]):
        first, second = (int(near[k][0]) for k in (0, 1))
        raise DataError(
            f"{structure.name}: atoms {first} and {second} are nearer than {SAME_ATOM} Å to each other or to an image; "
            "one of them is there twice, or lengths are not in Å"
        )
    return structure


def read_overlap(structure: Structure, path: str | Path) -> Blocks:
    """Overlap of the atoms of a structure, from a legacy ``overlaps.h5`` or a DeepH folder of either form.

    Raises:
        DataError: the file is missing, damaged, or of other atoms.
    """
    path = Path(path)
    if path.is_dir():
        found = read_deeph(path)
        if found.overlap is None:
            raise DataError(f"{path}: holds no overlap")
        return renumbered(found.overlap, atom_order(found, structure, path))
    blocks: dict[tuple[int, int, int, int, int], NDArray[np.float64]] = {}
    with open_hdf5(path) as handle:
        for text in handle:
            key = parse_key(text, structure.n_atoms, path)
            shape = tuple(structure.n_orbitals[list(key[3:])].tolist())
            item: Any = handle[text]
            if getattr(item, "shape", None) != shape or item.dtype.kind != "f":
                raise DataError(
                    f"{path}: block {text} should be a float array of shape {shape} for the orbitals of its atoms"
                )
            blocks[key] = item[()]
    raw = replace(structure, hamiltonian=None, overlap=Blocks.from_dict(blocks)).validate(str(path))
    overlap = reorder_orbitals(raw, "openmx", from_convention).overlap
    assert overlap is not None
    return overlap


def read_atoms(path: str | Path, index: int = -1) -> Atoms:
    """Atoms from any file that ASE reads, or of a DeepH folder.

    Args:
        path: the file or folder.
        index: which structure of a file with several.

    Raises:
        DataError: missing, not readable, or with sites that are partly occupied.
    """
    from ase import Atoms
    from ase.io import read

    path = Path(path)
    if path.is_dir():
        found = read_deeph_atoms(path)
        return Atoms(numbers=found.numbers, positions=found.positions, cell=found.cell, pbc=found.pbc)
    if not path.is_file():
        raise DataError(f"{path}: file not found; expected a structure (cif, vasp, xyz, ...)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of readers on tags that are not used here
            atoms = read(path, index=index)
    except Exception as error:  # what a reader raises depends on the format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else f"not understood, or no frame {index}"
        raise DataError(f"{path}: not readable as a structure ({type(error).__name__}: {reason[:200]})") from None
    if not isinstance(atoms, Atoms) or not len(atoms):
        raise DataError(f"{path}: holds no atoms")
    for site, species in atoms.info.get("occupancy", {}).items():
        if len(species) > 1 or min(species.values()) < 1 - OCCUPIED:
            parts = ", ".join(f"{symbol} {part:g}" for symbol, part in species.items())
            raise DataError(
                f"{path}: expected sites that are fully occupied by one element, found site {site} with {parts}; make "
                "an ordered cell of it"
            )
    return atoms
