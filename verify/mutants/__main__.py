"""``python -m verify.mutants [matrix | false-alarms | e3nn]``: how good the verifier itself is, in figures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tracegrad.atomic import atomic_write
from tracegrad.errors import TracegradError

from ..reporting.markdown import kill_matrix_markdown
from .false_alarms import count_false_alarms
from .matrix import kill_matrix
from .outcome import KillMatrix
from .side_by_side import side_by_side


def _matrix(options: argparse.Namespace) -> int:
    matrix = kill_matrix(
        options.keys or None,
        seed=options.seed,
        workers=options.workers,
        progress=lambda outcome: print(outcome.line(), flush=True),
    )
    print(matrix.tally())
    if options.out is not None:
        _write(options.out, "kill_matrix.md", kill_matrix_markdown(matrix), matrix)
    return 0 if matrix.passed else 1


def _write(folder: Path, name: str, text: str, matrix: KillMatrix) -> None:
    """Table and picture."""
    from ..reporting.pictures import kill_matrix as picture
    from ..reporting.pictures import save

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")
    save(picture(matrix), folder, "kill_matrix")


def _false_alarms(options: argparse.Namespace) -> int:
    tally = count_false_alarms(
        options.runs,
        seed=options.seed,
        workers=options.workers,
        record=options.record,
        progress=lambda line: print(line, flush=True),
    )
    print(tally.line())
    return 0 if not tally.flagged else 1


def _e3nn(options: argparse.Namespace) -> int:
    found = side_by_side(options.keys or None, seed=options.seed, progress=lambda line: print(line, flush=True))
    print(found.to_markdown())
    if options.out is not None:
        _write(options.out, "side_by_side.md", found.to_markdown(), found.matrix)
    return 0 if found.matrix.passed else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 0 when the figures are as they should be, 1 when not, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="How good the verifier itself is: kill matrix, false alarms, or both beside e3nn's tool.",
    )
    parser.add_argument("command", nargs="?", default="matrix", choices=("matrix", "false-alarms", "e3nn"))
    parser.add_argument("--keys", nargs="*", default=[], metavar="KEY", help="entries of the catalogue, such as M1 C3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1000, help="control runs (false-alarms)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="JSON lines of the control runs; runs in it are not repeated"
    )
    parser.add_argument("--workers", type=int, default=min(2, len(os.sched_getaffinity(0))), help="processes")
    parser.add_argument("--out", type=Path, default=None, help="folder for the matrix as Markdown, PNG and SVG")
    options = parser.parse_args(arguments)
    try:
        return {"matrix": _matrix, "false-alarms": _false_alarms, "e3nn": _e3nn}[options.command](options)
    except TracegradError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
