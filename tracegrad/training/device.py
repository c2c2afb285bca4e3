"""Where a run computes, and which version of the code it runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tracegrad.config import TrainingConfig
from tracegrad.errors import ConfigError


def choose_device(training: TrainingConfig) -> torch.device:
    """Device of this process of a run; with several GPUs that of its number on the machine.

    Args:
        training: ``device``, ``devices`` and ``cuda_graphs`` decide.

    Raises:
        ConfigError: a GPU is needed and there is none, or it is not to be used.
    """
    available = torch.cuda.is_available()
    if training.device == "cuda" and not available:
        raise ConfigError("device 'cuda': expected a CUDA GPU, found none; use the device 'cpu'")
    if training.cuda_graphs and (training.device == "cpu" or not available):
        raise ConfigError("training.cuda_graphs: expected a CUDA GPU, found none in use; set it to false")
    if training.device == "cpu" or not available:
        return torch.device("cpu")
    local_rank = _environment_number("LOCAL_RANK", "SLURM_LOCALID")
    return torch.device("cuda", local_rank) if training.devices > 1 else torch.device("cuda")


def process_rank(training: TrainingConfig) -> int:
    """Number of this process among those of one run, 0 to world size - 1, as its launcher says it.

    Args:
        training: of the run; where it has one process the launcher is not asked, which may have started many such runs.
    """
    if training.devices * training.nodes == 1:
        return 0
    if "RANK" in os.environ:
        return _environment_number("RANK")
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # a second to import, and seldom needed

    if SLURMEnvironment.detect():  # started by srun, not in a shell that it has opened
        return _environment_number("SLURM_PROCID")
    return _environment_number("NODE_RANK", "GROUP_RANK") * training.devices + _environment_number("LOCAL_RANK")


def _environment_number(*names: str) -> int:
    """The first of some environment variables that is set, else 0."""
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let torch use so many CPU threads within the block; their number is that of the whole process.

    Args:
        number: of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """The device in words, without anything that identifies the machine."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with a mark for local changes; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
