"""The picture and the data file of bands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tracegrad.atomic import atomic_write
from tracegrad.physics.bands import Bands

WINDOW = 4.0  # eV above and below the Fermi level
COLOURS = ("#B2432F", "#2F6DB2", "#3C8D5A", "#8A5BA6")


def write_bands(
    path: Path,
    dataset: str,
    structure: str,
    dft: Bands | None,
    predicted: Mapping[str, Bands],
    extra: Mapping[str, Any],
) -> None:
    """Write bands as JSON, in the form that ``reports`` draws; ``fermi_energy_eV`` is null where no level is known.

    Args:
        path: the file; reports look for ``bands_*.json``.
        dataset: key of the database, or where the structure came from.
        structure: its name.
        dft: bands of the DFT blocks, if there are any.
        predicted: setting -> bands, on the same path.
        extra: further plain data, e.g. metrics.
    """
    first = dft or next(iter(predicted.values()))
    content: dict[str, Any] = {
        "dataset": dataset,
        "structure": structure,
        "k": first.path.distance.tolist(),
        "ticks": [list(tick) for tick in first.path.ticks],
        "k_points": first.path.points.tolist(),
        "fermi_energy_eV": _reference(dft, predicted),
        "predicted": {name: bands.energies.tolist() for name, bands in predicted.items()},
        **extra,
    }
    if dft is not None:
        content["dft"] = dft.energies.tolist()
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def draw_bands(
    path: Path, title: str, dft: Bands | None, predicted: Mapping[str, Bands], dos: Mapping[str, Any] | None = None
) -> None:
    """Draw bands within 4 eV of the Fermi level, DFT as lines, predictions dashed on top; densities of states beside.

    Without a Fermi level energies are drawn as they are, around their median.

    Args:
        path: the picture; its suffix names the form, e.g. ``.png``.
        title: above the picture.
        dft: bands of the DFT blocks, if there are any.
        predicted: label -> bands, on the same path.
        dos: ``energy_eV`` and ``density``, one per curve in the order of the bands, as in the data file.
    """
    fermi = _reference(dft, predicted)
    named = {**({"DFT": dft} if dft is not None else {}), **predicted}
    first = next(iter(named.values()))
    zero, centre = (0.0, float(np.median(first.energies))) if fermi is None else (fermi, 0.0)
    figure = Figure(figsize=(5.0 if dos is None else 6.2, 3.8), layout="constrained")
    widths = [3] if dos is None else [3, 1]
    axis, *beside = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    styles = [_style(n, name) for n, name in enumerate(named)]
    for (name, bands), style in zip(named.items(), styles, strict=True):
        marker = "_" if len(bands.path.distance) == 1 else None
        lines = axis.plot(bands.path.distance, bands.energies - zero, marker=marker, **style)
        lines[0].set_label(name)
    route = first.path
    axis.set_xticks([x for x, _ in route.ticks], [label.replace("G", "Γ") for _, label in route.ticks])
    axis.grid(axis="x", lw=0.5, color="#BBBBBB")
    if route.distance[-1] > route.distance[0]:
        axis.set_xlim(route.distance[0], route.distance[-1])
    axis.set_ylim(centre - WINDOW, centre + WINDOW)
    axis.set_ylabel("E (eV)" if fermi is None else "E − E_F (eV)", fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")
    axis.legend(fontsize=8, loc="upper right", framealpha=0.85, edgecolor="none")
    for side in beside:
        assert dos is not None
        for values, style in zip(dos["density"].values(), styles, strict=True):
            side.plot(values, np.asarray(dos["energy_eV"]) - zero, **style)
        side.set_ylim(axis.get_ylim())
        side.set_xlim(left=0.0)
        side.set_yticklabels([])
        side.set_xlabel("states / eV", fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _style(n: int, name: str) -> dict[str, Any]:
    """Line of the n-th curve."""
    if name == "DFT":
        return {"color": "#222222", "lw": 1.6}
    return {"color": COLOURS[n % 4], "lw": 1.0, "ls": "--"}


def _reference(dft: Bands | None, predicted: Mapping[str, Bands]) -> float | None:
    """The first known Fermi level in eV, or None where there is none."""
    every = [*([dft] if dft is not None else []), *predicted.values()]
    return next((bands.fermi_energy for bands in every if bands.fermi_energy is not None), None)
