"""Choice of the recipe: ``python -m benchmarks.trials --dataset MG`` trains the baseline with one change at a time.

The changes stand in ``trials.yaml``, on top of its ``start``, the recipe before the choice. All trials have the same
budget, and only validation data are looked at. Trials that are complete are not repeated, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arguments import count
from benchmarks.convergence import Case, configuration, run, write
from tracegrad.config import read_yaml
from tracegrad.errors import ConfigError, TracegradError, did_you_mean

TRIALS = Path(__file__).with_name("trials.yaml")
START = "start"  # name of the trial whose changes all others have too


def make_parser() -> argparse.ArgumentParser:
    """Command line of the trials."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description=__doc__)
    parser.add_argument("--dataset", default="MG", help="key of the database (default MG)")
    parser.add_argument("--setting", default="DeepHE3", help="setting (default DeepHE3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="training budget of a trial (default 60)")
    parser.add_argument("--steps", type=int, default=0, help="budget in steps instead, on a machine that is busy")
    parser.add_argument("--preset", default="bundled", help="preset that names the network (default bundled)")
    parser.add_argument("--threads", type=count, default=1, help="threads of a trial (default 1)")
    parser.add_argument("--trials", type=Path, default=TRIALS, metavar="FILE", help="YAML: name -> changes")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run this trial (repeatable)")
    parser.add_argument("--out", type=Path, default=Path("reports/convergence"), help="folder of the result")
    parser.add_argument("--work", type=Path, default=Path("reports/out/trials"), help="folder of the runs")
    return parser


def read_trials(path: Path, only: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Overrides of every trial, those of ``start`` included.

    Args:
        path: YAML file, name -> {section.key: value}.
        only: names to keep; all if empty.

    Raises:
        ConfigError: the file is no such mapping, or a name is not in it.
    """
    content = read_yaml(path)
    if not all(isinstance(changes, dict) for changes in content.values()):
        raise ConfigError(f"{path}: expected a mapping from names to changes such as {{training.clip: 0.1}}")
    start = content.get(START, {})
    for name in only:
        if name not in content:
            raise ConfigError(f"{path}: no trial {name!r}. {did_you_mean(name, list(content))}")
    return {
        name: tuple(f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in {**start, **changes}.items())
        for name, changes in content.items()
        if not only or name in only
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write JSON, table and plot; the best last validation error comes first."""
    options = make_parser().parse_args(arguments)
    try:
        budget = (f"training.max_steps={options.steps}",) if options.steps else ()
        seconds = 0.0 if options.steps else options.seconds
        cases = [
            Case(options.dataset, options.setting, "fast", seconds, (*overrides, *budget), name)
            for name, overrides in read_trials(options.trials, options.only).items()
        ]
        for case in cases:
            configuration(case, options)  # mistakes show before any training
        curves = []
        for case in cases:
            curves.append(run(case, options))
            curves.sort(key=_last_error)
            write(options.out / f"trials_{options.dataset}_{options.setting}.json", options.dataset, curves)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _last_error(curve: Mapping[str, Any]) -> float:
    """Error that the trials are ordered by; one that is not finite comes last."""
    error = curve["final_val_mae_mev"]
    return math.inf if error is None else float(error)


if __name__ == "__main__":
    sys.exit(main())
