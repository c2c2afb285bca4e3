"""``run.json`` of a finished run: left as it is, compared with a baseline later, never measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracegrad.cli import main
from tracegrad.config import Config
from tracegrad.data import Dataset, Structure, StructureSequence
from tracegrad.errors import DataError
from tracegrad.evaluation import read_record, run_and_record, write_record

Tiny = Callable[..., Config]


def test_a_complete_run_does_not_read_its_test_structures_again(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    read: list[str] = []

    def note(name: str) -> Structure:
        read.append(name)
        return dataset.test.read(name)

    watched = replace(dataset, test=StructureSequence(dataset.test.names, note))
    first = run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=watched)
    assert read[:2] == ["test_0", "test_1"]
    assert len(read) > 2  # before the training and after it
    read.clear()
    assert run_and_record(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=watched) == first
    assert read == []


@pytest.fixture
def baseline(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> dict[str, Any]:
    """Return the record of another run that is worst where the first one is best."""
    record = run_and_record(tiny(model={"setting": "DeepHE3"}), tmp_path / "baseline", quiet=True, dataset=dataset)
    own = run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=dataset)
    for subset, metrics in record["metrics"].items():
        for table in ("per_structure", "mae_block"):
            best = min(own["metrics"][subset][table], key=own["metrics"][subset][table].__getitem__)
            metrics[table][best] = 1e6
    return record


def test_a_finished_run_is_compared_with_a_baseline_later(
    tiny: Tiny, dataset: Dataset, baseline: dict[str, Any], tmp_path: Path
) -> None:
    def again(**options: Any) -> dict[str, Any]:
        return run_and_record(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset, **options)

    file = tmp_path / "run" / "run.json"
    before, modified = read_record(file), file.stat().st_mtime_ns
    assert again() == before  # control: without a baseline nothing changes
    assert {metrics["cha_reference"] for metrics in before["metrics"].values()} == {"self"}
    record = again(baseline=baseline)
    assert read_record(file) == record
    assert file.stat().st_mtime_ns > modified
    for subset, metrics in record["metrics"].items():
        old = before["metrics"][subset]
        sample, block = min(old["per_structure"].values()), min(old["mae_block"].values())
        expected = {"mae_cha_sample": sample, "mae_cha_block": block, "cha_reference": "DeepHE3"}
        assert metrics == {**old, **expected}
        assert block < old["mae_cha_block"]
    assert record == {**before, "metrics": record["metrics"]}
    modified = file.stat().st_mtime_ns
    assert again() == again(baseline=baseline) == record
    assert file.stat().st_mtime_ns == modified
    new = run_and_record(tiny(), tmp_path / "new", quiet=True, dataset=dataset, baseline=baseline)
    assert new["metrics"] == record["metrics"]  # as if it had been given from the start


def test_the_command_shows_the_baseline_of_a_finished_run(
    tiny: Tiny, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(tiny(data={"source": str(data_file)}).to_yaml())
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--resume"]
    assert main([*command, "--json"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "baseline.json").write_text(first)
    assert {m["cha_reference"] for m in json.loads(first)["metrics"].values()} == {"self"}
    assert main([*command, "--json", "--baseline", str(tmp_path / "baseline.json")]) == 0
    assert {m["cha_reference"] for m in json.loads(capsys.readouterr().out)["metrics"].values()} == {"DeepHE3"}


@pytest.mark.parametrize("damage", [{"nt": {}}, {"nt": 3}, {"nt": {"per_structure": {"test_0": 1, "test_1": 2}}}])
def test_a_record_that_cannot_be_compared_is_refused_and_left_alone(
    tiny: Tiny, dataset: Dataset, baseline: dict[str, Any], tmp_path: Path, damage: dict[str, Any]
) -> None:
    def again(**options: Any) -> dict[str, Any]:
        return run_and_record(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset, **options)

    file = tmp_path / "run" / "run.json"
    write_record(file, {**read_record(file), "metrics": damage})
    before = file.read_bytes()
    with pytest.raises(DataError, match=r"run\.json: expected per_structure and mae_block in the metrics of every"):
        again(baseline=baseline)
    assert file.read_bytes() == before
    file.unlink()  # what the message says
    assert {metrics["cha_reference"] for metrics in again(baseline=baseline)["metrics"].values()} == {"DeepHE3"}
