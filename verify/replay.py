"""A counterexample as code: the error of one input and one group element, and the source that computes it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .function_subject import FunctionSubject
from .group import Elements
from .measure import deviations
from .subject import State, Subject
from .wigner import Basis

MAX_PRINTED = 400  # numbers of an input that are still printed


def case_error(subject: Subject, state: State, element: Elements) -> float:
    """Largest relative block error of f(g x) = D(g) f(x) for one state and element; inf when a side is not finite."""
    left = subject.evaluate(subject.moved([state], element))
    right = subject.acted(subject.evaluate([state]), element)
    found = [deviations(a, b, spec.law).error for spec, a, b in zip(subject.outputs, left, right, strict=True)]
    return max((float(error.max()) for error in found if error.size), default=0.0)


def replay(
    func: Callable[..., Any],
    irreps_in: Any,
    irreps_out: Any,
    inputs: Sequence[Any],
    *,
    quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    inversion: bool = False,
    translation: Sequence[float] = (0.0, 0.0, 0.0),
    dtype: torch.dtype = torch.float64,
    basis: Basis = "e3nn",
) -> float:
    """Relative equivariance error of a function at one input under one group element.

    error = max_b RMS(f(g x) - D(g) f(x)) / s_b

    Args:
        func: the function, as in :func:`verify_equivariance`.
        irreps_in: entries of the inputs.
        irreps_out: entries of the outputs.
        inputs: one value per entry.
        quaternion: (w, x, y, z) of the rotation, any length but zero.
        inversion: True to invert after the rotation.
        translation: shift of the points, Å.
        dtype: precision.
        basis: component order of the irreps.

    Returns:
        The error, dimensionless; of the order of 1e-15 for an equivariant function in float64.
    """
    subject = FunctionSubject(func, irreps_in, irreps_out, inputs, dtype, basis)
    element = Elements.of([list(quaternion)], inversion, np.array([list(translation)], dtype=float))
    return case_error(subject, subject.states(1, np.random.default_rng(0))[0], element)


def number(value: float) -> str:
    """Shortest text of a number that reads back as the same float."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def numbers(values: Sequence[float]) -> str:
    """A list of numbers as source."""
    return f"[{', '.join(number(float(v)) for v in values)}]"


def tensor_source(value: Any) -> str:
    """Source that makes a tensor (or another plain value) again."""
    if not isinstance(value, Tensor):
        return repr(value)
    if value.numel() > MAX_PRINTED:
        return f"torch.zeros({list(value.shape)}, dtype={value.dtype})  # too long to print: see the seed of the report"
    if value.is_floating_point():
        return f"torch.tensor({_nested(value.detach().cpu().double().numpy())}, dtype={value.dtype})"
    return f"torch.tensor({value.tolist()}, dtype={value.dtype})"


def _nested(array: np.ndarray) -> str:
    if array.ndim == 0:
        return number(float(array))
    return f"[{', '.join(_nested(row) for row in array)}]"


def package_name() -> str:
    """Import name of this package: ``verify`` in the checkout, ``tracegrad.verify`` once installed."""
    return __name__.rpartition(".")[0]


def function_source(subject: FunctionSubject, state: State, element: Elements, error: float) -> tuple[str, str]:
    """Replay code for a function under the name ``func``, and the same case as an ``@example`` line."""
    names_in = repr([law.text if law.kind != "fixed" else None for law in subject.laws])
    names_out = repr([s.law.text if s.law.kind != "fixed" else None for s in subject.outputs])
    q, t = numbers(element.quaternions[0]), numbers(element.translation[0])
    p = bool(element.inversion[0])
    values = ", ".join(tensor_source(x) for x in state)
    basis = "" if subject.basis == "e3nn" else f", basis={subject.basis!r}"
    lines = [
        "import torch",
        f"from {package_name()} import replay",
        "",
        f"inputs = [{values}]",
        "error = replay(",
        f"    func, {names_in}, {names_out}, inputs,",
        f"    quaternion={q}, inversion={p}, translation={t}, dtype={subject.dtype}{basis},",
        ")",
        f"print(error)  # {error:.3g}: f(g x) differs from D(g) f(x)",
    ]
    example = f"@example(inputs=[{values}], quaternion={q}, inversion={p}, translation={t})"
    return "\n".join(lines) + "\n", example
