"""The tables on one screen: MAE_all of every subset and backbone, as the README shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.render import EMPTY, change_text, equivariance_text, markdown_grid, ours_text
from reports.tables import Row, Table, steps_text
from tracegrad.atomic import atomic_write

ADDITIONS = ("+Trace", "+Grad", "+TraceGrad")
METRIC = "mae_all"


def summary(tables: Sequence[Table]) -> str:
    """Write one line per subset and backbone that was trained, for each comparison.

    Args:
        tables: tables of any comparisons.

    Returns:
        Markdown; ends with a newline.
    """
    parts = []
    for comparison in dict.fromkeys(table.comparison for table in tables):
        members = [table for table in tables if table.comparison == comparison]
        controls = tuple(
            dict.fromkeys(
                row.method for table in members for row in table.rows if row.method not in table.layout.methods
            )
        )
        head = ["data", "test structures", "backbone", "alone", *ADDITIONS, *controls, "paper: +TraceGrad, on its data"]
        lines = [line for table in members for line in _lines(table, controls)]
        what = f"{METRIC.replace('mae', 'MAE')} in meV, {comparison.title}{steps_text(members)}"
        spread = (
            "mean ± standard deviation over seeds, one run without; change against the same seeds of the backbone; "
            f"{EMPTY} where nothing was run or published."
        )
        text = f"{what}; {spread}{equivariance_text([row for table in members for row in table.rows])}"
        parts.append("\n".join([text, "", *markdown_grid(head, lines)]))
    return "\n\n".join(parts) + "\n"


def _lines(table: Table, controls: Sequence[str]) -> list[list[str]]:
    """Cells of every subset of a table whose backbone was trained."""
    backbone = table.layout.reference
    lines = []
    for dataset, subset in table.layout.columns:
        rows = {row.method: row for row in table.rows if (row.dataset, row.subset) == (dataset, subset)}
        if not rows[backbone].records:
            continue
        names = (backbone, *(backbone + addition for addition in ADDITIONS), *controls)
        paper = rows[backbone + ADDITIONS[-1]].cells[METRIC].paper_change
        where = dataset if subset == "all" else f"{dataset} {subset}"
        tested = max(len(run.subsets[subset].per_structure) for run in rows[backbone].records)
        lines.append(
            [where, str(tested or EMPTY), backbone, *(_cell(rows.get(name)) for name in names), change_text(paper)]
        )
    return lines


def _cell(row: Row | None) -> str:
    """Mean, deviation, missing seeds and change of one row; a dash where it was not run.

    What has no network has no change.
    """
    if row is None or not row.records:
        return EMPTY
    return ours_text(row, METRIC, with_change=any(run.parameters for run in row.records))


def write_summary(tables: Sequence[Table], folder: Path) -> Path:
    """Write ``summary.md``.

    Args:
        tables: tables of any comparisons.
        folder: where the file goes; it must exist.

    Returns:
        the file.
    """
    path = folder / "summary.md"
    with atomic_write(path) as temporary:
        temporary.write_text(summary(tables), encoding="utf-8")
    return path
