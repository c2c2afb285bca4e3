"""Where the method gains or loses: ``python -m benchmarks.factors --dataset MG`` changes one condition at a time.

Each condition of ``factors.yaml`` holds for the baseline and for the method alike, with the same steps and seeds, and
only validation data are looked at. A condition about the method alone leaves the baseline as it is, which is then not
trained again. ``--factors benchmarks/factors_paper.yaml`` starts from the published recipe and adds one part of ours at
a time. Trainings that are complete are not repeated, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.arguments import count
from benchmarks.convergence import Case, configuration, run
from benchmarks.environment import environment
from benchmarks.ledger import write_json
from benchmarks.plan import FIRST_SEED
from benchmarks.trials import START, read_trials
from tracegrad.atomic import atomic_write
from tracegrad.errors import TracegradError

FACTORS = Path(__file__).with_name("factors.yaml")
OF_THE_METHOD = ("model.operator", "model.trace", "training.lambda", "training.trace")  # no effect on the baseline
UNCHANGED = "recipe as it is"
CAPTION = (
    "A dash: no seed ended with a finite validation error. Where some did, the mean is over them, and the change over "
    "those of them that did with the baseline too."
)


@dataclass(frozen=True)
class Factor:
    """One condition.

    Args:
        name: what it is called in tables.
        overrides: ``section.key=value``.
        errors: validation MAE_all in meV by setting, one per seed; None where the last one was not finite.
    """

    name: str
    overrides: tuple[str, ...]
    errors: Mapping[str, tuple[float | None, ...]]

    def pairs(self, setting: str, baseline: str) -> list[tuple[float, float]]:
        """Errors of a setting and of the baseline, of the seeds for which both are finite."""
        both = zip(self.errors[setting], self.errors[baseline], strict=True)
        return [(ours, theirs) for ours, theirs in both if ours is not None and theirs is not None]

    def change(self, setting: str, baseline: str) -> float | None:
        """Mean error of a setting over that of the baseline, minus one, of their pairs; None without any."""
        pairs = self.pairs(setting, baseline)
        if not pairs:
            return None
        ours, theirs = zip(*pairs, strict=True)
        return float(statistics.mean(ours) / statistics.mean(theirs) - 1)


def make_parser() -> argparse.ArgumentParser:
    """Command line of the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.factors", description=__doc__)
    parser.add_argument("--dataset", default="MG", help="key of the database (default MG)")
    parser.add_argument(
        "--settings", default="DeepHE3,DeepHE3+Grad,DeepHE3+TraceGrad", help="settings with commas, the baseline first"
    )
    parser.add_argument("--steps", type=count, default=400, help="training steps unless a factor says so (default 400)")
    parser.add_argument("--seeds", type=count, default=1, help="repeats (default 1)")
    parser.add_argument("--preset", default="bundled", help="preset that names the network (default bundled)")
    parser.add_argument("--threads", type=count, default=1, help="threads of a training (default 1)")
    parser.add_argument("--factors", type=Path, default=FACTORS, metavar="FILE", help="YAML: name -> changes")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this factor (repeatable)")
    parser.add_argument("--out", type=Path, default=Path("reports/convergence"), help="folder of the result")
    parser.add_argument("--work", type=Path, help="folder of the trainings (default reports/out/ and the name of FILE)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write JSON, table and plot."""
    options = make_parser().parse_args(arguments)
    options.work = options.work or Path("reports/out", options.factors.stem)
    settings = options.settings.split(",")
    try:
        found: list[Factor] = []
        start = read_trials(options.factors, []).get(START, ())
        planned: list[tuple[Factor, dict[str, list[Case]]]] = []
        for name, overrides in read_trials(options.factors, options.only).items():
            factor = Factor(UNCHANGED if name == START else name, overrides, {})
            planned.append((factor, {setting: _cases(setting, factor, start, options) for setting in settings}))
        for case in (case for _, cases in planned for seeds in cases.values() for case in seeds):
            configuration(case, options)  # mistakes show before any training
        for factor, cases in planned:
            errors = {
                setting: tuple(run(case, options)["final_val_mae_mev"] for case in seeds)
                for setting, seeds in cases.items()
            }
            found.append(replace(factor, errors=errors))
            write(options.out / f"{options.factors.stem}_{options.dataset}.json", options, settings, found)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(settings, found), end="")
    return 0


def _cases(setting: str, factor: Factor, start: Sequence[str], options: argparse.Namespace) -> list[Case]:
    """Training of every seed; the baseline is trained without the changes that do not touch it."""
    name, overrides = factor.name, factor.overrides
    if setting == options.settings.split(",")[0]:
        start, overrides = _of_the_baseline(start), _of_the_baseline(overrides)
        name = UNCHANGED if overrides == start else name
    cases = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        changes = (f"training.max_steps={options.steps}", f"training.seed={seed}", *overrides)
        cases.append(Case(options.dataset, setting, "fast", 0.0, changes, f"{name}, seed {seed}"))
    return cases


def _of_the_baseline(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if not text.startswith(OF_THE_METHOD))


def write(target: Path, options: argparse.Namespace, settings: Sequence[str], factors: Sequence[Factor]) -> None:
    """Write the record ``target``, and beside it the table and the plot.

    Args:
        target: JSON file.
        options: of the command line.
        settings: the baseline first.
        factors: what was measured.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "dataset": options.dataset,
        "steps": options.steps,
        "seeds": options.seeds,
        "environment": environment(),
        "factors": [{"name": f.name, "overrides": f.overrides, "val_mae_mev": f.errors} for f in factors],
    }
    write_json(target, content)
    with atomic_write(target.with_suffix(".md")) as temporary:
        temporary.write_text(table(settings, factors), encoding="utf-8")
    with atomic_write(target.with_suffix(".png")) as temporary:
        draw(settings, factors, options.dataset).savefig(temporary, dpi=150)


def table(settings: Sequence[str], factors: Sequence[Factor]) -> str:
    """Markdown table: error of the baseline in meV, of the others with their change over the seeds that both have."""
    lines = ["| condition | " + " | ".join(settings) + " |", "|---|" + "---|" * len(settings)]
    for factor in factors:
        cells = [_spread(factor.errors[settings[0]])]
        for setting in settings[1:]:
            cells.append(_spread(factor.errors[setting]) + _change(factor, setting, settings[0]))
        lines.append(f"| {factor.name} | " + " | ".join(cells) + " |")
    if any(error is None for factor in factors for errors in factor.errors.values() for error in errors):
        lines += ["", CAPTION]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    missing = f" ({len(known)} of {len(values)} seeds)" if len(known) < len(values) else ""
    return f"{statistics.mean(known):.3f}{spread}{missing}"


def _change(factor: Factor, setting: str, baseline: str) -> str:
    change, pairs, errors = factor.change(setting, baseline), factor.pairs(setting, baseline), factor.errors[setting]
    if change is None:
        return ""
    fewer = len(pairs) < sum(error is not None for error in errors)
    return f" ({100 * change:+.1f} %{f' over {len(pairs)} of {len(errors)} seeds' if fewer else ''})"


def draw(settings: Sequence[str], factors: Sequence[Factor], dataset: str) -> Figure:
    """Change of every setting against the baseline, by condition, with a point per seed."""
    figure = Figure(figsize=(6.5, 1.0 + 0.28 * len(factors)), layout="constrained")
    axis = figure.subplots()
    for k, setting in enumerate(settings[1:]):
        height = [row + 0.18 * (k - (len(settings) - 2) / 2) for row in range(len(factors))]
        changes = [factor.change(setting, settings[0]) for factor in factors]
        axis.plot([math.nan if c is None else 100 * c for c in changes], height, "o", ms=5, label=setting)
        for y, factor in zip(height, factors, strict=True):
            pairs = factor.pairs(setting, settings[0])
            axis.plot([100 * (a / b - 1) for a, b in pairs], [y] * len(pairs), "|", color=f"C{k}")
    axis.axvline(0, color="0.6", lw=0.8, zorder=0)
    axis.set_yticks(range(len(factors)), [factor.name for factor in factors], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"change of the validation MAE_all against {settings[0]} (%)")
    axis.set_title(f"{dataset}, bundled data", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
