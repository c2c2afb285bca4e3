"""The verifier's part of a sweep: an exact network passes, HarmoSE is measured before and after training."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import verification
from benchmarks.bands import CHECKPOINT
from benchmarks.ledger import Ledger, write_json
from benchmarks.plan import Run, configuration, make_conditions
from benchmarks.reproduce import _draw
from benchmarks.verification import failing_targets, write_verification
from tracegrad.errors import DataError
from tracegrad.evaluation import run_and_record

TINY = ("hidden_irreps=4x0e+2x1o+2x2e", "embed_dim=4", "num_radial=8", "operator_width=4", "trace_width=4")
SHORT = ("num_train=1", "epochs=0", "max_steps=2", "warmup_steps=1", "harmose_width=8", "harmose_blocks=1")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ledger, list[Run]]:
    """Two trainings of two steps on MoS2."""
    out: Path = tmp_path_factory.mktemp("sweep")
    ledger = Ledger(out, make_conditions("bundled", "smoke", "cpu", (*TINY, *SHORT)))
    runs = [Run("MM", setting, 42, setting, ()) for setting in ("DeepHE3+TraceGrad", "HarmoSE")]
    for run in runs:
        run_and_record(configuration(run, ledger.conditions), ledger.training(run), quiet=True)
        ledger.records.mkdir(exist_ok=True)
        ledger.collect(run)
    return ledger, runs


def by_name(path: Path) -> dict[str, dict[str, Any]]:
    """Checks of a written file."""
    return {check["name"]: check for check in json.loads(path.read_text())["checks"]}


def test_exact_networks_pass_and_harmose_is_measured_against_its_own_error(sweep: tuple[Ledger, list[Run]]) -> None:
    ledger, runs = sweep
    path = write_verification(ledger, runs)
    assert path is not None
    checks = by_name(path)
    assert checks["MM DeepHE3+TraceGrad: rotation"]["verdict"] == "PASS"
    assert checks["MM DeepHE3+TraceGrad: edge_permutation"]["verdict"] == "PASS"
    before, after = (checks[f"MM HarmoSE{when}: budget"] for when in (", before training", ""))
    assert before["error"] < 1e-9 < after["error"]  # meV
    assert "approximate" in after["message"]
    assert "MM HarmoSE: rotation" not in checks  # never called exact
    mae = max(metrics["mae_all"] for metrics in ledger.collected(runs[1])["metrics"].values())
    assert after["tolerance"] == pytest.approx(mae)
    assert json.loads(path.read_text())["verdict"] == "PASS"
    assert failing_targets(path) == []
    assert write_verification(ledger, runs[1:]) == path  # a sweep that is extended
    assert by_name(path).keys() == checks.keys()


def test_an_error_above_its_own_mae_is_no_pass(sweep: tuple[Ledger, list[Run]]) -> None:
    ledger, runs = sweep
    record = ledger.collected(runs[1])
    small = {name: metrics | {"mae_all": 1e-9} for name, metrics in record["metrics"].items()}
    write_json(ledger.record(runs[1]), record | {"metrics": small})
    path = write_verification(ledger, runs[1:])
    write_json(ledger.record(runs[1]), record)
    assert path is not None
    assert by_name(path)["MM HarmoSE: budget"]["verdict"] != "PASS"
    assert json.loads(path.read_text())["verdict"] != "PASS"
    assert failing_targets(path) == []  # how far equivariance is learned is measured


def report(target: str, verdict: str, *checks: tuple[str, str]) -> dict[str, Any]:
    """Make what is read of the verifier's report on one network."""
    listed = [{"name": name, "verdict": found, "error": 0.1, "tolerance": 0.2} for name, found in checks]
    return {"target": target, "verdict": verdict, "exit_code": int(verdict != "PASS"), "checks": listed}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("PRECISION", "STRUCTURAL"), "STRUCTURAL"),
        (("STRUCTURAL", "PRECISION"), "STRUCTURAL"),
        (("PASS", "SUSPECT"), "SUSPECT"),
        (("PASS", "PASS"), "PASS"),
    ],
    ids=" ".join,
)
def test_the_verdict_on_a_sweep_is_the_most_severe_of_its_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: tuple[str, str], expected: str
) -> None:
    ledger = Ledger(tmp_path, make_conditions("bundled", "smoke", "cpu", ()))
    runs = [Run(dataset, "DeepHE3+TraceGrad", 42, "DeepHE3+TraceGrad", ()) for dataset in ("MG", "MM")]
    for run in runs:
        ledger.training(run).mkdir(parents=True)
        (ledger.training(run) / CHECKPOINT).touch()
    found = dict(zip(("MG", "MM"), verdicts, strict=True))
    monkeypatch.setattr(verification, "_reports", lambda _, run: [report(run.dataset, found[run.dataset])])
    path = write_verification(ledger, runs)
    assert path is not None
    assert json.loads(path.read_text())["verdict"] == expected


BROKEN = report("MG DeepHE3+TraceGrad", "STRUCTURAL", ("rotation", "STRUCTURAL"), ("translation", "PASS"))


@pytest.mark.parametrize(
    ("second", "code", "words"),
    [
        (BROKEN, 1, "MG DeepHE3+TraceGrad: STRUCTURAL (rotation); see {path}"),
        (report("MG", "SUSPECT", ("inversion", "SUSPECT")), 1, "MG: SUSPECT (inversion)"),
        (
            report("MG", "HARNESS_NOISE", ("rotation", "PASS")),
            1,
            "HARNESS_NOISE (the verifier's own self-check failed)",
        ),
        (report("MG", "VACUOUS"), 1, "VACUOUS (no check ran)"),
        (report("MG", "STRUCTURAL", ("budget", "STRUCTURAL"), ("vacuity", "VACUOUS")), 1, "MG: VACUOUS (vacuity)"),
        (report("MG", "STRUCTURAL", ("budget", "STRUCTURAL"), ("vacuity", "PASS")), 0, ""),
        (report("MG", "PASS", ("rotation", "PASS")), 0, ""),
    ],
    ids=["structural", "suspect", "noise", "vacuous", "approximate-and-broken", "approximate", "control"],
)
def test_a_network_that_does_not_pass_is_named_and_changes_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: dict[str, Any], code: int, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "verify.json"
    write_json(path, {"reports": [report("MM DeepHE3+TraceGrad", "PASS", ("rotation", "PASS")), second]})
    monkeypatch.setattr(verification, "write_verification", lambda *_: path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), 0))  # draws nothing
    assert _draw(Ledger(tmp_path, make_conditions("bundled", "smoke", "cpu", ())), []) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == code
    assert all(words.format(path=path) in line for line in lines)


NO_VERDICT = '{"reports": [{"target": "x", "verdict": "FINE", "checks": []}]}'
NO_NAME = '{"reports": [{"target": "x", "verdict": "PASS", "checks": [{"verdict": "PASS"}]}]}'


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"target": "x", "checks": []}', '{"reports": [{"target": "x"}]}', NO_VERDICT, NO_NAME],
    ids=["truncated", "list", "no-reports", "no-checks", "no-verdict", "no-name"],
)
def test_a_report_that_is_not_of_this_sweep_is_left_alone(sweep: tuple[Ledger, list[Run]], content: str) -> None:
    ledger, runs = sweep
    path = ledger.out / "verify.json"
    path.write_text(content)
    with pytest.raises(DataError, match="move the file away"):
        write_verification(ledger, runs[1:])
    assert path.read_text() == content
    path.unlink()
    assert write_verification(ledger, runs[1:]) == path


def test_no_checkpoint_no_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, make_conditions("bundled", "smoke", "cpu", ()))
    assert write_verification(ledger, [Run("MM", "HarmoSE", 42, "HarmoSE", ())]) is None
    assert not (tmp_path / "verify.json").exists()
