"""Everything that a GPU has to show, in one command and one file: ``python -m benchmarks.gpu``.

Parity with the public DeepH-E3 code on the reference cases (float64, on the device), the ratios of
``benchmarks.speed`` with sizes that fill a GPU, the precisions, a short training on bundled graphene, plain and with
its steps recorded as CUDA graphs, and several such trainings side by side. The record names the device. ``--device
cpu --quick`` runs the same code where there is no GPU, but for the recording.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.arguments import count
from benchmarks.speed import print_rows, record_of, rows_of, write_json
from benchmarks.variants import MODULES
from tracegrad.config import load_config
from tracegrad.errors import TracegradError
from tracegrad.evaluation import run_and_record
from tracegrad.model.parity import TOLERANCE, compare_case
from tracegrad.training.device import device_name

CASES = Path(__file__).resolve().parent.parent / "tests" / "reference" / "deephe3"
EDGES = [400, 1500, 3500, 30_000]
QUICK_EDGES = [60]
TRAINING = {"dataset": "MG", "setting": "DeepHE3+TraceGrad", "preset": "smoke"}
SIDE_BY_SIDE = (1, 4)
QUICK = ("data.num_train=2", "training.epochs=1", "training.validate_every=1")


def parity(cases: Path, device: str) -> dict[str, Any]:
    """Largest relative difference of every reference case; empty where there is none."""
    return {path.stem: compare_case(path, device=device)["max_rel"] for path in sorted(cases.glob("*.npz"))}


def short_training(device: str, quick: bool, recorded: bool = False) -> dict[str, Any]:
    """The smoke preset on bundled graphene: seconds, and the MAE on the test structures in meV.

    Args:
        device: where it runs.
        quick: two structures, once.
        recorded: with ``training.cuda_graphs``.
    """
    config = load_config(**TRAINING, overrides=_overrides(device, quick, recorded))
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = run_and_record(config, folder, quiet=True)
    return {
        **TRAINING,
        "recorded": recorded,
        "wall_s": perf_counter() - started,
        "train_seconds": record["train_seconds"],
        "steps": record["steps"],
        "mae_all_mev": {name: metrics["mae_all"] for name, metrics in record["metrics"].items()},
    }


def side_by_side(device: str, quick: bool, count: int, recorded: bool = False) -> dict[str, Any]:
    """Several trainings at the same time on one device: seconds of the training of each, start-up left out.

    Raises:
        TracegradError: one of them failed.
    """
    command = [sys.executable, "-m", "tracegrad", "train", "--json", "--quiet"]
    command += [f"--{key}={value}" for key, value in TRAINING.items()]
    for text in _overrides(device, quick, recorded):
        command += ["--set", text]
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen([*command, "--out", f"{folder}/{k}"], stdout=subprocess.DEVNULL) for k in range(count)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise TracegradError(f"{count} trainings side by side: at least one failed; its message is above")
        records = [json.loads(Path(folder, str(k), "run.json").read_bytes()) for k in range(count)]
    seconds = [record["train_seconds"] for record in records]
    return {
        "count": count,
        "recorded": recorded,
        "train_seconds": seconds,
        "steps_per_second": sum(record["steps"] for record in records) / max(seconds),
    }


def _mark(found: dict[str, Any]) -> str:
    return ", steps recorded" if found["recorded"] else ""


def _overrides(device: str, quick: bool, recorded: bool) -> list[str]:
    graphs = ("training.cuda_graphs=true",) if recorded else ()
    return [f"training.device={device}", *(QUICK if quick else ()), *graphs]


def all_rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    for case, differences in record["parity"].items():
        worst = max(differences.values())
        met = "met" if worst <= TOLERANCE else "NOT MET"
        rows.append((f"parity with the public code: {case}", f"{worst:.1e}", f"<= {TOLERANCE:g} {met}"))
    rows += rows_of(record["speed"])
    for training in record["training"]:
        text = ", ".join(f"{subset} {value:.1f}" for subset, value in training["mae_all_mev"].items())
        what = f"training of {training['steps']} steps{_mark(training)}: seconds; MAE in meV"
        rows.append((what, f"{training['train_seconds']:.1f}", text))
    for found in record["side_by_side"]:
        what = f"{found['count']} trainings side by side{_mark(found)}: steps per second"
        rows.append((what, f"{found['steps_per_second']:.1f}", ""))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small size, one round, one epoch")
    parser.add_argument("--repeats", type=count, default=7, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--cases", type=Path, default=CASES, metavar="DIR", help="reference cases (*.npz)")
    parser.add_argument("--out", type=Path, default=Path("reports/performance/gpu.json"), metavar="FILE")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "benchmarks.gpu: expected a CUDA GPU, found none (torch.cuda.is_available() is False); nothing is "
            "measured. `--device cpu --quick` runs the same code on the processor.",
            file=sys.stderr,
        )
        return 2
    try:
        cases = parity(options.cases, options.device)
        edges, repeats = (QUICK_EDGES, 1) if options.quick else (EDGES, options.repeats)
        modules = ["fast"] if options.quick else list(MODULES)
        modes = (False, True) if options.device == "cuda" else (False,)  # with the steps recorded as CUDA graphs
        record = {
            "device": device_name(torch.device(options.device)),
            "parity": cases,
            "speed": record_of(edges, repeats, options.device, modules=modules, quick=options.quick),
            "training": [short_training(options.device, options.quick, recorded) for recorded in modes],
            "side_by_side": [
                side_by_side(options.device, options.quick, count, recorded)
                for recorded in modes
                for count in SIDE_BY_SIDE
            ],
        }
    except TracegradError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    print(record["device"])
    print_rows(all_rows(record))
    write_json(options.out, record)
    return 0 if all(max(found.values()) <= TOLERANCE for found in cases.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
