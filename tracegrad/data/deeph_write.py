"""Writing DeepH structure folders, legacy or new, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks
from tracegrad.data.deeph import LEGACY_MATRICES, NEW_MATRICES, reorder_orbitals
from tracegrad.data.structure import Structure, orbital_table
from tracegrad.errors import DataError
from tracegrad.so3.conventions import to_convention

FORMS = ("legacy", "new")


def write_deeph(structure: Structure, folder: str | Path, form: str = "legacy") -> Path:
    """Write one structure as a DeepH folder; both directions of every pair are stored.

    The files are written to a temporary folder beside the target, which is renamed when all are complete.

    Args:
        structure: checked before anything is written.
        folder: the folder to make; it must not exist, or be empty.
        form: ``legacy`` (OpenMX order, 1-based) or ``new`` (m = -l..l, 0-based; atoms are grouped by element).

    Returns:
        The folder.

    Raises:
        DataError: if the structure cannot be right, the form is unknown or the folder holds something.
    """
    if form not in FORMS:
        raise DataError(f"unknown DeepH form {form!r}; expected one of {', '.join(FORMS)}")
    structure.validate()
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: already there and not empty; choose another folder or remove it")
    with _new_folder(folder) as temporary:
        (_write_legacy if form == "legacy" else _write_new)(structure, temporary)
    return folder


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block succeeds, and vanishes when it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_legacy(structure: Structure, folder: Path) -> None:
    reciprocal = 2 * np.pi * np.linalg.inv(structure.cell)  # columns b_k with a_i · b_k = 2π δ
    _write_table(folder / "element.dat", structure.numbers[:, None])
    _write_table(folder / "lat.dat", structure.cell.T)
    _write_table(folder / "rlat.dat", reciprocal)
    _write_table(folder / "site_positions.dat", structure.positions.T)
    shells = ["  ".join(map(str, structure.orbitals[z])) for z in structure.numbers.tolist()]
    (folder / "orbital_types.dat").write_text("\n".join(shells) + "\n", encoding="utf-8")
    info: dict[str, Any] = {"isspinful": structure.spinful}
    if structure.metadata.get("fermi_energy_eV") is not None:
        info["fermi_level"] = float(structure.metadata["fermi_energy_eV"])
    (folder / "info.json").write_text(json.dumps(info) + "\n", encoding="utf-8")
    stored = reorder_orbitals(structure, "openmx", to_convention)
    for label, name in LEGACY_MATRICES.items():
        blocks: Blocks | None = getattr(stored, label)
        if blocks is None:
            continue
        complete = blocks.completed()
        with h5py.File(folder / name, "w") as handle:
            for edge, (x, y, z, i, j) in enumerate(complete.keys().tolist()):
                handle[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"] = complete.block(edge)
        if label == "hamiltonian":
            _write_table(folder / "R_list.dat", np.unique(complete.cell_shift, axis=0))


def _write_new(structure: Structure, folder: Path) -> None:
    order = np.argsort(structure.numbers, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    numbers = structure.numbers[order]
    species, counts = np.unique(numbers, return_counts=True)
    lines = [structure.name or "tracegrad", "1.0", *map(_row, structure.cell.tolist())]
    lines += [" ".join(chemical_symbols[z] for z in species.tolist()), " ".join(map(str, counts.tolist())), "Cartesian"]
    lines += map(_row, structure.positions[order].tolist())
    (folder / "POSCAR").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fermi = structure.metadata.get("fermi_energy_eV")
    info = {
        "atoms_quantity": structure.n_atoms,
        "orbits_quantity": int(structure.n_orbitals.sum()),
        "orthogonal_basis": False,
        "spinful": structure.spinful,
        "fermi_energy_eV": None if fermi is None else float(fermi),
        "elements_orbital_map": orbital_table({z: structure.orbitals[z] for z in species.tolist()}),
    }
    (folder / "info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    for label, name in NEW_MATRICES.items():
        blocks: Blocks | None = getattr(structure, label)
        if blocks is None:
            continue
        complete = blocks.completed()
        with h5py.File(folder / name, "w") as handle:
            handle["atom_pairs"] = np.concatenate([complete.cell_shift, rank[complete.edge_index].T], axis=1)
            handle["chunk_shapes"] = complete.shapes
            handle["chunk_boundaries"] = complete.offsets
            handle["entries"] = complete.values


def _row(numbers: list[float]) -> str:
    """Numbers as text that reads back as the same float64."""
    return " ".join(repr(number) for number in numbers)


def _write_table(path: Path, table: NDArray[Any]) -> None:
    path.write_text("\n".join(map(_row, table.tolist())) + "\n", encoding="utf-8")
