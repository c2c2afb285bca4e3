"""Shrinking: from a failing case to few rows, one live irrep, simple numbers and a simple rotation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch

from .context import Context
from .function_subject import FunctionSubject
from .group import Elements, simple_quaternions
from .replay import case_error, function_source
from .representation import Block
from .result import Counterexample
from .states import live_blocks
from .subject import State, Subject
from .tolerances import JITTER_FACTOR

MAX_CALLS = 400
MAX_SUBSET = 3


class Shrinker:
    """Greedy search for a smaller case that still fails.

    A smaller case counts when its error is above ten times the tolerance (or above the original error, when that is
    less) and is not the jump of a discontinuity.

    Args:
        context: the run the failure comes from.
        state: failing state.
        element: failing group element, one.
    """

    def __init__(self, context: Context, state: State, element: Elements) -> None:
        self.context, self.subject = context, context.subject
        self.state, self.element = state, element
        self.calls = 0
        self.error = case_error(self.subject, state, element)
        loosest = max(float(limit.max()) for limit in context.tolerances(context.jitter))
        self.threshold = min(10 * loosest, 0.5 * self.error)

    def run(self) -> tuple[State, Elements, float]:
        """The smallest case found, with its error."""
        for step in (self._rows, self._blocks, self._rotation, self._values, self._rotation):
            step()
        return self.state, self.element, self.error

    def _accept(self, state: State | None, element: Elements) -> bool:
        if state is None or self.calls >= MAX_CALLS:
            return False
        self.calls += 1
        try:
            error = case_error(self.subject, state, element)
            if not error > self.threshold or not self._finite(state) or self._jumps(state, error):
                return False
        except Exception:  # whatever a model raises at an input that it was not given
            return False
        self.state, self.element, self.error = state, element, error
        return True

    def _finite(self, state: State) -> bool:
        return all(
            bool(np.isfinite(column[0]).all()) and column[0].size > 0 for column in self.subject.evaluate([state])
        )

    def _jumps(self, state: State, error: float) -> bool:
        jitter = self.context.orbit_jitter(state)
        return JITTER_FACTOR * max(float(j.relative.max(initial=0.0)) for j in jitter) >= error

    def _first(self, candidates: Iterable[tuple[State | None, Elements]]) -> bool:
        return any(self._accept(state, element) for state, element in candidates)

    def _rows(self) -> None:
        count = self.subject.num_rows(self.state)
        sizes = range(1, min(MAX_SUBSET, count - 1) + 1)
        subsets = (rows for size in sizes for rows in combinations(range(count), size))
        if self._first((self._taken(rows), self.element) for rows in subsets):
            return
        for row in reversed(range(count)):
            remaining = self.subject.num_rows(self.state)
            if remaining > 1 and row < remaining:
                self._accept(self._taken([i for i in range(remaining) if i != row]), self.element)

    def _taken(self, rows: Sequence[int]) -> State | None:
        try:
            return self.subject.take_rows(self.state, rows)
        except Exception:  # an adapter may refuse a part of its graph
            return None

    def _blocks(self) -> None:
        blocks = live_blocks(self.subject, self.state)
        if self._first((self._masked(keep), self.element) for keep in _single_copies(blocks)):
            return
        for index, block in blocks:
            self._accept(self._zeroed(index, slice(block.start, block.stop)), self.element)

    def _masked(self, keep: tuple[int, slice]) -> State:
        leaves = self.subject.leaves(self.state)
        values = []
        for i, leaf in enumerate(leaves):
            value = leaf.value
            if leaf.law.kind == "irreps" and not leaf.given:
                value = torch.zeros_like(value)
                if i == keep[0]:
                    value[..., keep[1]] = leaf.value[..., keep[1]]
            values.append(value)
        return self.subject.with_leaves(self.state, values)

    def _zeroed(self, index: int, columns: slice) -> State | None:
        values = [leaf.value.clone() for leaf in self.subject.leaves(self.state)]
        if not bool(values[index][..., columns].any()):
            return None
        values[index][..., columns] = 0.0
        return self.subject.with_leaves(self.state, values)

    def _rotation(self) -> None:
        current = self.element
        self._first((self.state, candidate) for candidate in _simple_elements(current))

    def _values(self) -> None:
        for rounding in (_to_units, _to_integers, _to_tenths):
            values = [leaf.value if leaf.given else rounding(leaf.value) for leaf in self.subject.leaves(self.state)]
            if self._accept(self.subject.with_leaves(self.state, values), self.element):
                return
        for index, leaf in enumerate(self.subject.leaves(self.state)):
            if leaf.given:
                continue
            for rounding in (_to_units, _to_integers, _to_tenths):
                values = [other.value for other in self.subject.leaves(self.state)]
                values[index] = rounding(values[index])
                if self._accept(self.subject.with_leaves(self.state, values), self.element):
                    break


def _single_copies(blocks: Iterable[tuple[int, Block]]) -> Iterator[tuple[int, slice]]:
    """The first copy of every irrep, then every irrep with all its copies."""
    whole = []
    for index, block in blocks:
        yield index, slice(block.start, block.start + (block.stop - block.start) // block.mul)
        if block.mul > 1:
            whole.append((index, slice(block.start, block.stop)))
    yield from whole


def _simple_elements(current: Elements) -> Iterator[Elements]:
    """Simpler elements than the current one, simplest first."""
    identity = [1.0, 0.0, 0.0, 0.0]
    shift = current.translation
    if shift.any():
        yield from (Elements.of([identity], False, np.array([t])) for t in np.eye(3))
        yield Elements.of([identity], False, shift)
    if current.inversion[0]:
        yield Elements.of([identity], True)
    for limit, inversions in ((1, (False, True)), (2, (False, True))):
        for q in simple_quaternions(limit):
            if np.array_equal(q, current.quaternions[0]) and not shift.any():
                return
            for inversion in inversions if current.inversion[0] else (False,):
                yield Elements.of([q], inversion)


def _to_units(value: torch.Tensor) -> torch.Tensor:
    return torch.where(value != 0, torch.ones_like(value), value)


def _to_integers(value: torch.Tensor) -> torch.Tensor:
    rounded = torch.round(value)
    return torch.where((rounded == 0) & (value != 0), torch.sign(value), rounded)


def _to_tenths(value: torch.Tensor) -> torch.Tensor:
    rounded = torch.round(value * 10) / 10
    return torch.where((rounded == 0) & (value != 0), value, rounded)


def counterexample(context: Context, state: State, element: Elements) -> Counterexample | None:
    """Shrunk counterexample of a failing case; None when the failure does not repeat."""
    if not context.repeatable:
        return None
    shrinker = Shrinker(context, state, element)
    if not shrinker.error > 0:
        return None
    state, element, error = shrinker.run()
    code, example = _source(context.subject, state, element, error)
    return Counterexample(
        code=code,
        example=example,
        error=error,
        rows=context.subject.num_rows(state),
        live_irreps=_live(context.subject, state),
        quaternion=element.quaternions[0].tolist(),
        inversion=bool(element.inversion[0]),
        translation=element.translation[0].tolist(),
        calls=shrinker.calls,
    )


def _source(subject: Subject, state: State, element: Elements, error: float) -> tuple[str, str]:
    if isinstance(subject, FunctionSubject):
        return function_source(subject, state, element, error)
    source = getattr(subject, "case_source", None)
    found = source(state, element, error) if source is not None else ("", "")
    return str(found[0]), str(found[1])


def _live(subject: Subject, state: State) -> list[str]:
    found = []
    for leaf in subject.leaves(state):
        for b in leaf.law.blocks:
            if bool(leaf.value[..., b.start : b.stop].any()):
                found.append(f"{leaf.name} {b.name}")
    return found
