"""Lie derivative: the generators of rotation annihilate an equivariant map.

For each axis a: J_f(x) (A_a x) = B_a f(x), with the generators A_a of the inputs and B_a of the outputs. Tested
against random cotangents w: <J^T w, A_a x> = <w, B_a f(x)>, one reverse pass per w; needs neither Wigner-D nor a
finite rotation. Source: Gruver et al., *The Lie Derivative for Measuring Learned Equivariance*, ICLR 2023, Eq. (3).
"""

from __future__ import annotations

import numpy as np
import torch

from ..context import Context
from ..gradient_subject import vector_jacobian
from ..measure import relative_error
from ..result import CheckResult, Verdict
from ..subject import State, Subject, quiet
from ..tolerances import GRADIENT_FACTOR, verdict_of
from ..wigner import Array
from .gradient import column_scales, require_gradients

STATES = 2
PROBES = 3


def lie_derivative(context: Context) -> CheckResult:
    """Largest |<J^T w, A x> - <w, B f>| over the sizes of both sides, three axes, random cotangents."""
    require_gradients(context)
    subject, rng = context.subject, context.rng("lie")
    scales = column_scales(context)
    states, base = context.first(STATES)
    errors = np.zeros(3)
    with quiet(subject.dtype):
        for index, state in enumerate(states):
            for _ in range(PROBES):
                weights = [rng.normal(size=c[index].shape) / s for c, s in zip(base, scales, strict=True)]
                errors = np.maximum(errors, _axis_errors(subject, state, weights, [c[index] for c in base]))
    error = float(errors.max())
    tolerance = context.loosest(GRADIENT_FACTOR)
    verdict = verdict_of(error, tolerance, subject.dtype)
    message = "" if verdict is Verdict.PASS else f"worst about the {'xyz'[int(np.argmax(errors))]} axis"
    details = {"axes": dict(zip("xyz", map(float, errors), strict=True))}
    return CheckResult("lie_derivative", verdict, error, tolerance, message, 3 * PROBES * len(states), details=details)


def _axis_errors(subject: Subject, state: State, weights: list[Array], values: list[Array]) -> Array:
    """Relative error of the identity for the three axes, with one reverse pass.

    About an axis on which everything lies both sides are round-off of what turns about the others, so that counts too.
    """
    leaves = subject.leaves(state)
    inputs = [leaf.value.detach().to("cpu", torch.float64).numpy() for leaf in leaves]
    grads, _ = vector_jacobian(subject, state, [torch.from_numpy(w).to(leaves[0].value) for w in weights])
    slopes = [g.detach().to("cpu", torch.float64).numpy() for g in grads]
    laws = [spec.law for spec in subject.outputs]
    turning = [(w * y)[:, law.turning(y.shape[-1])] for w, y, law in zip(weights, values, laws, strict=True)]
    errors = np.zeros(3)
    for axis in range(3):
        inner = [
            g * leaf.law.act_generator(x[None], axis)[0] for g, leaf, x in zip(slopes, leaves, inputs, strict=True)
        ]
        outer = [w * law.act_generator(y[None], axis)[0] for w, law, y in zip(weights, laws, values, strict=True)]
        left, right = sum(float(t.sum()) for t in inner), sum(float(t.sum()) for t in outer)
        sizes = [sum(float(np.square(t).sum()) for t in side) ** 0.5 for side in (inner, outer, turning)]
        errors[axis] = relative_error(abs(left - right), *sizes)
    return errors
