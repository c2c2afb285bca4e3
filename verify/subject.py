"""What is verified: anything that makes states, transforms them, and maps them to outputs that are irreps."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .group import Elements
from .measure import Outputs
from .representation import Representation
from .tolerances import bands
from .wigner import Array

State = Any
"""One input of the subject: a list of tensors, a graph, a set of atoms."""


@dataclass(frozen=True)
class OutputSpec:
    """One named output, its law, and what its rows are: ``"row"``, ``"node"``, ``"edge"``, ``"graph"``, ``"total"``."""

    name: str
    law: Representation
    level: str = "row"


@dataclass(frozen=True)
class Leaf:
    """One differentiable input tensor of a state and its law; a search may change it unless it is ``given``."""

    name: str
    law: Representation
    value: Tensor
    given: bool = False


class Subject(ABC):
    """A map between states and outputs on which a group acts from both sides."""

    name: str
    dtype: torch.dtype
    outputs: tuple[OutputSpec, ...]
    depth: int
    module: torch.nn.Module | None
    fixed: bool
    """True when there is one given state instead of random ones."""

    @abstractmethod
    def states(self, n: int, rng: np.random.Generator) -> list[State]:
        """n independent states (n times the same one when the state is given)."""

    @abstractmethod
    def moved(self, states: Sequence[State], elements: Elements) -> list[State]:
        """Images of the states, one element each."""

    @abstractmethod
    def raw(self, state: State) -> list[Tensor]:
        """Output tensors at a state, in the order of :attr:`outputs`, rows in a fixed order."""

    @abstractmethod
    def leaves(self, state: State) -> list[Leaf]:
        """Floating-point inputs that may be perturbed and differentiated."""

    @abstractmethod
    def with_leaves(self, state: State, values: Sequence[Tensor]) -> State:
        """Copy of the state with its leaves replaced."""

    @abstractmethod
    def in_dtype(self, dtype: torch.dtype) -> Subject | None:
        """The same subject in another precision; None when that is not possible."""

    @abstractmethod
    def cast(self, state: State) -> State:
        """A state of a subject of another precision in this one's dtype."""

    @abstractmethod
    def mutations(self, state: State) -> list[str]:
        """Names of the inputs that a call changes in place."""

    def renewed(self, change: Callable[[torch.nn.Module], Any] | None = None) -> Subject | None:
        """The same subject with another copy of its module, not called yet; None where no module is verified.

        Args:
            change: what is done to the copy first.
        """
        return None

    def take_rows(self, state: State, rows: Sequence[int]) -> State | None:
        """State with only these rows (points, nodes); None when its inputs have no common rows."""
        return None

    def num_rows(self, state: State) -> int:
        """Number of rows that :meth:`take_rows` chooses from, 0 when it cannot."""
        return 0

    def rows_reason(self, state: State) -> str:
        """Why :meth:`num_rows` is 0."""
        return "the inputs do not share their rows"

    def directions(self, state: State) -> Array:
        """(k, 3) vectors of the state in (x, y, z): what a search aligns with the axes."""
        return np.zeros((0, 3))

    def energies(self, state: State) -> list[Array] | None:
        """Per output True for the components that are energies in eV, broadcast to (rows, dim); None when all are."""
        return None

    @property
    @abstractmethod
    def lmax(self) -> int:
        """Largest degree of inputs and outputs."""

    @property
    @abstractmethod
    def has_points(self) -> bool:
        """True when translations act on the inputs."""

    def evaluate(self, states: Sequence[State], gradients: bool = True) -> Outputs:
        """Outputs of all states as float64 arrays (rows, dim)."""
        columns: Outputs = [[] for _ in self.outputs]
        with quiet(self.dtype, gradients):
            for state in states:
                for column, value in zip(columns, self.raw(state), strict=True):
                    column.append(value.detach().to("cpu", torch.float64).numpy())
        return columns

    def acted(self, outputs: Outputs, elements: Elements) -> Outputs:
        """Images of the outputs, one element per trial."""
        result: Outputs = []
        for spec, trials in zip(self.outputs, outputs, strict=True):
            if len({t.shape for t in trials}) == 1:
                result.append(list(spec.law.act(np.stack(trials), elements)))
            else:
                result.append([spec.law.act(t[None], elements[[i]])[0] for i, t in enumerate(trials)])
        return result

    def jittered(self, state: State, rng: np.random.Generator) -> State:
        """State with 1-ulp noise: every component x becomes x (1 + eps N(0, 1)).

        A zero within a vector that is not zero gets noise of the vector's size, which it has in any other orientation.
        """
        eps = bands(self.dtype).eps
        noisy = []
        for leaf in self.leaves(state):
            noise = torch.from_numpy(rng.normal(size=tuple(leaf.value.shape))).to(leaf.value)
            value = leaf.value.detach()
            noisy.append(leaf.value + eps * noise * torch.where(value == 0, leaf.law.vector_sizes(value), value))
        return self.with_leaves(state, noisy)


@contextmanager
def quiet(dtype: torch.dtype, gradients: bool = True) -> Iterator[None]:
    """Default dtype of the run, no warnings, gradients on (forces may come from them) or off; restored at the end."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(gradients):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


def describe(error: Exception) -> str:
    """Kind and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def differs(value: Any, before: Any) -> bool:
    """True where two values of one origin are known to differ: numbers, and lists or dicts of them, part by part.

    Objects that define no equality of their own are not compared.
    """
    if value is before:
        return False
    if type(value) is not type(before):
        return True
    if isinstance(value, Tensor):
        if value.shape != before.shape or value.dtype is not before.dtype:
            return True
        one, other = ((x.detach().to_dense() if x.layout is not torch.strided else x.detach()) for x in (value, before))
        return not bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(value, np.ndarray):
        return not np.array_equal(value, before, equal_nan=value.dtype.kind in "fc")
    if isinstance(value, Mapping):
        return value.keys() != before.keys() or any(differs(value[key], before[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return len(value) != len(before) or any(map(differs, value, before))
    equality: Any = type(value).__eq__
    if equality is object.__eq__:
        return False
    try:
        return not bool(value == before) and not (value != value and before != before)  # NaN
    except Exception:  # an equality that gives no answer
        return False


def as_tensors(result: Any, count: int) -> list[Tensor]:
    """Outputs of a call as a list of ``count`` tensors.

    Raises:
        VerificationError: another number of outputs, or something that is not a tensor.
    """
    items = list(result) if isinstance(result, (tuple, list)) else [result]
    if isinstance(result, dict):
        raise VerificationError(
            "the function returned a dict: return one tensor per entry of irreps_out, as a tensor or a tuple"
        )
    if len(items) != count:
        raise VerificationError(
            f"the function returned {len(items)} output(s), irreps_out has {count} entries: they must agree"
        )
    for index, item in enumerate(items):
        if not isinstance(item, Tensor):
            raise VerificationError(f"output {index} is a {type(item).__name__}, expected a torch.Tensor")
    return items


def as_rows(tensor: Tensor, spec: OutputSpec) -> Tensor:
    """Output as (rows, dim); one number per row may come without the last axis.

    Raises:
        VerificationError: the last axis does not fit the irreps, or the tensor is complex.
    """
    if tensor.is_complex():
        raise VerificationError(
            f"{spec.name} is complex: return its real irreps (real and imaginary parts as two outputs)"
        )
    dim = spec.law.dim
    if dim == 1 and tensor.ndim <= 1:
        return tensor.reshape(-1, 1)
    if dim is None and tensor.ndim == 0:
        return tensor.reshape(1, 1)
    if dim is None:
        return tensor.reshape(len(tensor), -1) if len(tensor) else tensor.reshape(0, 1)
    if tensor.ndim == 0 or tensor.shape[-1] != dim:
        raise VerificationError(
            f"{spec.name} has shape {tuple(tensor.shape)}, but irreps_out {spec.law.text} needs a last axis of {dim}"
        )
    return tensor.reshape(-1, dim)


def module_depth(module: torch.nn.Module | None) -> int:
    """Number of layers L in the tolerance: submodules that declare irreps and contain none that do, 1 to 16."""
    if module is None:
        return 2
    declaring = {name for name, sub in module.named_modules() if hasattr(sub, "irreps_out")}
    innermost = [n for n in declaring if not any(o != n and (n == "" or o.startswith(f"{n}.")) for o in declaring)]
    return int(np.clip(len(innermost), 1, 16))


def module_lmax(module: torch.nn.Module | None) -> int:
    """Largest degree that any submodule declares."""
    from e3nn.o3 import Irreps

    found = [0]
    for sub in module.modules() if module is not None else ():
        for name in ("irreps_in", "irreps_out"):
            value = getattr(sub, name, None)
            if isinstance(value, Irreps) and len(value):
                found.append(value.lmax)
    return max(found)
