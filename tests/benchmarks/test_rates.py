"""The sweep of the rate is read from validation errors alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rates import best_rate, main, table, validation_errors
from tracegrad.errors import DataError

Leave = Callable[..., Path]


@pytest.fixture
def leave(finished: Callable[..., dict[str, Any]]) -> Leave:
    """Write the record of a run and return its file."""

    def write(folder: Path, setting: str, rate: float, val_mae: list[float | None], **changes: Any) -> Path:
        config = {"training": {"learning_rate": rate}}
        record = finished(setting=setting, config=config, curve={"val_mae": val_mae}) | changes
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        path = folder / "runs" / f"{setting}_{rate}_{len(list((folder / 'runs').iterdir()))}.json"
        path.write_text(json.dumps(record))
        return path

    return write


def test_the_rate_with_the_lowest_validation_error_wins(
    leave: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path / "a", "DeepHE3", 0.05, [3.0, None, 1.5])
    leave(tmp_path / "b", "DeepHE3", 0.1, [2.0, None, 1.0], metrics={"all": {"mae_all": 99.0}})  # test: not looked at
    leave(tmp_path / "b", "DeepHE3", 0.1, [0.1], seed=43)  # another seed and a control do not count
    leave(tmp_path / "b", "DeepHE3", 0.1, [0.1], label="DeepHE3 (equal time)")
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    assert "| MG | DeepHE3 | 1.500 | **1.000** |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "rates.json").read_text())["rows"]
    assert row["best"] == 0.1


def test_the_error_at_the_end_counts_whatever_lay_before(leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path, "DeepHE3", 0.05, [3.0, 1.0, 2.0])
    leave(tmp_path, "DeepHE3", 0.1, [0.5, 0.1, None])  # no finite number at the end: it blew up
    found = validation_errors([tmp_path], 42)["MG", "DeepHE3"]
    assert found == {0.05: 2.0, 0.1: float("inf")}
    assert best_rate(found) == 0.05
    assert "| **2.000** | blew up |" in table({("MG", "DeepHE3"): found})


def config(rate: float, recipe: str = "fast", **training: object) -> dict[str, object]:
    return {"recipe": recipe, "training": {"learning_rate": rate, "max_steps": 1200, **training}}


@pytest.mark.parametrize(
    ("setting", "other", "message"),
    [
        ("DeepHE3", config(0.1, max_steps=3000), "training.max_steps: 1200 -> 3000"),
        ("DeepHE3", config(0.1, "paper"), "recipe: 'fast' -> 'paper'"),
        ("DeepHE3", config(0.1, warmup_steps=9), "training.warmup_steps: 0 -> 9"),
        ("DeepHE3+Grad", config(0.1, max_steps=3000), "training.max_steps: 1200 -> 3000"),
        ("DeepHE3+Grad", config(0.1, "paper"), "recipe: 'fast' -> 'paper'"),
    ],
    ids=["length", "recipe", "warm-up", "length-of-a-row", "recipe-of-a-row"],
)
def test_runs_that_differ_in_more_than_the_rate_are_refused(
    leave: Leave, tmp_path: Path, setting: str, other: dict[str, object], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folders = [str(tmp_path / name) for name in "abc"]
    leave(tmp_path / "a", "DeepHE3", 0.05, [1.0], config=config(0.05))
    leave(tmp_path / "b", setting, 0.1, [2.0], config=other)
    leave(tmp_path / "c", setting, 0.1, [2.0], config=config(0.1))
    out = ["--out", str(tmp_path / "out")]
    assert main([*folders[:2], *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path / "b") in error
    assert not (tmp_path / "out").exists()
    assert main([folders[0], folders[2], *out]) == 0  # control: only the rate differs


def test_settings_of_one_table_may_differ_in_their_method(leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path, "DeepHE3", 0.05, [1.0], config=config(0.05))
    leave(tmp_path, "HarmoSE", 0.05, [1.0], config=config(0.05, rotate_after=0.6))
    assert len(validation_errors([tmp_path], 42)) == 2


def test_a_truncated_record_and_a_folder_that_cannot_be_made_are_named(
    leave: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = leave(tmp_path, "DeepHE3", 0.05, [1.0])
    (tmp_path / "file").write_text("x")
    assert main([str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    path.write_text(path.read_text()[:40])
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{path}: expected JSON" in capsys.readouterr().err


def test_folders_without_records_or_curves_are_refused(leave: Leave, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected run records"):
        validation_errors([tmp_path], 42)
    leave(tmp_path, "DeepHE3", 0.05, [])
    with pytest.raises(DataError, match="expected a learning curve"):
        validation_errors([tmp_path], 42)
    assert main([str(tmp_path)]) == 2
