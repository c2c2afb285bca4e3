"""What a sweep consists of: the grid of databases, settings and seeds, and how long it should take."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracegrad.config import PRESETS, SETTINGS, Config, TrainingConfig, config_from_dict, load_config
from tracegrad.errors import ConfigError, did_you_mean

DATASETS = ("MG", "MM", "BG", "BB", "BT", "BS")
FIRST_SEED = 42  # the release's seed; repeats count up from it
NAMED_SOURCES = ("bundled", "published")
SECOND_BACKBONE = "HarmoSE"
TABLE_3_DATASET = "MM"

# Core-minutes of one run where nothing has been measured yet: what the preset may take (2 and 30 minutes per database
# on two cores), spread over the four settings.
PRESET_MINUTES = {"smoke": 1.0, "bundled": 15.0}


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        dataset: key of the database.
        setting: row of the paper's tables that is trained.
        seed: seed of the weights and of the order of the data.
        label: name of the row in our tables; differs from `setting` for controls.
        overrides: further ``section.key=value`` of this run alone.
    """

    dataset: str
    setting: str
    seed: int
    label: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run's folder and record, such as ``MG_DeepHE3+Trace_42``."""
        label = re.sub(r"[^A-Za-z0-9+-]+", "-", self.label).strip("-")
        return f"{self.dataset}_{label}_{self.seed}"


@dataclass(frozen=True)
class Conditions:
    """What all runs of one folder share.

    Args:
        source: ``"bundled"``, ``"published"`` or an absolute path.
        preset: named size and length of the runs.
        device: ``"cpu"`` or ``"cuda"``.
        overrides: ``section.key=value`` of every run.
    """

    source: str
    preset: str
    device: str
    overrides: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON gives it back."""
        return {**asdict(self), "overrides": list(self.overrides)}


def default_settings(dataset: str) -> tuple[str, ...]:
    """Settings of the tables that a database stands in: the four of Tables 1 and 2, for MM also the two of Table 3."""
    return tuple(s for s in SETTINGS if not s.startswith(SECOND_BACKBONE) or dataset == TABLE_3_DATASET)


def make_grid(datasets: Sequence[str], settings: Sequence[str] | None, seeds: int) -> list[Run]:
    """Lay out the runs, seed by seed, so that an interrupted sweep has whole tables first.

    Args:
        datasets: keys, or ``("all",)``.
        settings: names, or None for those of the paper's tables.
        seeds: number of repeats.

    Returns:
        the runs.

    Raises:
        ConfigError: an unknown name, no seed, or a setting that none of the databases' tables holds.
    """
    keys = DATASETS if tuple(datasets) == ("all",) else tuple(dict.fromkeys(datasets))
    for key in keys:
        if key not in DATASETS:
            raise ConfigError(f"--dataset: unknown {key!r}. {did_you_mean(key, (*DATASETS, 'all'))}")
    for setting in settings or ():
        if setting not in SETTINGS:
            raise ConfigError(f"--settings: unknown {setting!r}. {did_you_mean(setting, SETTINGS)}")
    if seeds < 1:
        raise ConfigError(f"--seeds: expected at least 1, found {seeds}")
    runs = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for key in keys:
            known = default_settings(key)
            runs += [Run(key, s, seed, s) for s in dict.fromkeys(settings or known) if s in known]
    if not runs:
        raise ConfigError(
            f"nothing to run: {', '.join(settings or ())} stands in Table 3 only, which is about {TABLE_3_DATASET}; "
            f"expected --dataset {TABLE_3_DATASET}, found {', '.join(keys)}"
        )
    return runs


def left_out(datasets: Sequence[str], settings: Sequence[str] | None) -> str:
    """Which of the settings asked for are not run on which databases, and why; empty where all are."""
    keys = DATASETS if tuple(datasets) == ("all",) else tuple(dict.fromkeys(datasets))
    parts = []
    for setting in dict.fromkeys(settings or ()):
        without = [key for key in keys if setting not in default_settings(key)]
        if without:
            parts.append(
                f"{setting} stands in Table 3 only, which is about {TABLE_3_DATASET}: not run on {', '.join(without)}"
            )
    return "\n".join(parts)


def make_conditions(source: str, preset: str, device: str, overrides: Iterable[str]) -> Conditions:
    """Check what all runs share.

    Args:
        source: ``"bundled"``, ``"published"`` or a path.
        preset: named size and length of the runs.
        device: ``"cpu"`` or ``"cuda"``.
        overrides: ``section.key=value`` of every run.

    Returns:
        the conditions, a path made absolute.

    Raises:
        ConfigError: an unknown preset, or a path that does not exist.
    """
    if preset not in PRESETS:
        raise ConfigError(f"--preset: unknown {preset!r}. {did_you_mean(preset, PRESETS)}")
    if source not in NAMED_SOURCES:
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise ConfigError(
                f"--source: expected bundled, published or an existing path, found {path}; check the path"
            )
        source = str(path)
    return Conditions(source, preset, device, tuple(overrides))


def settings_of(run: Run, conditions: Conditions) -> tuple[str, ...]:
    """All ``section.key=value`` of a run; YAML reads the quoted text of the source back."""
    return (
        f"data.source={json.dumps(conditions.source)}",
        f"training.seed={run.seed}",
        f"training.device={conditions.device}",
        *conditions.overrides,
        *run.overrides,
    )


def configuration(run: Run, conditions: Conditions) -> Config:
    """Build the configuration of a run.

    Raises:
        ConfigError: an unknown key, a wrong type, or a contradiction.
    """
    return load_config(
        preset=conditions.preset, dataset=run.dataset, setting=run.setting, overrides=settings_of(run, conditions)
    )


def check_runs(runs: Sequence[Run], conditions: Conditions) -> list[Config]:
    """Configurations of all runs, before any work starts.

    Args:
        runs: the grid.
        conditions: what all runs share.

    Returns:
        one configuration per run.

    Raises:
        ConfigError: an unknown key, a wrong type, a contradiction; a ``--set`` of what the grid itself decides; one
            path for several databases.
    """
    keys = list(dict.fromkeys(run.dataset for run in runs))
    if conditions.source not in NAMED_SOURCES and len(keys) > 1:
        raise ConfigError(
            f"--source: expected one database with a path, found {', '.join(keys)}; give them one by one, each with "
            "its path"
        )
    configs = [configuration(run, conditions) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        decided = {
            "data.dataset": ("--dataset", run.dataset, config.data.dataset),
            "model.setting": ("--settings", run.setting, config.model.setting),
            "training.seed": ("--seeds", run.seed, config.training.seed),
            "data.source": ("--source", conditions.source, config.data.source),
            "training.device": ("--device", conditions.device, config.training.device),
        }
        for key, (option, expected, found) in decided.items():
            if found != expected:
                raise ConfigError(
                    f"--set {key}: expected {expected!r}, found {found!r}; {option} decides it, leave it out"
                )
    return configs


def train_arguments(run: Run, conditions: Conditions, folder: Path) -> tuple[str, ...]:
    """Arguments of ``tracegrad train`` for a run that starts or goes on in `folder`."""
    chosen = ("--dataset", run.dataset, "--setting", run.setting, "--preset", conditions.preset)
    changes = tuple(part for text in settings_of(run, conditions) for part in ("--set", text))
    return (*chosen, *changes, "--out", str(folder), "--resume")


@dataclass(frozen=True)
class Estimate:
    """Expected training time of one run.

    Args:
        seconds: expected time, s; None when nothing is known.
        basis: where the number comes from.
    """

    seconds: float | None
    basis: str


def estimate(run: Run, conditions: Conditions, records: Iterable[Path]) -> Estimate:
    """Guess how long a run takes: the median time of a step of the same network, times the steps of this run.

    Where no run of the network was measured, it is the share of the preset's budget.

    Args:
        run: the run.
        conditions: its preset and device.
        records: run records of earlier sweeps; files that cannot be read are passed over.

    Returns:
        the guess and its basis.
    """
    config = configuration(run, conditions)
    measured = []
    for path in records:
        try:
            raw = json.loads(path.read_bytes())
            on_cpu = str(raw["device"]).startswith("cpu")
            found = (raw["dataset"], raw["preset"], on_cpu, config_from_dict(raw["config"]).model)
            if found == (run.dataset, conditions.preset, conditions.device == "cpu", config.model):
                longer = _longer(config.training, raw["steps"], raw.get("epochs", 0))
                measured.append(longer * float(raw["train_seconds"]))
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, ConfigError):
            continue
    if measured:
        return Estimate(statistics.median(measured), f"median of {len(measured)} measured")
    if conditions.preset in PRESET_MINUTES:
        usual = load_config(preset=conditions.preset, dataset=run.dataset, setting=run.setting).training
        try:
            longer = _longer(config.training, usual.max_steps, usual.epochs)
        except ZeroDivisionError:  # steps where the preset counts epochs, or the other way round
            return Estimate(None, "not measured yet")
        return Estimate(60.0 * PRESET_MINUTES[conditions.preset] * longer, "budget of the preset")
    return Estimate(None, "not measured yet")


def _longer(training: TrainingConfig, steps: float, epochs: float) -> float:
    """Length of a training over another of so many steps and epochs; 1 where its budget is a time."""
    if training.max_steps:
        return training.max_steps / steps
    return training.epochs / epochs if training.epochs else 1.0


def total_seconds(estimates: Sequence[Estimate], jobs: int) -> float | None:
    """Wall time of several runs, `jobs` at a time, each started as soon as one ends; None when one is unknown."""
    ends = [0.0] * max(1, jobs)
    for guess in estimates:
        if guess.seconds is None:
            return None
        ends[ends.index(min(ends))] += guess.seconds
    return max(ends)
