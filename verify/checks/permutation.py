"""Order of the rows: f(P x) = P f(x) for point clouds given as plain tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..context import Context, NotApplicable
from ..measure import Outputs
from ..result import CheckResult
from ..subject import State, Subject

TRIALS = 6


def node_permutation(context: Context) -> CheckResult:
    """Points in another order give the same outputs in that order; outputs without one row per point stay the same."""
    subject = context.subject
    rows = subject.num_rows(context.states[0])
    if not subject.has_points:
        raise NotApplicable("no input is a set of points")
    if rows < 2:
        raise NotApplicable(subject.rows_reason(context.states[0]) if rows == 0 else "one point cannot be permuted")
    states, base = context.first(min(TRIALS, len(context.states)))
    if any(len(column[0]) != rows and len(column[0]) % rows == 0 and len(column[0]) for column in base):
        raise NotApplicable("an output has several rows per point: their order is not known")
    rng = context.rng("node permutation")
    orders = [rng.permutation(rows) for _ in states]
    orders[0] = np.arange(rows)[::-1].copy()

    def permuted(target: Subject, state: State, order: np.ndarray) -> State:
        return target.take_rows(state, order.tolist())

    left = subject.evaluate([permuted(subject, s, order) for s, order in zip(states, orders, strict=True)])
    right = _reordered(base, orders, rows)
    result = context.judge(
        "node_permutation",
        (left, right),
        states=states,
        sides_of=lambda k: (
            lambda target, state: (
                target.evaluate([permuted(target, state, orders[k])]),
                _reordered(target.evaluate([state]), [orders[k]], rows),
            )
        ),
    )
    if not result.passed:
        hint = (
            "if the rows are not interchangeable points, or an input holds their numbers, which stay as they are, "
            "leave node_permutation out of checks"
        )
        return replace(result, message=f"{result.message}; {hint}")
    return result


def _reordered(outputs: Outputs, orders: list[np.ndarray], rows: int) -> Outputs:
    return [[x[o] if len(x) == rows else x for x, o in zip(column, orders, strict=True)] for column in outputs]
