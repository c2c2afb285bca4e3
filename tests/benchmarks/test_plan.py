"""The plan: which runs, with which arguments, for how long; and the controls that follow from finished runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

from benchmarks.controls import equal_time, matched_irreps, plan_controls, scaled_irreps, step_time_ratio
from benchmarks.environment import environment, versions
from benchmarks.ledger import read_curve
from benchmarks.plan import (
    DATASETS,
    Conditions,
    Estimate,
    Run,
    configuration,
    default_settings,
    estimate,
    left_out,
    make_conditions,
    make_grid,
    total_seconds,
    train_arguments,
)
from benchmarks.reproduce import _plan_controls
from tracegrad.config import load_config
from tracegrad.errors import ConfigError

WIDE = "64x0e+32x1o+16x2e+16x3o+16x4e"


def test_the_default_grid_is_that_of_the_papers_tables() -> None:
    runs = make_grid(("all",), None, 1)
    assert len(runs) == 6 * 4 + 2
    assert {run.dataset for run in runs} == set(DATASETS)
    assert [run.dataset for run in runs if run.setting.startswith("HarmoSE")] == ["MM", "MM"]
    assert default_settings("BT") == ("DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad")


def test_seeds_count_up_from_the_releases_and_come_one_after_the_other() -> None:
    runs = make_grid(("MG", "BB", "MG"), ("DeepHE3",), 2)
    assert [(run.dataset, run.seed) for run in runs] == [("MG", 42), ("BB", 42), ("MG", 43), ("BB", 43)]
    assert len({run.name for run in make_grid(("all",), None, 3)}) == 3 * 26


def test_a_run_is_configured_as_planned(tmp_path: Path) -> None:
    source = tmp_path / "a b: {c}"  # signs that YAML would read as structure
    source.mkdir()
    conditions = make_conditions(str(source), "smoke", "cpu", ["training.epochs=3"])
    run = Run("BB", "DeepHE3+Grad", 7, "DeepHE3+Grad", ("model.num_blocks=1",))
    config = configuration(run, conditions)
    assert (config.data.dataset, config.model.setting, config.preset) == ("BB", "DeepHE3+Grad", "smoke")
    assert (config.data.source, config.training.seed, config.training.device) == (str(source), 7, "cpu")
    assert (config.training.epochs, config.model.num_blocks) == (3, 1)
    words = train_arguments(run, conditions, tmp_path)
    assert words[:6] == ("--dataset", "BB", "--setting", "DeepHE3+Grad", "--preset", "smoke")
    assert words[-3:] == ("--out", str(tmp_path), "--resume")


def test_a_time_is_the_median_of_measured_ones_or_the_budget(tmp_path: Path) -> None:
    conditions = Conditions("bundled", "bundled", "cpu")
    run = Run("MG", "DeepHE3", 42, "DeepHE3", ("training.max_steps=300",))
    model = asdict(load_config(preset="bundled", dataset="MG", setting="DeepHE3").model)
    base = {"dataset": "MG", "preset": "bundled", "device": "cpu, 2 threads", "config": {"model": model}, "steps": 300}
    base |= {"train_seconds": 999}
    wider = {"config": {"model": model | {"hidden_irreps": WIDE}}}
    others = [base | {"preset": "smoke"}, base | {"device": "NVIDIA H200"}, base | {"steps": 0}, base | wider, {}, []]
    files = []
    for number, content in enumerate([base | {"train_seconds": s} for s in (10, 30, 20)] + others):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    assert estimate(run, conditions, files) == Estimate(20.0, "median of 3 measured")
    assert estimate(run, conditions, []) == Estimate(90.0, "budget of the preset")  # 3,000 steps take 15 minutes
    in_epochs = Run("MG", "DeepHE3", 42, "DeepHE3", ("training.max_steps=0", "training.epochs=4"))
    assert estimate(in_epochs, conditions, []) == Estimate(None, "not measured yet")
    assert estimate(run, Conditions("bundled", "published", "cpu"), []).seconds is None


def test_a_longer_run_is_estimated_longer(tmp_path: Path) -> None:
    conditions = Conditions("bundled", "bundled", "cpu")
    model = asdict(load_config(preset="bundled", dataset="MG", setting="DeepHE3").model)
    record = {"dataset": "MG", "preset": "bundled", "device": "cpu", "config": {"model": model}}
    (tmp_path / "run.json").write_text(json.dumps(record | {"steps": 300, "train_seconds": 30.0}))
    longer = Run("MG", "DeepHE3", 42, "longer", ("training.max_steps=900",))
    assert estimate(longer, conditions, [tmp_path / "run.json"]) == Estimate(90.0, "median of 1 measured")
    again = Run("MG", "DeepHE3", 42, "longer", ("training.max_steps=0", "training.epochs=26"))
    (tmp_path / "run.json").write_text(json.dumps(record | {"steps": 299, "epochs": 13.0, "train_seconds": 30.0}))
    assert estimate(again, conditions, [tmp_path / "run.json"]) == Estimate(60.0, "median of 1 measured")


def test_records_from_before_an_option_was_known_are_measurements_too(root: Path) -> None:
    records = list((root / "reports" / "results" / "bundled" / "runs").glob("MG_*.json"))
    assert any("operator_rank" not in json.loads(path.read_bytes())["config"]["model"] for path in records)
    found = estimate(Run("MG", "DeepHE3", 42, "DeepHE3"), Conditions("bundled", "bundled", "cpu"), records)
    assert "measured" in found.basis
    assert found.seconds != 900.0


def test_total_time_counts_runs_side_by_side() -> None:
    guesses = [Estimate(s, "") for s in (30.0, 10.0, 10.0, 10.0)]
    assert total_seconds(guesses, 1) == 60.0
    assert total_seconds(guesses, 2) == 30.0
    assert total_seconds([*guesses, Estimate(None, "")], 2) is None


def test_equal_time_stretches_budget_and_schedule_together() -> None:
    training = {"epochs": 40, "max_steps": 0, "start": 10, "interval": 5, "learning_rate": 0.01, "max_seconds": 9.0}
    assert equal_time(training, 1.5) == ("training.epochs=60", "training.start=15", "training.interval=8")
    assert equal_time({"max_seconds": 60.0, "epochs": 0, "max_steps": 0, "start": 700, "warmup_steps": 50}, 2.0) == ()


def test_irreps_are_scaled_by_their_multiplicities_alone() -> None:
    assert scaled_irreps("64x0e+32x1o + 1x10e", 0.5) == "32x0e+16x1o + 1x10e"


def test_matched_irreps_reach_the_number_of_weights() -> None:
    def count(irreps: str) -> int:
        return sum(int(part.split("x")[0]) ** 2 for part in irreps.split("+"))

    found = matched_irreps("64x0e+32x1o", 4 * count("64x0e+32x1o"), count)
    assert found == "128x0e+64x1o"
    near = matched_irreps("8x0e+3x1o", 500, count)
    assert abs(count(near) - 500) < 30
    assert abs(count("8x0e+3x1o") - 500) > 400  # control: the unchanged one is far off
    with pytest.raises(ConfigError, match="leave the control out"):
        matched_irreps("8x0e", 10**9, count)


def finished(dataset: str, setting: str, seconds: float, parameters: int, **changes: Any) -> dict[str, Any]:
    config = {"training": {"epochs": 10}, "model": {"hidden_irreps": "10x0e"}}
    record = {"dataset": dataset, "setting": setting, "seed": 42, "train_seconds": seconds, "parameters": parameters}
    return record | {"config": config} | changes


def test_controls_follow_from_finished_runs(conditions: Conditions) -> None:
    records = [finished("MG", "DeepHE3", 10.0, 100), finished("MG", "DeepHE3+TraceGrad", 18.0, 400)]
    records += [finished("BB", "DeepHE3", 10.0, 100)]  # no TraceGrad yet: no controls

    def count(run: Run, _: Conditions) -> int:
        return int(run.overrides[0].split("=")[1].split("x")[0]) ** 2

    def ratio(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
        return float(second["train_seconds"] / first["train_seconds"])

    equal, matched = plan_controls(["equal-time", "parameter-matched"], records, conditions, None, count, ratio)
    assert (equal.label, equal.setting, equal.overrides) == (
        "DeepHE3 (equal time)", "DeepHE3", ("training.epochs=18",)
    )  # fmt: skip
    assert matched.label == "DeepHE3 (parameter matched)"
    assert matched.overrides == ("model.hidden_irreps=20x0e",)
    assert {equal.name, matched.name} == {"MG_DeepHE3-equal-time_42", "MG_DeepHE3-parameter-matched_42"}
    before = {equal.name: ("training.epochs=17",)}  # of an earlier measurement: it would not be taken twice alike
    names = ["equal-time", "parameter-matched"]
    again = plan_controls(names, records, conditions, before, count, ratio)
    assert [run.overrides for run in again] == [("training.epochs=17",), matched.overrides]


def test_a_control_that_one_database_cannot_have_is_planned_for_the_others(
    conditions: Conditions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = make_grid(("MG", "BB"), ("DeepHE3", "DeepHE3+TraceGrad"), 1)
    records = {run.name: finished(run.dataset, run.setting, 10.0, 100) for run in runs}
    ledger: Any = SimpleNamespace(
        conditions=conditions,
        finished=lambda run: True,
        collected=lambda run: records[run.name],
        controls=lambda: {f"{key}_DeepHE3-equal-time_42": ("training.epochs=12",) for key in ("MG", "BB")},
    )

    def unreachable(key: str, *rest: Any) -> int:
        if key == "BB":
            raise ConfigError("expected more weights; leave the control out")
        return 400

    monkeypatch.setattr("benchmarks.controls._size", unreachable)
    monkeypatch.setattr("benchmarks.controls.matched_irreps", lambda irreps, wanted, size: f"{size(irreps)}x0e")
    planned, problems = _plan_controls(["equal-time", "parameter-matched"], runs, ledger)
    assert [run.name for run in planned] == [
        "MG_DeepHE3-equal-time_42", "BB_DeepHE3-equal-time_42", "MG_DeepHE3-parameter-matched_42"
    ]  # fmt: skip
    assert problems == ["BB, seed 42: expected more weights; leave the control out"]
    assert problems[0] in capsys.readouterr().err


def test_time_of_a_step_is_measured_and_not_that_of_the_runs() -> None:
    """A run that shared the machine took longer; its step does not."""
    config = load_config(preset="smoke", dataset="BB", overrides=["data.num_train=1"]).to_dict()
    wide = load_config(preset="smoke", dataset="BB", overrides=["data.num_train=1", f"model.hidden_irreps={WIDE}"])
    first = {"train_seconds": 1.0, "config": config}
    assert step_time_ratio(first, {"train_seconds": 5.0, "config": config}) == pytest.approx(1.0, abs=0.3)
    assert step_time_ratio(first, {"train_seconds": 0.1, "config": wide.to_dict()}) > 1.3


def test_the_reference_without_a_network_is_planned_once_per_database(conditions: Conditions) -> None:
    pairs = [(seed, setting) for seed in (42, 43) for setting in ("DeepHE3", "DeepHE3+TraceGrad")]
    records = [finished("MG", setting, 10.0, 100, seed=seed) for seed, setting in pairs]
    (run,) = plan_controls(["two-centre"], records, conditions)
    assert (run.label, run.name) == ("two-centre reference", "MG_two-centre-reference_42")
    config = load_config(preset="bundled", dataset="MG", setting=run.setting, overrides=run.overrides)
    assert config.model.reference_only
    assert config.training.max_steps == 1


def test_the_environment_is_plain_data_with_what_numbers_depend_on() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"python", "versions", "git_commit", "cpu", "cores", "threads", "device"} <= found.keys()
    assert found["cores"] >= 1
    assert found["cpu"]
    assert versions()["numpy"] == np.__version__


def test_settings_that_fall_away_are_named_with_their_databases() -> None:
    asked = ("DeepHE3", "HarmoSE")
    assert left_out(("MG", "MM", "BB"), asked) == (
        "HarmoSE stands in Table 3 only, which is about MM: not run on MG, BB"
    )
    assert {run.dataset for run in make_grid(("MG", "MM", "BB"), asked, 1) if run.setting == "HarmoSE"} == {"MM"}
    assert left_out(("MM",), asked) == left_out(("all",), None) == left_out(("MG",), ("DeepHE3",)) == ""


def test_planning_and_drawing_import_no_torch(root: Path) -> None:
    code = "import sys, benchmarks.reproduce, benchmarks.environment; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["False"], run.stderr


def test_the_curve_keeps_the_validations(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,seconds,rate,train_loss,val_loss,val_mae\n1,1,0.5,0.1,3.0,,\n2,1,0.9,0.1,2.0,4.0,\n")
    assert read_curve(path) == {
        "step": [2.0], "epoch": [1.0], "seconds": [0.9], "train_loss": [2.0], "val_loss": [4.0], "val_mae": [None]
    }  # fmt: skip


SUBSET = {"mae_all": 1.0, "mae_cha_sample": None, "mae_cha_block": 1.0, "mae_block": {"s1-s1": 1.0}}
RECORD: dict[str, Any] = {
    "dataset": "MG", "setting": "DeepHE3", "seed": 1, "source": "bundled", "preset": "smoke",
    "metrics": {"all": SUBSET}, "parameters": 1, "train_seconds": 0.1, "epochs": 1,
    "git_commit": None, "split_sha256": "0" * 64, "versions": {},
    "config": {"data": {}, "model": {}, "training": {}}, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of run records."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "schema_run.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


def test_the_schema_accepts_a_record(schema: dict[str, Any]) -> None:
    jsonschema.validate(RECORD, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"setting": "DeepHE4"},
        {"seed": -1},
        {"metrics": {}},
        {"metrics": {"test": SUBSET}},
        {"metrics": {"all": SUBSET | {"mae_all": -1.0}}},
        {"metrics": {"all": {"mae_all": 1.0}}},
        {"split_sha256": "0"},
        {"curve": {"loss": [1.0]}},
        {"parameters": 0},
    ],
    ids=["setting", "seed", "no-metrics", "subset", "negative", "missing", "hash", "curve", "parameters"],
)
def test_the_schema_rejects_a_broken_record(schema: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(RECORD | change, schema)
