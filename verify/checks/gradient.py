"""Gradients: equivariance of the vector-Jacobian product, central differences, forward against reverse mode.

The first finds a backward pass that breaks the symmetry, the second one that is wrong but symmetric (a detached
branch, a rescaled gradient), the third compares the two modes of differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ..context import Context, NotApplicable
from ..gradient_subject import GradientSubject, differentiable, vector_jacobian
from ..group import haar
from ..measure import relative_error, rms
from ..result import CheckResult, Verdict
from ..subject import Leaf, State, Subject, quiet
from ..tolerances import GRADIENT_FACTOR, Bands, bands, verdict_of
from ..wigner import Array
from .symmetry import symmetry_sides

TRIALS = 4
STATES = 2
MAX_DIRECTIONS = 12
_STEPS = (1.0, 0.03, 10.0, 100.0, 1000.0)  # times the step of the dtype: the first that agrees decides
_PRECISION_GAIN = 5.0  # a leak of low precision shrinks with a longer step, a wrong gradient does not


def column_scales(context: Context) -> list[Array]:
    """(dim,) RMS size of every output column's block over the base states.

    A block that is zero up to round-off has that of the largest block: its gradient counts, its dust does not.
    """
    tables = [np.concatenate(column) for column in context.base]
    sizes = [
        np.array([rms(rows[:, b.start : b.stop]) for b in spec.law.blocks_of(rows.shape[-1])])
        for spec, rows in zip(context.subject.outputs, tables, strict=True)
    ]
    largest = max((float(size) for found in sizes for size in found if np.isfinite(size) and size > 0), default=1.0)
    scales = []
    for spec, rows, found, floor in zip(context.subject.outputs, tables, sizes, context.floors, strict=True):
        widths = [b.stop - b.start for b in spec.law.blocks_of(rows.shape[-1])]
        scales.append(np.repeat(np.where(np.isfinite(found) & (found > floor), found, largest), widths))
    return scales


def require_gradients(context: Context) -> None:
    """Raise NotApplicable, with the reason, where there is no gradient to be tested."""
    with quiet(context.subject.dtype):
        try:
            possible = differentiable(context.subject, context.states[0])
            vector_jacobian(context.subject, context.states[0], _cotangents(context, 0, context.rng("probe")))
        except RuntimeError as error:
            raise NotApplicable(f"not differentiable: {str(error).splitlines()[0]}") from error
    if not possible:
        raise NotApplicable("the outputs carry no gradient with respect to the inputs")
    if not context.repeatable:
        raise NotApplicable("the function is not deterministic")
    if not context.finite:
        raise NotApplicable("the outputs are not finite")
    if context.jumping_blocks:
        raise NotApplicable(f"discontinuous at the given input: {', '.join(context.jumping_blocks[:6])}")


def gradient(context: Context) -> CheckResult:
    """grad(g x; D w) = D grad(x; w) for rotations, half of them inverted; tolerance 4 times the forward one."""
    require_gradients(context)
    subject = GradientSubject(context.subject, column_scales(context))
    inner = Context(subject, context.seed, TRIALS, context.tol)
    if not any(np.any(trial) for column in inner.base for trial in column):
        raise NotApplicable("every gradient is zero: central differences judge that")
    rng = context.rng("gradient")
    elements = context.elements(haar(TRIALS, rng), np.arange(TRIALS) % 2 == 1)
    left = subject.evaluate(subject.moved(inner.states, elements))
    right = subject.acted(inner.base, elements)
    return inner.judge(
        "gradient",
        (left, right),
        factor=GRADIENT_FACTOR,
        states=inner.states,
        sides_of=lambda trial: symmetry_sides(elements[[trial]]),
    )


@dataclass(frozen=True)
class _Direction:
    name: str
    leaf: int
    vector: Tensor
    step: float


def _directions(leaves: list[Leaf], rng: np.random.Generator) -> Iterator[_Direction]:
    """Random directions: every leaf as a whole, then block by block."""
    parts: list[tuple[int, str, slice]] = [(i, leaf.name, slice(None)) for i, leaf in enumerate(leaves)]
    for i, leaf in enumerate(leaves):
        if len(leaf.law.blocks) > 1:
            parts += [(i, f"{leaf.name} {b.name}", slice(b.start, b.stop)) for b in leaf.law.blocks]
    for i, name, columns in parts[: max(MAX_DIRECTIONS, len(leaves))]:
        value = leaves[i].value
        vector = torch.zeros_like(value)
        noise = torch.from_numpy(rng.normal(size=tuple(value[..., columns].shape))).to(value)
        vector[..., columns] = noise
        spread = float((value - value.mean(dim=0, keepdim=True)).square().mean().sqrt()) if value.ndim > 1 else 0.0
        size = spread or float(value.square().mean().sqrt()) or 1.0
        yield _Direction(name, i, vector, size)


@dataclass(frozen=True)
class _Probe:
    """<w, f> at a state of a subject, whose slopes are compared."""

    subject: Subject
    state: State
    leaves: list[Leaf]
    weights: list[Tensor]

    def total(self, direction: _Direction, step: float) -> tuple[float, float]:
        """<w, f(x + step d)> and the sum of the sizes of its terms."""
        values = [leaf.value for leaf in self.leaves]
        values[direction.leaf] = values[direction.leaf] + step * direction.step * direction.vector
        outputs = self.subject.raw(self.subject.with_leaves(self.state, values))
        terms = [(w * out.detach()).double() for w, out in zip(self.weights, outputs, strict=True)]
        return sum(float(t.sum()) for t in terms), sum(float(t.abs().sum()) for t in terms)

    def error(self, direction: _Direction, gradient: Tensor, limits: Bands) -> tuple[float, Verdict]:
        """Relative error of the slope against central differences, and its band.

        A second, shorter step steps over kinks; longer steps tell a leak of low precision from a wrong gradient.
        """
        slope = float((gradient * direction.vector).double().sum()) * direction.step
        live = direction.vector != 0
        norm = float(gradient[live].double().norm()) * direction.step
        errors: list[float] = []
        for factor in _STEPS:
            h = limits.step * factor
            (plus, size), (minus, other) = self.total(direction, h), self.total(direction, -h)
            numeric = (plus - minus) / (2 * h)
            noise = 16 * limits.eps * (size + other) / h
            errors.append(relative_error(abs(numeric - slope), abs(numeric), abs(slope), norm, noise=noise))
            if errors[-1] <= limits.difference:
                break
        if errors[-1] <= limits.difference and len(errors) <= 2:
            return errors[-1], Verdict.PASS
        noisy = min(errors[2:]) * _PRECISION_GAIN < errors[0] or errors[1] > _PRECISION_GAIN * errors[0]
        return errors[0], Verdict.PRECISION if noisy else Verdict.STRUCTURAL


def finite_difference(context: Context) -> CheckResult:
    """<grad(x; w), d> against (L(x + h d) - L(x - h d)) / 2h with L = <w, f>, over all inputs and single irreps.

    Fails above 1e-5 (float64). An error that shrinks with a longer step is an island of lower precision: PRECISION.
    """
    require_gradients(context)
    subject, limits = context.subject, bands(context.subject.dtype)
    rng = context.rng("finite difference")
    found: list[tuple[int, float, str, Verdict]] = []
    with quiet(subject.dtype):
        for index, state in enumerate(context.states[:STATES]):
            leaves = subject.leaves(state)
            weights = _cotangents(context, index, rng)
            grads, _ = vector_jacobian(subject, state, weights)
            probe = _Probe(subject, state, leaves, weights)
            for direction in _directions(leaves, rng):
                error, band = probe.error(direction, grads[direction.leaf], limits)
                found.append((band.severity, error, direction.name, band))
    _, error, name, verdict = max(found)
    message = "" if verdict is Verdict.PASS else f"the gradient along {name} differs from central differences"
    if not np.isfinite(error):
        message = f"the gradient along {name}, or a value next to the input, is not finite"
    if verdict is Verdict.PRECISION:
        message += "; the difference shrinks with a longer step: part of the function runs in lower precision"
    table: dict[str, float] = {}
    for _, value, label, _ in found:
        table[label] = max(table.get(label, 0.0), value)
    details = {"directions": table, "step": limits.step}
    return CheckResult("finite_difference", verdict, error, limits.difference, message, len(found), details=details)


def _cotangents(context: Context, index: int, rng: np.random.Generator) -> list[Tensor]:
    """Random cotangents of the outputs at a base state, every block weighted alike."""
    like = context.subject.leaves(context.states[index])[0].value
    columns = zip(context.base, column_scales(context), strict=True)
    return [torch.from_numpy(rng.normal(size=column[index].shape) / scale).to(like) for column, scale in columns]


def jvp_vjp(context: Context) -> CheckResult:
    """Dot test <w, J d> = <J^T w, d> of forward-mode against reverse-mode differentiation.

    Not applicable to TorchScript: PyTorch drops dual numbers once it has optimised the script.
    """
    require_gradients(context)
    subject, rng = context.subject, context.rng("jvp")
    state = context.states[0]
    leaves = subject.leaves(state)
    weights = _cotangents(context, 0, rng)
    tangents = [torch.from_numpy(rng.normal(size=tuple(leaf.value.shape))).to(leaf.value) for leaf in leaves]
    with quiet(subject.dtype), _torchscript_calls() as scripts:
        forward, size = _forward_mode(subject, state, leaves, tangents, weights)
        grads, _ = vector_jacobian(subject, state, weights)
    if scripts:
        raise NotApplicable(f"PyTorch loses forward-mode derivatives in TorchScript (here: {scripts[0]})")
    reverse = sum(float((g * t).double().sum()) for g, t in zip(grads, tangents, strict=True))
    size += sum(float((g * t).double().abs().sum()) for g, t in zip(grads, tangents, strict=True))
    if size == 0:
        raise NotApplicable("every derivative is zero: central differences judge that")
    error = relative_error(abs(forward - reverse), size)
    tolerance = context.tol if context.tol is not None else GRADIENT_FACTOR * context.static
    verdict = verdict_of(error, tolerance, subject.dtype)
    message = "" if verdict is Verdict.PASS else "forward-mode and reverse-mode derivatives disagree"
    return CheckResult(
        "jvp_vjp", verdict, error, tolerance, message, 1, details={"forward": forward, "reverse": reverse}
    )


@contextmanager
def _torchscript_calls() -> Iterator[list[str]]:
    """Collect the names of the scripted functions and methods that are called inside."""
    names: list[str] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(script: Any, *args: Any, **kwargs: Any) -> Any:
            names.append(script.name)
            return call(script, *args, **kwargs)

        return wrapper

    with ExitStack() as stack:
        for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod):
            stack.enter_context(patch.object(kind, "__call__", counted(kind.__call__)))
        yield names


def _forward_mode(
    subject: Subject, state: State, leaves: list[Leaf], tangents: list[Tensor], weights: list[Tensor]
) -> tuple[float, float]:
    """<w, J d> by dual numbers and the sum of the sizes of its terms.

    The inputs ask for gradients too: code that chooses its path by ``requires_grad`` takes the one of the gradients.
    """
    from torch.autograd import forward_ad

    try:
        with forward_ad.dual_level(), torch.enable_grad():
            values = [leaf.value.detach().requires_grad_(True) for leaf in leaves]
            duals = [forward_ad.make_dual(value, t) for value, t in zip(values, tangents, strict=True)]
            parts = [forward_ad.unpack_dual(out).tangent for out in subject.raw(subject.with_leaves(state, duals))]
            terms = [w * p for w, p in zip(weights, parts, strict=True) if p is not None]
            return sum(float(t.double().sum()) for t in terms), sum(float(t.double().abs().sum()) for t in terms)
    except (RuntimeError, NotImplementedError) as error:
        raise NotApplicable(
            f"forward-mode differentiation is not available: {str(error).splitlines()[0][:100]}"
        ) from error
