"""What the command line verifies: ``package.module:factory`` or a checkpoint."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tracegrad.errors import DataError, VerificationError

from .adapters import GraphAdapter, missing_methods, require_adapter
from .api import declared, verify_equivariance, verify_model
from .result import Report


@dataclass(frozen=True)
class Target:
    """One thing to verify: a function with its irreps, or a model with a graph.

    Args:
        func: function or module.
        irreps_in: entries of its inputs; None reads them from the module.
        irreps_out: entries of its outputs; None reads them from the module.
        inputs: given inputs, or None.
        graph: graph (or atoms) when ``func`` is a graph model.
        adapter: adapter of the graph, or None for the known kinds.
        name: shown in the report.
    """

    func: Any
    irreps_in: Any = None
    irreps_out: Any = None
    inputs: Any = None
    graph: Any = None
    adapter: GraphAdapter | None = None
    name: str = ""

    def verify(self, **options: Any) -> Report:
        """Report of all checks that apply; ``options`` are those of the two functions of :mod:`verify.api`."""
        if self.graph is not None:
            return verify_model(self.func, self.graph, adapter=self.adapter, **options)
        entries_in, entries_out = (
            declared(self.func, self.irreps_in, "irreps_in"),
            declared(self.func, self.irreps_out, "irreps_out"),
        )
        if options.pop("budget_mev", None) is not None:
            raise VerificationError("--budget-mev needs a graph model whose outputs are in eV")
        return verify_equivariance(self.func, entries_in, entries_out, inputs=self.inputs, **options)


def load_target(spec: str) -> Target:
    """Target named ``package.module:factory``.

    The factory takes no argument and returns a :class:`Target`, a module that declares ``irreps_in`` and
    ``irreps_out``, ``(func, irreps_in, irreps_out)``, ``(model, graph)``, ``(calculator, atoms)`` or ``(model, graph,
    adapter)``.

    Args:
        spec: the name; modules are also looked for in the working directory.

    Raises:
        VerificationError: nothing of that name, or something else is returned.
    """
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        raise VerificationError(f"target {spec!r}: expected package.module:factory, such as my_models:build_layer")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise VerificationError(
            f"target {spec!r}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(module) if not name.startswith("_")][:12]
            raise VerificationError(f"target {spec!r}: {module_name} has no {attribute!r}; it has {', '.join(public)}")
        found = getattr(found, part)
    if isinstance(found, (torch.nn.Module, Target)):
        return as_target(found, spec)
    if not callable(found):
        raise VerificationError(f"target {spec!r} is a {type(found).__name__}, expected a function without arguments")
    try:
        made = found()
    except Exception as error:
        raise VerificationError(f"target {spec!r}: the factory raised {type(error).__name__}: {error}") from error
    return as_target(made, spec)


def as_target(made: Any, spec: str) -> Target:
    """What a factory returned as a target.

    Raises:
        VerificationError: none of the known forms, or an adapter that lacks methods.
    """
    if isinstance(made, Target):
        return made
    if isinstance(made, torch.nn.Module):
        return Target(made, name=spec)
    if isinstance(made, tuple) and len(made) == 2 and not isinstance(made[1], str):
        return Target(made[0], graph=made[1], name=spec)
    if isinstance(made, tuple) and len(made) == 3:
        if hasattr(made[1], "num_nodes") or hasattr(made[1], "get_positions") or not missing_methods(made[2]):
            require_adapter(made[2])
            return Target(made[0], graph=made[1], adapter=made[2], name=spec)
        return Target(made[0], made[1], made[2], name=spec)
    raise VerificationError(
        f"target {spec!r} returned a {type(made).__name__}: expected a module with irreps_in and irreps_out, "
        "(func, irreps_in, irreps_out), (model, graph), (calculator, atoms) or (model, graph, adapter)"
    )


def checkpoint_target(path: Path, data: str | None = None, atoms: int = 6) -> Target:
    """Target of a checkpoint of this package on the first test structure of its data.

    Args:
        path: ``final.ckpt`` of a training folder.
        data: database key or folder; None takes what it was trained on.
        atoms: number of atoms kept of the structure (nearest to the first), so that large networks stay quick.

    Returns:
        The target.

    Raises:
        TracegradError: the checkpoint or its data cannot be read.
    """
    from tracegrad.data import DATABASES, load_dataset
    from tracegrad.graph import build_graph
    from tracegrad.model import frame_degree
    from tracegrad.training.checkpoint import load_checkpoint

    from .adapter_tracegrad import TraceGradAdapter

    model, config, rest = load_checkpoint(path)
    summary = rest["data"]
    known = data is None or data in DATABASES
    try:
        dataset = load_dataset(data if known and data else summary.key, source=summary.source if known else str(data))
    except DataError as error:
        if not known:
            raise
        raise VerificationError(
            f"{path} was trained on {summary.key} of {summary.source!r}. {error}; or give its path as --data"
        ) from error
    layout: Any = model.targets
    graph = build_graph(dataset.test[0], layout, lmax=frame_degree(model))
    adapter = TraceGradAdapter(layout, config.model.hermitian)
    return Target(model, graph=adapter.nearest(graph, atoms), adapter=adapter, name=str(path))
