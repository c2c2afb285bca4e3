"""Runs the verifier on every fault and control of the catalogue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch

from ..checks import FUNCTION_CHECKS, OPTIONAL_CHECKS
from ..context import Context
from ..function_subject import FunctionSubject
from ..result import CheckResult, Verdict, worst
from ..runner import run_checks
from ..workers import in_order
from .catalogue import CATALOGUE, entry
from .kinds import Mutant
from .outcome import KillMatrix, Outcome

COUNTS = ("dtype_leak", "input_mutation", "vacuity")
"""Checks whose error is a count, not a relative error."""

TRIALS = 48
SEARCH = 12
"""A fault active in 7.7 % of the trials (M21) is missed by 48 of them with probability 2 %; the search looks too."""


def verify_mutant(
    mutant: Mutant, seed: int = 0, trials: int = TRIALS, search: int = SEARCH, all_checks: bool = True
) -> list[CheckResult]:
    """Checks of one entry of the catalogue.

    Args:
        mutant: the entry.
        seed: seed of its weights and of the verifier.
        trials: Haar trials.
        search: examples of the adversarial search.
        all_checks: False stops at the first check that finds a fault, the expected one first; controls get all checks.

    Returns:
        The checks that ran.
    """
    if mutant.run is not None:
        return [mutant.run(seed)]
    assert mutant.build is not None
    subject = mutant.build(seed)
    names = [name for name in FUNCTION_CHECKS if name not in OPTIONAL_CHECKS and name not in mutant.without]
    tested = FunctionSubject(subject.func, subject.irreps_in, subject.irreps_out, None, torch.float64)
    context = Context(tested, seed, trials, None, search)
    if all_checks or mutant.control:
        return run_checks(context, names, FUNCTION_CHECKS, diagnose=False).checks
    found: list[CheckResult] = []
    for name in sorted(names, key=lambda n: n != mutant.found_by):
        found += run_checks(context, [name], FUNCTION_CHECKS, diagnose=False).checks
        if found and not found[-1].passed:
            break
    return found


def judge(mutant: Mutant, checks: list[CheckResult], seconds: float = 0.0) -> Outcome:
    """Outcome of one entry: a fault is killed by any check that does not pass, a control is flagged by one.

    Args:
        mutant: the entry.
        checks: what the verifier said.
        seconds: wall time it took.

    Returns:
        The outcome.
    """
    failures = sorted((c for c in checks if not c.passed), key=lambda c: -c.verdict.severity)
    allowed = [c for c in failures if c.name in mutant.may_report and c.verdict in (Verdict.SUSPECT, Verdict.PRECISION)]
    counted = [c for c in failures if c not in allowed] if mutant.control else failures
    judged = [c for c in checks if c not in allowed and c.name not in COUNTS]
    measured = [c for c in judged if math.isfinite(c.error) and c.tolerance > 0]
    nearest = min(measured, key=lambda c: c.margin, default=None)
    errors = [c.error for c in failures if math.isfinite(c.error) and c.name not in COUNTS]
    return Outcome(
        key=mutant.key,
        family=mutant.family,
        title=mutant.title,
        control=mutant.control,
        verdict=worst(c.verdict for c in checks).value,
        checks=tuple(c.name for c in failures),
        error=max(errors, default=nearest.error if nearest is not None and not failures else math.nan),
        expected=mutant.found_by,
        killed=bool(counted),
        seconds=seconds,
        precedent=mutant.precedent,
        margin=nearest.margin if nearest is not None else math.inf,
        verdicts={c.name: c.verdict.value for c in checks},
    )


def run_entry(key: str, seed: int = 0, trials: int = TRIALS, search: int = SEARCH, all_checks: bool = True) -> Outcome:
    """Outcome of the entry with that key; see `verify_mutant`."""
    start = time.perf_counter()
    mutant = entry(key)
    checks = verify_mutant(mutant, seed, trials, search, all_checks)
    return judge(mutant, checks, time.perf_counter() - start)


def kill_matrix(
    keys: Iterable[str] | None = None,
    *,
    seed: int = 0,
    trials: int = TRIALS,
    search: int = SEARCH,
    workers: int = 1,
    progress: Callable[[Outcome], None] | None = None,
) -> KillMatrix:
    """Run the verifier on the catalogue.

    Args:
        keys: entries to run, or None for all.
        seed: seed of weights and verifier.
        trials: Haar trials per entry.
        search: examples of the adversarial search per entry.
        workers: processes; 1 stays in this one.
        progress: called with every outcome, in the order of the catalogue.

    Returns:
        The matrix.

    Raises:
        VerificationError: an unknown key.
    """
    wanted = list(CATALOGUE) if keys is None else [entry(key).key for key in keys]
    outcomes = []
    for outcome in in_order(partial(run_entry, seed=seed, trials=trials, search=search), wanted, workers):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return KillMatrix(tuple(outcomes))
