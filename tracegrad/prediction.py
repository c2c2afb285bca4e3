"""The Hamiltonian of a structure that no engine has seen, from atoms and a trained network."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tracegrad.atomic import atomic_write
from tracegrad.data import DATABASES, Blocks, Structure, read_deeph, write_deeph
from tracegrad.data.deeph import parse_key, reorder_orbitals
from tracegrad.data.hdf5 import open_hdf5
from tracegrad.errors import CheckpointError, DataError
from tracegrad.graph import TargetLayout, build_graph
from tracegrad.model import predict_blocks
from tracegrad.physics import (
    energies_at,
    fermi_level,
    gaussian_overlap,
    is_gaussian_basis,
    k_mesh,
    mesh_for,
    valence_electrons,
)
from tracegrad.so3.conventions import from_convention
from tracegrad.training.checkpoint import DataSummary, load_checkpoint

if TYPE_CHECKING:
    from ase import Atoms

VACUUM = 15.0  # Å of space around atoms along directions without a lattice vector
FERMI_LIMIT = 1500  # orbitals (times two with spin) above which the Fermi level is not computed
PREDICTION_FILE = "prediction.json"


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready for structures.

    Args:
        model: in evaluation mode.
        setting: row of the tables, e.g. ``DeepHE3+TraceGrad``.
        data: what it was trained on.
        cutoff: longest pair in Å that it was trained on, or None where the checkpoint does not tell.
        path: of the checkpoint.
    """

    model: nn.Module
    setting: str
    data: DataSummary
    cutoff: float | None
    path: str

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "cpu") -> Predictor:
        """Read a checkpoint.

        Raises:
            CheckpointError: missing, truncated, or not a trained network.
        """
        model, config, rest = load_checkpoint(checkpoint)
        data: DataSummary = rest["data"]
        setting = config.model.setting
        return cls(model.to(device), setting, data, training_cutoff(model, data), str(checkpoint))

    def __call__(
        self,
        atoms: Atoms,
        *,
        r_max: float | None = None,
        overlap: str | Path | Blocks = "auto",
        fermi_energy: float | None = None,
        name: str = "",
    ) -> Structure:
        """Predict one structure; arguments as :func:`predict`."""
        structure = structure_from_atoms(atoms, self.data.orbitals, self.data.spinful, name)
        metric, overlap_source, cutoff = self._overlap(structure, overlap, r_max)
        structure = replace(structure, overlap=metric)
        parameter, targets = next(self.model.parameters()), cast(TargetLayout, self.model.targets)
        graph: Any = build_graph(structure, targets, r_max=cutoff if metric is None else None, dtype=parameter.dtype)
        predicted = hermitian_part(predict_blocks(self.model, graph.to(parameter.device)))
        structure = replace(structure, hamiltonian=predicted)
        fermi, fermi_source = _fermi(structure, fermi_energy)
        facts = {
            "checkpoint": Path(self.path).name,
            "setting": self.setting,
            "trained_on": self.data.key,
            "cutoff_A": cutoff,
            "overlap_source": overlap_source,
            "fermi_energy_eV": fermi,
            "fermi_source": fermi_source,
            "source": f"predicted by {self.setting}, trained on {self.data.key}",
        }
        return replace(structure, metadata=facts)

    def _cutoff(self, r_max: float | None) -> float:
        if r_max is not None:
            if not np.isfinite(r_max) or r_max <= 0:
                raise DataError(f"expected a cutoff r_max > 0 Å, found {r_max}")
            return float(r_max)
        if self.cutoff is None:
            raise CheckpointError(
                f"{self.path}: does not tell the cutoff of its training data; give it in Å (--r-max), or an overlap "
                "whose pairs are to be predicted"
            )
        return self.cutoff

    def _overlap(
        self, structure: Structure, choice: str | Path | Blocks, r_max: float | None
    ) -> tuple[Blocks | None, str, float]:
        """The overlap as asked for, where it came from, and the cutoff of the pairs in Å."""
        if isinstance(choice, Blocks):
            given = self._given(structure, choice, r_max)
            return given, "given", _longest(structure, given)
        if choice == "none":
            return None, "none", self._cutoff(r_max)
        if choice == "auto":
            ours = self.data.source == "bundled" and is_gaussian_basis(self.data.orbitals)
            if not ours:
                reason = "none: the training data are in another basis; give the overlap or ask for 'gaussian'"
                return None, reason, self._cutoff(r_max)
            choice = "gaussian"
        if choice == "gaussian":
            cutoff = self._cutoff(r_max)
            return gaussian_overlap(structure, cutoff), "PySCF, analytic integrals of the Gaussian basis", cutoff
        given = self._given(structure, read_overlap(structure, choice), r_max)
        return given, str(choice), _longest(structure, given)

    def _given(self, structure: Structure, overlap: Blocks, r_max: float | None) -> Blocks:
        """A given overlap; its pairs are those to be predicted, so none may be longer than in training."""
        structure = replace(structure, overlap=overlap)
        if r_max is not None:
            lengths = np.linalg.norm(structure.edge_vectors(overlap), axis=1)
            return overlap.select(np.flatnonzero(lengths <= self._cutoff(r_max)))
        longest = _longest(structure, overlap)
        if self.cutoff is not None and longest > self.cutoff + 1e-3:
            raise DataError(
                f"the overlap has pairs of {longest:.3f} Å, the training went up to {self.cutoff:.3f} Å; "
                "give --r-max to cut the overlap"
            )
        return overlap


def predict(
    atoms: Atoms,
    checkpoint: str | Path | Predictor,
    *,
    r_max: float | None = None,
    overlap: str | Path | Blocks = "auto",
    fermi_energy: float | None = None,
) -> Structure:
    """Predict the Hamiltonian of a structure.

    Args:
        atoms: ASE atoms, Å; directions that are not periodic get a vacuum.
        checkpoint: ``final.ckpt`` of a run, or a loaded :class:`Predictor` where many structures follow.
        r_max: cutoff in Å; by default that of the training data.
        overlap: ``"auto"`` (analytic integrals for networks of the bundled data, else none), ``"gaussian"``,
            ``"none"``, blocks, an ``overlaps.h5`` of the same atoms in the same order, or a DeepH folder with one. The
            pairs of a given overlap are those that are predicted.
        fermi_energy: eV, where it is known.

    Returns:
        The structure with its Hermitian ``hamiltonian`` in eV and, if there is one, its ``overlap``; ``metadata`` tells
        the checkpoint, the cutoff and the sources of overlap and Fermi level.

    Raises:
        CheckpointError: the file is not a trained network, or does not tell its cutoff.
        DataError: unknown elements, an overlap of other atoms, or a missing library.
    """
    predictor = checkpoint if isinstance(checkpoint, Predictor) else Predictor.load(checkpoint)
    return predictor(atoms, r_max=r_max, overlap=overlap, fermi_energy=fermi_energy)


def predict_like(structure: Structure, checkpoint: str | Path | Predictor) -> tuple[str, Blocks]:
    """Setting and predicted Hamiltonian on exactly the pairs of a structure's own Hamiltonian.

    Args:
        structure: with a Hamiltonian, e.g. from DFT.
        checkpoint: of a run, or a loaded :class:`Predictor`.

    Raises:
        DataError: other elements, orbitals or spin than the network knows.
    """
    predictor = checkpoint if isinstance(checkpoint, Predictor) else Predictor.load(checkpoint)
    parameter, targets = next(predictor.model.parameters()), cast(TargetLayout, predictor.model.targets)
    graph: Any = build_graph(structure, targets, dtype=parameter.dtype)
    return predictor.setting, hermitian_part(predict_blocks(predictor.model, graph.to(parameter.device)))


def training_cutoff(model: nn.Module, data: DataSummary) -> float | None:
    """Longest pair of the training data in Å: of the bundled manifest, or as fitted by the output transform."""
    if data.source == "bundled" and data.key in DATABASES:
        return max(float(manifest["r_cut"]) for manifest in DATABASES[data.key].manifests)
    output: Any = getattr(model, "output", None)
    if output is not None and (output.reference or output.scaling):
        return float(output.bounds[1]) * (1 + 1e-6)  # the buffer may have been rounded to float32
    return None


def structure_from_atoms(
    atoms: Atoms, orbitals: Mapping[int, tuple[int, ...]], spinful: bool, name: str = ""
) -> Structure:
    """Structure without matrices from ASE atoms.

    Args:
        atoms: Å. A direction without a lattice vector is given a vacuum, at right angles to the others.
        orbitals: shells of the elements.
        spinful: whether its Hamiltonian is to have spin.
        name: of the structure, by default its formula.

    Raises:
        DataError: no atoms, an element without orbitals, or positions that are not finite.
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
    species = {int(z): tuple(orbitals[int(z)]) for z in set(atoms.numbers.tolist()) if int(z) in orbitals}
    structure = Structure(
        numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=positions,
        cell=cell,
        pbc=pbc,
        orbitals=species,
        spinful=spinful,
        name=name or str(atoms.symbols),
    )
    return structure.validate()


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
        if not np.array_equal(found.numbers, structure.numbers):
            raise DataError(f"{path}: holds other atoms, or in another order, than the structure")
        return found.overlap
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


def hermitian_part(blocks: Blocks) -> Blocks:
    """½ (H + H†) of all directed pairs, as the Hermitian half."""
    complete = blocks.completed()
    partner = complete.select(complete.reverse_index).adjoint()
    half = complete.with_values((complete.values + partner.values) / 2).hermitian_half()
    return half


def write_prediction(structure: Structure, folder: str | Path, form: str = "legacy") -> Path:
    """Write a predicted structure as a DeepH folder with ``prediction.json``, whole or not at all.

    Args:
        structure: of :func:`predict`.
        folder: the folder to make; it must not exist, or be empty.
        form: ``legacy`` or ``new``.

    Raises:
        DataError: the folder holds something or cannot be written to.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: already there and not empty; choose another folder or remove it")
    staging = folder.parent / f".{folder.name}.{secrets.token_hex(8)}.tmp"
    try:
        write_deeph(structure, staging, form)
        with atomic_write(staging / PREDICTION_FILE) as temporary:
            temporary.write_text(json.dumps(dict(structure.metadata), indent=1) + "\n", encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        os.rename(staging, folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); give another --out") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def read_atoms(path: str | Path, index: int = -1) -> Atoms:
    """Atoms from any file that ASE reads.

    Args:
        path: the file.
        index: which structure of a file with several.

    Raises:
        DataError: missing, or not readable.
    """
    from ase import Atoms
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: file not found; expected a structure (cif, vasp, xyz, ...)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of readers on tags that are not used here
            atoms = read(path, index=index)
    except Exception as error:  # what a reader raises depends on the format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not understood"
        raise DataError(f"{path}: not readable as a structure ({type(error).__name__}: {reason[:200]})") from None
    if not isinstance(atoms, Atoms) or not len(atoms):
        raise DataError(f"{path}: holds no atoms")
    return atoms


def _longest(structure: Structure, blocks: Blocks) -> float:
    return float(np.linalg.norm(structure.edge_vectors(blocks), axis=1).max(initial=0.0))


def _fermi(structure: Structure, given: float | None) -> tuple[float | None, str]:
    """Fermi level in eV, and where it came from."""
    if given is not None:
        return float(given), "given"
    if structure.overlap is None:
        return None, "not known: there is no overlap"
    electrons = valence_electrons(structure)
    if electrons is None:
        return None, "not known: the basis does not tell the number of electrons"
    size = int(structure.n_orbitals.sum()) * (2 if structure.spinful else 1)
    if size > FERMI_LIMIT:
        return None, f"not known: {size} orbitals are more than {FERMI_LIMIT}, which would take long"
    mesh = mesh_for(structure)
    energies = energies_at(structure, k_mesh(mesh))
    level = fermi_level(energies, electrons, structure.spinful)
    points = "x".join(map(str, mesh))
    return level, f"computed from the predicted H and S, {electrons} electrons, {points} k-points, 300 K"
