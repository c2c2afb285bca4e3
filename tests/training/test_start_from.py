"""A run that starts from another network: the same function of the weights, or a refusal that names what differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tracegrad.config import Config
from tracegrad.data import Dataset
from tracegrad.errors import CheckpointError
from tracegrad.training import load_checkpoint, train
from tracegrad.training.checkpoint import DataSummary, changed_meaning, make_network, read_tensors, start_from
from tracegrad.training.resume import ResumeState

Tiny = Callable[..., Config]
BASE = {"setting": "DeepHE3", "reference": True, "scaling": "channel", "envelope": 1}
KEPT = {"epochs": 1, "learning_rate": 0.0, "select": "last"}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def base(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> Path:
    """Return the checkpoint of a trained baseline."""
    return train(tiny(model=BASE, training={"epochs": 1}), tmp_path / "base", quiet=True, dataset=dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": False}, "model.reference: True -> False"),
        ({"scaling": "none"}, "model.scaling: 'channel' -> 'none'"),
        ({"reference_only": True}, "model.reference_only: False -> True"),
        ({"r_max": 5.0}, "model.r_max: 4.0 -> 5.0"),
        ({"num_neighbors": 9.0}, "model.num_neighbors: 1.0 -> 9.0"),
        ({"envelope": 2}, "model.envelope: 1 -> 2"),
        ({"envelope_end": 3.0}, "model.envelope_end: 0.0 -> 3.0"),
        ({"norm": "graph"}, "model.norm: 'none' -> 'graph'"),
        ({"hermitian": False}, "model.hermitian: True -> False"),
        ({"r_max": 5.0, "reference": False}, "model.r_max: 4.0 -> 5.0, model.reference: True -> False"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_weights_are_not_taken_for_another_function(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, base: Path, change: dict[str, Any], message: str
) -> None:
    config = tiny(model={**BASE, **change}, training={**KEPT, "start_from": str(base)})
    with pytest.raises(CheckpointError, match=rf"base/final.ckpt: .*\({message}\); give the values"):
        train(config, tmp_path / "run", quiet=True, dataset=dataset)
    assert not (tmp_path / "run" / "config.yaml").exists()  # the folder is free for the right one


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"setting": "DeepHE3+Trace", "trace_width": 4},
        {"setting": "DeepHE3+TraceGrad", "operator_gain": 0.0, "operator_width": 6, "operator_norm": False},
        {"hidden_irreps": "2x2e+4x0e+4x1o"},
        {"envelope_end": 4.0},
        {"time_reversal": False},
        {"operator_rank": 2, "trace_of_residual": True},
    ],
    ids=lambda change: "+".join(change) or "nothing",
)
def test_what_leaves_the_function_as_it_is_may_differ(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, base: Path, change: dict[str, Any]
) -> None:
    config = tiny(model={**BASE, **change}, training={**KEPT, "start_from": str(base)})
    run = train(config, tmp_path / "run", quiet=True, dataset=dataset)
    wanted, found = read_tensors(base)["state_dict"], read_tensors(run)["state_dict"]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_options_of_the_common_parts_alone_are_compared(tiny: Tiny) -> None:
    def changed(before: dict[str, Any], after: dict[str, Any], spinful: bool = False) -> list[str]:
        return changed_meaning(tiny(model=before).model, tiny(model=after).model, spinful)

    norm = {"operator_norm": False}
    assert changed({"setting": "DeepHE3+Trace"}, {"setting": "DeepHE3+Grad", **norm}) == [
        "model.operator_norm: True -> False"
    ]
    assert changed({"setting": "DeepHE3"}, {"setting": "DeepHE3+Grad", **norm}) == []
    assert changed({}, {"time_reversal": False}, spinful=True) == ["model.time_reversal: True -> False"]
    assert changed({}, {"time_reversal": False}) == []
    heads = {"harmose_heads": 2}
    assert changed({"setting": "HarmoSE"}, {"setting": "HarmoSE+TraceGrad", **heads}) == ["model.harmose_heads: 4 -> 2"]
    assert changed({"setting": "DeepHE3"}, {"setting": "DeepHE3+Grad", **heads}) == []


@pytest.mark.parametrize(("learned", "gain"), [(False, 0.1), (True, 0.7)])
def test_gains_that_are_not_trained_are_those_that_are_asked_for(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, learned: bool, gain: float
) -> None:
    first = train(tiny(model={"operator_gain": 0.7}, training=KEPT), tmp_path / "first", quiet=True, dataset=dataset)
    config = tiny(model={"operator_gain": 0.1, "operator_gain_learned": learned})
    model = make_network(config.model, DataSummary.of(dataset)).double()
    start_from(first, model, config.model, DataSummary.of(dataset))
    found = {float(x) for name, p in model.named_parameters() if "gains" in name for x in p.detach().flatten()}
    assert sorted(found) == [pytest.approx(gain)]


@pytest.mark.parametrize("residual", [False, True])
def test_a_run_goes_on_though_the_network_it_started_from_is_gone(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, residual: bool
) -> None:
    model = {**BASE, "setting": "DeepHE3+TraceGrad", "trace_of_residual": residual}
    config = tiny(model=model, training={"checkpoint_seconds": 0.0, "start_from": str(base), "select": "last"})
    whole = train(config, tmp_path / "whole", quiet=True, dataset=dataset)
    original = ResumeState.on_train_batch_end

    def end(self: ResumeState, trainer, *rest: object) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ResumeState, "on_train_batch_end", end)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", quiet=True, dataset=dataset)
    base.unlink()
    resumed = train(config, tmp_path / "parts", resume=True, quiet=True, dataset=dataset)
    first, second = (read_tensors(path)["state_dict"] for path in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(CheckpointError, match=r"base/final\.ckpt: not found"):  # control: a run that begins needs it
        train(config, tmp_path / "new", quiet=True, dataset=dataset)
    assert load_checkpoint(resumed)[1].training.start_from == str(base)
