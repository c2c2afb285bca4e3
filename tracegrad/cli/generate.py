"""``tracegrad data generate``: more structures of the six systems, by CP2K."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracegrad.cli import examples_text, print_json
from tracegrad.errors import DataError

if TYPE_CHECKING:
    from tracegrad.data.dft.generate import Outcome, Report

EXIT_FAILED = 1
# Written out, so that help and completion do not import the data layer; a test compares them with it.
SYSTEMS = ("MG", "MM", "BG", "BB", "BT", "BS")
SPLITS = ("train", "val", "test", "train_large", "test_twisted")
FORMS = ("deeph", "compact")
EXAMPLES = """
tracegrad data generate --system MG --count 10 --seed 0 --out more_MG --jobs 2
tracegrad data generate --system BB --supercell 2 2 --split test --out larger_BB
tracegrad data generate --system BT --twist 21.79 --out twisted_BT --form compact
"""


def register(subparsers: Any) -> None:
    """Add the command ``generate`` to the parser of ``tracegrad data``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="compute more structures with CP2K",
        description=(
            "Compute structures of one system with CP2K (found on PATH) and write them as DeepH folders or one compact "
            "file. Finished structures are kept: the same command goes on after an interruption. A structure whose SCF "
            "fails is reported, not stored, and the exit code is 1."
        ),
        epilog=examples_text(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--system", required=True, choices=SYSTEMS, help="which system")
    parser.add_argument("--count", type=int, default=1, help="number of structures (default 1)")
    parser.add_argument(
        "--seed", type=int, default=0, help="index of the first structure; its seed is base + split + index (default 0)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--supercell", type=int, nargs="+", metavar="N", help="repeats along a and b (and c, which must be 1)"
    )
    parser.add_argument("--twist", type=float, metavar="DEGREES", help="commensurate twist angle, e.g. 21.79")
    parser.add_argument("--split", choices=SPLITS, help="train, or test_twisted with --twist, by default")
    parser.add_argument("--form", choices=FORMS, default="deeph", help="DeepH folders (default) or one compact file")
    parser.add_argument("--jobs", type=int, default=1, help="structures at a time, one thread each (default 1)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress, no text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate the structures; return 0, or 1 if any of them failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tracegrad.data.dft.generate import generate, make_requests

    requests = make_requests(
        arguments.system,
        arguments.count,
        arguments.seed,
        arguments.split,
        _in_plane(arguments.supercell),
        arguments.twist,
    )
    quiet = bool(getattr(arguments, "quiet", False))
    as_json = bool(getattr(arguments, "json", False))
    console = Console(stderr=True, soft_wrap=True, quiet=quiet or as_json)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{arguments.system} by CP2K", total=len(requests))

        def show(outcome: Outcome) -> None:
            progress.console.print(_line(outcome), markup=False, highlight=False)
            progress.advance(task)

        report = generate(requests, arguments.out, arguments.form, arguments.jobs, show)
    if as_json:
        print_json({"out": str(arguments.out), "outcomes": [asdict(outcome) for outcome in report.outcomes]})
    elif not quiet:
        print(_summary(report, arguments.out))
    return EXIT_FAILED if report.names("failed") else 0


def _in_plane(supercell: list[int] | None) -> tuple[int, int] | None:
    if supercell is None:
        return None
    if len(supercell) not in (2, 3) or supercell[2:] not in ([], [1]):
        raise DataError(f"expected --supercell N M or N M 1 (one cell along c), found {' '.join(map(str, supercell))}")
    return supercell[0], supercell[1]


def _line(outcome: Outcome) -> str:
    return f"{outcome.name}: {outcome.status}" + (f" ({outcome.message})" if outcome.message else "")


def _summary(report: Report, out: Path) -> str:
    counts = {status: len(report.names(status)) for status in ("done", "kept", "failed")}
    text = f"{out}: {counts['done']} computed, {counts['kept']} kept, {counts['failed']} failed"
    failed = report.names("failed")
    return text + (f"; not stored: {', '.join(failed)} (engine output in {out / 'failed'})" if failed else "")
