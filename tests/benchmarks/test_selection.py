"""The two choices of weights are compared on validation errors alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.selection import main, read_choices
from tracegrad.errors import DataError


def leave(folder: Path, seed: int, val_loss: list[float | None], val_mae: list[float | None], **changes: Any) -> None:
    """Write the record of a run with a point every 100 steps."""
    curve = {"val_loss": val_loss, "val_mae": val_mae, "step": [100.0 * (1 + k) for k in range(len(val_loss))]}
    record = {"dataset": "MM", "setting": "DeepHE3", "seed": seed, "curve": curve} | changes
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    (folder / "runs" / f"{seed}.json").write_text(json.dumps(record))


def test_the_error_at_the_lowest_loss_stands_beside_that_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    leave(sweep, 42, [3.0, 1.0, None, 2.0], [0.9, 0.4, None, 0.3], metrics={"all": {"mae_all": 99.0}})
    leave(sweep, 43, [3.0, 2.0], [0.9, 0.5])  # the last is the best
    leave(sweep, 44, [1.0, 2.0], [0.5, 0.6])  # the last is worse
    leave(sweep, 45, [1.0], [14.0], label="two-centre reference")  # no network, no choice
    assert main([str(sweep), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "| sweep | 3 | 1 | 1 | -1.7 % | -25.0 % | +20.0 % |" in text
    assert "| MM DeepHE3, seed 42 | 400 | 200 | 0.400 | 0.300 | -25.0 % |" in text
    assert "seed 43" not in text
    assert (tmp_path / "out" / "selection.md").read_text() == text


def test_folders_without_records_or_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected run records"):
        read_choices(tmp_path)
    leave(tmp_path, 42, [], [])
    with pytest.raises(DataError, match="expected a learning curve"):
        read_choices(tmp_path)
    leave(tmp_path, 42, [2.0, 1.0], [], curve={"val_loss": [2.0, 1.0], "step": [100.0, 200.0]})  # MAE_all not measured
    with pytest.raises(DataError, match="expected a learning curve"):
        read_choices(tmp_path)
    leave(tmp_path, 42, [1.0], [14.0], label="two-centre reference")
    with pytest.raises(DataError, match="found references only"):
        read_choices(tmp_path)
    assert main([str(tmp_path)]) == 2
