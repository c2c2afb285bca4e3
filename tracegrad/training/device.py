"""Where a run computes, and which version of the code it runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

from tracegrad.errors import ConfigError


def choose_device(name: str, cuda_graphs: bool = False) -> torch.device:
    """Device of a run.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        cuda_graphs: ``training.cuda_graphs``.

    Raises:
        ConfigError: a GPU is needed and there is none, or it is not to be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': expected a CUDA GPU, found none; use the device 'cpu'")
    if cuda_graphs and (name == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("training.cuda_graphs: expected a CUDA GPU, found none in use; set it to false")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def process_rank() -> int:
    """Number of this process among those of one run, 0 to world size - 1, as its launcher says it."""
    return int(next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0))


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
