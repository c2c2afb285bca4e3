"""What a graph model must respect besides rotations: numbering, batch, distance, and the choice of the cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Check = Callable[[Context], CheckResult]
TRIALS = 4
REPEATS = ((2, 1, 1), (1, 2, 1), (2, 1, 2))
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
        raise NotApplicable("the adapter cannot renumber nodes")

    def sides(order: np.ndarray) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).permute_nodes(state.graph, order)
            image = GraphState(graph, state.labels[order], state.offsets[order], state.repeats, state.limit)
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
            image = GraphState(graph, state.labels, state.offsets, state.repeats, state.limit)
            return target.evaluate([image]), target.evaluate([state])

        return both

    return _compare(context, "edge_permutation", [sides(trial) for trial in range(TRIALS)])


@_on_invented("a batch of two graphs")
def batch_independence(context: Context) -> CheckResult:
    """A graph and a rotated, distorted copy of it in one batch give what each gives alone."""
    subject = _subject(context)
    element = Elements.of(haar(1, context.rng("batch")), False)

    def both(target: Subject, state: State) -> Pair:
        adapter = _adapter(target)
        second = adapter.transform(_distorted(adapter, state.graph), element)
        graph = adapter.batch([state.graph, second])
        count, zeros = 2 * len(state.labels), np.concatenate([state.offsets, state.offsets])
        image = GraphState(graph, np.arange(count), zeros, state.repeats, count)
        alone = target.evaluate([state, GraphState(second, state.labels, state.offsets, state.repeats, state.limit)])
        left = target.evaluate([image])
        right = [[np.concatenate(column)] for column in alone]
        totals = [[np.sum(column, axis=0)] for column in alone]
        right = [
            t if s.level == "total" and len(x[0]) != len(r[0]) else r
            for s, t, x, r in zip(target.outputs, totals, left, right, strict=True)
        ]
        return left, right

    if subject.adapter.batch([context.states[0].graph] * 2) is None:
        raise NotApplicable("graphs of this kind are not batched")
    return _compare(context, "batch_independence", [both])


def _distorted(adapter: GraphAdapter, graph: Any) -> Any:
    """Copy with all points 3 % further apart: statistics over the batch would differ."""
    return adapter.with_leaves(
        graph, [x.value * 1.03 if x.law.kind == "points" else x.value for x in adapter.leaves(graph)]
    )


@_on_invented("the structure with two more atoms")
def far_fragment(context: Context) -> CheckResult:
    """Two atoms a thousand ångström away change nothing at the nodes and edges of the structure."""
    subject = _subject(context)
    if subject.adapter.with_fragment(context.states[0].graph) is None:
        raise NotApplicable("the adapter cannot add a far fragment")
    if all(s.level not in ("node", "edge") for s in subject.outputs):
        raise NotApplicable("no output belongs to nodes or edges")

    def both(target: Subject, state: State) -> Pair:
        graph = _adapter(target).with_fragment(state.graph)
        count = _adapter(target).num_nodes(graph)
        labels = np.concatenate([state.labels, np.arange(len(state.labels), count)])
        offsets = np.concatenate([state.offsets, np.zeros((count - len(state.labels), 3), np.int64)])
        left = target.evaluate([GraphState(graph, labels, offsets, state.repeats, state.limit)])
        right = target.evaluate([state])
        return _levels(target, left, ("node", "edge"), right), right

    return _compare(context, "far_fragment", [both])


@_on_invented("a supercell")
def supercell(context: Context) -> CheckResult:
    """A supercell repeats the outputs of the cell; outputs of level ``"total"`` grow with the number of cells."""
    subject = _subject(context)
    if subject.adapter.tile(context.states[0].graph, REPEATS[0]) is None:
        raise NotApplicable("the graph is not periodic")

    def sides(repeats: tuple[int, int, int]) -> SidesOf:
        def both(target: Subject, state: State) -> Pair:
            graph = _adapter(target).tile(state.graph, repeats)
            offsets, n = cells(repeats), len(state.labels)
            image = GraphState(
                graph,
                np.tile(state.labels, len(offsets)),
                np.repeat(offsets, n, axis=0),
                np.array(repeats),
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


def _adapter(subject: Subject) -> GraphAdapter:
    assert isinstance(subject, GraphSubject)
    return subject.adapter
