"""The reports of a run as files in one folder."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tracegrad.atomic import atomic_write

from ..result import Report
from .html import to_html
from .junit import to_junit
from .markdown import to_markdown
from .sarif import to_sarif

NAMES = {
    "json": "report.json",
    "junit": "junit.xml",
    "markdown": "summary.md",
    "sarif": "report.sarif",
    "text": "report.txt",
    "html": "report.html",
}


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of ``Report.to_json``."""
    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))
    return loaded


def write_reports(report: Report, folder: Path, pictures: bool = True) -> dict[str, Path]:
    """Write all forms of a report.

    Args:
        report: the report.
        folder: created when missing.
        pictures: whether to draw the PNG and SVG files too (needs matplotlib).

    Returns:
        Form -> file written.

    Raises:
        DataError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "json": report.to_json(),
        "junit": to_junit(report),
        "markdown": to_markdown(report),
        "sarif": to_sarif(report),
        "text": report.to_text() + "\n",
    }
    drawn: dict[str, Path] = {}
    if pictures:
        from .pictures import draw_report

        drawn = draw_report(report, folder)
    texts["html"] = to_html(report, {name: path for name, path in drawn.items() if path.suffix == ".png"})
    written = {}
    for form, text in texts.items():
        written[form] = folder / NAMES[form]
        with atomic_write(written[form]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return written | drawn
