"""Which weights to keep, on validation data: ``python -m benchmarks.selection FOLDER...`` reads finished sweeps.

The published training keeps the weights with the lowest validation loss, a mean square. With a rate that falls to
nothing the last ones are an alternative. Both are compared by validation MAE_all; test errors are not looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ledger import read_records
from tracegrad.atomic import atomic_write
from tracegrad.errors import DataError, TracegradError

SHOWN = 1.0  # runs whose two choices differ by less, in per cent, are only counted


@dataclass(frozen=True)
class Choice:
    """Validation errors of one run under both choices.

    Args:
        name: database, setting or label, and seed.
        steps: length of the run.
        best_step: where the validation loss was lowest.
        best: validation MAE_all there, meV.
        last: validation MAE_all at the end, meV.
    """

    name: str
    steps: int
    best_step: int
    best: float
    last: float

    @property
    def change(self) -> float:
        """Of the last weights against the ones with the lowest loss, per cent."""
        return 100.0 * (self.last / self.best - 1.0)


def make_parser() -> argparse.ArgumentParser:
    """Command line of the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="outputs of sweeps")
    parser.add_argument("--out", type=Path, default=Path("reports/convergence"), help="folder of selection.md")
    return parser


def read_choices(folder: Path) -> list[Choice]:
    """Read both errors of every trained network of a sweep, greatest change first.

    Raises:
        DataError: the folder has no records of networks, or a record no learning curve.
    """
    choices = []
    for path, record in read_records(folder).items():
        curve = record.get("curve") or {}
        columns = zip(*(curve.get(key, ()) for key in ("val_loss", "val_mae", "step")), strict=False)
        points = [(point[0], point[1], int(point[2])) for point in columns if None not in point]
        if not points:
            raise DataError(f"{path}: expected a learning curve with val_mae; set training.validate_mae=true")
        if len(points) > 1:  # a reference without a network has no choice
            (_, best, best_step), (_, last, steps) = min(points), points[-1]
            label = record.get("label", record["setting"])
            choices.append(Choice(f"{record['dataset']} {label}, seed {record['seed']}", steps, best_step, best, last))
    if not choices:
        raise DataError(f"{folder}: expected the record of a trained network in runs/, found references only")
    return sorted(choices, key=lambda choice: choice.change)


def table(sweeps: dict[str, list[Choice]]) -> str:
    """Markdown: a line per sweep, then the runs for which the choice matters."""
    lines = ["| sweep | runs | last weights better | worse | change, mean | from | to |", "|---" * 7 + "|"]
    for name, choices in sweeps.items():
        changes = [choice.change for choice in choices]
        counts = f"{len(changes)} | {sum(c < 0 for c in changes)} | {sum(c > 0 for c in changes)}"
        spread = f"{sum(changes) / len(changes):+.1f} % | {changes[0]:+.1f} % | {changes[-1]:+.1f} %"
        lines.append(f"| {name} | {counts} | {spread} |")
    lines += ["", "| run | steps | lowest loss at | MAE_all there | at the end | change |", "|---" * 6 + "|"]
    for choice in (choice for choices in sweeps.values() for choice in choices if abs(choice.change) >= SHOWN):
        errors = f"{choice.best:.3f} | {choice.last:.3f} | {choice.change:+.1f} %"
        lines.append(f"| {choice.name} | {choice.steps:,} | {choice.best_step:,} | {errors} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the sweeps, write and print the table."""
    options = make_parser().parse_args(arguments)
    try:
        text = table({folder.name: read_choices(folder) for folder in options.folders})
        options.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(options.out / "selection.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
