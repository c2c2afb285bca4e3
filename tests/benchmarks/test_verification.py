"""The verifier's part of a sweep: an exact network passes, HarmoSE is measured before and after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ledger import Ledger, write_json
from benchmarks.plan import Run, configuration, make_conditions
from benchmarks.verification import write_verification
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


@pytest.mark.parametrize("content", ["{", "[]", '{"target": "x", "checks": []}', '{"reports": [{"target": "x"}]}'])
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
