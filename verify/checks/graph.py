"""What a graph model must respect besides rotations: numbering, batch, distance, and the choice of the cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from tracegrad.errors import VerificationError

from ..adapters import GraphAdapter, cells
from ..context import Context, NotApplicable, Pair, SidesOf
from ..graph_subject import GraphState, GraphSubject
from ..group import Elements, haar
from ..measure import Outputs
from ..result import CheckResult
from ..subject import State, Subject, describe
from ..wigner import Array

Check = Callable[[Context], CheckResult]
TRIALS = 4
FACTORS = (1.5, 1.0)  # of the features of the second graph in a batch; the first one that the model can take
REPEATS = ((2, 1, 1), (1, 2, 1), (2, 1, 2))
BASES = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),  # the same lattice vectors, atoms in other cells
    ((1, 1, 0), (0, 1, 0), (0, -1, 1)),
    ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    ((0, 1, 0), (1, 0, 0), (0, 0, 1)),  # of the other handedness
)
_IDENTITY = [1.0, 0.0, 0.0, 0.0]


def _subject(context: Context) -> GraphSubject:
    subject = context.subject
    if not isinstance(subject, GraphSubject):
        raise NotApplicable("not a graph model")
    return subject


def _compare(context: Context, name: str, sides_of: Sequence[SidesOf]) -> CheckResult:
    """Judges identities of the given graph, one trial each."""
    subject = _subject(context)
    state = context.states[0]
    sides = [f(subject, state) for f in sides_of]
    left: Outputs = [[side[0][o][0] for side in sides] for o in range(len(subject.outputs))]
    right: Outputs = [[side[1][o][0] for side in sides] for o in range(len(subject.outputs))]
    return context.judge(name, (left, right), states=[state] * len(sides), sides_of=lambda k: sides_of[k])


def _levels(subject: Subject, outputs: Outputs, keep: Sequence[str], other: Outputs) -> Outputs:
    """Outputs whose level is not in ``keep`` replaced by the other side's, so that they compare equal."""
    return [a if s.level in keep else b for s, a, b in zip(subject.outputs, outputs, other, strict=True)]


def _on_invented(what: str) -> Callable[[Check], Check]:
    """Skips a check whose input the verifier has made up when the model raises at it: it was never promised."""

    def decorate(check: Check) -> Check:
        @wraps(check)
        def guarded(context: Context) -> CheckResult:
            try:
                return check(context)
            except (NotApplicable, VerificationError):
                raise
            except Exception as error:
                raise NotApplicable(f"the model raised {describe(error)} on {what}") from error

        return guarded

    return decorate


def node_permutation(context: Context) -> CheckResult:
    """Nodes renumbered: every output follows its node or edge."""
    subject, rng = _subject(context), context.rng("node permutation")
    count = subject.num_rows(context.states[0])
    if count < 2:
        raise NotApplicable("one node cannot be permuted")
    orders = [np.arange(count)[::-1].copy(), *(rng.permutation(count) for _ in range(TRIALS - 1))]
    if subject.adapter.permute_nodes(context.states[0].graph, orders[0]) is None:
        raise NotApplicable(
            "the adapter cannot renumber nodes (a tensor may be of their pairs, or of edges that rebuild= reorders)"
        )

    def sides(order: np.ndarray) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).permute_nodes(state.graph, order)
            image = replace(state, graph=graph, labels=state.labels[order], offsets=state.offsets[order])
            return target.evaluate([image]), target.evaluate([state])

        return both

    return _compare(context, "node_permutation", [sides(order) for order in orders])


def edge_permutation(context: Context) -> CheckResult:
    """Edges in another order."""
    subject = _subject(context)
    if subject.adapter.permute_edges(context.states[0].graph, context.rng("edges")) is None:
        raise NotApplicable("the adapter cannot reorder edges (or two edges cannot be told apart)")

    def sides(trial: int) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).permute_edges(state.graph, np.random.default_rng([context.seed, trial]))
            return target.evaluate([replace(state, graph=graph)]), target.evaluate([state])

        return both

    return _compare(context, "edge_permutation", [sides(trial) for trial in range(TRIALS)])


@_on_invented("a batch of two graphs")
def batch_independence(context: Context) -> CheckResult:
    """A graph gives what it gives alone beside another one in its batch: of its size, and smaller."""
    subject = _subject(context)
    state, element = context.states[0], Elements.of(haar(1, context.rng("batch")), False)
    if subject.adapter.batch([state.graph] * 2) is None:
        raise NotApplicable("graphs of this kind are not batched")

    def sides(fewer: int, factor: float) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            adapter = _adapter(target)
            assert isinstance(target, GraphSubject)
            second = target.plain(_second(adapter, state.graph, element, fewer, factor))
            left = target.evaluate([target.plain(adapter.batch([state.graph, second.graph]))])
            alone = [target.evaluate([s]) for s in (state, second)]
            return left, [
                [_joined(spec.level, [single[o][0] for single in alone], len(left[o][0]))]
                for o, spec in enumerate(target.outputs)
            ]

        return both

    fewer = min(2, subject.num_rows(state) - 2)
    others = {"of the same size": 0} | ({"that is smaller": fewer} if fewer > 0 else {})
    trials, notes = [], []
    for what, missing in others.items():
        factor, refusals = _factor(subject, state, element, missing)
        if factor is None:
            notes.append(f"not beside one {what}: {refusals[-1]}")
            continue
        trials.append(sides(missing, factor))
        if refusals:
            notes.append(f"beside one {what} with the given features: {refusals[0]} where they are larger by half")
    if not trials:
        raise NotApplicable("; ".join(notes))
    result = _compare(context, "batch_independence", trials)
    return replace(result, message="; ".join(notes)) if result.passed else result


def _factor(subject: GraphSubject, state: GraphState, element: Elements, fewer: int) -> tuple[float | None, list[str]]:
    """Factor of the features of a second graph that the model takes, alone and in a batch, and why no other."""
    refusals: list[str] = []
    for factor in FACTORS:
        try:
            second = subject.plain(_second(subject.adapter, state.graph, element, fewer, factor))
            alone = subject.evaluate([second])
            subject.evaluate([subject.plain(subject.adapter.batch([state.graph, second.graph]))])
            if all(np.isfinite(column[0]).all() for column in alone):
                return factor, refusals
            refusals.append("it gives NaN or infinity")
        except NotApplicable as error:
            refusals.append(str(error))
        except Exception as error:  # an input that the verifier has made up
            refusals.append(f"the model raised {describe(error)}")
    return None, refusals


def _second(adapter: GraphAdapter, graph: Any, element: Elements, fewer: int, factor: float) -> Any:
    """Turned copy without the last nodes, 3 % larger, features times a factor: statistics of the batch would differ."""
    if fewer:
        graph = adapter.subset(graph, range(adapter.num_nodes(graph) - fewer))
        if graph is None:
            raise NotApplicable("the adapter cannot leave nodes out")
    leaves = [leaf.value * (1.03 if leaf.given else factor) for leaf in adapter.leaves(graph)]
    return adapter.transform(adapter.with_leaves(graph, leaves), element)


def _joined(level: str, parts: Sequence[Array], rows: int) -> Array:
    """Outputs of both graphs one after the other; their sum where the model returns one for the whole batch."""
    rows_of_each = np.concatenate(parts)
    return np.asarray(np.sum(parts, axis=0)) if level == "total" and len(rows_of_each) != rows else rows_of_each


@_on_invented("the structure with two more atoms")
def far_fragment(context: Context) -> CheckResult:
    """Two atoms a thousand ångström away change nothing at the nodes and edges of the structure."""
    subject = _subject(context)
    if subject.adapter.with_fragment(context.states[0].graph) is None:
        raise NotApplicable(
            "the adapter cannot add a far fragment: whether an output depends on the size of the system is not tested"
        )
    if all(s.level not in ("node", "edge") for s in subject.outputs):
        raise NotApplicable("no output belongs to nodes or edges")

    def both(target: Subject, state: State) -> Pair:
        graph = _adapter(target).with_fragment(state.graph)
        count = _adapter(target).num_nodes(graph)
        labels = np.concatenate([state.labels, np.arange(len(state.labels), count)])
        offsets = np.concatenate([state.offsets, np.zeros((count - len(state.labels), 3), np.int64)])
        left = target.evaluate([replace(state, graph=graph, labels=labels, offsets=offsets)])
        right = target.evaluate([state])
        return _levels(target, left, ("node", "edge"), right), right

    return _compare(context, "far_fragment", [both])


@_on_invented("a supercell")
def supercell(context: Context) -> CheckResult:
    """A supercell repeats the outputs of the cell; outputs of level ``"total"`` grow with the number of cells."""
    subject = _subject(context)
    if subject.adapter.tile(context.states[0].graph, REPEATS[0]) is None:
        raise NotApplicable("the graph is not periodic in all three directions, or its adapter has no supercells")
    if all(s.level == "graph" for s in subject.outputs):
        raise NotApplicable("no output belongs to nodes or edges or is a total: declare extensive ones as 'total'")

    def sides(repeats: tuple[int, int, int]) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).tile(state.graph, repeats)
            offsets, n = cells(repeats), len(state.labels)
            image = GraphState(
                graph,
                np.tile(state.labels, len(offsets)),
                np.repeat(offsets, n, axis=0),
                np.diag(repeats),
                state.limit,
            )
            left, base = target.evaluate([image]), target.evaluate([state])
            right = [
                [np.repeat(x[0], len(offsets), axis=0)] if s.level in ("node", "edge") else [x[0] * len(offsets)]
                for s, x in zip(target.outputs, base, strict=True)
            ]
            return _levels(target, left, ("node", "edge", "total"), right), right

        return both

    return _compare(context, "supercell", [sides(r) for r in REPEATS])


@_on_invented("another choice of the cell")
def cell_choice(context: Context) -> CheckResult:
    """Other lattice vectors of the same lattice, and atoms named in other cells, change no output."""
    subject, rng = _subject(context), context.rng("cell choice")
    graph, count = context.states[0].graph, subject.num_rows(context.states[0])
    recell = getattr(subject.adapter, "recell", None)
    choices = [(np.array(basis), rng.integers(-1, 2, size=(count, 3))) for basis in BASES]
    if recell is None or recell(graph, *choices[0]) is None:
        raise NotApplicable("the graph is not periodic in all three directions, or its adapter has no recell")

    def sides(basis: np.ndarray, moves: np.ndarray) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).recell(state.graph, basis, moves)  # type: ignore[attr-defined]
            image = replace(state, graph=graph, offsets=moves, lattice=basis)
            return target.evaluate([image]), target.evaluate([state])

        return both

    return _compare(context, "cell_choice", [sides(*choice) for choice in choices])


def _adapter(subject: Subject) -> GraphAdapter:
    assert isinstance(subject, GraphSubject)
    return subject.adapter
