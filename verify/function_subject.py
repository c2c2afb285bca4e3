"""A plain function or module of tensors as a subject: one tensor per entry of irreps_in and of irreps_out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .group import Elements
from .precision import converted, in_precision
from .representation import Representation, parse_entries
from .subject import (
    Leaf,
    OutputSpec,
    State,
    Subject,
    as_rows,
    as_tensors,
    describe,
    differs,
    module_depth,
    module_lmax,
    quiet,
)
from .tolerances import bands
from .wigner import Array, Basis

ROWS = 5  # rows of generated irreps inputs
POINTS = 7  # points of generated clouds


class DtypeRefused(VerificationError):
    """The function does not take inputs of the dtype of the run."""


class FunctionSubject(Subject):
    """``func(*inputs) -> outputs`` with one law per input and output.

    Args:
        func: callable; a module is copied and converted to ``dtype``.
        irreps_in: entries as in :func:`verify.verify_equivariance`.
        irreps_out: the same for the outputs.
        inputs: one value per entry, or None to draw them.
        dtype: float64 or float32.
        basis: component order of the irreps.

    Raises:
        VerificationError: entries, inputs and function do not fit together.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        irreps_in: Any,
        irreps_out: Any,
        inputs: Sequence[Any] | None,
        dtype: torch.dtype,
        basis: Basis = "e3nn",
    ) -> None:
        bands(dtype)
        self.basis = basis
        self.laws = parse_entries(irreps_in, "irreps_in", basis)
        laws_out = parse_entries(irreps_out, "irreps_out", basis)
        self.outputs = tuple(OutputSpec(f"output {i}", law) for i, law in enumerate(laws_out))
        if not callable(func):
            raise VerificationError(f"func is a {type(func).__name__}, expected a callable")
        if all(law.kind == "fixed" for law in self.laws):
            raise VerificationError("every entry of irreps_in is None: no input transforms, there is nothing to verify")
        self.original = func
        self.module = converted(func, dtype) if isinstance(func, torch.nn.Module) else None
        self.func = self.module if self.module is not None else func
        self.name = str(getattr(func, "__qualname__", type(func).__name__))
        self.dtype = dtype
        self.depth = module_depth(self.module)
        self.fixed = inputs is not None
        self.device = next((p.device for p in self.module.parameters()), None) if self.module is not None else None
        self.inputs = self._checked(inputs) if inputs is not None else None
        if inputs is None and any(law.kind == "fixed" for law in self.laws):
            index = next(i for i, law in enumerate(self.laws) if law.kind == "fixed")
            raise VerificationError(
                f"entry {index} of irreps_in is None, so its value cannot be drawn: give inputs=[...]"
            )
        self._lmax = max([law.lmax for law in (*self.laws, *laws_out)] + [module_lmax(self.module)])
        self._probe()

    def _checked(self, inputs: Any) -> list[Any]:
        values = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if len(values) != len(self.laws):
            raise VerificationError(
                f"{len(values)} input(s) for {len(self.laws)} entries of irreps_in: give one per entry"
            )
        return [self._checked_one(i, value, law) for i, (value, law) in enumerate(zip(values, self.laws, strict=True))]

    def _checked_one(self, index: int, value: Any, law: Representation) -> Any:
        if law.kind == "fixed":
            return in_precision(value.detach(), self.dtype) if isinstance(value, Tensor) else value
        if not isinstance(value, Tensor):
            raise VerificationError(
                f"inputs[{index}] is a {type(value).__name__}, expected a torch.Tensor for {law.text}"
            )
        if not value.is_floating_point():
            raise VerificationError(
                f"inputs[{index}] has dtype {value.dtype}, expected floating point: convert it with .double()"
            )
        if value.ndim == 0 or value.shape[-1] != law.dim:
            raise VerificationError(
                f"inputs[{index}] has shape {tuple(value.shape)}, "
                f"but irreps_in {law.text} needs a last axis of {law.dim}"
            )
        if value.numel() == 0:
            raise VerificationError(
                f"inputs[{index}] is empty (shape {tuple(value.shape)}): an empty batch verifies nothing"
            )
        if not bool(torch.isfinite(value).all()):
            raise VerificationError(f"inputs[{index}] holds NaN or infinity: give finite inputs")
        self.device = value.device
        return in_precision(value.detach(), self.dtype)

    def _probe(self) -> None:
        """First calls: settles compiled code, and turns a misfit into one sentence."""
        state = self.states(1, np.random.default_rng(0))[0]
        try:
            with quiet(self.dtype):
                self.raw(state)
        except VerificationError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in state)
            text = f"on inputs of shape {shapes}, {self.name} raised {describe(error)}"
            if any(word in str(error) for word in ("dtype", "Double", "Float", "scalar type")):
                hint = f"it must take {self.dtype} inputs: build it with that default dtype, or pass another dtype="
                raise DtypeRefused(f"{text}; {hint}") from error
            raise VerificationError(text) from error

    @property
    def lmax(self) -> int:
        return self._lmax

    @property
    def has_points(self) -> bool:
        return any(law.kind == "points" for law in self.laws)

    def states(self, n: int, rng: np.random.Generator) -> list[State]:
        if self.inputs is not None:
            return [list(self.inputs) for _ in range(n)]
        rows = POINTS if self.has_points else ROWS
        columns = [rng.normal(size=(n, rows, law.dim or 0)) for law in self.laws]
        tensors = [self._tensor(values).unbind(0) for values in columns]
        return [list(row) for row in zip(*tensors, strict=True)]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device=self.device, dtype=self.dtype)

    def moved(self, states: Sequence[State], elements: Elements) -> list[State]:
        columns: list[Sequence[Any]] = []
        for index, law in enumerate(self.laws):
            values = [state[index] for state in states]
            if law.kind == "fixed":
                columns.append(values)
            elif len({tuple(v.shape) for v in values}) == 1:
                stacked = torch.stack(values).detach().to("cpu", torch.float64).numpy()
                columns.append(self._tensor(law.act(stacked, elements)).unbind(0))
            else:
                images = [
                    law.act(v.detach().cpu().double().numpy()[None], elements[[i]])[0] for i, v in enumerate(values)
                ]
                columns.append([self._tensor(image) for image in images])
        return [list(row) for row in zip(*columns, strict=True)]

    def raw(self, state: State) -> list[Tensor]:
        arguments = [x.clone() if isinstance(x, Tensor) else _own(x) for x in state]
        result = as_tensors(self.func(*arguments), len(self.outputs))
        return [as_rows(tensor, spec) for tensor, spec in zip(result, self.outputs, strict=True)]

    def leaves(self, state: State) -> list[Leaf]:
        return [
            Leaf(f"input {i}", law, x, self.fixed and law.kind == "points")
            for i, (x, law) in enumerate(zip(state, self.laws, strict=True))
            if law.kind != "fixed"
        ]

    def with_leaves(self, state: State, values: Sequence[Tensor]) -> State:
        remaining = list(values)
        return [x if law.kind == "fixed" else remaining.pop(0) for x, law in zip(state, self.laws, strict=True)]

    def mutations(self, state: State) -> list[str]:
        arguments = copy.deepcopy(state)
        with quiet(self.dtype):
            self.func(*arguments)
        return [f"input {i}" for i, (x, y) in enumerate(zip(arguments, state, strict=True)) if differs(x, y)]

    def num_rows(self, state: State) -> int:
        """Number of points, else the common number of rows; 0 where some input may count rows in a way of its own."""
        laws = list(zip(state, self.laws, strict=True))
        points = {len(x) if x.ndim == 2 else 0 for x, law in laws if law.kind == "points"}
        rows = points or {len(x) if isinstance(x, Tensor) and x.ndim >= 2 else 0 for x in state}
        if len(rows) != 1:
            return 0
        (count,) = rows
        return 0 if any(_counts_otherwise(x, law, count) for x, law in laws) else count

    def rows_reason(self, state: State) -> str:
        for index, (value, law) in enumerate(zip(state, self.laws, strict=True)):
            if law.kind == "points" and value.ndim != 2:
                return f"input {index} of shape {tuple(value.shape)}: expected points (N, 3) of one structure"
        counts = {len(x) for x, law in zip(state, self.laws, strict=True) if law.kind == "points"}
        for index, (value, law) in enumerate(zip(state, self.laws, strict=True)):
            if len(counts) == 1 and _counts_otherwise(value, law, *counts):
                found = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{len(value)} items"
                return f"input {index} of {found}: it is not known to hold one row per point"
        return super().rows_reason(state)

    def take_rows(self, state: State, rows: Sequence[int]) -> State | None:
        count = self.num_rows(state)
        if not count:
            return None
        return [
            x[list(rows)] if isinstance(x, Tensor) and x.ndim >= _least_axes(law) and len(x) == count else x
            for x, law in zip(state, self.laws, strict=True)
        ]

    def directions(self, state: State) -> Array:
        found = []
        for x, law in zip(state, self.laws, strict=True):
            if law.kind == "fixed":
                continue
            values = x.detach().to("cpu", torch.float64).reshape(-1, x.shape[-1]).numpy()
            if law.kind == "points":
                found.append((values[:, None] - values[None, :])[np.triu_indices(len(values), 1)])
            found += [
                values[:, b.start : b.stop].reshape(-1, 3) for b in law.blocks if b.l == 1 and law.kind == "irreps"
            ]
        vectors = np.concatenate(found) if found else np.zeros((0, 3))
        return np.asarray(vectors[np.linalg.norm(vectors, axis=1) > 1e-9])

    def cast(self, state: State) -> State:
        return [in_precision(x, self.dtype) if isinstance(x, Tensor) else x for x in state]

    def renewed(self, change: Callable[[torch.nn.Module], Any] | None = None) -> Subject | None:
        if not isinstance(self.original, torch.nn.Module):
            return None
        other = copy.copy(self)
        other.func = other.module = converted(self.original, self.dtype)
        if change is not None:
            change(other.module)
        return other

    def in_dtype(self, dtype: torch.dtype) -> Subject | None:
        try:
            laws_out = [spec.law for spec in self.outputs]
            other = FunctionSubject(self.original, list(self.laws), laws_out, self.inputs, dtype, self.basis)
        except VerificationError:
            return None
        return other


def _counts_otherwise(value: Any, law: Representation, count: int) -> bool:
    """True where rows are not those of the points, or may not be.

    Those of lists and arrays, which are left as they are; tables of pairs (N, N); another number of irreps or integers.
    """
    if isinstance(value, (list, tuple, np.ndarray)):
        return np.shape(value)[:1] == (count,) if isinstance(value, np.ndarray) else len(value) == count
    if not isinstance(value, Tensor) or value.ndim < _least_axes(law):
        return False
    if count > 1 and len(value) == count:
        return value.ndim >= _least_axes(law) + 1 and value.shape[1] == count
    if len(value) == 1:
        return False
    return law.kind != "fixed" or not (value.is_floating_point() or value.is_complex())


def _least_axes(law: Representation) -> int:
    """Axes that a tensor with rows has at least: the last one of irreps and points holds their components."""
    return 1 if law.kind == "fixed" else 2


def _own(value: Any) -> Any:
    """Copy of an input that is no tensor, where a call could write to it."""
    return copy.deepcopy(value) if isinstance(value, (list, dict, set, np.ndarray)) else value
