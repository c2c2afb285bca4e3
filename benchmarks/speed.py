"""Speed of the core against the e3nn formulation of the same network: ``python -m benchmarks.speed``.

Every ratio is the median over rounds in one process, calls in turn; float32; the widths of the public DeepH-E3
defaults; one thread unless asked otherwise. Targets are printed beside what was measured. ``--json`` leaves the record,
``--out`` also the table and plots; the site's page on performance quotes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from benchmarks import ledger
from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.networks import inference, launches, loss, network, random_graph, rounds, saved_bytes, training_step
from benchmarks.page import write_speed
from benchmarks.variants import MODULES, compiled, cost_of_settings, graph_building, precisions
from tracegrad.model import GradientInduction, Induction
from tracegrad.model.e3nn_backend import E3nnDeepHE3, E3nnInduction
from tracegrad.so3.frames import FrameBlocks

LOW_RANK = Induction(operator=True, form="low_rank", width=64)
PACKED = Induction(operator=True, form="packed", width=1024)
AUTHORS_EDGES = 400  # the fully connected tensor product of the authors' width takes a second for so many
QUICK_EDGES = 20
VARIANT_EDGES = 1500  # settings, precisions and compilation are compared at one size
PAPER_REPEATS = 2  # a step with the operator of the paper takes seconds
PUBLIC_STEP = {392: (1590, 1710), 1568: (1440, 1650), 3528: (1470, 1780)}  # µs per edge, reference/performance.md
PUBLIC_TOLERANCE = 1.15
TARGETS: dict[str, Callable[[int], tuple[str, float]]] = {
    "step_ratio": lambda edges: (">=", 10.0 if edges >= 1000 else 6.0),
    "inference_ratio": lambda edges: (">=", 13.0),
    "saved_memory_ratio": lambda edges: (">=", 5.0),
    "launches_fast": lambda edges: ("<=", 4000),
    "operator_low_rank_per_block": lambda edges: ("<=", 0.2),
    "max_rel_difference": lambda edges: ("<=", 1e-12),
}
OPERATOR_TARGET = 1.6


def measure(num_edges: int, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """All figures at one size.

    Args:
        num_edges: directed edges, self-loops included (the random graph comes close).
        repeats: rounds of timing.
        device: where the networks run.
    """
    graph = random_graph(num_edges).to(device)
    exact = random_graph(min(num_edges, 400), torch.float64).to(device)
    fast = network().to(device)
    slow = E3nnDeepHE3(fast)
    low_rank, packed = network(LOW_RANK).to(device), network(PACKED).to(device)
    edges = int(graph.edge_index.shape[1])
    step = rounds({"fast": training_step(fast, graph), "e3nn": training_step(slow, graph)}, repeats, device)
    forward = rounds({"fast": inference(fast, graph), "e3nn": inference(slow, graph)}, repeats, device)
    both = {"fast": training_step(fast, graph), "low_rank": training_step(low_rank, graph)}
    share = rounds(both, 2 * repeats, device).ratio("low_rank", "fast") - 1
    both = {"fast": training_step(fast, graph), "authors": training_step(packed, graph)}
    share_authors = rounds(both, min(repeats, PAPER_REPEATS), device).ratio("authors", "fast") - 1
    saved = {"fast": saved_bytes(fast, graph) / edges, "e3nn": saved_bytes(slow, graph) / edges}
    return {
        "num_edges": edges,
        "num_atoms": int(graph.num_nodes),
        "step_us_per_edge": {name: 1e6 * step.median(name) / edges for name in step.seconds},
        "inference_us_per_edge": {name: 1e6 * forward.median(name) / edges for name in forward.seconds},
        "saved_kb_per_edge": {name: size / 1024 for name, size in saved.items()},
        "step_ratio": step.ratio("e3nn", "fast"),
        "inference_ratio": forward.ratio("e3nn", "fast"),
        "saved_memory_ratio": saved["e3nn"] / saved["fast"],
        "launches_fast": launches(training_step(fast, graph)),
        "launches_e3nn": launches(training_step(slow, graph)),
        "operator_overhead": {"low_rank": share, "authors": share_authors},  # of the fast step
        "operator_low_rank_per_block": share / low_rank.sizes.num_blocks,
        "max_rel_difference": largest_difference(exact, device),
        **graph_building(num_edges, repeats),
    }


def largest_difference(graph: Data, device: str = "cpu") -> float:
    """Largest relative difference between the two forms in float64: outputs and gradients of all parameters."""
    fast = network(LOW_RANK, dtype=torch.float64).to(device)
    slow = E3nnDeepHE3(fast)
    worst, gradients = 0.0, []
    a, b = fast.in_frame(graph)["frame"].detach(), slow.in_frame(graph)["frame"].detach()
    worst = float((a - b).abs().max() / b.abs().max())
    parameters = [p for p in fast.parameters() if p.requires_grad]
    for model in (fast, slow):
        gradients.append(torch.autograd.grad(loss(model, graph), parameters, allow_unused=True))
    for mine, theirs in zip(*gradients, strict=True):
        if theirs is not None:
            worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)))
    return worst


def authors_operator(repeats: int, device: str = "cpu", edges: int = AUTHORS_EDGES) -> dict[str, float]:
    """The operator at the authors' width: closed form on packed weights against autograd through e3nn's product.

    Args:
        repeats: rounds of timing.
        device: where it runs.
        edges: rows.

    Returns:
        µs per edge of a forward and backward pass of both, and their ratio.
    """
    fast = network(PACKED).to(device)
    layout = fast.layouts_edge[1]
    induction = fast.inductions[0]
    assert isinstance(induction, GradientInduction)
    oracle = E3nnInduction(induction).to(device)
    features = torch.randn(edges, layout.dim, device=device)

    def step(operator: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[], None]:
        def run() -> None:
            induction.zero_grad(set_to_none=True)
            leaf = features.clone().requires_grad_()
            z, v = operator(leaf)
            (z.square().mean() + v.square().mean()).backward()

        return run

    def closed(leaf: Tensor) -> tuple[Tensor, Tensor]:
        blocks: FrameBlocks
        z, blocks = induction.in_frame(layout.split(leaf))
        return z, layout.flatten(blocks)

    both = {"closed": step(closed), "autograd": step(lambda leaf: oracle(leaf, induction, True))}
    times = rounds(both, max(3, repeats // 2), device)
    per_edge = {f"{name}_us_per_edge": 1e6 * times.median(name) / edges for name in times.seconds}
    return {**per_edge, "ratio": times.ratio("autograd", "closed")}


def record_of(
    edges: Sequence[int],
    repeats: int,
    device: str = "cpu",
    *,
    modules: Sequence[str] = tuple(MODULES),
    with_compile: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """All figures of a machine.

    Args:
        edges: sizes.
        repeats: rounds of timing.
        device: where the networks run.
        modules: keys of ``MODULES`` at which the settings are compared.
        with_compile: measure ``torch.compile`` too, which takes minutes.
        quick: few edges in the comparison of the operator.
    """
    threads = torch.get_num_threads()
    variants = random_graph(min(VARIANT_EDGES, max(edges))).to(device)
    few = min(repeats, PAPER_REPEATS)
    record: dict[str, Any] = {
        "environment": {**environment(device), "threads": threads},
        "clock": "processor time" if threads == 1 and device == "cpu" else "wall time",
        "edges": {str(number): measure(number, repeats, device) for number in edges},
        "authors_operator": authors_operator(repeats, device, QUICK_EDGES if quick else AUTHORS_EDGES),
        "settings": {
            name: cost_of_settings(variants, repeats if name == "fast" else few, name, device) for name in modules
        },
        "precisions": precisions(min(VARIANT_EDGES, max(edges)), repeats, device),
    }
    if with_compile:
        record["compile"] = compiled(min(VARIANT_EDGES, max(edges)), repeats, device)
    return record


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    quiet = record["clock"] == "processor time"
    for edges, figures in record["edges"].items():
        for name, target in TARGETS.items():
            sign, limit = target(int(edges))
            value = float(figures[name])
            met = value >= limit if sign == ">=" else value <= limit
            rows.append((f"E = {edges}: {name}", f"{value:.3g}", f"{sign} {limit:g} {'met' if met else 'NOT MET'}"))
        for kind in ("step", "inference"):
            both = figures[f"{kind}_us_per_edge"]
            note = ""
            if kind == "step" and quiet:
                note = _against_public(int(edges), both["e3nn"])
            rows.append(
                (f"E = {edges}: {kind}, µs/edge, fast / e3nn", f"{both['fast']:.0f} / {both['e3nn']:.0f}", note)
            )
        text = f"{figures['neighbours_us_per_edge']:.1f} + {figures['graph_us_per_edge']:.1f}"
        rows.append((f"E = {edges}: pairs + frames, µs/edge", text, ""))
    ratio = record["authors_operator"]["ratio"]
    verdict = "met" if ratio >= OPERATOR_TARGET else "NOT MET"
    rows.append(
        ("operator of 1024 channels: autograd / closed form", f"{ratio:.3g}", f">= {OPERATOR_TARGET:g} {verdict}")
    )
    for modules, costs in record["settings"].items():
        for setting, cost in costs.items():
            rows.append((f"{setting} over the baseline's step, modules: {modules}", f"{cost:+.0%}", ""))
    for name, figures in record["precisions"].items():
        skipped = figures.get("skipped", "")
        text = "skipped" if skipped else f"{figures['max_rel_error']:.1e}, {figures['us_per_edge']:.0f}"
        rows.append((f"{name}: error against float64, µs/edge of inference", text, skipped))
    for name, result in record.get("compile", {}).items():
        text = f"{result['ratio']:.2f}" if "ratio" in result else "skipped"
        rows.append((f"torch.compile of the {name}: time before / after", text, result.get("skipped", "")))
    return rows


def _against_public(edges: int, microseconds: float) -> str:
    """Whether a step of the e3nn backend is as fast as the public code was on a quiet machine."""
    nearest = min(PUBLIC_STEP, key=lambda number: abs(number - edges))
    if abs(nearest - edges) > 0.2 * nearest:
        return ""
    low, high = PUBLIC_STEP[nearest]
    verdict = "met" if microseconds <= PUBLIC_TOLERANCE * high else "NOT MET"
    return f"e3nn <= {PUBLIC_TOLERANCE} x {high} (public code {low}-{high}) {verdict}"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_json(path, record)


def print_rows(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print a table in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for what, measured, target in rows:
        print(f"{what:<{widths[0]}}  {measured:>{widths[1]}}  {target}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON, table and plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--edges", type=int, nargs="+", default=[400, 1500, 3500], help="directed edges (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=5, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--modules", nargs="+", choices=list(MODULES), default=list(MODULES), help="of the settings")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too (minutes)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write speed.json, speed.md and plots here")
    parser.add_argument("--images", type=Path, metavar="DIR", help="write plots here (default: --out)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    record = record_of(options.edges, options.repeats, modules=options.modules, with_compile=options.compile)
    print_rows(rows_of(record))
    if options.json:
        write_json(options.json, record)
    if options.out:
        stem = "speed" if options.threads == 1 else f"speed_threads{options.threads}"
        write_json(options.out / f"{stem}.json", record)
        write_speed(options.out, stem, record, rows_of(record), options.images or options.out, TARGETS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
