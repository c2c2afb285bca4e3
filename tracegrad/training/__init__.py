"""Training on Lightning: loss, schedules, states to resume from, and the checkpoint of a trained network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracegrad.training.checkpoint import load_checkpoint as load_checkpoint
    from tracegrad.training.checkpoint import save_checkpoint as save_checkpoint
    from tracegrad.training.guard import TrainingError as TrainingError
    from tracegrad.training.run import train as train

# Imported when first used: reading a checkpoint needs no Lightning.
_HOMES = {
    "TrainingError": "tracegrad.training.guard",
    "load_checkpoint": "tracegrad.training.checkpoint",
    "save_checkpoint": "tracegrad.training.checkpoint",
    "train": "tracegrad.training.run",
}
__all__ = ["TrainingError", "load_checkpoint", "save_checkpoint", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
