"""A run can be tested with other weights of its training: as if it had been trained so, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ledger import Ledger
from benchmarks.plan import Run, configuration, make_conditions
from benchmarks.retest import main, retest
from tracegrad.errors import DataError
from tracegrad.evaluation import run_and_record

TINY = ("hidden_irreps=4x0e+2x1o+2x2e", "embed_dim=4", "num_radial=8", "lmax_sh=4")
ROUGH = ("num_train=1", "epochs=0", "max_steps=6", "validate_every=1", "warmup_steps=0", "learning_rate=1.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one rough training, whose last weights are not its best."""
    out = tmp_path_factory.mktemp("sweep")
    ledger = Ledger(out, make_conditions("bundled", "smoke", "cpu", (*TINY, *ROUGH, "select=best")))
    run = Run("MG", "DeepHE3", 42, "DeepHE3")
    run_and_record(configuration(run, ledger.conditions), ledger.training(run), quiet=True)
    ledger.records.mkdir()
    ledger.collect(run)
    return out


def test_other_weights_of_the_same_training_are_tested_as_if_it_had_kept_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run("MG", "DeepHE3", 42, "DeepHE3")
    conditions = make_conditions("bundled", "smoke", "cpu", (*TINY, *ROUGH, "select=last"))
    wanted = run_and_record(configuration(run, conditions), tmp_path / "last", quiet=True)
    path = folder / "runs" / f"{run.name}.json"
    first = json.loads(path.read_text())
    assert main([str(folder)]) == 0
    assert f"{run.name}: step {first['selected_step']} -> 6" in capsys.readouterr().out
    after = json.loads(path.read_text())
    assert {key: after[key] for key in ("selected_step", "steps", "metrics")} == {
        "selected_step": 6, "steps": 6, "metrics": json.loads(json.dumps(wanted["metrics"]))
    }  # fmt: skip
    assert after["metrics"] != first["metrics"]  # control: the choice matters here
    assert after["retested"]["select"] == "last"
    assert (after["train_seconds"], after["curve"]) == (first["train_seconds"], first["curve"])
    Ledger(folder, conditions).collected(run)  # and it is now a run of a sweep that keeps the last weights
    assert main([str(folder)]) == 0
    assert "has these weights already" in capsys.readouterr().out
    for select, metrics in (("best", first["metrics"]), ("last", after["metrics"])):  # there and back
        assert main([str(folder), "--select", select]) == 0
        assert json.loads(path.read_text())["metrics"] == metrics


def test_a_run_without_its_last_state_is_refused(folder: Path) -> None:
    (folder / "work" / "MG_DeepHE3_42" / "train" / "last.ckpt").rename(folder / "gone")
    with pytest.raises(DataError, match=r"expected last\.ckpt"):
        retest(folder, "MG_DeepHE3_42", "best" if _select(folder) == "last" else "last")
    (folder / "gone").rename(folder / "work" / "MG_DeepHE3_42" / "train" / "last.ckpt")


def test_a_truncated_record_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "runs" / "MG_DeepHE3_42.json").read_text()
    (tmp_path / "runs").mkdir()
    for content, code in ((text, 0), (text[:40], 2)):
        (tmp_path / "runs" / "MG_DeepHE3_42.json").write_text(content)
        assert main([str(tmp_path), "--select", _select(folder)]) == code
    assert "MG_DeepHE3_42.json: expected JSON" in capsys.readouterr().err


def _select(folder: Path) -> str:
    record = json.loads((folder / "runs" / "MG_DeepHE3_42.json").read_text())
    return str(record["config"]["training"]["select"])
