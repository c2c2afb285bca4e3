"""The sweep of the rate is read from validation errors alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rates import best_rate, main, table, validation_errors
from tracegrad.errors import DataError


def leave(folder: Path, setting: str, rate: float, val_mae: list[float | None], **changes: Any) -> None:
    """Write the record of a run."""
    record = {"dataset": "MG", "setting": setting, "seed": 42, "config": {"training": {"learning_rate": rate}}}
    record |= {"curve": {"val_mae": val_mae}, "metrics": {"all": {"mae_all": 0.0}}} | changes
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    name = f"{setting}_{rate}_{len(list((folder / 'runs').iterdir()))}.json"
    (folder / "runs" / name).write_text(json.dumps(record))


def test_the_rate_with_the_lowest_validation_error_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path / "a", "DeepHE3", 0.05, [3.0, None, 1.5])
    leave(tmp_path / "b", "DeepHE3", 0.1, [2.0, None, 1.0], metrics={"all": {"mae_all": 99.0}})  # test: not looked at
    leave(tmp_path / "b", "DeepHE3", 0.1, [0.1], seed=43)  # another seed and a control do not count
    leave(tmp_path / "b", "DeepHE3", 0.1, [0.1], label="DeepHE3 (equal time)")
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    assert "| MG | DeepHE3 | 1.500 | **1.000** |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "rates.json").read_text())["rows"]
    assert row["best"] == 0.1


def test_the_error_at_the_end_counts_whatever_lay_before(tmp_path: Path) -> None:
    leave(tmp_path, "DeepHE3", 0.05, [3.0, 1.0, 2.0])
    leave(tmp_path, "DeepHE3", 0.1, [0.5, 0.1, None])  # no finite number at the end: it blew up
    found = validation_errors([tmp_path], 42)["MG", "DeepHE3"]
    assert found == {0.05: 2.0, 0.1: float("inf")}
    assert best_rate(found) == 0.05
    assert "| **2.000** | blew up |" in table({("MG", "DeepHE3"): found})


def test_folders_without_records_or_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected run records"):
        validation_errors([tmp_path], 42)
    leave(tmp_path, "DeepHE3", 0.05, [])
    with pytest.raises(DataError, match="expected a learning curve"):
        validation_errors([tmp_path], 42)
    assert main([str(tmp_path)]) == 2
