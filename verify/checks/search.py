"""Adversarial search: group elements and inputs where faults hide, first a fixed list of corners, then hypothesis.

These samples are chosen, not drawn from the Haar measure: they never enter the rule of three.

An error at an input where a 1-ulp change already moves the output as much (ties of a pooling, the frame of a
collinear cloud, an edge at the cutoff) is a discontinuity, not a broken symmetry; it is listed and does not fail. The
noise is measured in generic orientations: digits lost in a special one alone (an angle from ``acos`` at the pole)
break the symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..context import Context, summarise
from ..group import Elements, aligning, haar, integer_quaternions, near_pole, octahedral, rotation_matrix
from ..measure import Jitter, Outputs, deviations
from ..result import BlockError, CheckResult, Verdict
from ..states import SHAPES, Design, designed, live_blocks
from ..subject import State, describe
from ..tolerances import JITTER_FACTOR, verdict_of
from ..wigner import Array

MOST_ROWS = 8  # structures of one row (point, node) to this many, as far as the given one has them
ALIGNED = 4  # directions that are turned onto the axes, spread over the inputs
NEAR = 0.25  # error over the generic tolerance from which on a case is judged by the tolerance measured at it


@dataclass
class Tally:
    """What the search has seen."""

    trials: int = 0
    refused: int = 0
    refusal: str = ""
    singular: int = 0
    discontinuous: list[float] = field(default_factory=list)
    worst: BlockError | None = None
    failure: BlockError | None = None
    case: tuple[State, Elements] | None = None
    label: str = ""


class _Found(Exception):
    """Ends the hypothesis phase at the first failure."""


class Searcher:
    """Judges single cases (state, element) with a tolerance measured at that case when it matters."""

    def __init__(self, context: Context) -> None:
        self.context, self.subject = context, context.subject
        self.limits = context.tolerances(context.jitter)
        self.tally = Tally()
        self._measured: tuple[State, list[Jitter]] | None = None

    def ratio(self, state: State, element: Elements, label: str) -> float:
        """Worst error over tolerance of a case; records it, and the failure when there is one.

        A model may raise at a chosen input, such as a single atom, but not at the given one turned.
        """
        self.tally.trials += 1
        try:
            base = self.subject.evaluate([state])
            left = self.subject.evaluate(self.subject.moved([state], element))
            return self._ratio(state, element, left, base, label)
        except Exception as error:
            if state is self.context.states[0]:
                raise
            self._refuse(error)
            return 0.0

    def design(self, state: State, design: Design) -> State | None:
        """State after a design; None when it does not apply or cannot be made."""
        try:
            return designed(self.subject, state, design)
        except Exception as error:
            self._refuse(error)
            return None

    def _refuse(self, error: Exception) -> None:
        self.tally.refused += 1
        self.tally.refusal = describe(error)

    def sweep(self, state: State, elements: Elements, label: str) -> None:
        """Judges one state under many elements."""
        base = self.subject.evaluate([state])
        images = self.subject.evaluate(self.subject.moved([state] * len(elements), elements))
        for i in range(len(elements)):
            self.tally.trials += 1
            self._ratio(state, elements[[i]], [[column[i]] for column in images], base, label)

    def _ratio(self, state: State, element: Elements, left: Outputs, base: Outputs, label: str) -> float:
        tally = self.tally
        if not all(np.isfinite(c[0]).all() for c in base):
            tally.singular += 1
            return 0.0
        rows = self._rows(left, self.subject.acted(base, element))
        judged = [row if row.ratio <= NEAR else self._local(row, state) for row in rows]
        cases = zip(rows, judged, self.context.dead, strict=True)
        jumps = [row.error for row, found, dead in cases if found is None and not dead]
        if jumps:
            tally.discontinuous.append(max(jumps))
        block = max((row for row in judged if row is not None), key=lambda row: row.ratio, default=None)
        if block is None:
            return 0.0
        if tally.worst is None or block.ratio > tally.worst.ratio:
            tally.worst = block
        if block.ratio > 1 and (tally.failure is None or block.ratio > tally.failure.ratio):
            tally.failure, tally.case, tally.label = block, (state, element), label
        return block.ratio

    def _rows(self, left: Outputs, right: Outputs) -> list[BlockError]:
        """Every block of every output with the tolerance of a generic input."""
        found = []
        columns = zip(self.subject.outputs, left, right, self.limits, self.context.jitter, strict=True)
        for spec, a, b, limit, jitter in columns:
            deviation = deviations(a, b, spec.law)
            blocks = spec.law.blocks or spec.law.blocks_of(1)
            for i in range(deviation.error.shape[1]):
                found.append(deviation.block(spec.name, blocks[i].name, i, 0, jitter, float(limit[i])))
        return found

    def _jitter(self, state: State) -> list[Jitter]:
        """Round-off at a state; the last one is kept, since sweeps stay at one state."""
        if self._measured is None or self._measured[0] is not state:
            self._measured = (state, self.context.orbit_jitter(state))
        return self._measured[1]

    def _local(self, block: BlockError, state: State) -> BlockError | None:
        """The block with the tolerance of this case; None when the point is singular or the block is zero there."""
        index = next(i for i, spec in enumerate(self.subject.outputs) if spec.name == block.output)
        jitter = self._jitter(state)
        explained = JITTER_FACTOR * float(jitter[index].relative[block.block]) >= block.error
        if block.ratio > 1 and explained and self.context.repeatable:
            return None
        limit = float(self.context.tolerances(jitter)[index][block.block])
        return BlockError(**{**block.__dict__, "tolerance": max(block.tolerance, limit)})


def _corner_elements(context: Context, directions: Array, rng: np.random.Generator) -> Elements:
    """Near-pole, octahedral, integer and axis-aligning rotations, with and without the inversion."""
    parts = [near_pole()[::2], octahedral()[::5], integer_quaternions(2, rng)]
    chosen = sorted({int(i) for i in np.linspace(0, len(directions) - 1, ALIGNED)}) if len(directions) else []
    for index in chosen:
        full = index == chosen[0]
        parts.append(aligning(directions[index]) if full else aligning(directions[index], (0.0, 1e-8), (1.0,)))
    quaternions = np.concatenate(parts)
    return context.elements(quaternions, np.arange(len(quaternions)) % 4 == 3)


def _corners(searcher: Searcher, rng: np.random.Generator) -> None:
    """The fixed list: special elements at a generic state, a generic element at special states."""
    context = searcher.context
    state = context.states[0]
    elements = _corner_elements(context, context.subject.directions(state), rng)
    searcher.sweep(state, elements, "special rotation")
    generic = context.elements(haar(1, rng), True)
    for design in _special_designs(context):
        special = searcher.design(state, design)
        if special is not None:
            searcher.ratio(special, generic, design.label)


def _special_designs(context: Context) -> list[Design]:
    seeds = context.seed
    designs = [Design(seed=seeds, exponent=k) for k in (-3, -2, -1, 1, 2, 3)]
    designs += [Design(seed=seeds, shape=shape) for shape in SHAPES[1:]]
    designs += [Design(seed=seeds, live=i) for i in range(min(len(live_blocks(context.subject, context.states[0])), 8))]
    return [*designs, *(Design(seed=seeds, rows=n) for n in range(1, MOST_ROWS + 1))]


def _hypothesis(searcher: Searcher, examples: int) -> None:
    """Hypothesis phase with targets: the error, and how near a direction comes to a coordinate axis."""
    from hypothesis import HealthCheck, Phase, given, seed, settings, target
    from hypothesis import strategies as st

    context = searcher.context
    state = context.states[0]
    blocks = len(live_blocks(context.subject, state))
    rows = context.subject.num_rows(state)
    component = st.integers(-50, 50)

    @seed(context.seed)
    @settings(
        max_examples=examples,
        phases=[Phase.generate, Phase.target],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        q=st.tuples(component, component, component, component),
        inversion=st.booleans(),
        exponent=st.integers(-3, 3),
        shape=st.sampled_from(SHAPES),
        live=st.integers(-1, blocks - 1),
        size=st.integers(0, rows),
        number=st.integers(0, 2**16),
    )
    def explore(
        q: tuple[int, ...], inversion: bool, exponent: int, shape: str, live: int, size: int, number: int
    ) -> None:
        quaternion = np.array([q], dtype=float)
        if not quaternion.any():
            quaternion[0, 0] = 1.0
        design = Design(number, shape, exponent, live, size)
        drawn = searcher.design(state, design)
        if drawn is None:
            drawn = state
        ratio = searcher.ratio(drawn, context.elements(quaternion, inversion), f"search: {design.label}")
        directions = context.subject.directions(drawn)
        if len(directions):
            unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
            target(float(np.abs(unit @ rotation_matrix(quaternion)[0].T)[:, 1:].max()), label="pole")
        target(float(np.log10(min(max(ratio, 1e-6), 1e12))), label="error")
        if searcher.tally.failure is not None:
            raise _Found

    try:
        explore()
    except _Found:
        return


def search(context: Context) -> CheckResult:
    """Corner list and hypothesis phase; fails with the first case that its own round-off does not explain."""
    searcher = Searcher(context)
    _corners(searcher, context.rng("search"))
    corners = searcher.tally.trials
    if context.search > 0 and searcher.tally.failure is None:
        _hypothesis(searcher, context.search)
    tally = searcher.tally
    block = tally.failure or tally.worst
    details: dict[str, Any] = {
        "corners": corners,
        "examples": tally.trials - corners,
        "refused": tally.refused,
        "singular_inputs": tally.singular,
        "discontinuous_inputs": len(tally.discontinuous),
        "largest_jump": max(tally.discontinuous, default=0.0),
    }
    if block is None:
        return summarise("search", Verdict.PASS, [], tally.trials, details)
    verdict = verdict_of(block.error, block.tolerance, context.subject.dtype)
    notes = [f"{tally.refused} chosen inputs skipped: the model raised {tally.refusal}"] if tally.refused else []
    if tally.singular:
        notes.append(f"{tally.singular} chosen inputs gave NaN or infinity")
    message = "; ".join(notes)
    if tally.case is not None:
        context.cases["search"] = tally.case
        message = f"{block.output} {block.irrep} at a chosen case ({tally.label})"
        details["case"] = tally.label
    return CheckResult("search", verdict, block.error, block.tolerance, message, tally.trials, [block], None, details)
