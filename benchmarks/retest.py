"""Test finished runs with other weights of the same training: ``python -m benchmarks.retest OUT --select last``.

A training leaves its last state, which holds the weights of the last step and those of the lowest validation loss. So
``training.select`` can be changed afterwards: nothing is trained, the chosen weights are saved and tested as
``tracegrad train`` does it. The record keeps the commit and the time of its training, and says under ``retested`` which
commit tested it. What was there before stays in ``work/<run>/before``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ledger import read_record, write_json
from benchmarks.worker import TRAINING_FOLDER
from tracegrad.atomic import atomic_write
from tracegrad.config import Config, config_from_dict, read_yaml
from tracegrad.errors import DataError, TracegradError
from tracegrad.evaluation import RECORD_FILE, run_and_record
from tracegrad.training.device import git_commit
from tracegrad.training.folder import CONFIG_FILE, FINAL_FILE

REPLACED = (FINAL_FILE, RECORD_FILE, CONFIG_FILE)  # in this order
MEASURED = ("metrics", "selected_step", "val_loss")  # what depends on the weights
LAST_STATE = "last.ckpt"


def make_parser() -> argparse.ArgumentParser:
    """Command line of the tool."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retest", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="output of a sweep, with its work/")
    parser.add_argument("--select", choices=("best", "last"), default="last", help="weights to test (default last)")
    parser.add_argument("--only", action="append", default=[], metavar="RUN", help="this run (repeatable)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the runs that were tested with other weights; print their errors before and after."""
    options = make_parser().parse_args(arguments)
    try:
        names = options.only or sorted(path.stem for path in (options.folder / "runs").glob("*.json"))
        if not names:
            raise DataError(f"{options.folder}: expected run records in runs/, found none; give the --out of a sweep")
        for name in names:
            print(_line(name, *retest(options.folder, name, options.select)), flush=True)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def retest(folder: Path, name: str, select: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test one run with the weights of `select`.

    Args:
        folder: output of a sweep.
        name: of the run, such as ``MG_DeepHE3_42``.
        select: ``"best"`` or ``"last"``.

    Returns:
        its record before and after; the same twice where it has these weights already.

    Raises:
        DataError: the run left no whole record or no last state, or its training would not be the same.
    """
    path, training = folder / "runs" / f"{name}.json", folder / "work" / name / TRAINING_FOLDER
    before_folder = training.parent / "before"
    before = read_record(path)
    if config_from_dict(before["config"], str(path)).training.select == select:
        return before, before
    if not (training / LAST_STATE).is_file():
        raise DataError(f"{training}: expected {LAST_STATE}, found none; its weights are lost, train the run again")
    config = _set_select(training, before_folder, select)
    tested = run_and_record(config, training, resume=True, quiet=True)
    if tested["steps"] != before.get("steps"):
        raise DataError(
            f"{training}: expected {before.get('steps')} steps, found {tested['steps']}: not the same training"
        )
    after = before | {key: tested[key] for key in MEASURED} | {"config": config.to_dict()}
    after["retested"] = {"git_commit": git_commit(), "select": select}
    trained = {key: value for key, value in after.items() if key not in ("label", "curve")}
    write_json(training / RECORD_FILE, trained)
    write_json(path, after)
    return before, after


def _set_select(training: Path, before_folder: Path, select: str) -> Config:
    """Give a training other weights to choose; what it left with the present ones goes to `before_folder`.

    The configuration goes last, so that an interrupted test is known by it and goes on.
    """
    before_folder.mkdir(exist_ok=True)
    place = training / CONFIG_FILE
    if place.is_file() and read_yaml(place)["training"]["select"] == select:
        return config_from_dict(read_yaml(place), str(place))
    for file in REPLACED:
        if (training / file).is_file():
            (training / file).replace(before_folder / file)
    content = read_yaml(before_folder / CONFIG_FILE)
    content["training"]["select"] = select
    config = config_from_dict(content, str(before_folder / CONFIG_FILE))
    with atomic_write(place) as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
    return config


def _line(name: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Errors of one run under both choices."""
    if before is after:
        return f"{name}: has these weights already"
    errors = (f"{key} {before['metrics'][key]['mae_all']:.4f} -> {after['metrics'][key]['mae_all']:.4f}"
              for key in after["metrics"])  # fmt: skip
    return f"{name}: step {before['selected_step']} -> {after['selected_step']}, {', '.join(errors)} meV"


if __name__ == "__main__":
    sys.exit(main())
