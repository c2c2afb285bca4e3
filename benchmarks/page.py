"""Tables and plots of the measured speed, as the site's page on performance shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tracegrad.atomic import atomic_write

FAST, TARGET = "#0072B2", "#D55E00"  # Okabe and Ito's palette
RATIOS = {
    "step_ratio": "training step, e3nn / core",
    "inference_ratio": "inference, e3nn / core",
    "saved_memory_ratio": "memory kept for backward, e3nn / core",
}


def write_speed(
    folder: Path,
    stem: str,
    record: Mapping[str, Any],
    rows: Sequence[tuple[str, str, str]],
    images: Path,
    targets: Mapping[str, Callable[[int], tuple[str, float]]],
) -> None:
    """Write ``<stem>.md`` and ``<stem>.png``/``.svg``.

    Args:
        folder: of the table; it is made.
        stem: of the file names.
        record: of ``benchmarks.speed``.
        rows: its table.
        images: folder of the plot; it is made.
        targets: sign and target of every ratio by the number of edges.
    """
    write_table(folder / f"{stem}.md", machine(record), rows)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    labels = [f"{figures['num_edges']:,}" for figures in record["edges"].values()]
    for axis, (key, title) in zip(axes, RATIOS.items(), strict=True):
        axis.bar(labels, [figures[key] for figures in record["edges"].values()], color=FAST)
        limits = [targets[key](int(edges))[1] for edges in record["edges"]]
        axis.plot(labels, limits, color=TARGET, linestyle="", marker="_", markersize=40, label="target")
        axis.set_title(title, fontsize="small")
        axis.set_xlabel("directed edges")
        axis.set_ylim(top=1.25 * max(*limits, *(figures[key] for figures in record["edges"].values())))
        axis.legend(fontsize="small", loc="upper left", markerscale=0.3)
    save(figure, images, stem)


def write_scaling(folder: Path, record: Mapping[str, Any], rows: Sequence[tuple[str, str, str]], images: Path) -> None:
    """Write ``scaling.md`` and the log-log plot ``scaling.png``/``.svg``, as :func:`write_speed`."""
    write_table(folder / "scaling.md", machine(record), rows)
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis: Axes = figure.subplots()
    for (name, curve), marker in zip(record["curves"].items(), "osv^D", strict=False):
        label = f"{name}: E^{curve['exponent']:.2f}"
        axis.loglog(curve["num_edges"], curve["seconds"], marker=marker, label=label)
    axis.set_xlabel("directed edges E")
    axis.set_ylabel("seconds")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize="small")
    save(figure, images, "scaling")


def write_table(path: Path, caption: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write a table as Markdown, with a line on the machine."""
    lines = [caption, "", "| what | measured | target |", "|---|---|---|"]
    lines += [f"| {what.replace('|', '/')} | {measured} | {target} |" for what, measured, target in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def machine(record: Mapping[str, Any]) -> str:
    """The machine of a record in one line."""
    about = record["environment"]
    gpus = f", {', '.join(about['gpus'])}" if about["gpus"] else ""
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    return (
        f"{about['cpu']}, {about['cores']} cores{gpus}; {threads}; torch {about['versions']['torch']}, "
        f"Python {about['python']}; {record['clock']}; commit {about['git_commit'][:7] or 'unknown'}."
    )


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with (
            atomic_write(folder / f"{stem}.{suffix}") as temporary,
            mpl.rc_context({"svg.hashsalt": stem, "svg.fonttype": "none"}),
        ):
            figure.savefig(temporary, dpi=150, metadata=metadata)
