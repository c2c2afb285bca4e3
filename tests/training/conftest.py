"""A dataset of three-atom structures that a tiny network trains on in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.config import Config, config_from_dict, merge
from tracegrad.data import Blocks, Dataset, Structure, StructureSequence
from tracegrad.data.compact import write_compact
from tracegrad.data.neighbors import neighbor_pairs

ORBITALS = {6: (0, 1), 14: (0, 1)}
SUBSETS = {"train": 4, "val": 2, "test": 2, "test_twisted": 1}

TINY = {
    "data": {"dataset": "toy"},
    "model": {
        "setting": "DeepHE3+TraceGrad",
        "hidden_irreps": "4x0e+4x1o+2x2e",
        "embed_dim": 4,
        "lmax_sh": 2,
        "num_blocks": 1,
        "r_max": 4.0,
        "num_radial": 6,
        "norm": "none",
        "operator": "low_rank",
        "operator_width": 4,
        "trace_width": 8,
    },
    "training": {
        "epochs": 3,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "validate_every": 1,
        "dtype": "float64",
        "device": "cpu",
        "loggers": [],
        "checkpoint_seconds": 1e9,
        "log_every": 1,
        "revert_ratio": 0.0,
    },
}


def make_structure(name: str, seed: int) -> Structure:
    """Return two carbon atoms and a silicon atom whose blocks decay with the distance."""
    random = np.random.default_rng(seed)
    numbers = np.array([6, 6, 14])
    positions = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.9, 0.4]]) + random.uniform(-0.08, 0.08, (3, 3))
    cell, pbc = np.diag([4.0, 4.2, 12.0]), np.array([True, True, False])
    i, j, shift = neighbor_pairs(positions, cell, pbc, 3.2)
    blocks = {(0, 0, 0, k, k): np.diag([-8.0 - k, -2.0, -2.0, -2.0]) for k in range(3)}
    for a, b, R in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True):
        vector = positions[b] + np.array(R) @ cell - positions[a]
        r = float(np.linalg.norm(vector))
        y, z, x = vector[1] / r, vector[2] / r, vector[0] / r
        unit = np.array([y, z, x])
        block = np.zeros((4, 4))
        block[0, 0], block[0, 1:], block[1:, 0] = -3.0, 2.0 * unit, -2.0 * unit
        block[1:, 1:] = 2.5 * np.outer(unit, unit) - np.eye(3)
        blocks[(R[0], R[1], R[2], a, b)] = block * np.exp(-r)
    hamiltonian = Blocks.from_dict(blocks)
    return Structure(numbers, positions, cell, pbc, ORBITALS, False, hamiltonian, name=name).validate()


def make_structures() -> list[tuple[str, Structure]]:
    """Return (subset, structure) for all structures of the dataset."""
    names = [(subset, f"{subset}_{k}") for subset, count in SUBSETS.items() for k in range(count)]
    return [(subset, make_structure(name, seed)) for seed, (subset, name) in enumerate(names)]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Return the dataset, held in memory."""
    structures = {structure.name: structure for _, structure in make_structures()}
    subsets = {
        subset: StructureSequence(tuple(n for n in structures if n.rsplit("_", 1)[0] == subset), structures.__getitem__)
        for subset in SUBSETS
    }
    return Dataset("toy", "tiny", ORBITALS, False, manifest={}, **subsets)


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same dataset as a file."""
    path = tmp_path_factory.mktemp("data") / "BG.h5"
    write_compact(path, make_structures())
    return path


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """Return a maker of tiny configurations: ``tiny(training={"epochs": 2})``."""

    def make(**sections: dict[str, object]) -> Config:
        return config_from_dict(merge(TINY, sections))

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Let sums be made in one order."""
    torch.set_num_threads(1)
