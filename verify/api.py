"""Public entry points: verify a function, verify a graph model, or assert in a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from tracegrad.errors import VerificationError

from .adapters import GraphAdapter
from .checks import EXACT_CHECKS, FUNCTION_CHECKS, GRAPH_CHECKS, OPTIONAL_CHECKS
from .context import Context
from .function_subject import DtypeRefused, FunctionSubject
from .graph_subject import GraphSubject
from .localize import source_of
from .result import Report
from .runner import run_checks, selected
from .wigner import Basis


class EquivarianceError(AssertionError):
    """Raised by :func:`assert_equivariant`; ``report`` holds everything that was measured."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"not equivariant ({report.verdict})\n{report.to_text()}")
        self.report = report


def verify_equivariance(
    func: Callable[..., Any],
    irreps_in: Any,
    irreps_out: Any,
    *,
    checks: Iterable[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    trials: int = 64,
    tol: float | None = None,
    inputs: Sequence[Any] | None = None,
    basis: Basis = "e3nn",
    search: int = 32,
    allow_zero: Iterable[str] = (),
    parity: bool = True,
    diagnose: bool = True,
) -> Report:
    """Verify f(g x) = D(g) f(x) for rotations, the inversion and shifts, and everything such a test takes for granted.

    Args:
        func: takes one tensor per entry of ``irreps_in``, returns one tensor (or a tuple) per entry of
            ``irreps_out``. A module is verified as a private copy converted to ``dtype``.
        irreps_in: e3nn Irreps or strings, ``"cartesian_points"`` (rows x, y, z in Å), or None for data that does not
            transform.
        irreps_out: the same for the outputs.
        checks: names of the checks, or None for all that apply.
        seed: seed of every random stream.
        dtype: torch.float64 (the gate) or torch.float32 (a noise budget, no evidence of exact symmetry).
        trials: independent Haar trials.
        tol: relative tolerance of all blocks; None for the policy in ``docs/verification.md``.
        inputs: one value per entry; None draws normal ones.
        basis: component order of the irreps: ``"e3nn"`` (l=1: x, y, z) or ``"z-polar"`` (l=1: y, z, x).
        search: examples of the hypothesis phase of the search, 0 for none.
        allow_zero: irreps (``"0o"`` or ``"4x0o"``) of outputs that are zero by symmetry.
        parity: False for a function that claims rotations alone: nothing is inverted.
        diagnose: True to shrink counterexamples and to localise a failure.

    Returns:
        The report; ``report.passed``, ``print(report)``.

    Raises:
        VerificationError: function, irreps and inputs do not fit together.
    """
    _require_sensible(trials, seed, search, tol)
    names = selected(checks, FUNCTION_CHECKS, OPTIONAL_CHECKS)
    subject = FunctionSubject(func, irreps_in, irreps_out, inputs, dtype, basis)
    context = Context(subject, seed, trials, tol, search, tuple(allow_zero), parity=parity)
    settings = {
        **_settings(context, names, func),
        "irreps_in": [law.text for law in subject.laws],
        "irreps_out": [spec.law.text for spec in subject.outputs],
        "basis": basis,
        "inputs": "given" if inputs is not None else "drawn",
    }
    return run_checks(context, names, FUNCTION_CHECKS, basis=basis, diagnose=diagnose, settings=settings)


def verify_model(
    model: Any,
    graph: Any,
    *,
    adapter: GraphAdapter | None = None,
    checks: Iterable[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    trials: int = 38,
    tol: float | None = None,
    search: int = 16,
    allow_zero: Iterable[str] = (),
    parity: bool = True,
    diagnose: bool = True,
    budget_mev: float | None = None,
) -> Report:
    """Verify a graph model, or an ASE calculator, on one graph: rotations, numbering, batch, distance, cell, gradients.

    Args:
        model: a module (verified as a private copy in ``dtype``) or an ASE calculator.
        graph: ``torch_geometric`` ``Data``, or ``ase.Atoms`` for a calculator.
        adapter: how graphs are transformed; found by itself for networks of this package and for ASE, else a
            :class:`verify.DataAdapter` with the declared fields.
        checks: names of the checks, or None for all that apply.
        seed: seed of every random stream.
        dtype: torch.float64 (the gate) or torch.float32 (a noise budget).
        trials: Haar rotations of the graph; 38 see a fault of measure 7.7 % with 95 % confidence.
        tol: relative tolerance of all blocks; None for the policy.
        search: examples of the hypothesis phase of the search, 0 for none.
        allow_zero: irreps of outputs that are zero by symmetry.
        parity: False for a model that claims rotations alone: nothing is inverted.
        diagnose: True to shrink counterexamples and to localise a failure.
        budget_mev: accept an approximately equivariant model (outputs in eV) up to this error: the exact checks of
            rotations give way to a measurement in meV, and the report says that the model is not exact. A model with
            the attribute ``approximate = True`` never passes without a budget, one with ``approximate = False`` has to
            pass the exact checks too.

    Returns:
        The report.

    Raises:
        VerificationError: model, graph and adapter do not fit together.
    """
    _require_sensible(trials, seed, search, tol, budget_mev)
    names = _within_budget(selected(checks, GRAPH_CHECKS, OPTIONAL_CHECKS), model, budget_mev)
    chosen = adapter if adapter is not None else find_adapter(model, graph)
    subject = GraphSubject(model, graph, chosen, dtype)
    context = Context(subject, seed, trials, tol, search, tuple(allow_zero), budget_mev, parity)
    settings = {
        **_settings(context, names, model),
        "budget_mev": budget_mev,
        "adapter": type(chosen).__name__,
        "nodes": chosen.num_nodes(graph),
        "irreps_out": {spec.name: spec.law.text for spec in subject.outputs},
    }
    basis: list[Basis] = [s.law.basis for s in subject.outputs if s.law.kind == "irreps"] or ["e3nn"]
    return run_checks(context, names, GRAPH_CHECKS, basis=basis[0], diagnose=diagnose, settings=settings)


def _within_budget(names: list[str], model: Any, budget_mev: float | None) -> list[str]:
    """Checks of a model that may be approximate: ``model.approximate`` says so, or not; None takes the user's word.

    With a budget, a measurement in meV takes the place of the exact checks, unless the model claims to be exact. A
    model that says that it is approximate is measured in any case.
    """
    claim = getattr(model, "approximate", None)
    if budget_mev is not None and claim is not False:
        names = [name for name in names if name not in EXACT_CHECKS]
    measured = budget_mev is not None or bool(claim)
    return [*(name for name in names if name != "budget"), "budget"] if measured else names


def _require_sensible(trials: Any, seed: Any, search: Any, tol: float | None, budget_mev: float | None = None) -> None:
    """Raise for settings with which nothing, or anything, would pass."""
    for name, value, least in (("trials", trials, 1), ("seed", seed, 0), ("search", search, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            what = "a positive integer" if least else "0 or a positive integer"
            raise VerificationError(f"{name} is {value!r}, expected {what}")
    if tol is not None and not 0 < tol < 1:
        raise VerificationError(f"tol is {tol!r}, expected a relative tolerance between 0 and 1")
    if budget_mev is not None and not 0 < budget_mev < math.inf:
        raise VerificationError(f"budget_mev is {budget_mev!r}, expected a positive number")


def _settings(context: Context, names: Sequence[str], target: Any) -> dict[str, Any]:
    """What repeats a run, and where its target stands."""
    file, line = source_of(target)
    return {
        "source_file": file,
        "source_line": line,
        "seed": context.seed,
        "trials": context.trials,
        "dtype": str(context.subject.dtype),
        "tol": context.tol,
        "search": context.search,
        "parity": context.parity,
        "training": None if context.subject.module is None else context.subject.module.training,
        "checks": list(names),
    }


def find_adapter(model: Any, graph: Any) -> GraphAdapter:
    """Adapter of a known kind of model and graph.

    Raises:
        VerificationError: the kind is not known.
    """
    if hasattr(graph, "get_positions") and hasattr(graph, "numbers"):
        from .adapter_ase import AtomsAdapter

        return AtomsAdapter()
    if hasattr(model, "targets") and "wigner" in graph:
        from .adapter_tracegrad import TraceGradAdapter

        decoder = getattr(model, "decoder", None)
        return TraceGradAdapter(model.targets, bool(getattr(decoder, "hermitian", True)))
    raise VerificationError(
        f"no adapter is known for a {type(model).__name__} and a {type(graph).__name__}: pass "
        "adapter=DataAdapter({'pos': Field('cartesian_points'), ...}, {'out': Field('1x0e', 'graph')}); the factory of "
        "a --target returns (model, graph, adapter)"
    )


def assert_equivariant(
    func: Callable[..., Any],
    args_in: Sequence[Any] | None = None,
    irreps_in: Any = None,
    irreps_out: Any = None,
    tolerance: float | None = None,
    *,
    ntrials: int | None = None,
    do_parity: bool = True,
    do_translation: bool = True,
    transform_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Report:
    """Drop-in for ``e3nn.util.test.assert_equivariant``: raises with the shrunk counterexample unless everything
    passes.

    Args:
        func: as in :func:`verify_equivariance`.
        args_in: given inputs, or None to draw them.
        irreps_in: entries; None reads ``func.irreps_in`` (or ``irreps_in1``, ``irreps_in2``, ...).
        irreps_out: entries; None reads ``func.irreps_out``.
        tolerance: relative tolerance; None for the policy (e3nn's own is absolute).
        ntrials: Haar trials.
        do_parity: False for a function that claims rotations alone, ``parity`` of :func:`verify_equivariance`.
        do_translation: False leaves the check of shifts out; no other check shifts anything.
        transform_dtype: accepted for compatibility; transformations are always made in float64.
        dtype: precision; None takes float64, or the default dtype when the function refuses float64.
        options: further options of :func:`verify_equivariance`.

    Returns:
        The report, when it passes.

    Raises:
        EquivarianceError: an AssertionError whose text is the report.
        VerificationError: function, irreps and inputs do not fit together.
    """
    __tracebackhide__ = True
    entries_in = declared(func, irreps_in, "irreps_in")
    entries_out = declared(func, irreps_out, "irreps_out")
    if not do_translation:
        options.setdefault("checks", [n for n in FUNCTION_CHECKS if n not in OPTIONAL_CHECKS and n != "translation"])
    if ntrials is not None:
        options.setdefault("trials", ntrials)
    arguments = {"inputs": args_in, "tol": tolerance, "parity": do_parity, **options}
    try:
        report = verify_equivariance(func, entries_in, entries_out, dtype=dtype or torch.float64, **arguments)
    except DtypeRefused:
        if dtype is not None or torch.get_default_dtype() is torch.float64:
            raise
        report = verify_equivariance(func, entries_in, entries_out, dtype=torch.get_default_dtype(), **arguments)
    if not report.passed:
        raise EquivarianceError(report)
    return report


def declared(func: Any, entries: Any, name: str) -> Any:
    """Entries as given, or as the function's attributes declare them.

    Args:
        func: function or module.
        entries: given entries, or None.
        name: ``"irreps_in"`` or ``"irreps_out"``.

    Returns:
        The entries.

    Raises:
        VerificationError: neither given nor declared, or a graph in their place.
    """
    if hasattr(entries, "num_nodes") or hasattr(entries, "get_positions"):
        raise VerificationError(
            f"{name} is a {type(entries).__name__}, expected irreps: a graph model is verified with "
            "verify_model(model, graph, adapter=adapter), whose report has passed and to_text()"
        )
    if entries is not None:
        return entries
    value = getattr(func, name, None)
    if value is not None:
        return value
    if name == "irreps_in":
        found = [
            getattr(func, f"irreps_in{i}") for i in range(1, 9) if getattr(func, f"irreps_in{i}", None) is not None
        ]
        if found:
            return found
    raise VerificationError(
        f"{name} is not given, and {type(func).__name__} does not declare it: pass {name}=...; the factory of a "
        "--target returns (func, irreps_in, irreps_out)"
    )
