"""Hamiltonians of electronic structure from SO(3)-equivariant networks with trace supervision and induced gradients.

Public names live in the modules: ``tracegrad.data``, ``tracegrad.so3``, ``tracegrad.graph``, ``tracegrad.model``,
``tracegrad.metrics``, ``tracegrad.training``, ``tracegrad.evaluation``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracegrad.data import Blocks as Blocks
    from tracegrad.data import Structure as Structure
    from tracegrad.data import load_dataset as load_dataset
    from tracegrad.graph import build_graph as build_graph
    from tracegrad.model import GradientInduction as GradientInduction
    from tracegrad.model import build_model as build_model
    from tracegrad.model import predict_blocks as predict_blocks
    from tracegrad.prediction import predict as predict
    from tracegrad.training import load_checkpoint as load_checkpoint

__version__ = "0.1.0"

# Imported when first used, so that ``import tracegrad`` and ``tracegrad --help`` need no torch.
_HOMES = {
    "Blocks": "tracegrad.data",
    "GradientInduction": "tracegrad.model",
    "Structure": "tracegrad.data",
    "build_graph": "tracegrad.graph",
    "build_model": "tracegrad.model",
    "load_checkpoint": "tracegrad.training",
    "load_dataset": "tracegrad.data",
    "predict": "tracegrad.prediction",
    "predict_blocks": "tracegrad.model",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
