"""An untrained network of graphene's basis as a checkpoint: predictions need no training to be tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tracegrad.config import Config, config_from_dict, load_config, merge
from tracegrad.data import load_dataset
from tracegrad.graph import build_graph
from tracegrad.training.checkpoint import DataSummary, make_network, save_checkpoint

SMALL = {"hidden_irreps": "4x0e+4x1o+2x2e+2x3o+2x4e", "embed_dim": 4, "num_blocks": 1, "num_radial": 4}


def small_config(key: str) -> Config:
    """Return the smoke preset, made smaller."""
    config = load_config(dataset=key, setting="DeepHE3+TraceGrad", preset="smoke")
    return config_from_dict(merge(config.to_dict(), {"model": SMALL}))


def save_network(path: Path, key: str, source: str, fit: bool = True) -> Path:
    """Write a network whose output transform is fitted to one structure of a bundled set."""
    torch.manual_seed(0)
    dataset, config = load_dataset(key), small_config(key)
    summary = DataSummary.of(dataset)
    summary = DataSummary.from_dict({**summary.to_dict(), "source": source})
    model = make_network(config.model, summary).double()
    if fit:
        model.output.fit([build_graph(dataset.train[0], model.targets)])
    save_checkpoint(path, model, config, summary, {})
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a network of the bundled graphene set."""
    return save_network(tmp_path_factory.mktemp("network") / "final.ckpt", "MG", "bundled")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a network of data of another basis with the same shells."""
    return save_network(tmp_path_factory.mktemp("network") / "final.ckpt", "MG", "/data/openmx")


@pytest.fixture(scope="session")
def spinful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a network of spinful blocks."""
    return save_network(tmp_path_factory.mktemp("network") / "final.ckpt", "BB", "bundled")
