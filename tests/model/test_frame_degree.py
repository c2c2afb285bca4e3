"""Graphs have frames of the degrees that a network has, whatever these are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.config import load_config
from tracegrad.data import load_dataset
from tracegrad.errors import DataError
from tracegrad.evaluation import evaluate_structures
from tracegrad.graph import TargetLayout, build_graph
from tracegrad.model import DeepHE3, HarmoSE, build_model, frame_degree, predict_blocks
from tracegrad.prediction import predict_like
from tracegrad.training import train

SMALL = ("embed_dim=4", "num_blocks=2", "num_radial=4", "operator_width=4", "trace_width=4", "loggers=[]", "device=cpu")


def test_a_network_of_high_degree_is_trained_evaluated_and_used(tmp_path: Path) -> None:
    changes = ("hidden_irreps=4x0e+2x1o+1x6e", "num_train=1", "max_steps=1", "warmup_steps=0", "validate_mae=false")
    dataset = load_dataset("MG")
    dataset = replace(dataset, val=dataset.val[:1])
    config = load_config(preset="bundled", dataset="MG", overrides=(*SMALL, *changes))
    checkpoint = train(config, tmp_path / "run", quiet=True, dataset=dataset)
    structure = dataset.test[0]
    _, blocks = predict_like(structure, checkpoint)
    assert np.isfinite(blocks.values).all()
    model = build_model(config.model, dataset)
    assert frame_degree(model) == 6
    assert evaluate_structures(model, [structure])[0].mean > 0
    with pytest.raises(DataError, match=r"up to degree 6, found them up to 5; build the graph with lmax=6"):
        predict_blocks(model, build_graph(structure, TargetLayout.from_dataset(dataset), dtype=torch.float32))


@pytest.mark.parametrize("wrap", [lambda first: first, lambda first: HarmoSE(first, 8, 1, 2)], ids=["E3", "HarmoSE"])
def test_no_number_depends_on_frames_that_are_not_needed(
    wrap: Callable[[DeepHE3], torch.nn.Module], network: Callable[..., DeepHE3]
) -> None:
    dataset = load_dataset("MG")
    targets = TargetLayout.from_dataset(dataset)
    model = wrap(network(targets)).double()
    assert frame_degree(model) == targets.frame.lmax == 4
    needed, more = (build_graph(dataset.test[0], targets, lmax=lmax) for lmax in (frame_degree(model), None))
    assert (len(needed.wigner), len(more.wigner)) == (5, 6)
    assert np.array_equal(predict_blocks(model, needed).values, predict_blocks(model, more).values)
