"""What the method adds, in every comparison at once: ``python -m reports.gains FOLDER...`` reads finished sweeps.

The change of MAE_all by TraceGrad is drawn against the error of DeepHE3 under the same conditions: what there is to
gain may depend on how far the network without it has come. The paper's values stand in a panel of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from reports.figures import COLOURS, save_figure
from reports.records import BASELINE, RunRecord, by_comparison, load_records
from reports.render import EMPTY, change_text, markdown_grid
from reports.tables import PAPER, Row, build_tables, read_published
from tracegrad.atomic import atomic_write
from tracegrad.errors import DataError, TracegradError

METHOD = "DeepHE3+TraceGrad"
METRIC = "mae_all"
BUNDLED = "bundled"
MARKERS = {"MG": "o", "MM": "s", "BG": "^", "BB": "D", "BT": "v", "BS": "P"}
OTHER_RATE = "recipe paper, another rate"
GROUPS = {
    "recipe fast": COLOURS[BASELINE],
    "recipe paper, published rate": COLOURS[METHOD],
    OTHER_RATE: COLOURS["HarmoSE+TraceGrad"],
}
PUBLISHED = Path(__file__).resolve().parent.parent / "tracegrad" / "data" / "presets"  # hyperparameters by database
STEM = "gains"
GRID = "gains_by_condition"


@dataclass(frozen=True)
class Gain:
    """One comparison on one subset.

    Args:
        dataset: key of the database.
        subset: ``"all"``, ``"nt"`` or ``"t"``.
        baseline: MAE_all of DeepHE3, meV, mean over the seeds that both have.
        change: relative change by TraceGrad.
        group: what the runs have in common with the paper, a key of ``GROUPS``, or the paper itself.
        steps: length of the runs.
        rate: learning rates of the two.
        seeds: how many.
        source: where the structures come from.
    """

    dataset: str
    subset: str
    baseline: float
    change: float
    group: str
    steps: int = 0
    rate: str = EMPTY
    seeds: int = 1
    source: str = BUNDLED

    @property
    def subset_key(self) -> tuple[str, str]:
        """Database and subset."""
        return self.dataset, self.subset

    @property
    def where(self) -> str:
        """Name of the subset, such as ``BB nt``, with the file of data that are not bundled."""
        name = self.dataset if self.subset == "all" else f"{self.dataset} {self.subset}"
        return name if self.source == BUNDLED else f"{name} ({Path(self.source).stem})"


def read_gains(folder: Path) -> list[Gain]:
    """Compare the two settings on every subset of a sweep that has both.

    Args:
        folder: folder of the sweep; its ``runs/*.json`` are read.

    Returns:
        the comparisons, in the order of the tables.

    Raises:
        DataError: no records, or none of both settings with one seed.
    """
    gains = []
    for comparison, members in by_comparison(load_records(folder / "runs")).items():
        for table in build_tables(comparison, members, {}):
            rows = {(row.dataset, row.subset, row.method): row for row in table.rows}
            for where in table.layout.columns:
                without, with_it = rows.get((*where, BASELINE)), rows.get((*where, METHOD))
                change = with_it.cells[METRIC].change if with_it else None
                if without and with_it and change is not None:
                    gains.append(_gain(without, with_it, change))
    if not gains:
        raise DataError(f"{folder}: expected runs of {BASELINE} and {METHOD} with one seed, found none")
    return gains


def _gain(without: Row, with_it: Row, change: float) -> Gain:
    """Join two rows over the seeds that both have."""
    seeds = {run.seed for run in without.records} & {run.seed for run in with_it.records}
    runs = [run for run in without.records if run.seed in seeds]
    baseline = sum(run.subsets[without.subset].mae_all for run in runs) / len(runs)
    rates = [_number(row.records[0], "config", "training", "learning_rate") for row in (without, with_it)]
    comparison = runs[0].comparison
    group = f"recipe {comparison.recipe}"
    if group not in GROUPS:
        published = yaml.safe_load((PUBLISHED / f"{without.dataset}.yaml").read_text(encoding="utf-8"))
        group += ", published rate" if set(rates) == {published["learning_rate"]} else ", another rate"
    text = " / ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
    where = (without.dataset, without.subset)
    return Gain(*where, baseline, change, group, int(_number(runs[0], "steps")), text, len(seeds), comparison.source)


def _number(run: RunRecord, *keys: str) -> float:
    """Number of a record at nested keys."""
    value: Any = run.raw
    try:
        for key in keys:
            value = value[key]
        return float(value)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.path}: expected a number at {'.'.join(keys)}, found none; run it again") from error


def published_gains() -> list[Gain]:
    """Comparisons of Tables 1 and 2 of the paper."""
    gains = []
    published = read_published()
    for (number, dataset, subset, method), values in published.items():
        base = published.get((number, dataset, subset, BASELINE), {}).get(METRIC)
        if method == METHOD and base is not None and METRIC in values:
            gains.append(Gain(dataset, subset, base, values[METRIC] / base - 1, PAPER))
    return gains


def table(gains: Sequence[Gain]) -> str:
    """Markdown: a line per comparison, by group, else in the order given."""
    head = ["recipe and rate", "steps", "rate", "data", "seeds", f"{BASELINE} (meV)", "+TraceGrad (meV)", "change"]
    lines = []
    for gain in sorted(gains, key=lambda gain: list(GROUPS).index(gain.group)):
        errors = [f"{gain.baseline:.3f}", f"{gain.baseline * (1 + gain.change):.3f}", change_text(gain.change)]
        lines.append([gain.group, f"{gain.steps:,}", gain.rate, gain.where, str(gain.seeds), *errors])
    return "\n".join(markdown_grid(head, lines)) + "\n"


def grid(ours: Sequence[Gain], paper: Sequence[Gain]) -> str:
    """Markdown: changes in %, a line per condition, a column per subset; bold: at least the paper's reduction."""
    head = ["recipe and rate", "rate", "steps", "seeds", *(gain.where for gain in paper)]
    target = {gain.subset_key: gain.change for gain in paper}
    conditions: dict[tuple[int, str, int, str, int], dict[tuple[str, str], Gain]] = {}
    for gain in ours:
        # databases differ in their published rates, and in those chosen for `fast`; any other makes a line of its own
        rate = gain.rate if gain.group == OTHER_RATE else ""
        source = "" if gain.source == BUNDLED else f", {Path(gain.source).stem}"
        condition = (list(GROUPS).index(gain.group), rate, gain.steps, source)
        times = sum(gain.subset_key in others for key, others in conditions.items() if key[:-1] == condition)
        conditions.setdefault((*condition, times), {})[gain.subset_key] = gain
    lines = []
    for (group, _, steps, source, _), gains in sorted(conditions.items()):
        rates = {float(rate) for gain in gains.values() for rate in gain.rate.split(" / ")}
        seeds = {gain.seeds for gain in gains.values()}
        cells = [_change(gains.get(key), target[key]) for key in target]
        lines.append([list(GROUPS)[group] + source, _span(rates), f"{steps:,}", _span(seeds), *cells])
    lines.append([PAPER, EMPTY, EMPTY, EMPTY, *(_change(gain) for gain in paper)])
    return "\n".join(markdown_grid(head, lines)) + "\n"


def _span(values: set[float] | set[int]) -> str:
    """Smallest to largest of some numbers."""
    ends = [f"{value:g}" for value in sorted({min(values), max(values)})]
    return " to ".join(ends)


def _change(gain: Gain | None, target: float | None = None) -> str:
    """A cell of the grid, bold where it reaches the target."""
    if gain is None:
        return EMPTY
    text = change_text(gain.change).removesuffix(" %")
    return f"**{text}**" if target is not None and gain.change <= target else text


def draw(ours: Sequence[Gain], paper: Sequence[Gain]) -> Figure:
    """Two panels with common axes: our comparisons, and the paper's on its own data."""
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True, width_ratios=(1.7, 1))
    _scatter(left, ours)
    _scatter(right, paper)
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("change of MAE_all by TraceGrad (%)", fontsize=9)
    left.set_title("our data: one point per comparison and subset", fontsize=10, loc="left")
    right.set_title(PAPER, fontsize=10, loc="left")
    for axis in (left, right):
        axis.axhline(0, color="0.6", lw=0.8, zorder=0)
        axis.set_xlabel(f"MAE_all of {BASELINE} (meV)", fontsize=9)
        axis.tick_params(which="both", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    present = {gain.group for gain in ours}
    dots = [Line2D([], [], marker="o", ls="", color=c, label=name) for name, c in GROUPS.items() if name in present]
    left.legend(handles=dots, frameon=False, fontsize=8)
    keys = [Line2D([], [], marker=mark, ls="", color="0.3", label=key) for key, mark in MARKERS.items()]
    keys.append(Line2D([], [], marker="o", ls="", color="0.3", markerfacecolor="none", label="twisted"))
    right.legend(handles=keys, frameon=False, fontsize=8, ncols=2)
    return figure


def _scatter(axis: Axes, gains: Iterable[Gain]) -> None:
    """One mark per comparison: colour by group, form by database, hollow where twisted."""
    for gain in gains:
        colour = GROUPS.get(gain.group, "0.3")
        face = "none" if gain.subset == "t" else colour
        axis.plot(gain.baseline, 100 * gain.change, MARKERS[gain.dataset], color=colour, markerfacecolor=face, ms=5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.gains", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders of sweeps")
    parser.add_argument("--out", type=Path, default=Path("reports/results"), help="folder of what is written")
    options = parser.parse_args(arguments)
    try:
        gains = [gain for folder in options.folders for gain in read_gains(folder)]
        options.out.mkdir(parents=True, exist_ok=True)
        paper = published_gains()
        for stem, text in ((STEM, table(gains)), (GRID, grid(gains, paper))):
            with atomic_write(options.out / f"{stem}.md") as temporary:
                temporary.write_text(text, encoding="utf-8")
        save_figure(draw(gains, paper), options.out, STEM)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{table(gains)}\n{grid(gains, paper)}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
