"""Localisation: every module that declares irreps is tested alone on the input it received inside the model.

Its declared inputs are transformed by the group element; everything else it received (edge attributes, weights,
indices) is what it receives when the model's input is transformed. The first module, in the order of execution and
children before parents, whose own error leaves its own noise is the culprit. The cumulative error of its output
inside the model stands beside it (the layer-wise measure of Gruver et al., ICLR 2023).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .context import Context
from .group import Elements, haar
from .leak import describe_leak, irrep_content
from .measure import Jitter, deviations, jitter_of, rms, zero_floor
from .representation import Representation
from .result import ModuleError
from .subject import State, Subject, module_depth, quiet
from .tolerances import JITTER_DRAWS, bands, block_tolerances, static_tolerance
from .wigner import Array, Basis

TRIALS = 3


@dataclass
class Record:
    """One call of a module inside the model."""

    name: str
    module: torch.nn.Module
    arguments: list[Any]
    keywords: dict[str, Any]
    output: Any


def declared_laws(
    module: torch.nn.Module, arguments: Sequence[Any], basis: Basis
) -> tuple[list[Representation], Representation] | None:
    """Laws of a module's positional arguments and of its output, from its ``irreps_in*`` and ``irreps_out``.

    Arguments beyond the declared ones (weights, indices) get the law of data that do not transform. None when nothing
    is declared or nothing fits.
    """
    out = getattr(module, "irreps_out", getattr(module, "irreps", None))
    first = getattr(module, "irreps_in", getattr(module, "irreps", None))
    entries: list[Any] = [first]
    if first is None:
        names = [f"irreps_in{i}" for i in range(1, 9)]
        entries = [getattr(module, n) for n in names if getattr(module, n, None) is not None]
    elif isinstance(first, list) or (isinstance(first, tuple) and not hasattr(first, "dim")):
        entries = list(first)
    if out is None or not entries or isinstance(out, dict) or len(entries) > len(arguments):
        return None
    try:
        laws = [Representation.parse(entry, basis) for entry in entries]
        law_out = Representation.parse(out[0] if isinstance(out, list) and len(out) == 1 else out, basis)
    except VerificationError:
        return None
    for law, value in zip(laws, arguments, strict=False):
        if law.kind != "fixed" and not (isinstance(value, Tensor) and value.ndim and value.shape[-1] == law.dim):
            return None
    if all(law.kind == "fixed" for law in laws):
        return None
    return laws + [Representation.parse(None, basis)] * (len(arguments) - len(laws)), law_out


def record_calls(subject: Subject, state: State) -> list[Record]:
    """First call of every submodule during one evaluation, in the order in which they finish."""
    assert subject.module is not None
    records: list[Record] = []
    seen: set[int] = set()

    def hook(name: str) -> Callable[..., None]:
        def keep(module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            if id(module) not in seen:
                seen.add(id(module))
                records.append(Record(name, module, list(arguments), keywords, output))

        return keep

    modules = [(n, m) for n, m in subject.module.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    handles = [m.register_forward_hook(hook(n or "(root)"), with_kwargs=True) for n, m in modules]
    try:
        with quiet(subject.dtype):
            subject.raw(state)
    finally:
        for handle in handles:
            handle.remove()
    return records


def source_of(target: object) -> tuple[str, int]:
    """File (relative to the working directory when below it) and first line of a class or function; ("", 0) if unknown.

    Args:
        target: class or function; the source of any other object is that of its class.
    """
    if isinstance(target, partial):
        return source_of(target.func)
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        target = type(target)
    try:
        path = inspect.getsourcefile(target) or ""
        line = inspect.getsourcelines(target)[1]
    except (TypeError, OSError):
        return "", 0
    here = os.getcwd() + os.sep
    return (path[len(here) :] if path.startswith(here) else path), max(line, 1)


def _array(tensor: Tensor) -> Array:
    """Rows of a tensor as float64."""
    values = tensor.detach().to("cpu", torch.float64)
    return np.asarray(values.reshape(-1, values.shape[-1]).numpy())


class LocalModule:
    """One module with its recorded call: evaluated at transformed and at noisy declared inputs.

    Args:
        record: the call at the given state.
        laws_in: laws of the positional arguments.
        law_out: law of the output.
        dtype: dtype of the run.
    """

    def __init__(
        self, record: Record, laws_in: list[Representation], law_out: Representation, dtype: torch.dtype
    ) -> None:
        self.record, self.laws_in, self.law_out, self.dtype = record, laws_in, law_out, dtype

    def call(self, arguments: Sequence[Any], other: Record) -> Array:
        """Output rows, with the keyword arguments of another recorded call."""
        with quiet(self.dtype):
            result = self.record.module(*arguments, **other.keywords)
        return _array(result)

    def at(self, element: Elements, other: Record) -> Array:
        """Output at the transformed declared inputs, all else as in the call at the transformed state."""
        arguments = []
        for law, value, extra in zip(self.laws_in, self.record.arguments, other.arguments, strict=True):
            if law.kind == "fixed":
                arguments.append(extra)
            else:
                values = value.detach().to("cpu", torch.float64).numpy()
                arguments.append(torch.from_numpy(law.act(values[None], element)[0]).to(value))
        return self.call(arguments, other)

    def jitter(self, base: Array, rng: np.random.Generator) -> Jitter:
        """Round-off of the module alone."""
        eps = bands(self.dtype).eps
        noisy = []
        for _ in range(JITTER_DRAWS):
            arguments = [
                x if law.kind == "fixed" else x * (1 + eps * torch.from_numpy(rng.normal(size=tuple(x.shape))).to(x))
                for law, x in zip(self.laws_in, self.record.arguments, strict=True)
            ]
            noisy.append(self.call(arguments, self.record))
        return jitter_of([base] * JITTER_DRAWS, noisy, self.law_out, eps)

    def lmax(self) -> int:
        """Largest degree of inputs and output."""
        return max(law.lmax for law in (*self.laws_in, self.law_out))


def localize(context: Context, state: State, element: Elements, basis: Basis = "e3nn") -> list[ModuleError]:
    """Table of the modules that declare irreps, in the order of execution; empty when there is no module.

    Args:
        context: the run in which something failed.
        state: failing state.
        element: failing group element, one.
        basis: component order of the modules' irreps.

    Returns:
        One row per module; the leak is analysed for the first broken one only.
    """
    subject = context.subject
    if subject.module is None:
        return []
    rng = context.rng("localize")
    elements = Elements.concatenate([element, Elements.of(haar(TRIALS - 1, rng), element.inversion[0])])
    calls = record_calls(subject, state)
    images = [{r.name: r for r in record_calls(subject, s)} for s in subject.moved([state] * TRIALS, elements)]
    table: list[ModuleError] = []
    broken = False
    for record in calls:
        if getattr(record.module, "irreps_frame", "global") != "global" or not isinstance(record.output, Tensor):
            continue  # features in an edge frame obey another law
        laws = declared_laws(record.module, record.arguments, basis)
        others = [image.get(record.name) for image in images]
        if laws is None or any(o is None or len(o.arguments) != len(record.arguments) for o in others):
            continue
        local = LocalModule(record, *laws, context.subject.dtype)
        try:
            row = _row(local, [o for o in others if o is not None], elements, rng, context.tol)
            if row.ratio > 1 and not broken:
                broken = True
                row = _with_leak(row, context, local, state)
        except Exception:  # whatever a module raises outside its model
            continue
        table.append(row)
    return table


def _row(
    local: LocalModule, others: list[Record], elements: Elements, rng: np.random.Generator, tol: float | None
) -> ModuleError:
    base = _array(local.record.output)
    left = [local.at(elements[[k]], other) for k, other in enumerate(others)]
    right = list(local.law_out.act(np.stack([base] * len(others)), elements))
    jitter = local.jitter(base, rng)
    size = max(rms(base), *(rms(_array(x)) for x in local.record.arguments if isinstance(x, Tensor) and x.ndim))
    found = deviations(left, right, local.law_out, zero_floor(jitter, size, bands(local.dtype).eps))
    static = static_tolerance(local.dtype, local.lmax(), module_depth(local.record.module))
    limits = (
        np.full(len(jitter.relative), tol)
        if tol is not None
        else block_tolerances(static, jitter.relative, local.dtype)
    )
    errors = np.where(found.zero, 0.0, found.error).max(axis=0)
    worst = int(np.argmax(errors / limits))
    cumulative = deviations([_array(others[0].output)], right[:1], local.law_out).error
    file, line = source_of(local.record.module)
    return ModuleError(
        name=local.record.name,
        kind=type(local.record.module).__name__,
        irreps_in=" , ".join(law.text for law in local.laws_in if law.kind != "fixed"),
        irreps_out=local.law_out.text,
        local_error=float(errors[worst]),
        tolerance=float(limits[worst]),
        cumulative_error=float(cumulative.max(initial=0.0)),
        source_file=file,
        source_line=line,
    )


def _with_leak(row: ModuleError, context: Context, local: LocalModule, state: State) -> ModuleError:
    """The row with the irrep content of what the module puts out along the orbit of the state."""
    subject, name = context.subject, local.record.name

    def orbit(elements: Elements) -> Array:
        if all(law.kind != "fixed" for law in local.laws_in):
            return np.stack([local.at(elements[[k]], local.record) for k in range(len(elements))])
        values = []
        for k in range(len(elements)):
            other = next(r for r in record_calls(subject, subject.moved([state], elements[[k]])[0]) if r.name == name)
            values.append(local.at(elements[[k]], other))
        return np.stack(values)

    content = irrep_content(orbit, local.law_out, cheap=any(law.kind == "fixed" for law in local.laws_in))
    leak, example = describe_leak(content, local.law_out)
    return ModuleError(**{**row.__dict__, "leak": leak, "example": example})
