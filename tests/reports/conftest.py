"""Run records made up for the tests: round numbers that no training would give."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

BLOCKS = ("s1-s1", "s1-p1", "p1-s1", "p1-p1")


def fake_subset(structures: dict[str, float], blocks: dict[str, float]) -> dict[str, Any]:
    """Metrics of one subset from the errors of its structures and blocks; the cha values are wrong on purpose."""
    return {
        "mae_all": sum(structures.values()) / len(structures),
        "mae_cha_sample": 999.0,
        "mae_cha_block": 999.0,
        "cha_reference": "self",
        "mae_block": blocks,
        "per_structure": structures,
        "per_distance": [
            {"from": 0.0, "to": 0.5, "mae": 8.0, "elements": 4.0},
            {"from": 2.0, "to": 2.5, "mae": 2.0, "elements": 40.0},
        ],
        "physics": {
            "structure": min(structures),
            "mae_raw": 4.0,
            "mae_aligned": 3.0,
            "mu": -1.0,
            "occupied_energy_mae": 25.0,
            "occupied_energy_mae_aligned": 20.0,
            "state_similarity": 0.75,
            "occupied_similarity": 0.875,
            "gap_dft": 0.5,
            "gap_predicted": 0.25,
            "occupied": 8,
            "k_points": 4,
        },
    }


@pytest.fixture(scope="session")
def fake_record() -> Callable[..., dict[str, Any]]:
    """Make a run record; ``scale`` multiplies all errors; a lean one carries nothing for figures but its blocks."""

    def make(
        dataset: str = "MG",
        setting: str = "DeepHE3",
        seed: int = 42,
        scale: float = 1.0,
        lean: bool = False,
        **changes: Any,
    ) -> dict[str, Any]:
        subsets = ("all",) if dataset in ("MG", "MM") else ("nt", "t")
        errors = {f"{dataset}_{k}": scale * (k + 1.0) for k in range(6)}
        blocks = {name: scale * (10.0 + k) for k, name in enumerate(BLOCKS)}
        record = {
            "dataset": dataset,
            "setting": setting,
            "seed": seed,
            "source": "bundled",
            "preset": "smoke",
            "recipe": "fast",
            "metrics": {subset: fake_subset(dict(errors), dict(blocks)) for subset in subsets},
            "parameters": 1000,
            "train_seconds": 10.0,
            "epochs": 4.0,
            "steps": 80,
            "git_commit": "0" * 40,
            "split_sha256": "f" * 64,
            "config": {"recipe": "fast", "data": {}, "model": {}, "training": {}},
            "versions": {"torch": "0.0"},
            "device": "cpu, 1 threads",
            "curve": {"step": [1.0, 2.0], "seconds": [0.5, 1.0], "val_loss": [2.0, 1.0], "val_mae": [None, None]},
        }
        if lean:
            del record["curve"]
            for subset in subsets:
                del record["metrics"][subset]["per_distance"], record["metrics"][subset]["physics"]
        return record | changes

    return make


@pytest.fixture(scope="session")
def write_into() -> Callable[..., Path]:
    """Write records into ``folder/runs`` and return the folder."""

    def write(folder: Path, *records: dict[str, Any]) -> Path:
        (folder / "runs").mkdir(exist_ok=True)
        for number, record in enumerate(records):
            (folder / "runs" / f"{number:03d}.json").write_text(json.dumps(record), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def write_records(tmp_path: Path, write_into: Callable[..., Path]) -> Callable[..., Path]:
    """Write records into ``tmp_path/runs`` and return ``tmp_path``."""
    return partial(write_into, tmp_path)
