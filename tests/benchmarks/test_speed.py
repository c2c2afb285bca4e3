"""Benchmarks of speed: they run anywhere, a target that is missed is named, and a wrong measurement is seen."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, large, networks, scaling, speed, variants
from benchmarks.networks import exponent, network, random_graph, rounds
from benchmarks.page import write_speed
from tracegrad.errors import TracegradError
from tracegrad.model import NetworkSizes

SMALL = NetworkSizes("8x0e+4x1o+2x2e", 8, 2, 1, 7.2, 8, "graph")


SMALL_PLAIN = replace(SMALL, norm="none")


@pytest.fixture
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all networks be narrow; the code that measures stays the same."""
    torch.set_num_threads(1)
    monkeypatch.setitem(networks.TARGETS, 6, (0, 1))
    for module in (speed, variants):
        monkeypatch.setattr(module, "network", functools.partial(network, sizes=SMALL))
    monkeypatch.setattr(scaling, "network", lambda **keywords: network(**{**keywords, "sizes": SMALL_PLAIN}))
    monkeypatch.setattr(variants, "MODULES", {"fast": {"form": "low_rank", "width": 4, "trace_width": 4}})
    monkeypatch.setattr(speed, "PACKED", networks.Induction(operator=True, form="packed", width=8))


def work(milliseconds: float) -> Callable[[], None]:
    """Return a function that keeps the processor busy."""

    def run() -> None:
        end = time.process_time() + 1e-3 * milliseconds
        while time.process_time() < end:
            pass

    return run


def test_ratios_are_those_of_the_times() -> None:
    torch.set_num_threads(1)
    times = rounds({"slow": work(12), "fast": work(3)}, 5)
    assert times.ratio("slow", "fast") == pytest.approx(4.0, rel=0.2)
    assert times.median("fast") == pytest.approx(3e-3, rel=0.2)
    assert [len(values) for values in times.seconds.values()] == [5, 5]


def test_exponent_is_that_of_the_power_and_a_square_is_not_linear() -> None:
    sizes = [100, 1_000, 10_000, 100_000]
    with_offset = [1.0 + 1e-3 * n for n in sizes]
    assert exponent(sizes, [3e-6 * n**1.5 for n in sizes]) == pytest.approx(1.5, abs=1e-9)
    assert exponent(sizes, with_offset, 10_000) > exponent(sizes, with_offset) + 0.2
    record: dict[str, Any] = {"curves": {"x": {"num_edges": sizes, "seconds": [1e-9 * n**2 for n in sizes]}}}
    record["curves"]["x"]["exponent"] = exponent(sizes, record["curves"]["x"]["seconds"])
    assert "NOT MET" in scaling.rows_of(record)[0][2]


@pytest.mark.usefixtures("_small_networks")
def test_the_record_has_what_its_readers_rely_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "authors_operator", lambda *_: {"ratio": 2.0})
    words = ["--edges", "60", "--repeats", "1", "--modules", "fast", "--json", str(tmp_path / "speed.json")]
    assert speed.main(words) == 0
    figures = json.loads((tmp_path / "speed.json").read_text())["edges"]["60"]
    names = {"step_ratio", "inference_ratio", "saved_memory_ratio", "launches_fast", "max_rel_difference"}
    assert names <= figures.keys()
    assert figures["operator_overhead"].keys() == {"low_rank", "authors"}
    assert figures["max_rel_difference"] < 1e-12


@pytest.mark.usefixtures("_small_networks")
def test_gpu_command_runs_on_the_processor_and_names_what_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert set(record) == {"device", "parity", "speed", "training", "side_by_side"}
    assert set(record["parity"]) == {"spinful_bismuth", "spinless_mos2"}
    figures = record["speed"]["edges"]["60"]
    assert figures["max_rel_difference"] < 1e-12
    assert figures["launches_fast"] < figures["launches_e3nn"]
    precisions = record["speed"]["precisions"]
    assert precisions.keys() == {"float32", "bfloat16", "bfloat16 autocast"}
    assert precisions["float32"]["max_rel_error"] < 1e-5 < precisions["bfloat16"]["max_rel_error"]
    assert "same dtype" in precisions["bfloat16 autocast"]["skipped"]  # what cannot run is named, not left out
    (row,) = [row for row in speed.rows_of(record["speed"]) if "autocast" in row[0]]
    assert row[1] == "skipped"
    assert [training["steps"] for training in record["training"]] == [2]
    assert [len(found["train_seconds"]) for found in record["side_by_side"]] == list(gpu.SIDE_BY_SIDE)
    assert all(found["steps_per_second"] > 0 for found in record["side_by_side"])
    printed = capsys.readouterr().out
    assert "parity with the public code: spinful_bismuth" in printed
    rows = speed.rows_of(record["speed"])
    write_speed(tmp_path / "page", "speed", record["speed"], rows, tmp_path / "page", speed.TARGETS)
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"speed.md", "speed.png", "speed.svg"}
    table = (tmp_path / "page" / "speed.md").read_text()
    assert record["speed"]["environment"]["cpu"] in table
    assert f"| {figures['step_ratio']:.3g} |" in table
    missed = [row for row in speed.rows_of(record["speed"]) if "NOT MET" in row[2]]
    figures["max_rel_difference"] = 1e-9
    assert len([row for row in speed.rows_of(record["speed"]) if "NOT MET" in row[2]]) == len(missed) + 1
    monkeypatch.setattr(gpu, "parity", lambda cases, device: {"broken": {"H": 1e-3}})
    monkeypatch.setattr(gpu, "record_of", lambda *_, **__: record["speed"])
    monkeypatch.setattr(gpu, "short_training", lambda *_: record["training"][0])
    with pytest.raises(TracegradError, match="2 trainings side by side: at least one failed"):
        gpu.side_by_side("nowhere", True, 2)
    monkeypatch.setattr(gpu, "side_by_side", lambda *_: record["side_by_side"][0])
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "b.json")]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_command_says_that_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert "expected a CUDA GPU, found none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_small_networks")
def test_scaling_leaves_record_table_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "CHUNK_EDGES", 100)
    assert scaling.main(["--edges", "100", "300", "--repeats", "1", "--out", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png", ".svg"}
    curves = json.loads((tmp_path / "scaling.json").read_text())["curves"]
    assert {name: curve["num_edges"] for name, curve in curves.items()} == {
        name: [100, 300] for name in scaling.LARGEST
    }


def test_large_structures_are_judged_by_memory_and_number() -> None:
    figures = {
        "num_atoms": 10444,
        "num_edges": 1,
        "processor_s": 1.0,
        "peak_memory_gb": 1.1,
        "max_rel_difference": 1e-7,
    }
    verdicts = [row[2] for row in large.rows_of({"structures": [figures], "exponent": 1.02})]
    assert not any("NOT MET" in verdict for verdict in verdicts)
    for key, value in (("num_atoms", 9000), ("peak_memory_gb", 30.0), ("max_rel_difference", 1e-5)):
        worse = [row[2] for row in large.rows_of({"structures": [{**figures, key: value}], "exponent": 1.02})]
        assert sum("NOT MET" in verdict for verdict in worse) == 1


def test_a_graph_has_the_edges_that_are_asked_for() -> None:
    for edges in (100, 400, 1500):
        assert random_graph(edges).edge_index.shape[1] == pytest.approx(edges, rel=0.05)
