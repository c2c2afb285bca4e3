"""Do the two losses pull the same way? ``python -m benchmarks.conflict CHECKPOINT...`` on nets with trace supervision.

For validation structures, the gradients of L_H and of the weighted L_T (Eq. 11) with respect to the weights that both
losses reach: their sizes, the cosine between them, and how well T is known already. A cosine near zero means that the
trace labels teach the shared weights nothing about H; a negative one that they push against it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from benchmarks.arguments import count
from tracegrad.atomic import atomic_write
from tracegrad.data import load_dataset
from tracegrad.errors import ConfigError, TracegradError
from tracegrad.graph import build_graph, collate
from tracegrad.model import DeepHE3
from tracegrad.training.checkpoint import load_checkpoint
from tracegrad.training.data import label_residual
from tracegrad.training.module import make_loss

PARTS = {
    "all shared weights": "",
    "node updates": "node_updates",
    "edge updates": "edge_updates",
    "operator": "induction",
}
OWN = "trace_decoder"  # weights that L_H does not reach
Row = tuple[str, float, float, float, float]


def make_parser() -> argparse.ArgumentParser:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conflict", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="final.ckpt of a training")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here too")
    parser.add_argument("--structures", type=count, default=3, help="validation structures, one batch (default 3)")
    return parser


def measure(checkpoint: Path, num_structures: int) -> list[Row]:
    """Relative T error, ``|grad L_T| / |grad L_H|`` and cosine for every part of the network.

    Args:
        checkpoint: of a network with trace supervision.
        num_structures: validation structures in the batch.

    Returns:
        ``(part, L_H in eV², L_T in its training unit, ratio of sizes, cosine)``.

    Raises:
        ConfigError: the network has no trace decoder.
    """
    model, config, _ = load_checkpoint(checkpoint)
    model = cast(DeepHE3, model)
    if getattr(model, OWN, None) is None:
        raise ConfigError(f"{checkpoint}: expected a network with trace supervision, found {config.model.setting}")
    model.train()
    dtype = next(model.parameters()).dtype
    structures = load_dataset(config.data.dataset, source=config.data.source).val
    graphs = [
        build_graph(structures[k], model.targets, dtype=dtype) for k in range(min(num_structures, len(structures)))
    ]
    if config.model.trace_of_residual:
        label_residual(graphs, model.output)
    graph = collate(graphs)
    loss = make_loss(config.training, model.targets)
    terms = loss(model.in_frame(graph), graph)
    assert terms.trace is not None
    shared = {name: p for name, p in model.named_parameters() if p.requires_grad and OWN not in name}
    of_both = _gradients(terms.total, shared)
    of_hamiltonian = _gradients(loss({"frame": model.in_frame(graph)["frame"]}, graph).total, shared)
    rows = []
    for part, word in PARTS.items():
        names = [name for name in shared if word in name]
        if names:
            H = torch.cat([of_hamiltonian[name] for name in names])
            T = torch.cat([of_both[name] for name in names]) - H
            if H.norm() > 0:  # L_H does not reach the invariants of a network without the operator
                cosine, ratio = float(torch.dot(H, T) / (H.norm() * T.norm())), float(T.norm() / H.norm())
                rows.append((part, float(terms.hamiltonian.detach()), float(terms.trace.detach()), ratio, cosine))
    return rows


def _gradients(total: Tensor, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(p) if gradient is None else gradient).flatten().double()
        for (name, p), gradient in zip(parameters.items(), found, strict=True)
    }


def table(rows: Sequence[tuple[str, Row]]) -> str:
    """Markdown table."""
    lines = [
        "| network | weights | L_H (eV²) | L_T | size of T's gradient over H's | cosine |",
        "|---|---|---|---|---|---|",
    ]
    for name, (part, hamiltonian, trace, ratio, cosine) in rows:
        lines.append(f"| {name} | {part} | {hamiltonian:.1e} | {trace:.1e} | {ratio:.2f} | {cosine:+.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = make_parser().parse_args(arguments)
    try:
        rows = [(_title(path), row) for path in options.checkpoints for row in measure(path, options.structures)]
    except TracegradError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.out:
        with atomic_write(options.out) as temporary:
            temporary.write_text(table(rows), encoding="utf-8")
    print(table(rows), end="")
    return 0


def _title(checkpoint: Path) -> str:
    _, config, _ = load_checkpoint(checkpoint)
    return f"{config.data.dataset} {config.model.setting}"


if __name__ == "__main__":
    sys.exit(main())
