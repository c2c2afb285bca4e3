"""The output folder of a sweep: whose it is, what is finished, and the records that the reports read.

sweep.json   conditions, runs, overrides of the planned controls, environment, failures
work         a folder per run: log.txt, and what ``tracegrad train`` leaves (run.json, final.ckpt, ...)
runs         the record of each finished run, <run>.json
"""

from __future__ import annotations

import csv
import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.plan import Conditions, Run, configuration
from benchmarks.worker import LOG_FILE, TRAINING_FOLDER
from tracegrad.atomic import atomic_write
from tracegrad.config import changed_keys, config_from_dict
from tracegrad.errors import ConfigError, DataError

REQUIRED = ("dataset", "setting", "seed", "source", "preset", "metrics", "parameters", "train_seconds", "config")


class Ledger:
    """Book-keeping of one output folder.

    Args:
        out: the folder.
        conditions: what its runs share.
    """

    def __init__(self, out: Path, conditions: Conditions) -> None:
        self.out = out
        self.conditions = conditions
        self.records = out / "runs"
        self.work = out / "work"

    def folder(self, run: Run) -> Path:
        """Folder that a run works in."""
        return self.work / run.name

    def training(self, run: Run) -> Path:
        """What ``tracegrad train`` gets as ``--out``: a folder of its own, in which no log of ours is in the way."""
        return self.folder(run) / TRAINING_FOLDER

    def log(self, run: Run) -> Path:
        """What a run printed."""
        return self.folder(run) / LOG_FILE

    def record(self, run: Run) -> Path:
        """Record of a finished run."""
        return self.records / f"{run.name}.json"

    def finished(self, run: Run) -> bool:
        """Say whether the record of a run is there and is really that run's.

        Raises:
            ConfigError: it is, but the run had another configuration.
        """
        try:
            self.collected(run)
        except DataError:
            return False
        return True

    def collected(self, run: Run) -> dict[str, Any]:
        """Record of a finished run, as it lies in ``runs/``."""
        return check_record(self.record(run), run, self.conditions)

    @contextmanager
    def claim(self, resume: bool) -> Iterator[None]:
        """Take the folder for one sweep at a time.

        Args:
            resume: whether the user asked to go on with what is there.

        Raises:
            ConfigError: the folder holds another grid, or one that was not asked to be resumed, or is in use, or cannot
                be written.
        """
        self.check(resume)
        with self._open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.out}: another sweep is working here; wait for it or give another --out"
                ) from error
            yield

    def _open(self) -> IO[str]:
        """Make the folders, and the file that is locked."""
        try:
            self.records.mkdir(parents=True, exist_ok=True)
            self.work.mkdir(exist_ok=True)
            return (self.out / ".lock").open("w")
        except OSError as error:
            raise ConfigError(
                f"--out: expected a folder that can be made and written, found {error.filename}: {error.strerror}; "
                "give another --out"
            ) from error

    def check(self, resume: bool) -> None:
        """Refuse a folder that holds other runs.

        Args:
            resume: whether the user asked to go on with what is there.

        Raises:
            ConfigError: naming what differs and what to do.
        """
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"--out: expected a folder, found the file {self.out}; give another name")
        held = self.read()
        if not held:
            stray = [path for path in (self.records, self.work) if path.is_dir() and any(path.glob("[!.]*"))]
            if stray:
                raise ConfigError(
                    f"{stray[0]} holds runs, but {self.out / 'sweep.json'} is missing, so their conditions are "
                    "unknown; give another --out"
                )
            return
        before, ours = held.get("conditions"), self.conditions.to_dict()
        before = before if isinstance(before, dict) else {}
        keys = [key for key in ours if _in_any_order(before.get(key)) != _in_any_order(ours[key])]
        if keys:
            found = "; ".join(f"{key}: expected {ours[key]!r}, found {before.get(key)!r}" for key in keys)
            raise ConfigError(f"{self.out} holds another run grid ({found}); give another --out")
        if not resume:
            count = len(list(self.records.glob("*.json")))
            raise ConfigError(
                f"{self.out} holds a run grid with {count} finished runs; add --resume to go on with it or to "
                "extend it, or give another --out"
            )

    def read(self) -> dict[str, Any]:
        """Content of ``sweep.json``; empty where there is none."""
        path = self.out / "sweep.json"
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: expected JSON, found {error}; give another --out") from error
        return content if isinstance(content, dict) else {}

    def controls(self) -> dict[str, tuple[str, ...]]:
        """Overrides of the controls that were planned in this folder, by the name of the run.

        They rest on a measurement, so they are made once: a control that goes on keeps its length.
        """
        return {name: tuple(overrides) for name, overrides in self.read().get("controls", {}).items()}

    def write(
        self, runs: Sequence[Run], environment: Mapping[str, Any], failures: Sequence[str], tried: Sequence[str]
    ) -> None:
        """Write ``sweep.json``: this sweep's runs are added to those of earlier sweeps in the same folder.

        A failure of an earlier sweep stays as long as its run has no record and is not tried again.

        Args:
            runs: of this sweep.
            environment: of this sweep.
            failures: of this sweep, so far.
            tried: names of the runs that this sweep has started so far.
        """
        before, names = self.read(), [run.name for run in runs]
        earlier = (line for line in before.get("failures", []) if line not in failures)
        kept = [line for line in earlier if self._unsolved(line.partition(":")[0], tried, before.get("runs", []))]
        planned = {run.name: list(run.overrides) for run in runs if run.label != run.setting}
        content = {
            "conditions": self.conditions.to_dict(),
            "runs": list(dict.fromkeys([*before.get("runs", []), *names])),
            "controls": {**before.get("controls", {}), **planned},
            "environment": dict(environment),
            "failures": [*kept, *failures],
        }
        write_json(self.out / "sweep.json", content)

    def _unsolved(self, name: str, tried: Sequence[str], known: Sequence[str]) -> bool:
        return name in known and name not in tried and not (self.records / f"{name}.json").is_file()

    def collect(self, run: Run) -> dict[str, Any]:
        """Take the record of a finished run over into ``runs/``, with its label and learning curve.

        Args:
            run: the run.

        Returns:
            the record.

        Raises:
            DataError: the run left no record, or another run's.
            ConfigError: the run had another configuration.
        """
        folder = self.training(run)
        record = check_record(folder / "run.json", run, self.conditions)
        record["label"] = run.label
        if not record.get("curve") and (folder / "history.csv").is_file():
            record["curve"] = read_curve(folder / "history.csv")
        write_json(self.record(run), record)
        return record


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record atomically, readable for people.

    Raises:
        DataError: it holds a number that is not finite, for which JSON has no form.
    """
    try:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(
            f"{path}: expected finite numbers, found another ({error}); nothing is written, measure again"
        ) from error
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_record(path: Path, run: Run, conditions: Conditions) -> dict[str, Any]:
    """Read the record of a run and see that it belongs to it.

    Args:
        path: the record.
        run: the run that it should belong to.
        conditions: what it should have been trained under.

    Returns:
        the record.

    Raises:
        DataError: no file, no run record, or another run's.
        ConfigError: the run's, but with another configuration, such as that of an earlier version of the preset.
    """
    record = read_record(path)
    wanted = {"dataset": run.dataset, "setting": run.setting, "seed": run.seed}
    wanted |= {"source": conditions.source, "preset": conditions.preset}
    for key, value in wanted.items():
        if record[key] != value:
            raise DataError(f"{path}: expected {key} {value!r}, found {record[key]!r}; remove the folder and run again")
    changed = changed_keys(config_from_dict(record["config"], str(path)), configuration(run, conditions))
    if changed:
        raise ConfigError(
            f"{path}: the run was made with another configuration ({', '.join(changed)}); runs of both would be mixed "
            "in one table: give another --out"
        )
    return record


def read_records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read all records of finished runs.

    Args:
        folder: output of a sweep.

    Returns:
        the records by their files, in the order of the names.

    Raises:
        DataError: there are none, or a file is no run record.
    """
    files = sorted((folder / "runs").glob("*.json"))
    if not files:
        raise DataError(f"{folder}: expected run records in runs/, found none; give the --out of a sweep")
    return {path: read_record(path) for path in files}


def read_record(path: Path) -> dict[str, Any]:
    """Read a run record and check what the tools of this package rely on.

    Args:
        path: the record.

    Returns:
        its content.

    Raises:
        DataError: no file, not JSON, or a field missing or of another type.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"expected the record {path}, found none: the run did not finish") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, found {error}; remove the file and run again") from error
    missing = [key for key in REQUIRED if not isinstance(record, dict) or key not in record]
    if missing:
        raise DataError(f"{path}: expected a run record, found none of the fields {', '.join(missing)}")
    wrong = [f"{key} {value!r}" for key, value, kinds in _typed(record) if not isinstance(value, kinds)]
    if wrong:
        raise DataError(
            f"{path}: expected the fields of a run record, found {wrong[0]:.200}; remove the file and run again"
        )
    if not record["metrics"]:
        raise DataError(f"{path}: expected metrics of at least one subset, found none")
    return dict(record)


def _typed(record: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and expected types of the fields that are calculated with or opened; a missing one is None."""
    metrics, curve = record["metrics"], record.get("curve") or {}
    for key in ("seed", "parameters", "train_seconds"):
        yield key, record[key], int | float
    for key, section in (("config", record["config"]), ("metrics", metrics), ("curve", curve)):
        yield key, section, dict
    for subset, errors in metrics.items() if isinstance(metrics, dict) else ():
        yield f"metrics.{subset}.mae_all", errors.get("mae_all") if isinstance(errors, dict) else None, int | float
    for name, column in curve.items() if isinstance(curve, dict) else ():
        yield f"curve.{name}", column, list
        for value in column if isinstance(column, list) else ():
            yield f"curve.{name}", value, int | float | None


def read_curve(path: Path) -> dict[str, list[float | None]]:
    """Learning curve of a run at its validations, as columns.

    Args:
        path: ``history.csv`` of the run.

    Returns:
        step, epoch, seconds, losses (eV²) and val_mae (meV); None for an empty field and for an error that was not
        finite, as of a training that went back to its last good weights.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("val_loss")]
    names = ("step", "epoch", "seconds", "train_loss", "val_loss", "val_mae")
    return {name: [finite(row.get(name)) for row in rows] for name in names}


def finite(value: str | float | None) -> float | None:
    """Convert to a number that can be calculated with; None for an empty field and for what is not finite."""
    number = float(value) if value not in ("", None) else math.nan
    return number if math.isfinite(number) else None


def _in_any_order(condition: Any) -> Any:
    """Overrides as what they set, the last of each key; anything else as it is."""
    return dict(str(text).partition("=")[::2] for text in condition) if isinstance(condition, list) else condition
