"""The convergence benchmark reads curves and times as they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import convergence, factors, trials
from benchmarks.convergence import (
    LEVELS,
    Case,
    configuration,
    draw,
    make_parser,
    read_curve,
    run,
    seconds_to,
    table,
    write,
)
from benchmarks.convergence import cases as make_cases
from benchmarks.ledger import write_json
from benchmarks.trials import TRIALS, read_trials
from benchmarks.trials import main as trials_main
from tracegrad.config import load_config
from tracegrad.errors import ConfigError, DataError

HISTORY = "step,seconds,val_mae\n10,1.5,12.0\n15,2.0,\n20,3.0,4.5\n30,6.0,5.5\n40,9.0,1.9\n"


def test_a_level_is_reached_at_its_first_validation(tmp_path: Path) -> None:
    """The first point at or below the level counts, later rises do not, rows without a validation are left out."""
    (tmp_path / "history.csv").write_text(HISTORY, encoding="utf-8")
    points = read_curve(tmp_path / "history.csv")
    assert points == [(1.5, 12.0), (3.0, 4.5), (6.0, 5.5), (9.0, 1.9)]
    assert seconds_to(points) == {"10": 3.0, "5": 3.0, "2": 9.0, "1": None}


def strict(path: Path) -> Any:
    """Read JSON and refuse NaN and Infinity, which Python's reader takes and no other has to."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(f"{word} in {path}"))


@pytest.mark.parametrize(
    ("end", "final", "cell"),
    [("50,12.0,nan\n", None, "| - |"), ("50,12.0,inf\n", None, "| - |"), ("", 1.9, "| 1.900 |")],
    ids=["nan", "inf", "control"],
)
def test_a_validation_without_a_finite_error_has_no_point_and_ends_with_none(
    tmp_path: Path, finished: Callable[..., dict[str, Any]], end: str, final: float | None, cell: str
) -> None:
    options = make_parser().parse_args(["--work", str(tmp_path), "--recipes", "fast"])
    (case,) = make_cases(options)
    folder = tmp_path / case.name
    folder.mkdir()
    (folder / "history.csv").write_text(HISTORY.replace("30,6.0,5.5", "30,6.0,nan") + end, encoding="utf-8")
    record = finished(config=configuration(case, options).to_dict())
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    curve = run(case, options)
    assert curve["points"] == [(1.5, 12.0), (3.0, 4.5), (9.0, 1.9)]
    assert curve["final_val_mae_mev"] == final
    text = table([curve])
    assert cell in text
    assert ("A dash in the last column" in text) == (final is None)
    write(tmp_path / "out" / "convergence.json", "MG", [curve])
    assert strict(tmp_path / "out" / "convergence.json")["curves"][0]["seconds_to"]["2"] == 9.0


def test_a_record_with_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"value": 1.0})  # control
    with pytest.raises(DataError, match=r"record\.json: expected finite numbers"):
        write_json(path, {"value": float("nan")})
    assert strict(path) == {"value": 1.0}


def test_a_level_that_was_not_reached_has_no_time() -> None:
    """Control: a curve that stays above every level gives no number at all."""
    assert set(seconds_to([(1.0, 11.0)]).values()) == {None}
    assert len(LEVELS) == 4


def test_a_complete_run_is_read_and_not_repeated(tmp_path: Path, finished: Callable[..., dict[str, Any]]) -> None:
    """With run.json and history.csv in place nothing is trained, and the table holds the measured seconds."""
    options = make_parser().parse_args(["--work", str(tmp_path), "--recipes", "fast"])
    (case,) = make_cases(options)
    folder = tmp_path / case.name
    folder.mkdir()
    (folder / "history.csv").write_text(HISTORY, encoding="utf-8")
    record = finished(config=configuration(case, options).to_dict())
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    curve = run(case, options)
    assert "| 3 | 3 | 9 | - | 1.900 |" in table([curve])
    assert curve["test_mae_all_mev"] == {"all": 2.5}
    assert len(draw([curve], "MG").axes[0].lines) == 1 + len(LEVELS)
    with pytest.raises(ConfigError, match=r"training\.max_seconds: 900\.0 -> 30\.0.*give another --work"):
        run(replace(case, seconds=30.0), options)  # the folder has the same name, the run is another


@pytest.mark.parametrize(
    ("words", "trained", "message"),
    [
        (("--settings", "DeepHE3,Foo"), 0, "Foo"),
        (("--recipes", "fast,slow"), 0, "slow"),
        (("--recipes", "fast,paper"), 1, "stopped"),
    ],
    ids=["setting", "recipe", "control"],
)
def test_every_case_is_checked_before_any_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, str], trained: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def train(case: Case, _: object) -> dict[str, Any]:
        started.append(case)
        raise ConfigError("stopped")

    started: list[Case] = []
    monkeypatch.setattr(convergence, "run", train)
    assert convergence.main([*words, "--out", str(tmp_path), "--work", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert len(started) == trained


@pytest.mark.parametrize("file", ["trials.yaml", "trials_method.yaml"])
def test_every_trial_is_a_change_that_the_configuration_accepts(file: str) -> None:
    read = read_trials(TRIALS.with_name(file), [])
    start = load_config(preset="bundled", dataset="MG", overrides=read["start"])
    for name, overrides in read.items():
        config = load_config(preset="bundled", dataset="MG", overrides=overrides)
        assert (config == start) == (name == "start")


def test_trials_that_are_no_changes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trials.yaml").write_text("- rate\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_trials(tmp_path / "trials.yaml", [])
    with pytest.raises(ConfigError, match=r"Did you mean 'rate 0\.1'"):
        read_trials(TRIALS, ["rate 0.11"])


@pytest.mark.parametrize("key", ["clip", "clop"])
@pytest.mark.parametrize(("module", "command", "trainings"), [(trials, "trials", 2), (factors, "factors", 6)])
def test_every_trial_and_condition_is_checked_before_any_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, command: str, trainings: int, key: str
) -> None:
    trained: list[str] = []

    def note(case: Case, _options: argparse.Namespace) -> dict[str, Any]:
        trained.append(case.title)
        return {"final_val_mae_mev": 1.0}

    monkeypatch.setattr(module, "run", note)
    monkeypatch.setattr(module, "write", lambda *_: None)
    (tmp_path / "changes.yaml").write_text(f"start: {{}}\nsecond: {{training.{key}: 0.1}}\n", encoding="utf-8")
    words = [f"--{command}", str(tmp_path / "changes.yaml"), "--out", str(tmp_path), "--work", str(tmp_path)]
    assert module.main(words) == (0 if key == "clip" else 2)
    assert len(trained) == (trainings if key == "clip" else 0)


def test_trials_are_ordered_by_their_error_and_keep_their_curves(
    tmp_path: Path, finished: Callable[..., dict[str, Any]]
) -> None:
    words = [
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
        "--only",
        "rate 0.1",
        "--only",
        "float64",
        "--only",
        "no warm-up",
    ]
    for name, error in (("rate 0.1", 3.0), ("float64", 2.0), ("no warm-up", "nan")):
        folder = tmp_path / "work" / Case("MG", "DeepHE3", "fast", 60.0, (), name).name
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text(f"step,seconds,val_mae\n10,1.5,{error}\n", encoding="utf-8")
        case = Case("MG", "DeepHE3", "fast", 60.0, read_trials(TRIALS, [name])[name], name)
        record = finished(config=configuration(case, make_parser().parse_args([])).to_dict())
        (folder / "run.json").write_text(json.dumps(record))
    assert trials_main(words) == 0
    content = strict(tmp_path / "out" / "trials_MG_DeepHE3.json")
    assert [curve["title"] for curve in content["curves"]] == ["float64", "rate 0.1", "no warm-up"]
    assert [curve["final_val_mae_mev"] for curve in content["curves"]] == [2.0, 3.0, None]
    assert (tmp_path / "out" / "trials_MG_DeepHE3.png").stat().st_size > 1000
