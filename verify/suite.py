"""The default run of ``python -m verify``: instruments, theorems, conventions, settings, planted faults.

Every part is a list of tasks that need nothing but their names, so that they run in as many processes as there are
cores.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from .environment import environment
from .method import check_gradient_induction, check_library_conventions, check_theorem_1, check_theorem_2
from .mutants.catalogue import CATALOGUE
from .mutants.matrix import SEARCH, TRIALS, run_entry
from .mutants.outcome import KillMatrix, Outcome
from .result import BlockError, CheckResult, Report, Verdict
from .selfcheck import self_check
from .settings import APPROXIMATE, CASES, check_approximate, check_depth, check_setting
from .workers import in_order

LMAX = 12
PARTS = ("method", "settings", "mutants")


@dataclass(frozen=True)
class Task:
    """One unit of work, named so that any process can do it.

    Args:
        part: one of `PARTS`.
        key: what of that part.
        seed: seed of everything that is drawn.
        budget_mev: largest error of the approximate settings that passes, meV; None measures them only.
    """

    part: str
    key: str
    seed: int
    budget_mev: float | None = None


_METHOD: dict[str, Callable[[int], list[CheckResult]]] = {
    "theorem_1": lambda seed: [check_theorem_1(seed)],
    "theorem_2": lambda seed: [check_theorem_2(seed=seed)],
    "gradient_induction": check_gradient_induction,
    "conventions": check_library_conventions,
}


def tasks(parts: Sequence[str], seed: int, budget_mev: float | None = None) -> list[Task]:
    """All tasks of the parts, the long ones first.

    Args:
        parts: some of `PARTS`.
        seed: seed of everything that is drawn.
        budget_mev: see `Task`.
    """
    keys = {"settings": ["depth", *CASES, *APPROXIMATE], "method": list(_METHOD), "mutants": list(CATALOGUE)}
    order = [part for part in ("settings", "method", "mutants") if part in parts]
    return [Task(part, key, seed, budget_mev) for part in order for key in keys[part]]


def run_task(task: Task) -> list[CheckResult] | Outcome:
    """Do one task.

    Args:
        task: the task.

    Returns:
        Checks, or the outcome of a planted fault.
    """
    if task.part == "mutants":
        return run_entry(task.key, task.seed, TRIALS, SEARCH, all_checks=False)
    if task.part == "method":
        return _METHOD[task.key](task.seed)
    if task.key == "depth":
        return [check_depth(task.seed)]
    if task.key in APPROXIMATE:
        return check_approximate(task.key, task.seed, task.budget_mev)
    return [replace(check, blocks=_worst_per_irrep(check.blocks)) for check in check_setting(task.key, task.seed)]


def _worst_per_irrep(blocks: Sequence[BlockError]) -> list[BlockError]:
    """One block per irrep: a spinful setting has hundreds, and several checks each."""
    worst_of: dict[str, BlockError] = {}
    for block in blocks:
        if not block.zero and block.ratio >= worst_of.get(block.irrep, block).ratio:
            worst_of[block.irrep] = block
    return list(worst_of.values())


def _to_terminal(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def kill_matrix_check(matrix: KillMatrix) -> CheckResult:
    """The kill matrix as a check: its error is the number of faults missed and controls flagged.

    Args:
        matrix: the outcomes.

    Returns:
        PASS only when every fault was found and no control was flagged; the outcomes are in the details.
    """
    wrong = [*(o.key for o in matrix.missed), *(o.key for o in matrix.flagged)]
    return CheckResult(
        "kill_matrix",
        Verdict.PASS if matrix.passed else Verdict.STRUCTURAL,
        float(len(wrong)),
        0.0,
        matrix.tally() + (f"; wrong: {', '.join(wrong)}" if wrong else ""),
        len(matrix.outcomes),
        details={"outcomes": [asdict(outcome) for outcome in matrix.outcomes]},
    )


def run_suite(
    *,
    seed: int = 0,
    workers: int | None = None,
    parts: Sequence[str] = PARTS,
    progress: Callable[[str], None] | None = _to_terminal,
    budget_mev: float | None = None,
) -> Report:
    """Verify the verifier and everything of this package that it can reach.

    Args:
        seed: seed of everything that is drawn.
        workers: processes; None takes the cores of this process, at most 4.
        parts: some of "method" (theorems, conventions), "settings" (those of the tables), "mutants" (kill matrix).
        progress: gets one line per result as it comes; None for silence.
        budget_mev: largest error of HarmoSE that passes, meV per component; None measures it only.

    Returns:
        One report of all checks; the kill matrix is one of them.
    """
    start = time.perf_counter()
    say = progress or (lambda line: None)
    floor = self_check(LMAX)
    say(floor.line())
    work = tasks(parts, seed, budget_mev)
    count = min(4, len(os.sched_getaffinity(0))) if workers is None else workers
    checks: list[CheckResult] = []
    outcomes: list[Outcome] = []
    for task, result in zip(work, in_order(run_task, work, count), strict=True):
        if isinstance(result, Outcome):
            outcomes.append(result)
            say(result.line())
            continue
        named = (
            [replace(c, name=f"{task.key}: {c.name}") for c in result]
            if task.part == "settings" and task.key != "depth"
            else result
        )
        checks += named
        say("\n".join(c.line() for c in _shown(task, named)))
    if outcomes:
        checks.append(kill_matrix_check(KillMatrix(tuple(outcomes))))
        say(checks[-1].line())
    settings: dict[str, Any] = {
        "seed": seed,
        "workers": count,
        "parts": list(parts),
        "budget_mev": budget_mev,
        "seconds": time.perf_counter() - start,
    }
    return Report("tracegrad", checks, floor, environment(torch.float64), settings=settings)


def _shown(task: Task, checks: Sequence[CheckResult]) -> Sequence[CheckResult]:
    """What is printed of a task: everything, but of a setting that passes only the check nearest to its limit."""
    failures = [c for c in checks if not c.passed]
    if task.key in APPROXIMATE and not failures:
        return checks[-1:]
    if task.key not in CASES or failures:
        return failures or checks
    nearest = min(checks, key=lambda c: c.margin)
    return [replace(nearest, message=f"{len(checks)} checks pass; this one has the smallest margin")]
