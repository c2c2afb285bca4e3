"""Markdown of a report, fit for a job summary (GitHub takes at most 1 MiB per step)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..mutants.outcome import KillMatrix, matrix_of
from ..result import BlockError, CheckResult, Report

LIMIT_BYTES = 1_000_000
MAX_ROWS = 40
_SIGNS = {"PASS": "✅", "SUSPECT": "⚠️", "PRECISION": "⚠️"}


def number(value: float) -> str:
    """Number of three digits; words for the infinite ones."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.2e}" if value and not 1e-2 <= abs(value) < 1e4 else f"{value:.3g}"


def _cell(text: str) -> str:
    """Text that cannot end a table cell or start HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in rows]
    return "\n".join(lines)


def _check_row(check: CheckResult) -> list[str]:
    figures = [number(check.error), number(check.tolerance), number(check.margin), str(check.trials)]
    return [f"{_SIGNS.get(check.verdict.value, '❌')} {check.verdict}", f"`{check.name}`", *figures, check.message]


def _block_rows(check: CheckResult) -> list[list[str]]:
    """Blocks above their tolerance, worst first."""
    bad: list[BlockError] = sorted((b for b in check.blocks if b.ratio > 1 and not b.zero), key=lambda b: -b.ratio)
    return [
        [f"`{check.name}`", b.output, b.irrep, number(b.error), number(b.peak), number(b.tolerance)]
        for b in bad[:MAX_ROWS]
    ]


def to_markdown(report: Report) -> str:
    """Report as Markdown: verdict, table of checks, broken blocks and modules, counterexamples, settings.

    Args:
        report: the report.

    Returns:
        Markdown of at most 1 MB.
    """
    sign = _SIGNS.get(report.verdict.value, "❌")
    parts = [
        f"## {sign} Equivariance of `{_cell(report.target)}`: {report.sentence}",
        f"{report.noise_floor.line()}.",
    ]
    header = ["verdict", "check", "error", "tolerance", "margin", "trials", "message"]
    parts.append(table(header, (_check_row(check) for check in report.checks)))
    blocks = [row for check in report.failures for row in _block_rows(check)]
    if blocks:
        parts += [
            "### Blocks above their tolerance",
            table(["check", "output", "irrep", "error", "peak", "tolerance"], blocks),
        ]
    modules = [m for m in report.modules if m.ratio > 1]
    if modules:
        rows = [
            [m.name, m.kind, f"{m.source_file}:{m.source_line}", number(m.local_error), number(m.tolerance), m.example]
            for m in modules[:MAX_ROWS]
        ]
        parts += [
            "### Modules that break the symmetry alone",
            table(["module", "class", "source", "error", "tolerance", "leak"], rows),
        ]
    for check in report.failures:
        if check.counterexample is not None:
            parts += [f"### Counterexample for `{check.name}`", f"```python\n{check.counterexample.code.rstrip()}\n```"]
    for check in report.checks:
        if check.details.get("outcomes"):
            parts += ["### Kill matrix", kill_matrix_markdown(matrix_of(check))]
    if report.skipped:
        parts.append("Skipped: " + "; ".join(f"`{name}` ({_cell(reason)})" for name, reason in report.skipped.items()))
    if "rule_of_three" in report.statistics:
        parts.append(str(report.statistics["rule_of_three"]))
    settings = {**report.settings, **report.environment}
    rows = [[str(k), str(v)] for k, v in settings.items()]
    if rows:
        parts.append(
            f"<details><summary>settings and versions</summary>\n\n{table(['name', 'value'], rows)}\n\n</details>"
        )
    text = "\n\n".join(parts) + "\n"
    return text if len(text.encode()) <= LIMIT_BYTES else text.encode()[:LIMIT_BYTES].decode(errors="ignore") + "\n"


def kill_matrix_markdown(matrix: KillMatrix) -> str:
    """Kill matrix as a Markdown table with its tally.

    Args:
        matrix: the outcomes.

    Returns:
        Markdown.
    """
    rows = [
        [
            o.key,
            o.title,
            o.verdict,
            ", ".join(o.checks) or "–",
            number(o.error),
            "yes" if o.killed else "no",
            o.precedent,
        ]
        for o in matrix.outcomes
    ]
    header = ["#", "fault or control", "verdict", "checks that do not pass", "largest error", "flagged", "precedent"]
    return f"{table(header, rows)}\n\n{matrix.tally()}\n"
