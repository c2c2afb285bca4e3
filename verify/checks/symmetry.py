"""Rotation, inversion and translation: f(g x) = D(g) f(x)."""

from __future__ import annotations

import numpy as np

from ..context import Context, NotApplicable, Pair, SidesOf
from ..group import Elements, haar
from ..result import CheckResult
from ..subject import State, Subject
from ..tolerances import bands

SHIFT = 3.0  # standard deviation of the shifts, Å
MAX_SHIFT = 10.0  # largest component, Å


def symmetry_sides(elements: Elements) -> SidesOf:
    """Both sides of f(g x) = D(g) f(x) for one group element."""

    def sides(subject: Subject, state: State) -> Pair:
        left = subject.evaluate(subject.moved([state], elements))
        return left, subject.acted(subject.evaluate([state]), elements)

    return sides


def _check(context: Context, name: str, elements: Elements, extra: float = 0.0) -> CheckResult:
    subject = context.subject
    states, base = context.first(len(elements))
    left = subject.evaluate(subject.moved(states, elements))
    right = subject.acted(base, elements)
    result = context.judge(
        name,
        (left, right),
        extra=extra,
        states=states,
        sides_of=lambda trial: symmetry_sides(elements[[trial]]),
    )
    if result.blocks:
        trial = max((b for b in result.blocks if not b.zero), key=lambda b: b.ratio, default=result.blocks[0]).trial
        context.cases[name] = (states[trial], elements[[trial]])
    return result


def rotation(context: Context) -> CheckResult:
    """Haar rotations, one per i.i.d. state."""
    return _check(context, "rotation", Elements.of(haar(context.trials, context.rng("rotation"))))


def inversion(context: Context) -> CheckResult:
    """The inversion alone: r -> -r and parity signs; with the rotations it generates O(3)."""
    if not context.parity:
        raise NotApplicable("parity is not claimed")
    count = 1 if context.subject.fixed else max(1, context.trials // 4)
    return _check(context, "inversion", Elements.of(np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)), True))


def translation(context: Context) -> CheckResult:
    """Shifts with a standard deviation of 3 Å; a block's tolerance grows by its jitter times |t| per Å of an edge."""
    if not context.subject.has_points:
        raise NotApplicable("no input is a set of points")
    rng = context.rng("translation")
    count = max(1, context.trials // 4)
    shifts = np.clip(rng.normal(scale=SHIFT, size=(count, 3)), -MAX_SHIFT, MAX_SHIFT)
    elements = Elements.of(np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)), False, shifts)
    extra = bands(context.subject.dtype).eps * float(np.linalg.norm(shifts, axis=1).max())
    return _check(context, "translation", elements, extra)
