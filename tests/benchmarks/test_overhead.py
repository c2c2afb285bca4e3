"""Time around the network: what every step costs counts, what a run costs once does not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import overhead
from tracegrad.config import Config, load_config
from tracegrad.data import load_dataset
from tracegrad.training.run import Run


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(("once", "per_step"), [(0.2, 0.0), (0.0, 0.02)], ids=["set-up", "step"])
def test_only_time_of_every_step_counts(monkeypatch: pytest.MonkeyPatch, once: float, per_step: float) -> None:
    def fit(run: Run, config: Config, folder: Path, **_: Any) -> None:
        burn(once + per_step * config.training.max_steps)

    monkeypatch.setattr(overhead, "fit", fit)
    config = load_config(preset="smoke", dataset="MG", setting="DeepHE3", overrides=["data.num_train=1"])
    measured = overhead.measure(config, load_dataset("MG"), steps=4)
    assert measured["whole"] == pytest.approx(per_step, abs=0.01)
    assert measured["bare"] > 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--dataset", "XX"), 2, "unknown database 'XX'"),
        (("--setting", "DeepHE4"), 2, "Did you mean 'DeepHE3'?"),
        (("--json", "{folder}/none/record.json"), 2, "create it first"),
        (("--json", "{folder}/record.json"), 1, ""),
    ],
    ids=["dataset", "setting", "folder", "control"],
)
def test_bad_input_is_told_from_a_limit_that_is_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, str], code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(overhead, "measure", lambda *_: {"bare": 1.0, "whole": 2.0})
    assert overhead.main([words[0], words[1].format(folder=tmp_path)]) == code
    assert message in capsys.readouterr().err
