"""Prediction of twisted bilayers of up to 10,000 atoms in chunks of edges: ``python -m benchmarks.large``.

Each structure is predicted and written as a DeepH folder in a process of its own, whose peak memory is recorded. The
network has the sizes of the ``bundled`` preset and random weights; the smallest structure is also predicted at once,
and both results are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.networks import exponent
from benchmarks.page import machine, write_table
from benchmarks.speed import print_rows, write_json
from tracegrad.config import load_config
from tracegrad.data import load_dataset, read_deeph
from tracegrad.data.dft.geometry import Twist, make_structure
from tracegrad.data.dft.systems import SYSTEMS
from tracegrad.graph import build_graph
from tracegrad.prediction import Predictor, predict_to_folder
from tracegrad.training.checkpoint import DataSummary, make_network, save_checkpoint

DATASET, SETTING, PRESET = "BG", "DeepHE3+TraceGrad", "bundled"
TWISTS = {868: Twist(9, 8), 2884: Twist(16, 15), 10444: Twist(30, 29)}  # atoms -> commensurate cell, 3.9° to 1.1°
TARGET_MEMORY = 24.0  # GB
TARGET_DIFFERENCE = 1e-6


def random_checkpoint(path: Path) -> Path:
    """Write an untrained network of the preset whose outputs have the scales of the data."""
    config, dataset = load_config(dataset=DATASET, setting=SETTING, preset=PRESET), load_dataset(DATASET)
    torch.manual_seed(0)
    model: Any = make_network(config.model, DataSummary.of(dataset))
    model.calibrate([build_graph(dataset.train[0], model.targets, dtype=torch.float32)])
    save_checkpoint(path, model, config, DataSummary.of(dataset), {})
    return path


def measure(checkpoint: Path, num_atoms: int, chunk_edges: int, form: str, compare: bool) -> dict[str, Any]:
    """Predict and write one structure in this process.

    Args:
        checkpoint: the network.
        num_atoms: one of ``TWISTS``.
        chunk_edges: directed edges in a chunk.
        form: of the DeepH folder.
        compare: predict the whole at once as well.
    """
    torch.set_num_threads(1)
    atoms = make_structure(SYSTEMS[DATASET], 0, twist=TWISTS[num_atoms])
    predictor = Predictor.load(checkpoint)
    before = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        started, processor = time.perf_counter(), time.process_time()
        out = Path(folder) / "predicted"
        facts = predict_to_folder(predictor, atoms, out, form, overlap="none", chunk_edges=chunk_edges)
        figures: dict[str, Any] = {
            "num_atoms": len(atoms),
            "num_edges": 2 * facts["pairs"] - len(atoms),
            "twist_degrees": TWISTS[num_atoms].angle,
            "chunk_edges": chunk_edges,
            "form": form,
            "wall_s": time.perf_counter() - started,
            "processor_s": time.process_time() - processor,
            "peak_memory_gb": peak_memory(),
            "memory_before_gb": before,
            "written_gb": sum(path.stat().st_size for path in out.iterdir()) / 1e9,
        }
        if compare:
            whole = predictor(atoms, overlap="none", chunk_edges=0).hamiltonian
            written = read_deeph(out, validate=False).hamiltonian
            assert whole is not None
            assert written is not None
            ours, theirs = written.hermitian_half(), whole
            order = [np.lexsort(blocks.keys().T) for blocks in (ours, theirs)]
            a, b = (blocks.select(o).values for blocks, o in zip((ours, theirs), order, strict=True))
            figures["max_rel_difference"] = float(np.abs(a - b).max() / np.abs(b).max())
    return figures


def peak_memory() -> float:
    """Largest resident memory of this process so far, GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    for figures in record["structures"]:
        text = f"{figures['processor_s']:.0f} s, {figures['peak_memory_gb']:.2f} GB"
        rows.append(
            (f"{figures['num_atoms']} atoms, {figures['num_edges']} edges: processor time, peak memory", text, "")
        )
        if "max_rel_difference" in figures:
            met = "met" if figures["max_rel_difference"] <= TARGET_DIFFERENCE else "NOT MET"
            what = f"{figures['num_atoms']} atoms: chunks against all at once, float32"
            rows.append((what, f"{figures['max_rel_difference']:.1e}", f"<= {TARGET_DIFFERENCE:g} {met}"))
    largest = max(figures["peak_memory_gb"] for figures in record["structures"])
    most = max(figures["num_atoms"] for figures in record["structures"])
    met = "met" if largest <= TARGET_MEMORY and most >= 10_000 else "NOT MET"
    rows.append(("peak memory of the largest", f"{largest:.2f} GB", f"<= {TARGET_MEMORY:g} GB, >= 10000 atoms {met}"))
    if "exponent" in record:
        met = "met" if record["exponent"] <= 1.1 else "NOT MET"
        rows.append(("exponent of the time over the atoms", f"{record['exponent']:.2f}", f"1 (<= 1.1) {met}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--atoms", type=int, nargs="+", default=list(TWISTS), choices=list(TWISTS))
    parser.add_argument("--chunk-edges", type=count, default=20_000, help="directed edges (default: %(default)s)")
    parser.add_argument("--form", choices=("legacy", "new"), default="new", help="DeepH form (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/performance"), metavar="DIR")
    options = parser.parse_args(arguments)
    structures = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "final.ckpt")
        for num_atoms in options.atoms:
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            with pool:
                compare = num_atoms == min(options.atoms)
                task = pool.submit(measure, checkpoint, num_atoms, options.chunk_edges, options.form, compare)
                structures.append(task.result())
            print(json.dumps(structures[-1]), file=sys.stderr, flush=True)
    record: dict[str, Any] = {
        "environment": {**environment(), "threads": 1},
        "clock": "processor time",
        "structures": structures,
    }
    if len(structures) > 1:
        sizes, seconds = ([s[key] for s in structures] for key in ("num_atoms", "processor_s"))
        record["exponent"] = exponent(sizes, seconds)
    print_rows(rows_of(record))
    write_json(options.out / "large.json", record)
    write_table(options.out / "large.md", machine(record), rows_of(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
