"""The two choices of weights are compared on validation errors alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.selection import main, read_choices
from tracegrad.errors import DataError

Leave = Callable[..., Path]


@pytest.fixture
def leave(finished: Callable[..., dict[str, Any]]) -> Leave:
    """Write the record of a run with a point every 100 steps and return its file."""

    def write(
        folder: Path, seed: int, val_loss: list[float | None], val_mae: list[float | None], **changes: Any
    ) -> Path:
        curve = {"val_loss": val_loss, "val_mae": val_mae, "step": [100.0 * (1 + k) for k in range(len(val_loss))]}
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        path = folder / "runs" / f"{seed}.json"
        path.write_text(json.dumps(finished(dataset="MM", seed=seed, curve=curve) | changes))
        return path

    return write


def test_the_error_at_the_lowest_loss_stands_beside_that_at_the_end(
    leave: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: json.dumps(record)[:40], "expected JSON"),
        (lambda record: "[" * 100_000 + "]" * 100_000, "expected JSON"),
        (lambda record: json.dumps([record]), "expected a run record"),
        (lambda record: json.dumps(record | {"curve": [1, 2]}), r"found curve \[1, 2\]"),
        (lambda record: json.dumps(record | {"curve": {"step": ["a"]}}), "found curve.step 'a'"),
        (lambda record: json.dumps(record | {"seed": "x"}), "found seed 'x'"),
        (lambda record: json.dumps(record | {"metrics": {"all": {}}}), "found metrics.all.mae_all None"),
        (lambda record: json.dumps(record | {"metrics": {"all": 1.0}}), "found metrics.all.mae_all None"),
        (lambda record: json.dumps(record | {"metrics": {}}), "expected metrics of at least one subset"),
        (lambda record: json.dumps(record | {"metrics": [1]}), r"found metrics \[1\]"),
        (lambda record: json.dumps(record | {"config": "fast"}), "found config 'fast'"),
    ],
    ids=[
        "truncated", "nested", "list", "curve", "column", "seed", "no-error", "subset", "no-subset", "metrics",
        "config",
    ],
)  # fmt: skip
def test_a_broken_record_is_named(
    leave: Leave, tmp_path: Path, spoil: Callable[[dict[str, Any]], str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = leave(tmp_path, 42, [2.0, 1.0], [0.9, 0.4])
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0  # control
    path.write_text(spoil(json.loads(path.read_text())))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(f"{re.escape(str(path))}: .*{message}", capsys.readouterr().err)


def test_a_folder_that_cannot_be_made_is_named(
    leave: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, 42, [2.0, 1.0], [0.9, 0.4])
    (tmp_path / "file").write_text("x")
    assert main([str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_folders_without_records_or_curves_are_refused(leave: Leave, tmp_path: Path) -> None:
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
