"""What all figures share: colours, size of the letters, and saving as PNG and SVG with the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from reports.records import BASELINE
from tracegrad.atomic import atomic_write

# Okabe and Ito's palette: distinguishable with colour-blind eyes and in grey.
COLOURS = {
    BASELINE: "#0072B2",
    "DeepHE3+Trace": "#56B4E9",
    "DeepHE3+Grad": "#009E73",
    "DeepHE3+TraceGrad": "#D55E00",
    "HarmoSE": "#CC79A7",
    "HarmoSE+TraceGrad": "#E69F00",
}
OTHER = ("#000000", "#7F7F7F", "#8C6D31", "#843C39")


def colour(label: str, position: int = 0) -> str:
    """Colour of a method; `position` chooses among the spare ones for controls."""
    return COLOURS.get(label, OTHER[position % len(OTHER)])


def save_figure(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write a figure as ``<stem>.png`` and ``<stem>.svg``; the same figure gives the same bytes.

    Args:
        figure: the figure.
        folder: where the files go; it must exist.
        stem: file name without its suffix.

    Returns:
        the two files.
    """
    written = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        path = folder / f"{stem}.{suffix}"
        with atomic_write(path) as temporary, mpl.rc_context({"svg.hashsalt": stem, "svg.fonttype": "none"}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
        written.append(path)
    return written
