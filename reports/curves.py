"""Learning curves, error against distance, and bands: drawn from what the records and the band files carry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.block_bars import SUBSETS
from reports.figures import COLOURS, colour, save_figure
from reports.records import RunRecord
from tracegrad.errors import DataError

# Column of a learning curve -> its axis; the first one that a record carries is drawn.
CURVES = {
    "val_mae": "validation MAE (meV)",
    "val_loss": "validation loss (eV²)",
    "train_loss": "training loss (eV²)",
}

FEW_POINTS = 10  # shorter curves are drawn with markers: a single point has no line


def draw_learning_curves(records: Sequence[RunRecord], dataset: str, folder: Path, suffix: str = "") -> list[Path]:
    """Draw ``curves_<dataset>.png|svg``: error against steps and against seconds, one line per run.

    Args:
        records: records of one comparison.
        dataset: key of the database.
        folder: where the files go; it must exist.
        suffix: appended to the file names.

    Returns:
        the files; none when no record carries a curve.
    """
    runs = [record for record in records if record.dataset == dataset and record.curve]
    column = next((name for name in CURVES if runs and all(_has(run, name) for run in runs)), None)
    if column is None:
        return []
    axes_names = {"step": "step", "seconds": "training time (s)"}
    against = [name for name in axes_names if all(_has(run, name) for run in runs)]
    if not against:
        return []
    figure = Figure(figsize=(4.6 * len(against), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(against), squeeze=False)[0], against, strict=True):
        for run, label, line in _lines(runs):
            x, y = _column(run, name), _column(run, column)
            if len(x) != len(y):
                raise DataError(
                    f"{run.path}: curve: expected columns of one length, found {len(x)} {name}, {len(y)} {column}"
                )
            axis.plot(x, y, lw=1.1, label=label, marker="o" if len(x) < FEW_POINTS else None, ms=3, **line)
        axis.set_yscale("log")
        _label(axis, axes_names[name], CURVES[column])
    figure.axes[0].set_title(f"{dataset}, one line per run", fontsize=10, loc="left")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return save_figure(figure, folder, f"curves_{dataset}{suffix}")


def draw_distance(records: Sequence[RunRecord], dataset: str, folder: Path, suffix: str = "") -> list[Path]:
    """Draw ``distance_<dataset>.png|svg``: error of the matrix elements against the distance of the two atoms.

    Args:
        records: records of one comparison.
        dataset: key of the database.
        folder: where the files go; it must exist.
        suffix: appended to the file names.

    Returns:
        the files; none when no record carries errors by distance.
    """
    runs = [record for record in records if record.dataset == dataset]
    subsets = [name for name in SUBSETS if any(name in run.subsets and run.subsets[name].per_distance for run in runs)]
    if not subsets:
        return []
    figure = Figure(figsize=(4.6 * len(subsets), 3.2), layout="constrained")
    for axis, subset in zip(figure.subplots(1, len(subsets), squeeze=False)[0], subsets, strict=True):
        for run, label, line in _lines(runs):
            bins = run.subsets[subset].per_distance if subset in run.subsets else ()
            if bins:
                axis.plot(*_steps(bins), lw=1.2, label=label, **line)
        axis.set_yscale("log")
        axis.set_title(f"{dataset}, {SUBSETS[subset]}", fontsize=10, loc="left")
        _label(axis, "distance of the atoms (Å)", "MAE (meV)")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return save_figure(figure, folder, f"distance_{dataset}{suffix}")


def draw_bands(source: Path, folder: Path) -> list[Path]:
    """Draw ``<name>.png|svg`` from a band file: DFT and predicted energies along one path.

    Args:
        source: JSON with ``dataset``, ``structure``, ``k`` (position along the path, n), ``ticks`` ([position, label]),
            ``fermi_energy_eV`` (null: not known), ``dft`` (n × bands, eV) and ``predicted`` ({setting: n × bands, eV}).
        folder: where the files go; it must exist.

    Returns:
        the files.

    Raises:
        DataError: the file is not JSON, or a field is missing or of a wrong shape.
    """
    try:
        content = json.loads(source.read_bytes())
        k = np.asarray(content["k"], dtype=float)
        fermi = None if content["fermi_energy_eV"] is None else float(content["fermi_energy_eV"])
        bands = {"DFT": content["dft"], **content["predicted"]}
        energies = {name: np.asarray(values, dtype=float) - (fermi or 0.0) for name, values in bands.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: expected a band file, found {error!r}; make it again") from error
    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    axis = figure.subplots()
    for position, (name, values) in enumerate(energies.items()):
        if k.ndim != 1 or values.ndim != 2 or len(values) != k.size:
            raise DataError(f"{source}: {name}: expected {k.size} rows of energies, found shape {values.shape}")
        if name == "DFT":
            lines = axis.plot(k, values, color="#222222", lw=1.6)
        else:
            lines = axis.plot(k, values, color=colour(name, position), lw=1.0, ls="--")
        lines[0].set_label(name)
    ticks = content.get("ticks") or []
    axis.set_xticks([tick[0] for tick in ticks], [str(tick[1]) for tick in ticks])
    axis.grid(axis="x", lw=0.5, color="#BBBBBB")
    axis.set_xlim(k[0], k[-1])
    centre = float(np.median(next(iter(energies.values())))) if fermi is None else 0.0
    axis.set_ylim(centre - 4.0, centre + 4.0)
    axis.set_ylabel("E (eV)" if fermi is None else "E − E_F (eV)", fontsize=9)
    axis.set_title(f"{content['dataset']}, {content['structure']}", fontsize=10, loc="left")
    axis.legend(fontsize=8, loc="upper right", framealpha=0.85, edgecolor="none")
    return save_figure(figure, folder, source.stem)


def _lines(runs: Sequence[RunRecord]) -> list[tuple[RunRecord, str, dict[str, Any]]]:
    """Put the runs in the order of the tables and colour them; the first of a method carries the legend's entry."""
    order = [*COLOURS, *sorted({run.label for run in runs} - set(COLOURS))]
    runs = sorted(runs, key=lambda run: (order.index(run.label), run.seed))
    labels = list(dict.fromkeys(run.label for run in runs))
    first: set[str] = set()
    styled = []
    for run in runs:
        legend = "_" if run.label in first else run.label
        first.add(run.label)
        styled.append((run, legend, {"color": colour(run.label, labels.index(run.label))}))
    return styled


def _has(run: RunRecord, name: str) -> bool:
    """Say whether a column of a learning curve holds a number."""
    return any(value is not None for value in run.curve.get(name) or ())


def _column(run: RunRecord, name: str) -> list[float]:
    """Column of a learning curve as numbers; a missing value becomes a gap."""
    return [float("nan") if value is None else float(value) for value in run.curve[name]]


def _steps(bins: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Corners of a stepped line; a gap between two ranges becomes a gap of the line."""
    x: list[float] = []
    y: list[float] = []
    for start, stop, error in bins:
        if x and start > x[-1]:
            x.append(np.nan)
            y.append(np.nan)
        x += [start, stop]
        y += [error, error]
    return x, y


def _label(axis: Axes, x: str, y: str) -> None:
    """Name the axes and take away what carries nothing."""
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(which="both", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(lw=0.4, color="#DDDDDD")
