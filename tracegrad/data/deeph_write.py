"""Writing DeepH structure folders, legacy or new, at once or part by part, whole or not at all."""

from __future__ import annotations

import errno
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
CHUNK_BYTES = 2**20  # of an HDF5 dataset that grows


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
    with open_deeph(structure.validate(), folder, form) as writer:
        for label in LEGACY_MATRICES:
            blocks: Blocks | None = getattr(structure, label)
            if blocks is not None:
                writer.add(label, blocks)
    return Path(folder)


@contextmanager
def open_deeph(structure: Structure, folder: str | Path, form: str = "legacy") -> Iterator[DeephWriter]:
    """A DeepH folder that receives its matrices part by part, for those that do not fit into memory.

    Args:
        structure: atoms, orbitals and spin; its matrices are not written.
        folder: the folder to make, as in :func:`write_deeph`; it appears when the block ends without a fault.
        form: ``legacy`` or ``new``.

    Yields:
        The writer.

    Raises:
        DataError: if the form is unknown, the cell has no volume, or the folder holds something.
    """
    if form not in FORMS:
        raise DataError(f"unknown DeepH form {form!r}; expected one of {', '.join(FORMS)}")
    if not abs(np.linalg.det(structure.cell)) > 0:
        raise DataError(
            f"{structure.name or 'structure'}: a DeepH folder needs three lattice vectors that span a volume, found "
            f"{structure.cell.tolist()}; give a molecule a box"
        )
    with new_folder(Path(folder)) as temporary:
        bare = Structure(**{**structure.fields(), "hamiltonian": None, "overlap": None})
        writer = (_LegacyWriter if form == "legacy" else _NewWriter)(bare, temporary)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block succeeds, and vanishes when it fails.

    An empty folder that is there stays, since it may be the working directory or a mount point; it is filled at the
    end.

    Args:
        folder: the folder to make; it must not exist, or be empty. A link is followed.

    Yields:
        The temporary folder, beside ``folder`` or in it.

    Raises:
        DataError: if the folder holds something, or is a file.
        OSError: if there can be no folder of that name, or something was put into it meanwhile.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: already there and not empty; choose another folder or remove it")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    empty = folder.is_dir()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder if empty else folder.parent))
    try:
        yield temporary
        if empty:
            _fill(folder, temporary)
        else:
            temporary.chmod(0o755)
            os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(folder: Path, temporary: Path) -> None:
    """Move what a folder in an otherwise empty folder holds up into it."""
    if any(item != temporary for item in folder.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
    for item in sorted(temporary.iterdir()):
        item.rename(folder / item.name)
    temporary.rmdir()


class DeephWriter:
    """The matrices of a folder of :func:`open_deeph`.

    Args:
        structure: without matrices.
        folder: an empty folder.
    """

    def __init__(self, structure: Structure, folder: Path) -> None:
        self.structure, self.folder = structure, folder
        self.files: dict[str, h5py.File] = {}

    def add(self, label: str, blocks: Blocks) -> None:
        """Write some pairs; every pair may come once, in either or both of its directions.

        Args:
            label: ``hamiltonian`` or ``overlap``.
            blocks: eV, or without a unit.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Complete the files."""
        for handle in self.files.values():
            handle.close()

    def _open(self, label: str, names: dict[str, str]) -> h5py.File:
        if label not in self.files:
            self.files[label] = h5py.File(self.folder / names[label], "w")
        return self.files[label]


class _LegacyWriter(DeephWriter):
    """One dataset per pair, OpenMX order, 1-based atoms."""

    def __init__(self, structure: Structure, folder: Path) -> None:
        super().__init__(structure, folder)
        self.cells: set[tuple[int, int, int]] = set()
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
        info.update(_periodicity(structure))
        (folder / "info.json").write_text(json.dumps(info) + "\n", encoding="utf-8")

    def add(self, label: str, blocks: Blocks) -> None:
        """One dataset per directed pair, by h5py's low-level calls: a third of the time of the others."""
        turned = reorder_orbitals(Structure(**{**self.structure.fields(), label: blocks}), "openmx", to_convention)
        complete: Blocks = getattr(turned, label).completed()
        kind = h5py.h5t.py_create(complete.values.dtype, logical=True)
        group = self._open(label, LEGACY_MATRICES).id
        spaces = {shape: h5py.h5s.create_simple(shape) for shape in set(map(tuple, complete.shapes.tolist()))}
        for edge, (x, y, z, i, j) in enumerate(complete.keys().tolist()):
            block = np.ascontiguousarray(complete.block(edge))
            name = f"[{x}, {y}, {z}, {i + 1}, {j + 1}]".encode()
            h5py.h5d.create(group, name, kind, spaces[block.shape]).write(h5py.h5s.ALL, h5py.h5s.ALL, block)
        if label == "hamiltonian":
            self.cells.update(map(tuple, np.unique(complete.cell_shift, axis=0).tolist()))

    def close(self) -> None:
        """Complete the files."""
        super().close()
        if self.cells:
            _write_table(self.folder / "R_list.dat", np.array(sorted(self.cells)))


class _NewWriter(DeephWriter):
    """Four flat arrays, m = -l..l, 0-based atoms grouped by element."""

    def __init__(self, structure: Structure, folder: Path) -> None:
        super().__init__(structure, folder)
        order = np.argsort(structure.numbers, kind="stable")
        self.rank = np.empty_like(order)
        self.rank[order] = np.arange(len(order))
        species, counts = np.unique(structure.numbers, return_counts=True)
        symbols = " ".join(chemical_symbols[z] for z in species.tolist())
        lines = [" ".join(structure.name.split()) or "tracegrad", "1.0", *map(_row, structure.cell.tolist())]
        lines += [symbols, " ".join(map(str, counts.tolist())), "Cartesian"]
        lines += map(_row, structure.positions[order].tolist())
        (folder / "POSCAR").write_text("\n".join(lines) + "\n", encoding="utf-8")
        fermi = structure.metadata.get("fermi_energy_eV")
        info: dict[str, Any] = {
            "atoms_quantity": structure.n_atoms,
            "orbits_quantity": int(structure.n_orbitals.sum()),
            "orthogonal_basis": False,
            "spinful": structure.spinful,
            "fermi_energy_eV": None if fermi is None else float(fermi),
            "elements_orbital_map": orbital_table({z: structure.orbitals[z] for z in species.tolist()}),
        }
        info.update(_periodicity(structure))
        (folder / "info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")

    def add(self, label: str, blocks: Blocks) -> None:
        """Append to the four arrays."""
        complete = blocks.completed()
        handle = self._open(label, NEW_MATRICES)
        keys = np.concatenate([complete.cell_shift, self.rank[complete.edge_index].T], axis=1)
        boundaries = complete.offsets
        if "chunk_boundaries" in handle:
            boundaries = handle["chunk_boundaries"][-1] + boundaries[1:]
        _append(handle, "atom_pairs", keys)
        _append(handle, "chunk_shapes", complete.shapes)
        _append(handle, "chunk_boundaries", boundaries)
        _append(handle, "entries", complete.values)


def _periodicity(structure: Structure) -> dict[str, list[bool]]:
    """What a folder says of the periodic directions: nothing where all three are, as other programs take it."""
    return {} if structure.pbc.all() else {"pbc": structure.pbc.tolist()}


def _append(handle: h5py.File, name: str, rows: NDArray[Any]) -> None:
    """Rows at the end of a dataset, which is made if it is not there."""
    if name not in handle:
        chunk = max(1, CHUNK_BYTES // (rows.dtype.itemsize * int(np.prod(rows.shape[1:]))))
        layout = {"maxshape": (None, *rows.shape[1:]), "chunks": (min(chunk, max(1, len(rows))), *rows.shape[1:])}
        handle.create_dataset(name, data=rows, **layout)
        return
    dataset = handle[name]
    dataset.resize(len(dataset) + len(rows), axis=0)
    dataset[len(dataset) - len(rows) :] = rows


def _row(numbers: list[float]) -> str:
    """Numbers as text that reads back as the same float64."""
    return " ".join(repr(number) for number in numbers)


def _write_table(path: Path, table: NDArray[Any]) -> None:
    path.write_text("\n".join(map(_row, table.tolist())) + "\n", encoding="utf-8")
