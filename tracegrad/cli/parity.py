"""``tracegrad parity``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracegrad.cli import Subparsers, add_command, print_json

EXAMPLES = """
tracegrad parity tests/reference/deephe3/spinless_mos2.npz
tracegrad parity tests/reference/deephe3/spinful_bismuth.npz --backend e3nn
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "parity",
        "Build the baseline from the weights of a case file, run it on the file's input, and compare with what the "
        "public DeepH-E3 code computed. Prints one JSON object; exit code 1 above 1e-10 relative.",
        EXAMPLES,
    )
    parser.add_argument("case", type=Path, metavar="CASE.npz", help="case file, see tests/reference/deephe3/README.md")
    parser.add_argument("--backend", choices=("fast", "e3nn"), default="fast", help="form of the layers")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare and print."""
    from tracegrad.model.parity import compare_case, passed

    result = compare_case(options.case, options.backend)
    if not options.quiet:
        print_json(result)
    return 0 if passed(result) else 1
