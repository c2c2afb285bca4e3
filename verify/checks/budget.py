"""Budget of an approximately equivariant model: its symmetry error in meV. A model within it is never called exact."""

from __future__ import annotations

import math

import numpy as np

from ..context import Context
from ..group import haar
from ..result import CheckResult, Verdict

MEV = 1000.0  # meV per eV


def budget(context: Context) -> CheckResult:
    """Root mean square of f(g x) - D f(x) over all energies, meV, for outputs in eV; compared with ``--budget-mev``.

    The irreps of a Hamiltonian are orthonormal, so this is the error of a matrix element. Labels in other units, and
    blocks that a pair of elements does not have, are left out (:meth:`Subject.energies`). Without a budget the verdict
    is SUSPECT: an approximate model is measured, and nobody has said how far off it may be.
    """
    rms, largest = symmetry_error_mev(context)
    limit = math.inf if context.budget_mev is None else context.budget_mev
    details = {"rms_mev": rms, "largest_mev": largest, "unit": "meV"}
    text = f"approximate: {rms:.3g} meV per component (largest {largest:.3g} meV)"
    if not math.isfinite(rms):
        verdict, text = Verdict.STRUCTURAL, "outputs change their shape or are not finite"
    elif context.budget_mev is None:
        verdict, text = Verdict.SUSPECT, f"{text}, no budget was given: state one in meV"
    else:
        verdict = Verdict.PASS if rms <= limit else Verdict.STRUCTURAL
        text = f"{text}, budget {limit:g} meV"
    return CheckResult("budget", verdict, rms, limit, text, context.trials, details=details)


def symmetry_error_mev(context: Context) -> tuple[float, float]:
    """Root mean square and largest component of f(g x) - D f(x), meV; inf where the outputs cannot be compared.

    Args:
        context: subject with outputs in eV, and the number of Haar elements, half of them with the inversion.
    """
    subject = context.subject
    elements = context.elements(haar(context.trials, context.rng("budget")), np.arange(context.trials) % 2 == 1)
    states, base = context.first(context.trials)
    left, right = subject.evaluate(subject.moved(states, elements)), subject.acted(base, elements)
    largest, squares, count = 0.0, 0.0, 0
    for trial, state in enumerate(states):
        masks = subject.energies(state) or [np.ones(1, dtype=bool)] * len(left)
        for a, b, mask in zip(left, right, masks, strict=True):
            x, y = a[trial], b[trial]
            if x.shape != y.shape or not np.isfinite(x).all():
                return math.inf, math.inf
            gap = (x - y)[np.broadcast_to(mask, x.shape)]
            largest = max(largest, MEV * float(np.abs(gap).max(initial=0.0)))
            squares, count = squares + float(np.square(gap).sum()), count + gap.size
    return MEV * math.sqrt(squares / max(count, 1)), largest
