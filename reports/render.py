"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reports.records import BASELINE
from reports.statistics import Summary
from reports.tables import METRICS, PAPER, AdjustedTest, Row, Table
from tracegrad.atomic import atomic_write

EMPTY = "–"
EQUIVARIANCE_HEAD = "equivariance error (meV)"
HEADINGS = {"mae_all": "MAE_all", "mae_cha_sample": "MAE_cha_sample", "mae_cha_block": "MAE_cha_block"}


def error_text(value: float | None) -> str:
    """Format an error in meV with about four significant digits, as the paper does; a dash where there is none."""
    if value is None:
        return EMPTY
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}"


def summary_text(summary: Summary | None) -> str:
    """Format mean ± standard deviation over seeds; the mean alone for one seed."""
    if summary is None:
        return EMPTY
    spread = "" if summary.std is None else f" ± {error_text(summary.std)}"
    return error_text(summary.mean) + spread


def change_text(change: float | None) -> str:
    """Format a relative change in percent with its sign."""
    return EMPTY if change is None else f"{100 * change:+.1f} %"


def p_text(p: float | None) -> str:
    """Format a p-value with two significant digits."""
    if p is None:
        return EMPTY
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def seeds_text(row: Row) -> str:
    """Format the number of runs behind a row; a row without any says so."""
    return str(len(row.records)) if row.records else "not run"


def mean_of(row: Row, attribute: str) -> float | None:
    """Mean over the runs of a numeric attribute of theirs, None without runs."""
    values = [float(getattr(record, attribute)) for record in row.records]
    return math.fsum(values) / len(values) if values else None


def seeds_note(row: Row, metric: str) -> str:
    """Say over how many seeds a mean is, ``2 of 3 seeds``, where other means on the same data are over more.

    Empty where none is missing, and for the one run of a row, which has no deviation.
    """
    count = len(row.cells[metric].seeds)
    fewer = 0 < count < len(row.records) or 1 < count < row.most
    return f"{count} of {row.most} seeds" if fewer else ""


def change_note(row: Row, metric: str) -> str:
    """Format the relative change of our value, with the number of seeds where the value itself is over more."""
    cell = row.cells[metric]
    if cell.change is None:
        return ""
    count = len(cell.change_seeds)
    return change_text(cell.change) + (f" over {count} of {row.most} seeds" if count < len(cell.seeds) else "")


def ours_text(row: Row, metric: str, with_change: bool = True) -> str:
    """Format our value of a metric with, in brackets, missing seeds and the relative change."""
    notes = [seeds_note(row, metric), change_note(row, metric) if with_change else ""]
    text = ", ".join(note for note in notes if note)
    return summary_text(row.cells[metric].summary) + (f" ({text})" if text else "")


def paper_text(row: Row, metric: str) -> str:
    """Format the published value of a metric with its own relative change in brackets."""
    cell = row.cells[metric]
    change = "" if cell.paper_change is None else f" ({change_text(cell.paper_change)})"
    return error_text(cell.paper) + change


def markdown(table: Table) -> str:
    """Write a table and its tests as Markdown.

    Args:
        table: the table.

    Returns:
        text that ends with a newline.
    """
    head = ["data", "subset", "method", *(HEADINGS[metric] for metric in METRICS), "runs", "weights", "train s"]
    head += [EQUIVARIANCE_HEAD] if table.approximate else []
    head += [f"{PAPER}: {HEADINGS[metric]}" for metric in METRICS]
    title = f"### Table {table.layout.number}: {table.layout.title}"
    lines = [title, "", f"{table.title}. {caption(table)}", ""]
    lines += markdown_grid(head, [table_cells(table, row) for row in table.rows])
    for (dataset, subset), tests in table.tests.items():
        lines += ["", f"**Paired tests, {dataset} {subset}** ({TEST_CAPTION})", ""]
        lines += markdown_grid(TEST_HEAD, [test_cells(test) for test in tests])
    return "\n".join(lines) + "\n"


def equivariance_text(rows: Sequence[Row]) -> str:
    """Say what the verifier measured on approximate networks; empty where all are exact."""
    measured = [f"{row.method} {row.equivariance.text}" for row in rows if row.equivariance]
    if not measured:
        return ""
    return (
        " HarmoSE is equivariant only as far as it has learned to be: a random rotation changes a component of H by "
        f"(verifier, root mean square in meV, before → after training) {', '.join(measured)}."
    )


def caption(table: Table) -> str:
    """Explain units, references, missing seeds and empty cells of a table."""
    return (
        "Errors in meV, mean ± sample standard deviation over seeds; in brackets the change relative to "
        f"{table.layout.reference} over the seeds that both have. "
        f"The cha metrics are taken on the structure and the block where {BASELINE} of the same seed is worst. "
        f"Columns marked “{PAPER}” are quoted and belong to other data: compare the changes, not the errors. "
        f"{_missing_seeds_text(table)}{EMPTY} stands where there is no value: {_empty_text(table)}. "
        f"Seconds are wall times, which other work on the machine lengthens.{equivariance_text(table.rows)}"
    )


def _missing_seeds_text(table: Table) -> str:
    """Explain the notes on seeds; empty where no cell has one."""
    cells = [(row, metric) for row in table.rows for metric in METRICS]
    if not any(seeds_note(*cell) or "seeds" in change_note(*cell) for cell in cells):
        return ""
    return (
        "Where seeds are missing, the number of those behind a mean or a change stands beside it; a single run has no "
        f"±. The cha metrics are over the seeds that {BASELINE} has too. "
    )


def _empty_text(table: Table) -> str:
    """Name what a dash stands for in a table."""
    trained = [row for row in table.rows if row.records]
    meanings = ["not run", "not in the paper"]
    if any(row.cells[metric].summary is None for row in trained for metric in METRICS):
        meanings.append(f"a cha metric without {BASELINE} of the same seed or without errors by structure or block")
    if table.approximate and not all(row.equivariance for row in trained):
        meanings.append("not verified")
    return f"{', '.join(meanings[:-1])}, or {meanings[-1]}"


TEST_HEAD = ("pair", "over", "n", "mean difference (meV)", "t", "p (t)", "Wilcoxon W", "p (Wilcoxon)")
TEST_CAPTION = (
    "two-sided; in brackets p adjusted for the number of pairs, Holm; over test structures: do these trained networks "
    "differ, whatever another seed would give; over seeds: do the methods differ"
)


def test_cells(adjusted: AdjustedTest) -> list[str]:
    """Format one paired test for the columns of `TEST_HEAD`."""
    test = adjusted.test
    return [
        f"{test.first} − {test.second}",
        test.over,
        str(test.n),
        f"{test.mean_difference:+.3g}",
        EMPTY if test.t is None else f"{test.t:.2f}",
        f"{p_text(test.p_t)} ({p_text(adjusted.p_t)})",
        EMPTY if test.wilcoxon is None else f"{test.wilcoxon:g}",
        f"{p_text(test.p_wilcoxon)} ({p_text(adjusted.p_wilcoxon)})",
    ]


def table_cells(table: Table, row: Row) -> list[str]:
    """Format one row: names, our metrics, runs, weights, seconds, equivariance error if any, the paper's metrics."""
    weights, seconds = mean_of(row, "parameters"), mean_of(row, "train_seconds")
    cost = [EMPTY if value is None else f"{value:.0f}" for value in (weights, seconds)]
    ours, paper = [ours_text(row, metric) for metric in METRICS], [paper_text(row, metric) for metric in METRICS]
    cost += [row.equivariance.text if row.equivariance else EMPTY] if table.approximate else []
    return [row.dataset, row.subset, row.method, *ours, seeds_text(row), *cost, *paper]


def markdown_grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def frame(tables: Sequence[Table]) -> pd.DataFrame:
    """Collect tables in long form, one line per row of the table, numbers unrounded.

    Args:
        tables: tables of any comparisons.

    Returns:
        a frame whose column names carry the units; columns ``..._seeds`` only where seeds of a row are missing.
    """
    lines = []
    for table in tables:
        for row in table.rows:
            line: dict[str, object] = {
                "table": table.layout.number,
                "source": table.comparison.source,
                "preset": table.comparison.preset,
                "recipe": table.comparison.recipe,
                "dataset": row.dataset,
                "subset": row.subset,
                "method": row.method,
                "runs": len(row.records),
                "seeds": " ".join(str(record.seed) for record in row.records),
                "parameters": mean_of(row, "parameters"),
                "train_seconds": mean_of(row, "train_seconds"),
            }
            for metric in METRICS:
                cell = row.cells[metric]
                line[f"{metric}_mean_mev"] = cell.summary.mean if cell.summary else None
                line[f"{metric}_std_mev"] = cell.summary.std if cell.summary else None
                line[f"{metric}_change"] = cell.change
                line[f"{metric}_paper_other_data_mev"] = cell.paper
                line[f"{metric}_paper_other_data_change"] = cell.paper_change
                if cell.summary and len(cell.seeds) < len(row.records):
                    line[f"{metric}_seeds"] = " ".join(map(str, cell.seeds))
                if cell.change is not None and len(cell.change_seeds) < len(cell.seeds):
                    line[f"{metric}_change_seeds"] = " ".join(map(str, cell.change_seeds))
            if row.equivariance:
                line["equivariance_error_before_training_mev"] = row.equivariance.before
                line["equivariance_error_mev"] = row.equivariance.after
            lines.append(line)
    return pd.DataFrame(lines)


def tests_frame(tables: Sequence[Table]) -> pd.DataFrame:
    """Collect the paired tests of tables in long form.

    Args:
        tables: tables of any comparisons.

    Returns:
        one line per pair of methods.
    """
    lines = []
    for table in tables:
        for (dataset, subset), tests in table.tests.items():
            for adjusted in tests:
                where = {
                    "table": table.layout.number,
                    "source": table.comparison.source,
                    "preset": table.comparison.preset,
                }
                where |= {"recipe": table.comparison.recipe, "dataset": dataset, "subset": subset}
                corrected = {"p_t_holm": adjusted.p_t, "p_wilcoxon_holm": adjusted.p_wilcoxon}
                lines.append(where | vars(adjusted.test) | corrected)
    return pd.DataFrame(lines)


_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "±": r"$\pm$"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "−": "$-$"}
_LATEX |= {"“": "``", "”": "''", "Å": r"\AA{}", "→": r"$\to$"}


def latex_escape(text: str) -> str:
    """Replace what LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    r"""Write a table in LaTeX with the booktabs package.

    Args:
        table: the table.

    Returns:
        a ``table`` environment that compiles under ``\usepackage{booktabs}``.
    """
    names = " & ".join(latex_escape(HEADINGS[metric]) for metric in METRICS)
    text = latex_escape(f"{table.layout.title}. {table.title}. {caption(table)}")
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{text}}}",
        r"\begin{tabular}{lllrrrrrr}",
        r"\toprule",
        rf"& & & \multicolumn{{3}}{{c}}{{this work}} & \multicolumn{{3}}{{c}}{{{latex_escape(PAPER)}}} \\",
        r"\cmidrule(lr){4-6}\cmidrule(lr){7-9}",
        rf"data & subset & method & {names} & {names} \\",
    ]
    previous = ("", "")
    for row in table.rows:
        if (row.dataset, row.subset) != previous:
            lines.append(r"\midrule")
            previous = (row.dataset, row.subset)
        cells = [row.dataset, row.subset, row.method, *(ours_text(row, metric) for metric in METRICS)]
        cells += [paper_text(row, metric) for metric in METRICS]
        lines.append(" & ".join(map(latex_escape, cells)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write ``table<n>.md|csv|tex`` and ``table<n>_tests.csv``, one part per comparison.

    Args:
        tables: tables of any comparisons.
        folder: where the files go; it must exist.

    Returns:
        the files.
    """
    written = []
    for number in sorted({table.layout.number for table in tables}):
        parts = [table for table in tables if table.layout.number == number]
        texts = {
            f"table{number}.md": "\n".join(map(markdown, parts)),
            f"table{number}.csv": frame(parts).to_csv(index=False, lineterminator="\n"),
            f"table{number}.tex": "\n".join(map(latex, parts)),
        }
        tests = tests_frame(parts)
        if len(tests):
            texts[f"table{number}_tests.csv"] = tests.to_csv(index=False, lineterminator="\n")
        for name, text in texts.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(folder / name)
    return written
