"""Accuracy per second: ``python -m benchmarks.convergence --dataset MG`` trains one network with two recipes.

Every run is a ``tracegrad train`` of the same network on the same machine with the same budget of seconds; only the
recipe differs. The curves are MAE_all on the validation set against training time. Runs that are complete are not
repeated, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.ledger import finite, read_record, write_json
from tracegrad.atomic import atomic_write
from tracegrad.config import Config, changed_keys, config_from_dict, load_config
from tracegrad.errors import ConfigError, TracegradError

LEVELS = (10.0, 5.0, 2.0, 1.0)  # meV
RECIPES = ("paper", "fast")


@dataclass(frozen=True)
class Case:
    """One training.

    Args:
        dataset: key of the database.
        setting: row of the paper's tables.
        recipe: ``paper`` or ``fast``.
        seconds: training budget.
        overrides: further ``key=value`` settings.
        label: what it is called where the recipe does not say it.
    """

    dataset: str
    setting: str
    recipe: str
    seconds: float
    overrides: tuple[str, ...]
    label: str = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return re.sub("[^A-Za-z0-9.-]+", "_", f"{self.dataset}_{self.setting}_{self.label or self.recipe}")

    @property
    def title(self) -> str:
        """What it is called in tables and plots."""
        return self.label or f"{self.setting}, recipe {self.recipe}"


def make_parser() -> argparse.ArgumentParser:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convergence", description=__doc__)
    parser.add_argument("--dataset", default="MG", help="key of the database (default MG)")
    parser.add_argument("--settings", default="DeepHE3", help="settings, separated by commas (default DeepHE3)")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="recipes, separated by commas")
    parser.add_argument("--seconds", type=float, default=900.0, help="training budget of a run (default 900)")
    parser.add_argument("--preset", default="bundled", help="preset that names the network (default bundled)")
    parser.add_argument("--threads", type=count, default=1, help="threads of a run (default 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change both recipes alike")
    parser.add_argument("--out", type=Path, default=Path("reports/convergence"), help="folder of the result")
    parser.add_argument("--work", type=Path, default=Path("reports/out/convergence"), help="folder of the runs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write JSON, table and plot."""
    options = make_parser().parse_args(arguments)
    try:
        planned = list(cases(options))
        for case in planned:
            configuration(case, options)  # mistakes show before any training
        curves = [run(case, options) for case in planned]
        write(options.out / f"convergence_{options.dataset}.json", options.dataset, curves)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All trainings that the options ask for."""
    for setting in options.settings.split(","):
        for recipe in options.recipes.split(","):
            yield Case(options.dataset, setting, recipe, options.seconds, tuple(options.set))


def settings_of(case: Case, options: argparse.Namespace) -> tuple[str, ...]:
    """All ``section.key=value`` of a case."""
    budget = (f"training.max_seconds={case.seconds}", "training.epochs=0", "training.max_steps=0")
    measured = ("training.validate_mae=true", f"training.threads={options.threads}")
    return (f"recipe={case.recipe}", *budget, *measured, *case.overrides)


def configuration(case: Case, options: argparse.Namespace) -> Config:
    """Configuration of a case.

    Raises:
        ConfigError: an unknown key, a wrong type, or a contradiction.
    """
    overrides = settings_of(case, options)
    return load_config(preset=options.preset, dataset=case.dataset, setting=case.setting, overrides=overrides)


def run(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Train one case, or read it when it is complete.

    Raises:
        TracegradError: the training failed, or the folder holds a run with another configuration.
    """
    folder = options.work / case.name
    wanted = configuration(case, options)
    if not (folder / "run.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tracegrad", "train", "--dataset", case.dataset, "--setting", case.setting]
        command += ["--preset", options.preset, "--out", str(folder)]
        for setting in settings_of(case, options):
            command += ["--set", setting]
        if folder.exists():
            command.append("--resume")
        variables = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        status = subprocess.run(command, env=variables, check=False).returncode
        if status:
            raise TracegradError(
                f"{case.name}: training ended with exit code {status}; its last words stand above ({folder})"
            )
    record = read_record(folder / "run.json")
    changed = changed_keys(config_from_dict(record["config"], str(folder)), wanted)
    if changed:
        raise ConfigError(f"{folder}: holds another run ({', '.join(changed)}); give another --work")
    curve = read_curve(folder / "history.csv")
    points = [(seconds, error) for seconds, error in curve if error is not None]
    return {
        **asdict(case),
        "title": case.title,
        "points": points,
        "seconds_to": seconds_to(points),
        "steps": record["steps"],
        "parameters": record["parameters"],
        "final_val_mae_mev": curve[-1][1] if curve else None,
        "test_mae_all_mev": {subset: metrics["mae_all"] for subset, metrics in record["metrics"].items()},
    }


def read_curve(path: Path) -> list[tuple[float, float | None]]:
    """Points ``(training seconds, validation MAE_all in meV)`` of a history file; None for an error that is not finite.

    Such a point is left by a training that then went back to its best weights.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val_mae")]
    return [(float(row["seconds"]), finite(row["val_mae"])) for row in rows]


def seconds_to(points: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Training time of the first validation at or below each level; None where a level was not reached."""
    return {f"{level:g}": next((s for s, mae in points if mae <= level), None) for level in LEVELS}


def write(target: Path, dataset: str, curves: list[dict[str, Any]]) -> None:
    """Write the record ``target``, and beside it the table and the plot.

    Args:
        target: JSON file.
        dataset: key of the database.
        curves: results of :func:`run`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {"dataset": dataset, "environment": environment(), "curves": curves})
    with atomic_write(target.with_suffix(".md")) as temporary:
        temporary.write_text(table(curves), encoding="utf-8")
    for suffix in (".png", ".svg"):
        with atomic_write(target.with_suffix(suffix)) as temporary:
            draw(curves, dataset).savefig(temporary, dpi=150)
    print(table(curves))


def table(curves: Sequence[dict[str, Any]]) -> str:
    """Markdown table of the seconds to each level; a dash where it was not reached."""
    head = ["run", "parameters", "steps", *(f"s to {level:g} meV" for level in LEVELS), "last (meV)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for curve in curves:
        times = ["-" if seconds is None else f"{seconds:.0f}" for seconds in curve["seconds_to"].values()]
        last = curve["final_val_mae_mev"]
        cells = [curve["title"], str(curve["parameters"]), str(curve["steps"]), *times]
        lines.append("| " + " | ".join([*cells, "-" if last is None else f"{last:.3f}"]) + " |")
    if any(curve["final_val_mae_mev"] is None for curve in curves):
        lines += ["", "A dash in the last column: the last validation gave no finite error, or there was none."]
    return "\n".join(lines) + "\n"


def draw(curves: Sequence[dict[str, Any]], dataset: str) -> Figure:
    """Validation error against training time, both axes logarithmic."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axis = figure.subplots()
    for curve in curves:
        if curve["points"]:
            seconds, errors = zip(*curve["points"], strict=True)
            axis.plot(seconds, errors, label=curve["title"], lw=1.2)
    for level in LEVELS:
        axis.axhline(level, color="0.8", lw=0.6, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="training time (s)", ylabel="validation MAE_all (meV)")
    axis.set_title(f"{dataset}, bundled data", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
