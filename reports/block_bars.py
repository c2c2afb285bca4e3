"""Error of every basic block, baseline and TraceGrad side by side, as in the paper's Figures 4, 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import colour, save_figure
from reports.records import BASELINE, RunRecord, select
from reports.statistics import Summary

PAIRS = ((BASELINE, "DeepHE3+TraceGrad"), ("HarmoSE", "HarmoSE+TraceGrad"))
LETTERS = "spdfghi"
SUBSETS = {"all": "all test structures", "nt": "not twisted (nt)", "t": "twisted (t)"}


def block_summaries(runs: Sequence[RunRecord], subset: str) -> dict[str, Summary]:
    """Error of each block over the seeds.

    Args:
        runs: runs of one method on one database.
        subset: subset of the test structures.

    Returns:
        values in meV by orbital pair (``"s1-p1"``), ordered by the rows' orbital, then the columns'; runs without the
        subset are left out.
    """
    columns = [run.subsets[subset].mae_block for run in runs if subset in run.subsets]
    if not columns:
        return {}
    return {name: Summary(tuple(column[name] for column in columns)) for name in sorted(columns[0], key=_orbitals)}


def _orbitals(block: str) -> tuple[tuple[int, str], ...]:
    """Sorting key of a block's name: degree and number of both orbitals; other names sort by themselves."""
    return tuple((LETTERS.find(part[:1]), part) for part in block.split("-"))


def draw_block_bars(records: Sequence[RunRecord], dataset: str, folder: Path, suffix: str = "") -> list[Path]:
    """Draw ``blocks_<dataset>.png|svg`` (and ``blocks_<dataset>_HarmoSE``), one panel per subset.

    Args:
        records: records of one comparison.
        dataset: key of the database.
        folder: where the files go; it must exist.
        suffix: appended to the file names, to keep comparisons apart.

    Returns:
        the files; none when no record has errors by block.
    """
    written: list[Path] = []
    for pair in PAIRS:
        runs = {label: select(records, dataset=dataset, label=label) for label in pair}
        panels = {}
        for subset in SUBSETS:
            found = {label: block_summaries(members, subset) for label, members in runs.items()}
            if any(found.values()):
                panels[subset] = {label: blocks for label, blocks in found.items() if blocks}
        if panels:
            stem = f"blocks_{dataset}{'' if pair[0] == BASELINE else '_' + pair[0]}{suffix}"
            written += save_figure(_figure(dataset, panels), folder, stem)
    return written


def _figure(dataset: str, panels: Mapping[str, Mapping[str, Mapping[str, Summary]]]) -> Figure:
    """One panel per subset, one group of bars per block."""
    blocks = max((len(columns) for panel in panels.values() for columns in panel.values()), default=1)
    figure = Figure(figsize=(max(7.0, 0.32 * blocks), 2.9 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (subset, methods) in zip(axes, panels.items(), strict=True):
        _panel(axis, methods)
        axis.set_title(f"{dataset}, {SUBSETS[subset]}", fontsize=10, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, ncols=2, loc="outside upper right")
    return figure


def _panel(axis: Axes, methods: Mapping[str, Mapping[str, Summary]]) -> None:
    """Draw the bars of one subset; a line on a bar is the standard deviation over seeds."""
    names = list(next(iter(methods.values())))
    place, width = np.arange(len(names)), 0.8 / len(methods)
    for position, (label, blocks) in enumerate(methods.items()):
        known = [name for name in names if name in blocks]
        where = [place[names.index(name)] + (position - (len(methods) - 1) / 2) * width for name in known]
        spreads = [blocks[name].std or 0.0 for name in known]
        bars = axis.bar(where, [blocks[name].mean for name in known], width, color=colour(label, position), label=label)
        if any(spreads):
            axis.errorbar(where, [bar.get_height() for bar in bars], spreads, fmt="none", ecolor="#222222", lw=0.7)
    axis.set_xticks(place, names, rotation=90, fontsize=7, family="monospace")
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylabel("MAE of the block (meV)", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", lw=0.4, color="#CCCCCC")
    axis.set_axisbelow(True)
