"""Learning rate of every setting on every database: ``python -m benchmarks.rates FOLDER...`` reads several sweeps.

Each folder is what ``python -m benchmarks --set training.learning_rate=R --out FOLDER`` left. The rate with the lowest
validation error at the end of the run is the one for the recipe; test errors are not looked at. Of two runs with one
rate that of the later folder counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracegrad.atomic import atomic_write
from tracegrad.errors import DataError, TracegradError

Key = tuple[str, str]
Errors = dict[Key, dict[float, float]]


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
        DataError: a folder has no records, or a record no learning curve.
    """
    found: Errors = {}
    for folder in folders:
        files = sorted((folder / "runs").glob("*.json"))
        if not files:
            raise DataError(f"{folder}: expected run records in runs/, found none; give the --out of a sweep")
        for path in files:
            record = json.loads(path.read_bytes())
            if record["seed"] != seed or record.get("label", record["setting"]) != record["setting"]:
                continue
            values = record.get("curve", {}).get("val_mae", [])
            if all(value is None for value in values):
                raise DataError(f"{path}: expected a learning curve with val_mae; set training.validate_mae=true")
            rates = found.setdefault((record["dataset"], record["setting"]), {})
            rates[float(record["config"]["training"]["learning_rate"])] = math.inf if values[-1] is None else values[-1]
    return dict(sorted(found.items()))


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
    except TracegradError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = [
        {
            "dataset": dataset,
            "setting": setting,
            "val_mae_mev": {rate: error if math.isfinite(error) else None for rate, error in errors.items()},
            "best": best_rate(errors),
        }
        for (dataset, setting), errors in found.items()
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.out / "rates.json") as temporary:
        temporary.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    with atomic_write(options.out / "rates.md") as temporary:
        temporary.write_text(table(found), encoding="utf-8")
    print(table(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
