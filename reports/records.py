"""Run records as they lie on disk, checked, and sorted into comparisons that may stand in one table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracegrad.errors import DataError

BASELINE = "DeepHE3"
EVERYTHING = ("data.", "model.", "training.")  # of a configuration, must agree between the seeds of one row
FREE = ("training.seed", "training.device", "training.threads", "training.loggers", "training.checkpoint_seconds")
# What the settings of one table must share; rates are swept per setting, and parts of the network are their own.
SHARED = ("data.", "training.epochs", "training.max_steps", "training.max_seconds", "training.select")
# So are the method's keys; these are of the recipe. Of a key that only a newer version has nothing is known.
RECIPE = (
    "model.norm", "model.num_neighbors", "model.envelope", "model.envelope_end", "model.time_reversal",
    "model.reference", "model.scaling",
    "training.optimizer", "training.weight_decay", "training.schedule", "training.decay", "training.start",
    "training.interval", "training.patience", "training.cooldown", "training.threshold", "training.smoothing",
    "training.final_rate", "training.warmup_steps", "training.clip", "training.ema_decay", "training.batch_size",
    "training.devices", "training.nodes", "training.dtype", "training.revert_ratio", "training.revert_epochs",
    "training.revert_decay",
)  # fmt: skip
OF_BACKBONE = ("model.hermitian", "training.rotate_after")  # of the recipe, but HarmoSE has its own


@dataclass(frozen=True, order=True)
class Comparison:
    """What all records of one table share; records that differ in any of these are never put side by side.

    Args:
        source: where the structures come from: ``"bundled"``, ``"published"`` or a path.
        preset: the named size and length of the runs.
        recipe: everything about training that is not the method (``config.recipe``).
    """

    source: str
    preset: str
    recipe: str

    @property
    def title(self) -> str:
        """One line for people, such as ``bundled data, preset smoke, recipe paper``."""
        return f"{self.source} data, preset {self.preset}, recipe {self.recipe}"


@dataclass(frozen=True)
class SubsetMetrics:
    """Errors of one run on one subset of the test structures.

    Args:
        mae_all: mean over the test structures of their mean absolute error, meV (arXiv:2401.00744).
        mae_block: mean absolute error of each basic block, meV, keyed by its orbitals (``"s1-p1"``).
        per_structure: mean absolute error of each test structure, meV; empty when the record does not carry it.
        per_distance: (from, to, error) of each range of distances, Å, Å and meV; empty when the record has none.
        physics: energies, states and gap of one structure (``tracegrad.physics.physics_metrics``); empty when the
            record has none.
    """

    mae_all: float
    mae_block: Mapping[str, float]
    per_structure: Mapping[str, float]
    per_distance: tuple[tuple[float, float, float], ...] = ()
    physics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Args:
        dataset: key of the database, such as ``"MG"``.
        setting: the network that was trained, such as ``"DeepHE3+TraceGrad"``.
        label: name of the row; differs from `setting` for controls such as ``"DeepHE3 (equal time)"``.
        seed: seed of weights and order of the structures.
        comparison: which table the record may stand in.
        subsets: metrics by subset: ``"all"``, or ``"nt"`` and ``"t"``.
        parameters: number of weights of the network; zero where its part is left out (two-centre reference alone).
        train_seconds: wall time of the training, s.
        curve: learning curve, columns of equal length, None for a missing number; empty when the record has none.
        raw: the record as it was read, for provenance.
        path: file that was read.
        sha256: hash of that file.
    """

    dataset: str
    setting: str
    label: str
    seed: int
    comparison: Comparison
    subsets: Mapping[str, SubsetMetrics]
    parameters: int
    train_seconds: float
    curve: Mapping[str, Sequence[float | None]] = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)
    path: Path
    sha256: str


def load_records(folder: str | Path) -> list[RunRecord]:
    """Read every ``*.json`` of a folder of run records, in the order of their names.

    Args:
        folder: the folder, such as ``reports/out/runs``.

    Returns:
        the records.

    Raises:
        DataError: the folder or the records are missing, a file is not a run record, or two files describe one run.
    """
    directory = Path(folder)
    if not directory.is_dir():
        raise DataError(f"expected a folder of run records, found none at {directory}; run `nox -s reproduce` first")
    files = sorted(directory.glob("*.json"))
    if not files:
        raise DataError(f"expected run records (*.json) in {directory}, found none; run `nox -s reproduce` first")
    records = [read_record(path) for path in files]
    seen: dict[tuple[object, ...], Path] = {}
    for record in records:
        key = (record.comparison, record.dataset, record.label, record.seed)
        if key in seen:
            raise DataError(
                f"{record.path} and {seen[key]} both describe {record.label} on {record.dataset}, seed {record.seed} "
                f"({record.comparison.title}); expected one record per run: remove one of them"
            )
        seen[key] = record.path
    return records


def read_record(path: str | Path) -> RunRecord:
    """Read one run record and check what the reports rely on.

    Args:
        path: the JSON file.

    Returns:
        the record.

    Raises:
        DataError: the file is not JSON, lacks a field, or holds one of another type or a number that is not finite.
    """
    file = Path(path)
    content = file.read_bytes()
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected a run record in JSON, found {error}; run it again") from error
    if not isinstance(raw, dict):
        raise DataError(f"{file}: expected a JSON object, found {type(raw).__name__}; it is not a run record")
    if not isinstance(raw.get("steps", 0), int):
        raise DataError(f"{file}: expected a whole number of steps, found {raw['steps']!r}; run it again")
    try:
        return RunRecord(
            dataset=str(raw["dataset"]),
            setting=str(raw["setting"]),
            label=str(raw.get("label") or raw["setting"]),
            seed=int(raw["seed"]),
            comparison=Comparison(str(raw["source"]), str(raw["preset"]), _recipe(raw)),
            subsets={str(name): _subset(file, name, metrics) for name, metrics in raw["metrics"].items()},
            parameters=0 if raw["config"].get("model", {}).get("reference_only") else int(raw["parameters"]),
            train_seconds=float(raw["train_seconds"]),
            curve={str(name): _column(values) for name, values in (raw.get("curve") or {}).items()},
            raw=raw,
            path=file,
            sha256=hashlib.sha256(content).hexdigest(),
        )
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{file}: expected the field {error} of a run record, found none; run it again") from error
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: expected a run record, found a field of another type ({error})") from error


def _recipe(raw: Mapping[str, Any]) -> str:
    """Recipe named by the record, by its configuration, or by the training section of that."""
    config = raw["config"]
    return str(raw.get("recipe") or config.get("recipe") or config["training"]["recipe"])


def _subset(file: Path, name: str, metrics: Mapping[str, Any]) -> SubsetMetrics:
    """Check and convert the metrics of one subset."""
    blocks = {str(block): float(value) for block, value in metrics["mae_block"].items()}
    structures = {str(key): float(value) for key, value in (metrics.get("per_structure") or {}).items()}
    mae_all = float(metrics["mae_all"])
    for label, value in [("mae_all", mae_all), *blocks.items(), *structures.items()]:
        if not math.isfinite(value):
            raise DataError(
                f"{file}: metrics of {name!r}: expected finite errors, found {label} = {value}; run it again"
            )
    bins = metrics.get("per_distance") or []
    distance = tuple((float(entry["from"]), float(entry["to"]), float(entry["mae"])) for entry in bins)
    return SubsetMetrics(mae_all, blocks, structures, distance, _physics(metrics.get("physics") or {}))


def _physics(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Name of the structure, and its figures as numbers, None for a missing one; empty where there are none."""
    if not figures:
        return {}
    numbers = {name: _column([value])[0] for name, value in figures.items() if name != "structure"}
    return {"structure": str(figures["structure"]), **numbers}


def _column(values: Iterable[Any]) -> list[float | None]:
    """Numbers, None for a missing one."""
    return [None if value is None else float(value) for value in values]


def by_comparison(records: Iterable[RunRecord]) -> dict[Comparison, list[RunRecord]]:
    """Sort records into the groups that may be compared, and check that the members of each can be.

    Within a group a database has one split, the settings one length of training and one recipe but for its rate, and
    the seeds of a setting one configuration; controls have lengths and widths of their own.

    Args:
        records: run records of any origin.

    Returns:
        records by source, preset and recipe, sorted.

    Raises:
        DataError: two runs of one group saw different splits of the same database, or were trained differently.
    """
    groups: dict[Comparison, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.comparison, []).append(record)
    for comparison, members in groups.items():
        _check_splits(comparison, members)
        _check_conditions(members)
    return {comparison: groups[comparison] for comparison in sorted(groups)}


def _check_splits(comparison: Comparison, records: Sequence[RunRecord]) -> None:
    """Refuse to compare runs that were tested on different structures."""
    first: dict[str, RunRecord] = {}
    for record in records:
        other = first.setdefault(record.dataset, record)
        ours, theirs = record.raw.get("split_sha256"), other.raw.get("split_sha256")
        if ours != theirs:
            raise DataError(
                f"{record.path} and {other.path} ({comparison.title}) saw different splits of {record.dataset}: "
                f"{ours} and {theirs}; they cannot stand in one table: move one of them to another folder"
            )


def _check_conditions(records: Sequence[RunRecord]) -> None:
    """Refuse to average, or to compare, runs of different lengths or recipes."""
    seeds: dict[tuple[str, str], RunRecord] = {}
    rows: dict[str, RunRecord] = {}
    backbones: dict[tuple[str, str], RunRecord] = {}
    for record in records:
        if record.label == record.setting:
            backbone = record.setting.partition("+")[0]
            _require_alike(seeds.setdefault((record.dataset, record.setting), record), record, EVERYTHING)
            _require_alike(rows.setdefault(record.dataset, record), record, (*SHARED, *RECIPE))
            _require_alike(backbones.setdefault((record.dataset, backbone), record), record, OF_BACKBONE)


def _require_alike(first: RunRecord, second: RunRecord, names: tuple[str, ...]) -> None:
    """Compare two configurations; a key that only a newer version has counts where it is one of ``SHARED``."""
    before, after = (dict(_flat(record.raw["config"])) for record in (first, second))
    keys = (key for key in {**before, **after} if _among(key, names) and key not in FREE)
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key) and (_among(key, SHARED) or (key in before and key in after))
    ]
    if changed:
        raise DataError(
            f"{first.path} and {second.path} were trained differently ({', '.join(changed)}); they cannot stand in one "
            "table: move one of them to another folder"
        )


def _among(key: str, names: tuple[str, ...]) -> bool:
    """Say whether a key is one of the names, or of a section named by its point."""
    return key in names or f"{key.partition('.')[0]}." in names


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def select(records: Iterable[RunRecord], *, dataset: str, label: str) -> list[RunRecord]:
    """Records of one row, ordered by seed."""
    chosen = (record for record in records if record.dataset == dataset and record.label == label)
    return sorted(chosen, key=lambda record: record.seed)
