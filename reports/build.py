"""From a folder of run records to everything that is drawn from it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.block_bars import draw_block_bars
from reports.curves import draw_bands, draw_distance, draw_learning_curves
from reports.equivariance import equivariance_errors
from reports.page import Page, write_page
from reports.records import Comparison, RunRecord, by_comparison, load_records
from reports.render import write_tables
from reports.summary import write_summary
from reports.tables import Table, build_tables, read_published
from tracegrad.errors import DataError


def build(folder: Path, out: Path | None = None) -> list[Table]:
    """Write tables, figures and ``report.html``.

    Reads ``folder/runs/*.json``; where they exist also ``bands_*.json`` or ``bands_*.png``, ``verify.json`` (the report
    of ``python -m verify``) and ``sweep.json`` (environment and failed runs).

    Args:
        folder: folder of the sweep.
        out: where the files go, by default `folder`; created if missing.

    Returns:
        the tables, in the order of the comparisons and of their numbers.

    Raises:
        DataError: a record is missing or broken, or records contradict each other.
        OSError: `out` cannot be made or written.
    """
    records = load_records(folder / "runs")
    groups = by_comparison(records)
    published = read_published()
    verification = _read_verification(folder / "verify.json")
    measured = equivariance_errors(verification, folder / "verify.json")
    tables = [
        t for comparison, members in groups.items() for t in build_tables(comparison, members, published, measured)
    ]
    target = out or folder
    target.mkdir(parents=True, exist_ok=True)
    write_tables(tables, target)
    write_summary(tables, target)
    figures: list[Path] = []
    for comparison, members in groups.items():
        suffix = "" if len(groups) == 1 else f"_{_slug(comparison)}"
        figures += _draw(members, target, suffix)
    bands = sorted(folder.glob("bands_*.json"))
    figures += [path for source in bands for path in draw_bands(source, target)]
    figures += [path for path in sorted(folder.glob("bands_*.png")) if path.with_suffix(".json") not in bands]
    sweep = _read_object(folder / "sweep.json")
    page = Page(
        tables,
        records,
        figures,
        verification=verification,
        environment=sweep.get("environment", {}),
        failures=[str(failure) for failure in sweep.get("failures", [])],
    )
    write_page(page, target / "report.html")
    return tables


def _draw(records: Sequence[RunRecord], folder: Path, suffix: str) -> list[Path]:
    """Draw the figures of one comparison."""
    written: list[Path] = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        for draw in (draw_block_bars, draw_learning_curves, draw_distance):
            written += draw(records, dataset, folder, suffix)
    return written


def _slug(comparison: Comparison) -> str:
    """Short name of a comparison for files."""
    name = f"{Path(comparison.source).name}_{comparison.preset}_{comparison.recipe}"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def _read_verification(path: Path) -> dict[str, Any]:
    """Report of the verifier, empty where there is none; every check of it has a name and a verdict."""
    content = _read_object(path)
    checks = content.get("checks", [])
    if not isinstance(checks, list) or not all(isinstance(c, dict) and {"name", "verdict"} <= set(c) for c in checks):
        raise DataError(
            f"{path}: expected a list of checks, each with a name and a verdict, found something else; remove the file "
            "or make it again"
        )
    return content


def _read_object(path: Path) -> dict[str, Any]:
    """JSON object of an optional file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, found {error}; remove the file or make it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}; make it again")
    return content
