"""One self-contained HTML page of a report: checks, pictures, broken modules, counterexamples, kill matrix."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..mutants.outcome import KillMatrix, matrix_of
from ..result import CheckResult, Report
from .markdown import number

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid #8884; vertical-align: top; }
td.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { font-weight: 600; }
.PASS { color: #2c7a3f; }
.SUSPECT, .PRECISION { color: #b06d00; }
.VACUOUS { color: #6a5ab0; }
.STRUCTURAL, .HARNESS_NOISE { color: #b8423c; }
pre { background: #8881; padding: 0.7rem; overflow-x: auto; font-size: 12px; }
img { max-width: 100%; background: white; }
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table of cells that are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(cells) + "</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    return f"<td>{escape(str(value))}</td>"


def _figure(value: float) -> str:
    return f'<td class="figure">{number(value)}</td>'


def _verdict(verdict: str) -> str:
    return f'<td class="verdict {escape(verdict)}">{escape(verdict)}</td>'


def _check_row(check: CheckResult) -> list[str]:
    figures = [_figure(value) for value in (check.error, check.tolerance, check.margin)]
    return [_text(check.name), _verdict(check.verdict.value), *figures, _text(check.trials), _text(check.message)]


def _modules(report: Report) -> str:
    rows = [
        [
            _text(m.name or m.kind),
            _text(f"{m.source_file}:{m.source_line}" if m.source_file else m.kind),
            *map(_figure, (m.local_error, m.tolerance, m.cumulative_error)),
            _text(m.example),
        ]
        for m in report.modules
    ]
    header = ("module", "source", "own error", "tolerance", "error of the model up to here", "leak")
    return f"<h2>Modules</h2>{_table(header, rows)}" if rows else ""


def _matrix(matrix: KillMatrix) -> str:
    rows = [
        [
            _text(o.key),
            _text(o.title),
            _text("flagged" if o.killed else "clear") if o.control else _text("killed" if o.killed else "MISSED"),
            _verdict(o.verdict),
            _text(", ".join(o.checks)),
            _figure(o.error),
        ]
        for o in matrix.outcomes
    ]
    header = ("#", "fault or control", "result", "verdict", "checks that do not pass", "error")
    return f"<h2>Kill matrix</h2><p>{escape(matrix.tally())}</p>{_table(header, rows)}"


def to_html(report: Report, pictures: Mapping[str, Path] | None = None) -> str:
    """Report as one page that needs no other file.

    Args:
        report: the report.
        pictures: PNG files to put into the page, by name.

    Returns:
        HTML.
    """
    header = ("check", "verdict", "error", "tolerance", "margin", "trials", "message")
    parts = [
        f"<h1>Equivariance of {escape(report.target)}</h1>",
        f'<p class="verdict {report.verdict}">{escape(report.sentence)}</p>',
        f"<p>{escape(report.noise_floor.line())}</p>",
        _table(header, (_check_row(check) for check in report.checks)),
    ]
    if report.skipped:
        parts.append(
            "<p>Skipped: " + "; ".join(f"{escape(k)} ({escape(v)})" for k, v in report.skipped.items()) + "</p>"
        )
    if "rule_of_three" in report.statistics:
        parts.append(f"<p>{escape(str(report.statistics['rule_of_three']))}</p>")
    for name, path in (pictures or {}).items():
        data = b64encode(path.read_bytes()).decode()
        parts.append(
            f'<p><img alt="{escape(Path(name).stem.replace("_", " "))}" src="data:image/png;base64,{data}"></p>'
        )
    parts.append(_modules(report))
    for check in report.failures:
        if check.counterexample is not None:
            code = escape(check.counterexample.code.rstrip())
            parts.append(f"<h2>Counterexample for {escape(check.name)}</h2><pre>{code}</pre>")
    parts += [_matrix(matrix_of(check)) for check in report.checks if check.details.get("outcomes")]
    settings = {**report.settings, **report.environment}
    rows = [[_text(key), _text(value)] for key, value in settings.items()]
    parts.append(f"<h2>Settings and versions</h2>{_table(('name', 'value'), rows)}")
    title = f"<title>Equivariance of {escape(report.target)}</title>"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}<style>{STYLE}</style></head>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"
