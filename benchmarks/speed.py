"""Speed of the core against the e3nn formulation of the same network: ``python -m benchmarks.speed``.

Every figure is a ratio measured in one process, calls in turn, medians; float32; the widths of the public DeepH-E3
defaults; one thread unless asked otherwise. Targets are printed beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from benchmarks.environment import environment
from benchmarks.networks import (
    inference,
    interleaved,
    launches,
    loss,
    network,
    random_graph,
    saved_bytes,
    training_step,
)
from tracegrad.atomic import atomic_write
from tracegrad.model import GradientInduction, Induction
from tracegrad.model.e3nn_backend import E3nnDeepHE3, E3nnInduction
from tracegrad.so3.frames import FrameBlocks

LOW_RANK = Induction(operator=True, form="low_rank", width=64)
PACKED = Induction(operator=True, form="packed", width=1024)
AUTHORS_EDGES = 400  # the fully connected tensor product of the authors' width takes a second for so many
PUBLIC_STEP = {392: (1590, 1710), 1568: (1440, 1650), 3528: (1470, 1780)}  # µs per edge, reference/performance.md
TARGETS: dict[str, Callable[[int], tuple[str, float]]] = {
    "step_ratio": lambda edges: (">=", 10.0 if edges >= 1000 else 6.0),
    "inference_ratio": lambda edges: (">=", 13.0 if edges >= 1000 else 0.0),
    "saved_memory_ratio": lambda edges: (">=", 5.0),
    "launches_fast": lambda edges: ("<=", 4000),
    "operator_low_rank": lambda edges: ("<=", 0.2),
    "max_rel_difference": lambda edges: ("<=", 1e-12),
}


def measure(num_edges: int, repeats: int) -> dict[str, Any]:
    """All figures at one size.

    Args:
        num_edges: directed edges, self-loops included (the random graph comes close).
        repeats: rounds of timing.
    """
    graph, exact = random_graph(num_edges), random_graph(min(num_edges, 400), torch.float64)
    fast = network()
    slow = E3nnDeepHE3(fast)
    edges = int(graph.edge_index.shape[1])
    step = interleaved({"fast": training_step(fast, graph), "e3nn": training_step(slow, graph)}, repeats)
    forward = interleaved({"fast": inference(fast, graph), "e3nn": inference(slow, graph)}, repeats)
    saved = {"fast": saved_bytes(fast, graph) / edges, "e3nn": saved_bytes(slow, graph) / edges}
    settings = {"fast": fast, "low_rank": network(LOW_RANK), "packed": network(PACKED)}
    overhead = interleaved({name: training_step(model, graph) for name, model in settings.items()}, repeats)
    return {
        "num_edges": edges,
        "num_atoms": int(graph.num_nodes),
        "step_us_per_edge": {name: 1e6 * seconds / edges for name, seconds in step.items()},
        "inference_us_per_edge": {name: 1e6 * seconds / edges for name, seconds in forward.items()},
        "saved_kb_per_edge": {name: size / 1024 for name, size in saved.items()},
        "step_ratio": step["e3nn"] / step["fast"],
        "inference_ratio": forward["e3nn"] / forward["fast"],
        "saved_memory_ratio": saved["e3nn"] / saved["fast"],
        "launches_fast": launches(training_step(fast, graph)),
        "launches_e3nn": launches(training_step(slow, graph)),
        "operator_overhead": {
            name: (overhead[name] - overhead["fast"]) / overhead["fast"] for name in ("low_rank", "packed")
        },
        "max_rel_difference": largest_difference(exact),
    }


def largest_difference(graph: Data) -> float:
    """Largest relative difference between the two forms in float64: outputs and gradients of all parameters."""
    fast = network(LOW_RANK, dtype=torch.float64)
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


def authors_operator(repeats: int) -> dict[str, float]:
    """The operator at the authors' width: closed form on packed weights against autograd through e3nn's product.

    Returns:
        µs per edge of a forward and backward pass of both, and their ratio.
    """
    fast = network(PACKED)
    layout = fast.layouts_edge[1]
    induction = fast.inductions[0]
    assert isinstance(induction, GradientInduction)
    oracle = E3nnInduction(induction)
    features = torch.randn(AUTHORS_EDGES, layout.dim)

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

    seconds = interleaved(
        {"closed": step(closed), "autograd": step(lambda leaf: oracle(leaf, induction, True, True))},
        max(3, repeats // 2),
    )
    per_edge = {f"{name}_us_per_edge": 1e6 * value / AUTHORS_EDGES for name, value in seconds.items()}
    return {**per_edge, "ratio": seconds["autograd"] / seconds["closed"]}


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows ``(what, measured, target)`` of the printed table."""
    rows = []
    for edges, figures in record["edges"].items():
        low_rank, packed = figures["operator_overhead"]["low_rank"], figures["operator_overhead"]["packed"]
        flat = {**figures, "operator_low_rank": low_rank}
        for name, target in TARGETS.items():
            sign, limit = target(int(edges))
            value = float(flat[name])
            met = value >= limit if sign == ">=" else value <= limit
            rows.append((f"E = {edges}: {name}", f"{value:.3g}", f"{sign} {limit:g} {'met' if met else 'NOT MET'}"))
        rows.append((f"E = {edges}: operator_packed", f"{packed:.3g}", ""))
        for kind in ("step", "inference"):
            both = figures[f"{kind}_us_per_edge"]
            text = f"{both['fast']:.0f} / {both['e3nn']:.0f}"
            public = PUBLIC_STEP.get(min(PUBLIC_STEP, key=lambda n: abs(n - int(edges)))) if kind == "step" else None
            note = f"public code {public[0]}-{public[1]}, quiet machine" if public else ""
            rows.append((f"E = {edges}: {kind}, µs per edge, fast / e3nn", text, note))
    ratio = record["authors_operator"]["ratio"]
    verdict = "met" if ratio >= 1.6 else "NOT MET"
    rows.append(("operator of 1024 channels: autograd / closed form", f"{ratio:.3g}", f">= 1.6 {verdict}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--edges", type=int, nargs="+", default=[400, 1500, 3500], help="directed edges (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {
        "environment": {**environment(), "threads": options.threads},
        "clock": "processor time" if options.threads == 1 else "wall time",
        "edges": {str(edges): measure(edges, options.repeats) for edges in options.edges},
        "authors_operator": authors_operator(options.repeats),
    }
    width = max(len(row[0]) for row in rows_of(record))
    for what, measured, target in rows_of(record):
        print(f"{what:<{width}}  {measured:>14}  {target}")
    if options.json:
        with atomic_write(options.json) as temporary:
            Path(temporary).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
