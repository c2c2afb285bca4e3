"""Learning rate of every setting on every database: ``python -m benchmarks.rates FOLDER...`` reads several sweeps.

Each folder is what ``python -m benchmarks --set training.learning_rate=R --out FOLDER`` left. The rate with the lowest
validation error at the end of the run is the one for the recipe; test errors are not looked at. Of two runs with one
rate that of the later folder counts. Runs of another recipe or length, or that differ in more than the rate, are
refused.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ledger import read_records, write_json
from tracegrad.atomic import atomic_write
from tracegrad.config import Config, changed_keys, config_from_dict
from tracegrad.errors import DataError, TracegradError

Key = tuple[str, str]
Errors = dict[Key, dict[float, float]]
SWEPT = "training.learning_rate"
OF_THE_TABLE = ("recipe", "training.epochs", "training.max_steps", "training.max_seconds")  # all of its runs share it


def make_parser() -> argparse.ArgumentParser:
    """Command line of the collection."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="outputs of sweeps")
    parser.add_argument("--seed", type=int, default=42, help="runs of this seed (default 42)")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/convergence"), help="folder of rates.json and rates.md"
    )
    return parser


def validation_errors(folders: Sequence[Path], seed: int) -> Errors:
    """Validation MAE_all at the end of every run, meV, by (database, setting) and rate.

    Args:
        folders: outputs of sweeps.
        seed: of the runs.

    Raises:
        DataError: a folder has no records, a record no learning curve, or runs differ in more than the rate.
    """
    found: Errors = {}
    first: dict[Key | None, tuple[Path, Config]] = {}  # of every row, and under None of the table
    records = {path: record for folder in folders for path, record in read_records(folder).items()}
    for path, record in records.items():
        key = (record["dataset"], record["setting"])
        if record["seed"] != seed or record.get("label", record["setting"]) != record["setting"]:
            continue
        values = (record.get("curve") or {}).get("val_mae", [])
        if all(value is None for value in values):
            raise DataError(f"{path}: expected a learning curve with val_mae; set training.validate_mae=true")
        run = path, config_from_dict(record["config"], str(path))
        _require_alike(first.setdefault(None, run), run, OF_THE_TABLE)
        _require_alike(first.setdefault(key, run), run)
        found.setdefault(key, {})[run[1].training.learning_rate] = math.inf if values[-1] is None else values[-1]
    return dict(sorted(found.items()))


def _require_alike(first: tuple[Path, Config], second: tuple[Path, Config], keys: Sequence[str] = ()) -> None:
    """Refuse two runs that differ in one of the keys; without keys, in more than the rate."""
    lines = {line.partition(":")[0]: line for line in changed_keys(first[1], second[1])}
    wrong = [line for key, line in lines.items() if (key in keys if keys else key != SWEPT)]
    if wrong:
        raise DataError(
            f"{first[0]} and {second[0]}: expected runs that differ in their rate alone, found {', '.join(wrong)}; "
            "leave one of the folders out"
        )


def best_rate(errors: dict[float, float]) -> float:
    """Rate with the lowest error; a run that blew up never wins."""
    return min(errors, key=lambda rate: errors[rate])


def table(found: Errors) -> str:
    """Markdown table of the errors; the best of each row is bold."""
    rates = sorted({rate for errors in found.values() for rate in errors})
    lines = ["| database | setting | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |"]
    lines.append("|---|---|" + "---|" * len(rates))
    for (dataset, setting), errors in found.items():
        best = best_rate(errors)
        cells = [_cell(errors.get(rate), bold=rate == best and len(errors) > 1) for rate in rates]
        lines.append(f"| {dataset} | {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, bold: bool) -> str:
    text = "-" if value is None else f"{value:.3f}" if math.isfinite(value) else "blew up"
    return f"**{text}**" if bold else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the sweeps, write JSON and table, print the table."""
    options = make_parser().parse_args(arguments)
    try:
        found = validation_errors(options.folders, options.seed)
        write(found, options.seed, options.out)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found), end="")
    return 0


def write(found: Errors, seed: int, folder: Path) -> None:
    """Write ``rates.json`` and ``rates.md``.

    Args:
        found: result of :func:`validation_errors`.
        seed: of the runs.
        folder: where to; made if missing.
    """
    rows: list[dict[str, Any]] = [
        {
            "dataset": dataset,
            "setting": setting,
            "val_mae_mev": {rate: error if math.isfinite(error) else None for rate, error in errors.items()},
            "best": best_rate(errors),
        }
        for (dataset, setting), errors in found.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "rates.json", {"seed": seed, "rows": rows})
    with atomic_write(folder / "rates.md") as temporary:
        temporary.write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
