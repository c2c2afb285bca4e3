"""Time of the core from 100 to 100,000 edges: ``python -m benchmarks.scaling``.

A training step up to 10,000 edges, inference up to 30,000 edges at once and up to 100,000 in chunks, and the building
of the graph; float32, one thread, the widths of the public DeepH-E3 defaults without the norm over the whole graph,
which cannot be computed in chunks. The exponent of a straight line in the log-log plot is fitted from 1,000 edges on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.networks import (
    BASELINE,
    TARGETS,
    exponent,
    inference,
    network,
    pairs_of,
    random_graph,
    random_positions,
    rounds,
    training_step,
)
from benchmarks.page import write_scaling
from benchmarks.speed import print_rows, write_json
from tracegrad.data import Structure
from tracegrad.graph import PairChunks
from tracegrad.model import predict_in_chunks
from tracegrad.model.chunked import frame_degree

SIZES = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]
LARGEST = {"training step": 10_000, "inference": 30_000, "inference in chunks": 10**9, "building of the graph": 10**9}
CHUNK_EDGES = 10_000
FIT_FROM = 1_000  # edges; below, the fixed cost of a step counts
FEW = 10_000  # edges from which one round must do
LINEAR = 1.1


def functions_of(num_edges: int) -> dict[str, Callable[[], object]]:
    """What is measured at a size."""
    model = network(hermitian=True, sizes=replace(BASELINE, norm="none"))
    positions, side = random_positions(num_edges)
    pairs = pairs_of(positions, side, num_edges)
    numbers, cell = np.full(len(positions), 6), side * np.eye(3)
    structure = Structure(numbers, positions, cell, np.array([True] * 3), {6: TARGETS[6]})
    chunks = PairChunks(
        structure,
        pairs,
        model.targets,
        chunk_edges=CHUNK_EDGES,
        lmax=frame_degree(model),
        dtype=torch.float32,
    )
    functions: dict[str, Callable[[], object]] = {
        "building of the graph": lambda: random_graph(num_edges),
        "inference in chunks": lambda: [len(part.values) for part in predict_in_chunks(model, chunks)],
    }
    if num_edges <= LARGEST["inference"]:
        graph = random_graph(num_edges)
        functions["inference"] = inference(model, graph)
        if num_edges <= LARGEST["training step"]:
            functions["training step"] = training_step(model, graph)
    return functions


def measure(sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Curves ``num_edges``, ``seconds``, ``exponent`` of everything that is measured."""
    curves: dict[str, dict[str, Any]] = {name: {"num_edges": [], "seconds": []} for name in LARGEST}
    for size in sizes:
        functions = functions_of(size)
        times = rounds(functions, 1 if size >= FEW else repeats)
        for name in functions:
            curves[name]["num_edges"].append(size)
            curves[name]["seconds"].append(times.median(name))
    for curve in curves.values():
        curve["exponent"] = exponent(curve["num_edges"], curve["seconds"], FIT_FROM)
    return curves


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    for name, curve in record["curves"].items():
        met = "met" if curve["exponent"] <= LINEAR else "NOT MET"
        rows.append((f"{name}: exponent", f"{curve['exponent']:.2f}", f"<= {LINEAR:g} {met}"))
        per_edge = 1e6 * curve["seconds"][-1] / curve["num_edges"][-1]
        rows.append((f"{name}: µs/edge at {curve['num_edges'][-1]:,} edges", f"{per_edge:.0f}", ""))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--edges", type=count, nargs="+", default=SIZES, help="directed edges (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=3, help="rounds up to 10,000 edges (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/performance"), metavar="DIR")
    parser.add_argument("--images", type=Path, metavar="DIR", help="write plots here (default: --out)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    record = {
        "environment": {**environment(), "threads": 1},
        "clock": "processor time",
        "curves": measure(sorted(options.edges), options.repeats),
    }
    print_rows(rows_of(record))
    write_json(options.out / "scaling.json", record)
    write_scaling(options.out, record, rows_of(record), options.images or options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
