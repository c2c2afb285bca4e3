"""Predicted against DFT bands of one test structure per database, from the checkpoints that a sweep left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.ledger import Ledger
from benchmarks.plan import Run
from tracegrad import physics
from tracegrad.data import Structure, load_dataset
from tracegrad.prediction import predict_like

SHOWN = ("DeepHE3", "DeepHE3+TraceGrad")  # rows of the tables whose bands are drawn
POINTS = 60  # along the path
CHECKPOINT = "final.ckpt"


def write_bands(ledger: Ledger, runs: Sequence[Run]) -> list[Path]:
    """Write ``bands_<database>.json`` for every database with a checkpoint and an overlap; the report draws them.

    Args:
        ledger: folder of the sweep.
        runs: its runs; of each row the first one, in the order of the seeds, is shown.

    Returns:
        the files.
    """
    written = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        checkpoints: dict[str, Path] = {}
        for run in runs:
            path = ledger.training(run) / CHECKPOINT
            if run.dataset == dataset and run.label in SHOWN and path.is_file():
                checkpoints.setdefault(run.label, path)
        if checkpoints:
            test = load_dataset(dataset, source=ledger.conditions.source).test
            shown = [structure for structure in test if structure.overlap is not None]  # no bands without it
            if shown:
                target = ledger.out / f"bands_{dataset}.json"
                write_file(target, dataset, min(shown, key=lambda structure: len(structure.numbers)), checkpoints)
                written.append(target)
    return written


def write_file(target: Path, dataset: str, structure: Structure, checkpoints: Mapping[str, Path]) -> None:
    """Write the band file of a structure.

    Args:
        target: JSON file.
        dataset: key of the database.
        structure: with H and S from DFT.
        checkpoints: trained networks by the name that the legend gives them.
    """
    route = physics.k_path(structure, None, POINTS)
    predicted = {}
    for label, checkpoint in checkpoints.items():
        _, hamiltonian = predict_like(structure, checkpoint)
        predicted[label] = physics.band_structure(dataclasses.replace(structure, hamiltonian=hamiltonian), route)
    dft = physics.band_structure(structure, route)
    physics.write_bands(target, dataset, structure.name, dft, predicted, {})
