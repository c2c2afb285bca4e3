"""The sweep: nothing is trained twice, failures stop nobody, and it can be killed and resumed at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from benchmarks.plan import Conditions, Run
from benchmarks.reproduce import _jobs, main, make_parser
from benchmarks.worker import RunJob
from tracegrad.data import Structure, load_dataset, write_deeph

Trainer = Callable[..., tuple[str, ...]]
Notes = Callable[[str], list[str]]
FOUR = ["DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad"]


def arguments(out: Path, *more: str, report: bool = False) -> list[str]:
    words = ["--dataset", "MG", "--preset", "smoke", "--executor", "inline", "--out", str(out), *more]
    return words if report else [*words, "--no-report"]


def records(out: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "runs").iterdir())}


def test_one_command_leaves_records_tables_figures_and_the_page(
    tmp_path: Path, trainer: Trainer, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, report=True), trainer()) == 0
    schema = json.loads((root / "benchmarks" / "schema_run.json").read_text(encoding="utf-8"))
    found = records(out)
    assert sorted(found) == sorted(f"MG_{setting}_42" for setting in FOUR)
    for record in found.values():
        jsonschema.validate(record, schema)
        assert record["curve"]["val_loss"] == [2.0, 1.0]  # the validations of history.csv
        assert record["curve"]["val_mae"] == [None, 7.0]
    names = {path.name for path in out.iterdir()}
    assert {"table1.md", "table1.csv", "table1.tex", "blocks_MG.png", "blocks_MG.svg", "report.html"} <= names
    assert "PAPER, other data" in capfd.readouterr().out


def test_finished_runs_are_not_repeated(tmp_path: Path, trainer: Trainer, notes: Notes) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer()) == 0
    assert main(arguments(out, "--settings", "DeepHE3,DeepHE3+Grad", "--resume"), trainer()) == 0
    assert notes("starts") == ["MG DeepHE3 42", "MG DeepHE3+Grad 42"]
    assert json.loads((out / "sweep.json").read_text())["runs"] == ["MG_DeepHE3_42", "MG_DeepHE3+Grad_42"]


def test_a_failed_run_is_reported_with_its_log_and_the_others_go_on(
    tmp_path: Path, trainer: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, report=True), trainer(failing="DeepHE3+Trace")) == 1
    assert len(records(out)) == 3
    printed = capfd.readouterr().out
    assert "MG_DeepHE3+Trace_42 failed" in printed
    assert "the cat sat on the keyboard" in printed
    assert str(out / "work" / "MG_DeepHE3+Trace_42" / "log.txt") in printed
    assert "the cat sat on the keyboard" in (out / "report.html").read_text(encoding="utf-8")
    assert "| MG | all | DeepHE3+Trace | – |" in (out / "table1.md").read_text(encoding="utf-8")


def test_a_failed_run_is_tried_again_on_resume(tmp_path: Path, trainer: Trainer) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer(failing="DeepHE3")) == 1
    assert main(arguments(out, "--settings", "DeepHE3", "--resume"), trainer()) == 0
    assert json.loads((out / "sweep.json").read_text())["failures"] == []


def test_a_record_of_another_run_is_not_taken_over(tmp_path: Path, trainer: Trainer) -> None:
    out = tmp_path / "out"
    stranger = out / "work" / "MG_DeepHE3_42" / "train"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer()) == 0
    record = json.loads((stranger / "run.json").read_text())
    for path in (stranger / "run.json", out / "runs" / "MG_DeepHE3_42.json"):
        path.write_text(json.dumps(record | {"seed": 7}))
    assert main(arguments(out, "--settings", "DeepHE3", "--resume"), trainer()) == 1
    assert json.loads((out / "sweep.json").read_text())["failures"]


@pytest.mark.parametrize("errors", [{}, {"mae_all": "2.0"}], ids=["none", "text"])
def test_a_record_without_its_errors_is_taken_over_anew(
    tmp_path: Path, trainer: Trainer, errors: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = arguments(out, "--settings", "DeepHE3", "--resume")
    assert main(words, trainer()) == 0
    path = out / "runs" / "MG_DeepHE3_42.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"metrics": {"all": errors}}))
    for state in ("done", "kept"):  # kept, the control: a whole one is not taken over again
        capfd.readouterr()
        assert main(words, trainer()) == 0
        assert capfd.readouterr().out.rstrip().endswith(f"1 {state}")
        assert json.loads(path.read_text()) == json.loads(whole)


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, trainer: Trainer, notes: Notes, below: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(arguments(tmp_path / "file" / below), trainer()) == 2
    error = capfd.readouterr().err
    assert "--out: expected a folder" in error
    assert str(tmp_path / "file") in error
    assert notes("starts") == []


def test_a_failure_stays_reported_until_its_run_has_a_record(tmp_path: Path, trainer: Trainer) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer(failing="DeepHE3")) == 1
    assert main(arguments(out, "--settings", "DeepHE3+Grad", "--resume"), trainer()) == 0
    (failure,) = json.loads((out / "sweep.json").read_text())["failures"]
    assert failure.startswith("MG_DeepHE3_42: ")
    assert main(arguments(out, "--settings", "DeepHE3", "--resume"), trainer()) == 0
    assert json.loads((out / "sweep.json").read_text())["failures"] == []


def test_a_run_whose_error_was_not_finite_for_a_while_stops_nobody(tmp_path: Path, trainer: Trainer) -> None:
    out = tmp_path / "out"
    assert main(arguments(out), trainer(loss="nan")) == 0
    found = records(out)
    assert sorted(found) == sorted(f"MG_{setting}_42" for setting in FOUR)
    assert found["MG_DeepHE3_42"]["curve"]["val_loss"] == [2.0, None]


def test_finished_runs_of_an_earlier_preset_are_not_mixed_with_new_ones(
    tmp_path: Path, trainer: Trainer, notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer()) == 0
    path = out / "runs" / "MG_DeepHE3_42.json"
    record = json.loads(path.read_text())
    record["config"]["training"]["warmup_steps"] = 7  # as an earlier version of the recipe had it
    path.write_text(json.dumps(record))
    assert main(arguments(out, "--seeds", "2", "--resume"), trainer()) == 2
    error = capfd.readouterr().err
    assert "training.warmup_steps: 7 -> 10" in error
    assert "give another --out" in error
    assert notes("starts") == ["MG DeepHE3 42"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "add --resume"),
        (("--resume", "--preset", "bundled"), "preset: expected 'bundled', found 'smoke'"),
        (("--resume", "--device", "cuda"), "device: expected 'cuda', found 'cpu'"),
        (("--resume", "--set", "training.epochs=9"), "another run grid"),
    ],
    ids=["no-resume", "preset", "device", "override"],
)
def test_a_folder_with_another_grid_is_refused(
    tmp_path: Path, trainer: Trainer, notes: Notes, more: tuple[str, ...], message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert main(arguments(out, "--settings", "DeepHE3"), trainer()) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(arguments(out, "--settings", "DeepHE3", *more), trainer()) == 2
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert notes("starts") == ["MG DeepHE3 42"]


def test_a_grid_is_resumed_with_its_changes_in_another_order_but_not_with_others(
    tmp_path: Path, trainer: Trainer, notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*changes: str) -> int:
        words = [word for change in changes for word in ("--set", change)]
        return main(arguments(tmp_path / "out", "--settings", "DeepHE3", "--resume", *words), trainer())

    assert run("training.warmup_steps=7", "training.lambda_trace=0.1") == 0
    assert run("training.lambda_trace=0.1", "training.warmup_steps=7") == 0
    assert run("training.warmup_steps=9", "training.warmup_steps=7", "training.lambda_trace=0.1") == 0
    assert notes("starts") == ["MG DeepHE3 42"]
    assert run("training.warmup_steps=7", "training.warmup_steps=9", "training.lambda_trace=0.1") == 2
    assert "holds another run grid" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["runs", "file"])
def test_a_folder_of_unknown_origin_is_refused(
    tmp_path: Path, trainer: Trainer, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("x")
    else:
        (out / "runs").mkdir(parents=True)
        (out / "runs" / "a.json").write_text("{}")
    assert main(arguments(out, "--resume"), trainer()) == 2
    assert "give another" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--device", "cuda"), 4),  # small structures share a GPU
        (("--device", "cuda", "--preset", "published"), 1),
        (("--device", "cuda", "--jobs", "2"), 2),
        (("--executor", "inline"), 1),
    ],
)
def test_trainings_run_side_by_side_where_one_leaves_room(words: tuple[str, ...], expected: int) -> None:
    assert _jobs(make_parser().parse_args(list(words))) == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--dataset", "MGG"), "Did you mean 'MG'?"),
        (("--settings", "DeepHE3+Trac"), "Did you mean 'DeepHE3+Trace'?"),
        (("--settings", "HarmoSE"), "expected --dataset MM"),
        (("--preset", "smok"), "Did you mean 'smoke'?"),
        (("--seeds", "0"), "expected at least 1, found 0"),
        (("--jobs", "0"), "expected at least 1, found 0"),
        (("--source", "/nowhere/at/all"), "existing path"),
        (("--set", "training.epoch=3"), "Did you mean 'training.epochs'?"),
        (("--controls", "equal-tim"), "Did you mean 'equal-time'?"),
        (("--slurm", "partition=x"), "--executor slurm only"),
        (("--slurm", "partition"), "expected KEY=VALUE"),
        (("--slurm", "partition=["), "cannot read the value '['"),
        (("--hours", "inf"), "expected a time above 0 and up to 8760 (a year), found inf"),
        (("--hours", "1e308"), "found 1e+308"),
        (("--hours", "-1"), "(a year), found -1"),
        (("--set", "seed=7"), "training.seed: expected 42, found 7; --seeds decides it"),
        (("--set", "dataset=MM"), "data.dataset: expected 'MG', found 'MM'; --dataset decides it"),
        (("--settings", "DeepHE3", "--set", "setting=HarmoSE"), "--settings decides it"),
        (("--set", "device=cuda"), "--device decides it"),
        (("--dataset", "MG,BG", "--source", "."), "expected one database with a path, found MG, BG"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, trainer: Trainer, more: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(out, *more), trainer()) == 2
    assert message in capfd.readouterr().err
    assert not out.exists()


def test_slurm_without_its_commands_is_refused(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(arguments(tmp_path / "out", "--executor", "slurm"), trainer()) == 2
    assert "expected the commands sbatch and srun" in capfd.readouterr().err


def test_a_plan_for_slurm_is_printed_where_there_is_no_slurm(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = arguments(tmp_path / "out", "--executor", "slurm", "--slurm", "partition=cats", "--dry-run")
    assert main(words, trainer()) == 0
    assert "4 to run" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()
    wrong = arguments(tmp_path / "out", "--slurm", "partition=cats", "--dry-run")  # control: mistakes are refused
    assert main(wrong, trainer()) == 2
    assert "--executor slurm only" in capfd.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, trainer: Trainer, notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "out", "--seeds", "2", "--dry-run"), trainer()) == 0
    printed = capfd.readouterr().out
    assert all(f"MG_{setting}_{seed}" in printed for setting in FOUR for seed in (42, 43))
    assert "8 to run" in printed
    assert "planned from the finished runs" not in printed
    assert main(arguments(tmp_path / "out", "--controls", "equal-time", "--dry-run"), trainer()) == 0
    assert "then, planned from the finished runs: equal-time" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()
    assert notes("starts") == []


# A sweep in a process of its own, with a training command of ours.
SWEEP = "import sys; from benchmarks.reproduce import main; sys.exit(main(sys.argv[2:], sys.argv[1].split(';')))"


# Shells start what they put in the background with this, and every child inherits it.
IN_BACKGROUND = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "


def start_sweep(
    out: Path, command: tuple[str, ...], root: Path, *more: str, before: str = ""
) -> subprocess.Popen[bytes]:
    words = ["--dataset", "MG", "--preset", "smoke", "--out", str(out), "--jobs", "1", "--no-report", *more]
    with out.with_suffix(".log").open("ab") as log:  # not a pipe: a training that lives on would hold it open
        return subprocess.Popen(
            [sys.executable, "-c", before + SWEEP, ";".join(command), *words],
            cwd=root,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("whole_group", [True, False], ids=["everything-killed", "trainings-live-on"])
def test_a_killed_sweep_is_resumed_without_repeating_a_step(
    tmp_path: Path, trainer: Trainer, notes: Notes, root: Path, whole_group: bool
) -> None:
    out, command = tmp_path / "out", trainer(steps=8, pause=0.15)
    two = ("--settings", "DeepHE3,DeepHE3+Grad")
    process = start_sweep(out, command, root, *two)
    wait_for(lambda: "MG DeepHE3+Grad 42 1" in notes("steps"))  # the first is done, the second has begun
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    killed_at = len(notes("steps"))
    assert killed_at < 16
    words = ["--dataset", "MG", "--preset", "smoke", "--out", str(out), *two, "--resume", "--no-report"]
    assert main(words, command) == 0
    assert sorted(records(out)) == ["MG_DeepHE3+Grad_42", "MG_DeepHE3_42"]
    steps = notes("steps")
    assert len(steps) - len(set(steps)) <= (1 if whole_group else 0)  # a step killed between its state and its note
    assert {f"MG {setting} 42 {step}" for setting in ("DeepHE3", "DeepHE3+Grad") for step in range(8)} == set(steps)
    starts = notes("starts")
    assert starts.count("MG DeepHE3 42") == 1
    assert starts.count("MG DeepHE3+Grad 42") == (2 if whole_group else 1)  # an orphan is waited for, not doubled


@pytest.mark.parametrize("before", ["", IN_BACKGROUND], ids=["in-a-terminal", "in-background"])
def test_a_sweep_asked_to_stop_stops_its_trainings(
    tmp_path: Path, trainer: Trainer, notes: Notes, root: Path, before: str
) -> None:
    out = tmp_path / "out"
    process = start_sweep(out, trainer(steps=1000, pause=0.05), root, "--settings", "DeepHE3", before=before)
    wait_for(lambda: len(notes("steps")) > 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "--resume" in out.with_suffix(".log").read_text()
    done = len(notes("steps"))
    time.sleep(1.0)
    assert len(notes("steps")) == done
    assert done < 900  # control: it was stopped, it did not end


def test_a_second_sweep_in_the_same_folder_is_refused(
    tmp_path: Path, trainer: Trainer, notes: Notes, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "out", trainer(steps=40, pause=0.1)
    process = start_sweep(out, command, root, "--settings", "DeepHE3")
    try:
        wait_for(lambda: bool(notes("steps")))
        assert main(arguments(out, "--settings", "DeepHE3", "--resume"), command) == 2
        assert "another sweep is working here" in capfd.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_folder_never_has_two_trainings(tmp_path: Path, trainer: Trainer, notes: Notes) -> None:
    folder = tmp_path / "run"
    words = ("--dataset", "MG", "--setting", "DeepHE3", "--preset", "smoke", "--set", "training.seed=1", "--set")
    command = (
        *trainer(steps=4, pause=0.1),
        *words,
        'data.source="bundled"',
        "--out",
        str(folder / "train"),
        "--resume",
    )
    threads = [threading.Thread(target=RunJob(command, folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes("starts") == ["MG DeepHE3 1"]
    assert len(notes("steps")) == 4


def test_a_training_gets_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES'))"
    variables = (("OMP_NUM_THREADS", "3"), ("CUDA_VISIBLE_DEVICES", None))
    assert RunJob((sys.executable, "-c", code), tmp_path, variables)() == 0
    assert "3 None" in (tmp_path / "log.txt").read_text().splitlines()


def test_the_name_of_a_run_is_a_name_of_a_folder(conditions: Conditions) -> None:
    run = Run("MG", "DeepHE3", 42, "DeepHE3 (equal time)")
    assert run.name == "MG_DeepHE3-equal-time_42"


def test_failures_before_an_interruption_are_kept(
    tmp_path: Path, trainer: Trainer, notes: Notes, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "out", trainer(steps=1000, pause=0.05, failing="DeepHE3")
    process = start_sweep(out, command, root, "--settings", "DeepHE3,DeepHE3+Grad,DeepHE3+Trace")
    wait_for(lambda: len(notes("steps")) > 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "MG_DeepHE3_42 failed" in out.with_suffix(".log").read_text()

    def failures() -> list[str]:
        return json.loads((out / "sweep.json").read_text())["failures"]

    assert [line.split(":")[0] for line in failures()] == ["MG_DeepHE3_42"]
    two = ["--settings", "DeepHE3+Grad", "--resume"]
    assert main(arguments(out, *two), trainer(steps=2)) == 0
    assert len(failures()) == 1  # it was not tried again
    assert main(arguments(out, "--settings", "DeepHE3", "--resume"), trainer(steps=2)) == 0
    assert failures() == []
    capfd.readouterr()


def test_data_without_overlaps_have_tables_and_no_bands(tmp_path: Path, root: Path) -> None:
    for k, structure in enumerate(load_dataset("MG").train[:5]):
        write_deeph(Structure(**{**structure.fields(), "overlap": None}), tmp_path / "data" / str(k))
    out = tmp_path / "out"
    words = ["--settings", "DeepHE3", "--source", str(tmp_path / "data"), "--set", "training.max_steps=1"]
    small = ["--set", "model.hidden_irreps=4x0e+2x1o+2x2e", "--set", "model.embed_dim=4"]
    assert main(arguments(out, *words, *small, report=True)) == 0
    assert {"table1.md", "report.html"} <= {path.name for path in out.iterdir()}
    assert not list(out.glob("bands_*"))
