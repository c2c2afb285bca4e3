"""``python -m reports FOLDER``: draw tables, figures and the page from ``FOLDER/runs/*.json`` and print the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from reports.build import build
from reports.render import HEADINGS, caption, ours_text, paper_text, seeds_text
from reports.tables import METRICS, PAPER, Table
from tracegrad.errors import TracegradError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Draw the reports of a sweep.",
        epilog="example: python -m reports reports/results/bundled --out drawn",
    )
    parser.add_argument("folder", type=Path, help="folder of the sweep; its runs/*.json are read")
    parser.add_argument("--out", type=Path, default=None, help="where the reports go (default: the same folder)")
    options = parser.parse_args(arguments)
    try:
        tables = build(options.folder, options.out)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 170, markup=False, emoji=False)
    for table in tables:
        show(table, console)
    console.print(f"tables, figures and report.html: {options.out or options.folder}", soft_wrap=True)
    return 0


def show(table: Table, console: Console) -> None:
    """Print one table: ours on the left, the paper's on the right under a heading that says whose they are."""
    grid = Grid(title=f"Table {table.layout.number}: {table.layout.title}\n{table.title}", title_justify="left")
    for name in ("data", "subset", "method"):
        grid.add_column(name, no_wrap=True)
    for metric in METRICS:
        grid.add_column(f"ours\n{HEADINGS[metric]}", justify="right")
    grid.add_column("runs", justify="right")
    for metric in METRICS:
        grid.add_column(f"PAPER, other data\n{HEADINGS[metric]}", justify="right", style="dim")
    previous = ("", "")
    for row in table.rows:
        if previous not in (("", ""), (row.dataset, row.subset)):
            grid.add_section()
        previous = (row.dataset, row.subset)
        ours, paper = [ours_text(row, metric) for metric in METRICS], [paper_text(row, metric) for metric in METRICS]
        grid.add_row(row.dataset, row.subset, row.method, *ours, seeds_text(row), *paper)
    console.print(grid)
    console.print(f"PAPER, other data = {PAPER}. {caption(table)}", style="dim", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
