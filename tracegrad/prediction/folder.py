"""A predicted structure as a DeepH folder: whole or not at all, and without ever holding all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.atomic import atomic_write
from tracegrad.data import Blocks, Structure, open_deeph, write_deeph
from tracegrad.data.deeph_write import new_folder
from tracegrad.data.structure import check_fermi_energy
from tracegrad.errors import DataError
from tracegrad.model.chunked import Progress
from tracegrad.prediction.plan import Plan
from tracegrad.prediction.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

PREDICTION_FILE = "prediction.json"


def predict_to_folder(
    predictor: Predictor,
    atoms: Atoms,
    folder: str | Path,
    form: str = "legacy",
    *,
    r_max: float | None = None,
    overlap: str | Path | Blocks = "auto",
    fermi_energy: float | None = None,
    name: str = "",
    chunk_edges: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict a structure and write it as a DeepH folder; a large one chunk by chunk, with the memory of a chunk.

    Args:
        predictor: the network.
        atoms: and the other arguments as :func:`tracegrad.predict`.
        folder: the folder to make, as :func:`write_prediction`.
        form: ``legacy`` or ``new``; the latter is three times faster to write and smaller.

    Returns:
        The facts of ``prediction.json``.

    Raises:
        DataError: as :func:`tracegrad.predict` and :func:`write_prediction`.
    """
    check_fermi_energy(fermi_energy, "fermi_energy (--fermi)")
    plan = predictor.plan(atoms, r_max=r_max, overlap=overlap, name=name, chunk_edges=chunk_edges)
    with _staged(Path(folder)) as staging:  # before the network runs: its result would be lost without a place
        if plan.chunk_edges is None:
            structure = predictor.complete(plan, fermi_energy, progress)
            write_deeph(structure, staging, form)
            _write_facts(staging, structure.metadata)
            return dict(structure.metadata)
        source = "given" if fermi_energy is not None else "not known: a prediction in chunks keeps no matrices"
        facts = predictor.facts(plan, fermi_energy, source)
        structure = replace(plan.structure, metadata=facts).validate()
        with open_deeph(structure, staging, form) as writer:
            if structure.overlap is not None:
                writer.add("overlap", structure.overlap)
            for part in _checked(predictor, plan, progress):
                writer.add("hamiltonian", part)
                computed = predictor.overlap_of(plan, part)
                if computed is not None:
                    writer.add("overlap", computed)
        _write_facts(staging, facts)
    return facts


def write_prediction(structure: Structure, folder: str | Path, form: str = "legacy") -> Path:
    """Write a predicted structure as a DeepH folder with ``prediction.json``, whole or not at all.

    Args:
        structure: of :func:`tracegrad.predict`.
        folder: the folder to make; it must not exist, or be empty.
        form: ``legacy`` or ``new``.

    Raises:
        DataError: the folder holds something or cannot be written to.
    """
    folder = Path(folder)
    with _staged(folder) as staging:
        write_deeph(structure, staging, form)
        _write_facts(staging, structure.metadata)
    return folder


def _checked(predictor: Predictor, plan: Plan, progress: Progress | None) -> Iterator[Blocks]:
    """The parts of a prediction, all numbers finite."""
    for part in predictor.parts(plan, progress):
        if not np.isfinite(part.values).all():
            raise DataError(f"{plan.structure.name}: the network predicts NaN or infinite numbers; train it again")
        yield part


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder`` at the end, and vanishes where the block fails."""
    try:
        with new_folder(folder) as staging:
            yield staging
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); give another --out") from None


def _write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    with atomic_write(folder / PREDICTION_FILE) as temporary:
        temporary.write_text(json.dumps(dict(facts), indent=1, allow_nan=False) + "\n", encoding="utf-8")
