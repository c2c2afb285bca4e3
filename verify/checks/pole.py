"""Poles: rotations that bring a direction of a generic input onto a coordinate axis, and to within small angles of it.

The search excuses an error where a 1-ulp change of the input moves the output as much. Near a pole that excuse would
hide the usual fault, a frame whose angle is lost there (an inverse cosine, a branch on the axis): how strongly the
output amplifies round-off must itself be the same before and after a rotation. Here the input is generic and the
tolerance is its own.
"""

from __future__ import annotations

import numpy as np

from ..context import Context, NotApplicable
from ..group import Elements, aligning
from ..result import CheckResult
from .symmetry import symmetry_sides

OFFSETS = (0.0, 1e-3, 1e-5, 1e-7, 1e-9)
DIRECTIONS = 2


def pole(context: Context) -> CheckResult:
    """f(g x) = D(g) f(x) where g carries a direction of x to an axis, up to offsets of 0 to 1e-3 rad."""
    subject = context.subject
    states, base = context.first(min(DIRECTIONS, len(context.states)))
    rng = context.rng("pole")
    quaternions, owners = [], []
    for index, state in enumerate(states):
        directions = subject.directions(state)
        if len(directions) == 0:
            raise NotApplicable("the inputs hold no directions")
        found = aligning(directions[int(rng.integers(len(directions)))], OFFSETS)
        quaternions.append(found)
        owners += [index] * len(found)
    elements = Elements.of(np.concatenate(quaternions))
    repeated = [states[index] for index in owners]
    left = subject.evaluate(subject.moved(repeated, elements))
    right = subject.acted([[column[index] for index in owners] for column in base], elements)
    result = context.judge("pole", (left, right), states=None, sides_of=lambda trial: symmetry_sides(elements[[trial]]))
    if result.blocks and not result.passed:
        trial = max((b for b in result.blocks if not b.zero), key=lambda b: b.ratio, default=result.blocks[0]).trial
        context.cases["pole"] = (repeated[trial], elements[[trial]])
    return result
