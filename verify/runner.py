"""Runs checks on a subject and makes the report: the one place where checks, shrinking and localisation meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tracegrad.errors import VerificationError, did_you_mean

from .context import Context, NotApplicable
from .environment import environment
from .localize import localize
from .result import CheckResult, ModuleError, Report, Verdict
from .selfcheck import self_check
from .shrink import counterexample
from .subject import describe, quiet
from .trial_statistics import trial_statistics
from .wigner import Basis

Check = Callable[[Context], CheckResult]


def selected(checks: Iterable[str] | None, registry: Mapping[str, Check], optional: frozenset[str]) -> list[str]:
    """Names of the checks to run, in the order of the registry; all but the optional ones when None.

    Raises:
        VerificationError: an unknown name.
    """
    if checks is None:
        return [name for name in registry if name not in optional]
    wanted = [checks] if isinstance(checks, str) else list(checks)
    for name in wanted:
        if name not in registry:
            raise VerificationError(f"unknown check {name!r}. {did_you_mean(name, registry)}")
    if not wanted:
        raise VerificationError("checks is empty: name at least one check, or leave it out for all")
    return [name for name in registry if name in wanted]


def run_checks(
    context: Context,
    names: Iterable[str],
    registry: Mapping[str, Check],
    *,
    basis: Basis = "e3nn",
    diagnose: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Report of the named checks on the context's subject; a check in which the model raises fails.

    Args:
        context: subject, seed, trials.
        names: checks to run.
        registry: name -> check.
        basis: component order of the irreps, for the localisation.
        diagnose: True to shrink counterexamples and to localise the first broken module.
        settings: what repeats the run.

    Returns:
        The report.
    """
    subject = context.subject
    floor = self_check(max(subject.lmax, 2))
    results: list[CheckResult] = []
    skipped: dict[str, str] = {}
    with quiet(subject.dtype), torch.autocast("cpu", enabled=False):
        flags = environment(subject.dtype)
        for name in names:
            try:
                results.append(registry[name](context))
            except NotApplicable as reason:
                skipped[name] = str(reason)
            except Exception as error:
                results.append(CheckResult(name, Verdict.STRUCTURAL, math.inf, 0.0, f"raised {describe(error)}"))
        if not all(result.passed for result in results) and _mode_matters(context):
            results = [_with_mode(result) for result in results]
        modules: list[ModuleError] = []
        if diagnose:
            results = [_with_counterexample(context, result) for result in results]
            modules = _modules(context, results, basis)
    statistics = next((trial_statistics(r, subject.fixed) for r in results if r.name == "rotation"), {})
    return Report(
        target=subject.name,
        checks=results,
        noise_floor=floor,
        environment=flags,
        skipped=skipped,
        modules=modules,
        statistics=statistics,
        settings=dict(settings or {}),
    )


def _mode_matters(context: Context) -> bool:
    """Whether a module is verified in training mode and gives something else in evaluation, or now and then."""
    subject = context.subject
    if subject.module is None or not subject.module.training:
        return False
    try:
        other = subject.renewed(lambda module: module.eval())
        assert other is not None
        pairs = zip(subject.evaluate(context.states[:1]), other.evaluate(context.states[:1]), strict=True)
        return not all(np.array_equal(x[0], y[0], equal_nan=True) for x, y in pairs)
    except Exception:  # a remark is no verdict
        return False


def _with_mode(result: CheckResult) -> CheckResult:
    """Says of a failure that dropout or statistics of the batch were at work, which networks in use do not have."""
    if result.passed or result.name == "modes":
        return result
    return replace(result, message=f"{result.message} (in training mode; a network in use is verified after .eval())")


def _with_counterexample(context: Context, result: CheckResult) -> CheckResult:
    case = context.cases.get(result.name)
    if result.passed or case is None or not result.error > result.tolerance:
        return result
    try:
        return replace(result, counterexample=counterexample(context, *case))
    except Exception as error:  # the verdict does not hang on how far a case can be shrunk
        return replace(result, details={**result.details, "counterexample": f"not shrunk, raised {describe(error)}"})


def _modules(context: Context, results: list[CheckResult], basis: Basis) -> list[ModuleError]:
    for result in results:
        case = context.cases.get(result.name)
        if not result.passed and case is not None and result.error > result.tolerance:
            try:
                return localize(context, *case, basis)
            except Exception:  # nor does it hang on where the fault is
                return []
    return []
