"""Everything that a GPU has to show, in one command and one file: ``python -m benchmarks.gpu``.

Parity with the public DeepH-E3 code on the reference cases (float64, on the device), the ratios of
``benchmarks.speed`` with sizes that fill a GPU, the precisions, and a short training on bundled graphene. The record
names the device. ``--device cpu --quick`` runs the same code where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

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
QUICK = ("data.num_train=2", "training.epochs=1", "training.validate_every=1")


def parity(cases: Path, device: str) -> dict[str, Any]:
    """Largest relative difference of every reference case; empty where there is none."""
    return {path.stem: compare_case(path, device=device)["max_rel"] for path in sorted(cases.glob("*.npz"))}


def short_training(device: str, quick: bool) -> dict[str, Any]:
    """The smoke preset on bundled graphene: seconds, and the MAE on the test structures in meV."""
    overrides = [f"training.device={device}", *(QUICK if quick else ())]
    config = load_config(**TRAINING, overrides=overrides)
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = run_and_record(config, folder, quiet=True)
    return {
        **TRAINING,
        "overrides": overrides,
        "wall_s": perf_counter() - started,
        "train_seconds": record["train_seconds"],
        "steps": record["steps"],
        "mae_all_mev": {name: metrics["mae_all"] for name, metrics in record["metrics"].items()},
    }


def all_rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    for case, differences in record["parity"].items():
        worst = max(differences.values())
        met = "met" if worst <= TOLERANCE else "NOT MET"
        rows.append((f"parity with the public code: {case}", f"{worst:.1e}", f"<= {TOLERANCE:g} {met}"))
    rows += rows_of(record["speed"])
    training = record["training"]
    text = ", ".join(f"{name} {value:.1f}" for name, value in training["mae_all_mev"].items())
    rows.append(
        (f"training of {training['steps']} steps: seconds; MAE in meV", f"{training['train_seconds']:.0f}", text)
    )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small size, one round, one epoch")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timing (default: %(default)s)")
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
        record = {
            "device": device_name(torch.device(options.device)),
            "parity": cases,
            "speed": record_of(edges, repeats, options.device, modules=modules, quick=options.quick),
            "training": short_training(options.device, options.quick),
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
