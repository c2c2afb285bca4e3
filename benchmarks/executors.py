"""Where runs are executed: in this process, or through submitit in local processes or on a SLURM cluster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import submitit
from submitit.core.utils import FailedJobError

from benchmarks.worker import RunJob
from tracegrad.config import TrainingConfig
from tracegrad.errors import ConfigError

EXECUTORS = ("local", "slurm", "inline")


class Job(Protocol):
    """A run that was handed over."""

    def done(self) -> bool:
        """Say whether it has ended, well or not."""

    def cancel(self) -> None:
        """Ask it to stop."""


class Executor(Protocol):
    """Takes runs.

    Args:
        slots: number of runs that may be handed over at the same time.
    """

    slots: int

    def submit(self, job: RunJob, name: str) -> Job:
        """Hand over a run."""


class FinishedJob:
    """A run that has ended before `submit` returned."""

    def done(self) -> bool:
        """Say that it has ended."""
        return True

    def cancel(self) -> None:
        """Do nothing: it has ended."""


class InlineExecutor:
    """Runs one training after the other and waits for each."""

    slots = 1

    def submit(self, job: RunJob, name: str) -> Job:
        """Run `job` to its end."""
        job()
        return FinishedJob()


class SubmititExecutor:
    """Hands runs to submitit.

    Args:
        kind: ``"local"`` or ``"slurm"``.
        folder: for submitit's own files.
        slots: runs at the same time; a cluster queues the rest itself.
        hours: time limit of one run, h.
        parameters: further parameters of the cluster, such as ``{"partition": "gpu", "gpus_per_node": 1}``.

    Raises:
        ConfigError: the cluster does not know a parameter.
    """

    def __init__(self, kind: str, folder: Path, slots: int, hours: float, parameters: Mapping[str, Any]) -> None:
        self.slots = slots
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=kind)
            common = {"timeout_min": max(1, round(60 * hours))}
            self._executor.update_parameters(**common, **{f"{kind}_{key}": value for key, value in parameters.items()})
        except (RuntimeError, NameError, ValueError) as error:
            raise ConfigError(f"--executor {kind}: {error}; see --slurm") from error

    def submit(self, job: RunJob, name: str) -> Job:
        """Hand over a run under a name that shows in the queue.

        Raises:
            ConfigError: the cluster refused it.
        """
        self._executor.update_parameters(name=name)
        try:
            handed: Job = self._executor.submit(job)
        except FailedJobError as error:
            raise ConfigError(f"{name} was refused by the cluster: {error}; see --slurm and its limits") from error
        return handed


def check_executor(kind: str, parameters: Mapping[str, Any], planned: bool = False) -> None:
    """Refuse what cannot work here, before anything is written.

    Args:
        kind: ``"inline"``, ``"local"`` or ``"slurm"``.
        parameters: of the cluster.
        planned: whether the runs are only planned, which needs no cluster.

    Raises:
        ConfigError: parameters for an executor that takes none, or no such cluster here.
    """
    if parameters and kind != "slurm":
        raise ConfigError(f"--slurm: expected with --executor slurm only, found --executor {kind}; leave it out")
    if kind == "slurm" and not planned and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError("--executor slurm: expected the commands sbatch and srun, found none; use --executor local")


def check_run(training: TrainingConfig, kind: str) -> None:
    """Refuse a run of several processes on a cluster, which is handed one process per run.

    Args:
        training: of the run.
        kind: the executor.

    Raises:
        ConfigError: several devices or nodes with ``"slurm"``.
    """
    if kind == "slurm" and training.devices * training.nodes > 1:
        raise ConfigError(
            f"--executor slurm: expected one process per run, found training.devices={training.devices}, "
            f"training.nodes={training.nodes}; train such a run with srun and `tracegrad train`"
        )


def make_executor(kind: str, folder: Path, jobs: int, hours: float, parameters: Mapping[str, Any]) -> Executor:
    """Make the executor of a sweep.

    Args:
        kind: ``"inline"``, ``"local"`` or ``"slurm"``.
        folder: for submitit's own files.
        jobs: runs at the same time (local).
        hours: time limit of one run, h.
        parameters: further parameters (slurm).

    Returns:
        the executor.

    Raises:
        ConfigError: the cluster does not know a parameter.
    """
    if kind == "inline":
        return InlineExecutor()
    return SubmititExecutor(kind, folder, jobs if kind == "local" else 1_000_000, hours, parameters)
