"""The page ``report.html``: everything in one file that opens offline, every number linked to the runs behind it."""

from __future__ import annotations

import base64
import html
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.physics import PHYSICS_CAPTION, PHYSICS_HEAD, physics_rows
from reports.records import RunRecord
from reports.render import (
    EMPTY,
    EQUIVARIANCE_HEAD,
    HEADINGS,
    TEST_CAPTION,
    TEST_HEAD,
    caption,
    change_note,
    change_text,
    error_text,
    mean_of,
    seeds_note,
    seeds_text,
    summary_text,
    test_cells,
)
from reports.tables import METRICS, PAPER, Row, Table
from tracegrad.atomic import atomic_write
from tracegrad.errors import DataError

SIGNIFICANT = 0.05  # p-value of the test over seeds, adjusted, below which a change is coloured
TEMPLATE = Path(__file__).with_name("template.html")
FIGURE_TITLES = {
    "blocks": "Error of every basic block",
    "curves": "Learning curves",
    "distance": "Error against distance",
    "bands": "Bands, predicted and DFT",
}


@dataclass(frozen=True)
class Page:
    """What stands on the page.

    Args:
        tables: the tables of all comparisons.
        records: every record that was read.
        figures: SVG or PNG files; the part of the name before the first underscore chooses the section.
        verification: ``python -m verify`` report (its JSON), or empty.
        environment: versions, commit and machine of the sweep, or empty.
        failures: sentences on runs that failed, or empty.
    """

    tables: Sequence[Table]
    records: Sequence[RunRecord]
    figures: Sequence[Path] = ()
    verification: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    failures: Sequence[str] = ()


def write_page(page: Page, path: Path) -> None:
    """Write the page.

    Args:
        page: what stands on it.
        path: the file, usually ``report.html``; its folder must exist.
    """
    ids = {record.path: f"run-{position}" for position, record in enumerate(page.records)}
    sections = [("tables", "Tables", "".join(_table(table, ids) for table in page.tables))]
    sections += _physics(page.records)
    sections += _figures(page.figures)
    if page.verification:
        sections.append(("verification", "Verification", _verification(page.verification)))
    if page.failures:
        items = "".join(f"<li>{html.escape(failure)}</li>" for failure in page.failures)
        sections.append(("failures", "Runs that failed", f"<ul>{items}</ul>"))
    if page.environment:
        sections.append(("environment", "Environment", f"<pre>{_json(page.environment)}</pre>"))
    datasets = ", ".join(dict.fromkeys(record.dataset for record in page.records))
    links = [*((anchor, title) for anchor, title, _ in sections), ("runs", "Runs")]
    text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"tracegrad: {html.escape(datasets)}",
        introduction=_introduction(page.records),
        navigation=" · ".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in links),
        sections="".join(f'<h2 id="{anchor}">{title}</h2>{body}' for anchor, title, body in sections),
        runs="".join(_run(record, ids[record.path]) for record in page.records),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _introduction(records: Sequence[RunRecord]) -> str:
    """Say what was run, on what, and how to read the page."""
    comparisons = sorted({record.comparison for record in records})
    titles = "; ".join(html.escape(comparison.title) for comparison in comparisons)
    return (
        f"<p>{len(records)} runs ({titles}). Click a number to see the runs it was made from. "
        f'Shaded columns, <span class="paper">{PAPER}</span>, are quoted from arXiv:2405.05722: '
        "compare the changes between the methods there and here, not the errors. A change is coloured where the test "
        f"over three or more seeds says that the methods differ (p &lt; {SIGNIFICANT:g} after Holm); all others may be "
        "chance.</p>"
    )


def _table(table: Table, ids: Mapping[Path, str]) -> str:
    """One table of one comparison with its tests."""
    names = "".join(f"<th>{HEADINGS[metric]}</th>" for metric in METRICS)
    quoted = "".join(f'<th class="paper">{HEADINGS[metric]}</th>' for metric in METRICS)
    extra = f"<th>{EQUIVARIANCE_HEAD}</th>" if table.approximate else ""
    head = (
        f'<tr><th colspan="3"></th><th class="wide" colspan="{7 if extra else 6}">this work</th>'
        f'<th class="wide paper" colspan="3">{PAPER}</th></tr>'
        f'<tr><th class="name">data</th><th class="name">subset</th><th class="name">method</th>{names}'
        f"<th>runs</th><th>weights</th><th>train s</th>{extra}{quoted}</tr>"
    )
    body, previous = [], ("", "")
    for row in table.rows:
        first = ' class="first"' if (row.dataset, row.subset) != previous else ""
        previous = (row.dataset, row.subset)
        body.append(f"<tr{first}>{_row(table, row, ids)}</tr>")
    tests = "".join(
        f"<details><summary>Paired tests, {dataset} {subset}</summary>{_grid(TEST_HEAD, map(test_cells, tests))}"
        f'<p class="soft">{TEST_CAPTION}</p></details>'
        for (dataset, subset), tests in table.tests.items()
    )
    title = html.escape(f"Table {table.layout.number}: {table.layout.title}")
    return (
        f'<h3>{title}</h3><p class="soft">{html.escape(table.title)}. {html.escape(caption(table))}</p>'
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>{tests}'
    )


def _row(table: Table, row: Row, ids: Mapping[Path, str]) -> str:
    """Cells of one row; our numbers are links to their runs."""
    test = table.over_seeds(row)
    sure = test is not None and test.p_t is not None and test.p_t < SIGNIFICANT
    by_seed = {record.seed: record for record in row.records}
    cells = [f'<td class="name">{html.escape(text)}</td>' for text in (row.dataset, row.subset, row.method)]
    for metric in METRICS:
        cell = row.cells[metric]
        if cell.summary is None:
            cells.append(f'<td class="missing">{EMPTY}</td>')
            continue
        runs = [ids[by_seed[seed].path] for seed in cell.seeds]
        values = ", ".join(
            f"seed {seed}: {error_text(value)}" for seed, value in zip(cell.seeds, cell.summary.values, strict=True)
        )
        what = html.escape(f"{row.method}, {row.dataset} {row.subset}, {HEADINGS[metric]} in meV; {values}", quote=True)
        link = f'<a class="number" href="#{runs[0]}" data-runs="{" ".join(runs)}" data-what="{what}">'
        coloured = sure and metric == "mae_all"  # what the test over seeds is about
        kind = "soft" if not coloured or cell.change is None else "better" if cell.change < 0 else "worse"
        notes = _note(seeds_note(row, metric)) + _note(change_note(row, metric), kind)
        cells.append(f"<td>{link}{summary_text(cell.summary)}</a>{notes}</td>")
    cells.append(f"<td{'' if row.records else ' class=missing'}>{seeds_text(row)}</td>")
    for attribute in ("parameters", "train_seconds"):
        value = mean_of(row, attribute)
        cells.append(f"<td>{EMPTY if value is None else f'{value:,.0f}'}</td>")
    if table.approximate:
        cells.append(f"<td>{row.equivariance.text if row.equivariance else EMPTY}</td>")
    for metric in METRICS:
        cell = row.cells[metric]
        change = "" if cell.paper_change is None else change_text(cell.paper_change)
        cells.append(f'<td class="paper">{error_text(cell.paper)}{_note(change)}</td>')
    return "".join(cells)


def _note(text: str, kind: str = "soft") -> str:
    """Text in brackets, such as a relative change; nothing where there is none."""
    return f' <span class="{kind}">({text})</span>' if text else ""


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain table; its first column holds names."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=name' if position == 0 else ''}>{html.escape(cell)}</{tag}>"
            for position, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def _physics(records: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    """Section of what the errors mean for energies and states; none where no record says it."""
    body = "".join(
        f"<h3>{html.escape(comparison.title)}</h3>{_grid(PHYSICS_HEAD, rows)}"
        for comparison, rows in physics_rows(records).items()
    )
    note = f'<p class="soft">{html.escape(PHYSICS_CAPTION)}</p>'
    return [("physics", "Energies, states and gap of one structure", note + body)] if body else []


def _figures(figures: Sequence[Path]) -> list[tuple[str, str, str]]:
    """Sections of figures, embedded: SVG as text, PNG as data where there is no SVG of the same name."""
    sections = []
    for kind, title in FIGURE_TITLES.items():
        chosen = {path.with_suffix(""): path for path in sorted(figures) if path.name.startswith(f"{kind}_")}
        body = "".join(_figure(path) for path in chosen.values())
        if body:
            sections.append((kind, title, body))
    return sections


def _figure(path: Path) -> str:
    """One embedded figure; data URIs keep the identifiers of different SVG files apart."""
    mime = {".svg": "image/svg+xml", ".png": "image/png"}.get(path.suffix)
    if mime is None:
        raise DataError(f"{path}: expected a figure in SVG or PNG, found {path.suffix or 'no suffix'}")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = html.escape(path.stem.replace("_", " "), quote=True)
    return f'<figure><img alt="{name}" src="data:{mime};base64,{data}"><figcaption>{name}</figcaption></figure>'


def _verification(report: Mapping[str, Any]) -> str:
    """Summary of the verifier's report: its verdict and one line per check."""
    rows = []
    for check in report.get("checks", []):
        unit = str(check.get("details", {}).get("unit", "relative"))
        figures = [_figure_text(check.get(name)) for name in ("error", "tolerance")]
        rows.append([str(check["name"]), str(check["verdict"]), *figures, unit, str(check.get("message", ""))])
    verdict = html.escape(f"{report.get('target', 'model')}: {report.get('verdict', 'no verdict')}")
    return f"<p>{verdict}</p>{_grid(('check', 'verdict', 'error', 'tolerance', 'unit', 'remark'), rows)}"


def _figure_text(value: object) -> str:
    """Three significant digits of a number; what is no number as it is."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def _run(record: RunRecord, identifier: str) -> str:
    """One record, folded; its JSON as it was read."""
    retested = record.raw.get("retested")
    commit = f"commit {_commit(record.raw)}"
    if retested:
        commit = f"trained at {commit}, {retested['select']} weights tested at commit {_commit(retested)}"
    line = f"{record.dataset} · {record.label} · seed {record.seed} · {record.comparison.title} · {commit}"
    source = f"{record.path.name}, sha256 {record.sha256}"
    return (
        f'<details id="{identifier}"><summary>{html.escape(line)}</summary>'
        f'<p class="soft">{html.escape(source)}</p><pre>{_json(record.raw)}</pre></details>'
    )


def _commit(content: Mapping[str, Any]) -> str:
    """First digits of a commit."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", str(content.get("git_commit") or "unknown"))


def _json(value: Any) -> str:
    """Indented JSON, safe inside an element."""
    return html.escape(json.dumps(value, indent=1, ensure_ascii=False), quote=False)
