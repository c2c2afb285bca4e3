"""Pictures of a report: error per irrep, error against depth, kill matrix; PNG and SVG, without dates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracegrad.atomic import atomic_write

from ..mutants.outcome import KillMatrix, matrix_of
from ..result import BlockError, ModuleError, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-17  # an exact zero is drawn here
VERDICT_COLOURS = {
    "PASS": "#e8efe8",
    "SUSPECT": "#f2d16b",
    "PRECISION": "#e8963a",
    "VACUOUS": "#8f7fc0",
    "STRUCTURAL": "#b8423c",
    "HARNESS_NOISE": "#555555",
}


def _figure(width: float, height: float) -> Figure:
    """Figure without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(value: float) -> float:
    """Value on a logarithmic axis."""
    return max(value, FLOOR) if math.isfinite(value) else 1e2


def save(figure: Figure, folder: Path, stem: str) -> dict[str, Path]:
    """Write a figure as PNG and SVG.

    Args:
        figure: the figure.
        folder: where to write.
        stem: file name without its ending.

    Returns:
        ``{stem + ".png": path, stem + ".svg": path}``.
    """
    import matplotlib as mpl

    written = {}
    with mpl.rc_context({"svg.hashsalt": "tracegrad", "svg.fonttype": "path"}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"{stem}.{form}"
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format=form, dpi=130, metadata=metadata)
            written[f"{stem}.{form}"] = path
    return written


def error_per_irrep(report: Report) -> Figure | None:
    """Error and tolerance of every output block, one row per block, one mark per check: its largest error there.

    Args:
        report: the report.

    Returns:
        Figure, or None when no check has blocks.
    """
    groups: dict[str, dict[str, BlockError]] = {}
    for check in report.checks:
        for block in check.blocks:
            marks = groups.setdefault(f"{block.output} {block.irrep}", {})
            name = check.name.split(": ")[-1]
            if not block.zero and (name not in marks or block.ratio > marks[name].ratio):
                marks[name] = block
    groups = {label: marks for label, marks in groups.items() if marks}
    if not groups:
        return None
    names = sorted({name for marks in groups.values() for name in marks})
    figure = _figure(8, 1.6 + 0.32 * len(groups))
    axes = figure.add_subplot()
    for index, name in enumerate(names):
        points = [(_drawn(marks[name].error), y) for y, marks in enumerate(groups.values()) if name in marks]
        axes.scatter(
            [x for x, _ in points], [y for _, y in points], s=26, marker="osD^vPX*"[index % 8], label=name, zorder=3
        )
    for y, marks in enumerate(groups.values()):
        axes.plot(
            [min(_drawn(block.tolerance) for block in marks.values())] * 2,
            [y - 0.4, y + 0.4],
            color="#b8423c",
            lw=2,
            zorder=2,
        )
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    _log_axis(axes, "relative error; red: smallest tolerance of the block")
    axes.set_title(_plain(f"{report.target}: error per irrep ({report.verdict})"))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _log_axis(axes: Any, label: str) -> None:
    axes.set_xscale("log")
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)


def error_against_depth(modules: Sequence[ModuleError], title: str) -> Figure | None:
    """Own and cumulative error of every module in the order of execution.

    Args:
        modules: localisation table.
        title: title of the picture.

    Returns:
        Figure, or None when the table is empty.
    """
    if not modules:
        return None
    figure = _figure(max(6.0, 2.5 + 0.32 * len(modules)), 4.4)
    axes = figure.add_subplot()
    order = range(len(modules))
    axes.plot(
        order, [_drawn(m.cumulative_error) for m in modules], "o-", color="#356a8c", label="whole model up to here"
    )
    axes.plot(order, [_drawn(m.local_error) for m in modules], "s", color="#b8423c", label="module alone")
    axes.plot(
        order,
        [_drawn(m.tolerance) for m in modules],
        "_",
        ms=14,
        color="#777777",
        label="tolerance of the module alone",
    )
    axes.set_xticks(list(order), [m.name or m.kind for m in modules], rotation=60, ha="right", fontsize=7)
    axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)
    axes.set_ylabel("relative error")
    axes.set_title(_plain(title))
    axes.legend(fontsize=8)
    return figure


def error_against_layers(errors: Sequence[Sequence[float]], title: str) -> Figure:
    """Error and tolerance against the number of layers.

    Args:
        errors: (layers, error, tolerance).
        title: title of the picture.

    Returns:
        Figure.
    """
    figure = _figure(5.5, 3.8)
    axes = figure.add_subplot()
    layers = [row[0] for row in errors]
    axes.plot(layers, [_drawn(row[1]) for row in errors], "o-", color="#356a8c", label="error")
    axes.plot(layers, [_drawn(row[2]) for row in errors], "--", color="#b8423c", label="tolerance")
    axes.set_yscale("log")
    axes.set_xlabel("layers")
    axes.set_ylabel("relative error")
    axes.set_title(_plain(title))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def kill_matrix(matrix: KillMatrix) -> Figure:
    """Faults and controls against checks, coloured by verdict.

    Args:
        matrix: the outcomes.

    Returns:
        Figure.
    """
    from matplotlib.colors import ListedColormap

    rows = [o.verdicts or {"verdict": o.verdict} for o in matrix.outcomes]
    names = list(dict.fromkeys(name for row in rows for name in row))
    codes = list(VERDICT_COLOURS)
    cells = [[codes.index(row[n]) if n in row else math.nan for n in names] for row in rows]
    figure = _figure(3.6 + 0.3 * len(names), 1.6 + 0.2 * len(cells))
    axes = figure.add_subplot()
    axes.imshow(
        cells, aspect="auto", cmap=ListedColormap(list(VERDICT_COLOURS.values())), vmin=-0.5, vmax=len(codes) - 0.5
    )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    labels = [f"{o.key}  {o.title}"[:62] for o in matrix.outcomes]
    axes.set_yticks(range(len(cells)), labels, fontsize=6)
    for tick, outcome in zip(axes.get_yticklabels(), matrix.outcomes, strict=True):
        tick.set_color("#2c6e3f" if outcome.control else ("#222222" if outcome.killed else "#ff0000"))
    handles = [axes.scatter([], [], marker="s", color=colour, label=code) for code, colour in VERDICT_COLOURS.items()]
    axes.legend(handles=handles[:-1], fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(matrix.tally(), fontsize=9)
    return figure


def draw_report(report: Report, folder: Path) -> dict[str, Path]:
    """Draw what the report has figures for.

    Args:
        report: the report.
        folder: existing folder.

    Returns:
        File name -> path.
    """
    drawn: dict[str, Path] = {}
    per_irrep = error_per_irrep(report)
    if per_irrep is not None:
        drawn |= save(per_irrep, folder, "error_per_irrep")
    for check in report.checks:
        if check.details.get("outcomes"):
            drawn |= save(kill_matrix(matrix_of(check)), folder, "kill_matrix")
        elif check.name == "depth":
            drawn |= save(
                error_against_layers(check.details["errors"], "error against depth"), folder, "error_against_layers"
            )
    depth = error_against_depth(report.modules, f"{report.target}: error against depth")
    if depth is not None:
        drawn |= save(depth, folder, "error_against_depth")
    return drawn


def _plain(text: str) -> str:
    """Text in which no dollar starts a formula."""
    return text.replace("$", "\\$")
