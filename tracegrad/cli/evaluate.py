"""``tracegrad evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracegrad.cli import Subparsers, add_command, print_json

EXAMPLES = """
tracegrad evaluate runs/mg/final.ckpt --data MG
tracegrad evaluate runs/mg/final.ckpt --data path/to/MG.h5 --json
tracegrad evaluate runs/tg/final.ckpt --data MG --baseline runs/base/run.json
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "evaluate",
        "Measure a trained network on the test structures of a database: MAE_all, MAE_block and the challenging "
        "metrics, with the definitions of the paper's tables, in meV.",
        EXAMPLES,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="final.ckpt of a run")
    parser.add_argument("--data", required=True, metavar="KEY|PATH", help="key of a bundled database, or path to data")
    parser.add_argument("--key", metavar="NAME", help="name of the database where --data is a path")
    parser.add_argument(
        "--baseline", type=Path, metavar="RUN.json", help="record of DeepHE3 for the challenging metrics"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate as asked."""
    from tracegrad.cli.train import metric_lines
    from tracegrad.evaluation import evaluate_checkpoint, read_record

    baseline = read_record(options.baseline) if options.baseline else None
    result = evaluate_checkpoint(options.checkpoint, options.data, options.key, baseline=baseline)
    if options.json:
        print_json(result)
    elif not options.quiet:
        print(f"{result['setting']} on {result['dataset']} ({result['source']})")
        print("\n".join(metric_lines(result["metrics"])))
        for subset, metrics in result["metrics"].items():
            worst = sorted(metrics["mae_block"].items(), key=lambda item: -item[1])[:5]
            print(f"  {subset:>3}: worst blocks " + ", ".join(f"{name} {value:.2f}" for name, value in worst) + " meV")
    return 0
