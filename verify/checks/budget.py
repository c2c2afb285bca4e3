"""Budget of an approximately equivariant model: its symmetry error in meV. A model within it is never called exact."""

from __future__ import annotations

import numpy as np

from ..context import Context, NotApplicable
from ..group import Elements, haar
from ..result import CheckResult, Verdict

MEV = 1000.0  # meV per eV


def budget(context: Context) -> CheckResult:
    """Root mean square of f(g x) - D f(x) over all components, meV, for outputs in eV; compared with ``--budget-mev``.

    The irreps of a Hamiltonian are orthonormal, so this is the error of a matrix element.
    """
    if context.budget_mev is None:
        raise NotApplicable("no budget in meV was given")
    subject = context.subject
    rng = context.rng("budget")
    elements = Elements.of(haar(context.trials, rng), np.arange(context.trials) % 2 == 1)
    states, base = context.first(context.trials)
    left, right = subject.evaluate(subject.moved(states, elements)), subject.acted(base, elements)
    largest, squares, count = 0.0, 0.0, 0
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            if x.shape != y.shape or not np.isfinite(x).all():
                return CheckResult(
                    "budget",
                    Verdict.STRUCTURAL,
                    float("inf"),
                    context.budget_mev,
                    "outputs change their shape or are not finite",
                    len(states),
                )
            largest = max(largest, MEV * float(np.abs(x - y).max(initial=0.0)))
            squares, count = squares + float(np.square(x - y).sum()), count + x.size
    error = MEV * float(np.sqrt(squares / max(count, 1)))
    verdict = Verdict.PASS if error <= context.budget_mev else Verdict.STRUCTURAL
    message = (
        f"approximate: {error:.3g} meV per component (largest {largest:.3g} meV), budget {context.budget_mev:g} meV"
    )
    details = {"rms_mev": error, "largest_mev": largest, "unit": "meV"}
    return CheckResult("budget", verdict, error, context.budget_mev, message, len(states), details=details)
