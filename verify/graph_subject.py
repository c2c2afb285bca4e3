"""A graph model as a subject: rows of the outputs are matched by node and edge labels, never by their order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .adapters import GraphAdapter, fresh_copy, require_adapter
from .group import Elements
from .precision import converted
from .replay import numbers, package_name
from .subject import Leaf, OutputSpec, State, Subject, as_rows, describe, differs, module_depth, module_lmax, quiet
from .tolerances import bands
from .wigner import Array


@dataclass(frozen=True)
class GraphState:
    """A graph and the labels of its nodes in the graph it was made from.

    Args:
        graph: the graph.
        labels: (N,) label of every node.
        offsets: (N, 3) cell that every node has been moved to.
        lattice: (3, 3) lattice vectors of the graph in terms of those of the graph it was made from, as rows.
        limit: rows of nodes with labels from here on are left out of the outputs.
    """

    graph: Any
    labels: np.ndarray
    offsets: np.ndarray
    lattice: np.ndarray
    limit: int

    def node_rows(self) -> np.ndarray:
        """Order of the node rows: by label."""
        order = np.argsort(self.labels, kind="stable")
        return np.asarray(order[self.labels[order] < self.limit])

    def edge_rows(self, keys: np.ndarray) -> np.ndarray:
        """Order of the edge rows: by the labels of both ends and the cell, in terms of the original graph."""
        i, j = keys[:, 0], keys[:, 1]
        shift = self.offsets[j] + keys[:, 2:] @ self.lattice - self.offsets[i]
        columns = [self.labels[i], self.labels[j], *shift.T]
        order = np.lexsort(columns[::-1])
        keep = (self.labels[i] < self.limit) & (self.labels[j] < self.limit)
        return np.asarray(order[keep[order]])


def plain_state(graph: Any, num_nodes: int) -> GraphState:
    """State of an original graph: labels count its nodes."""
    return GraphState(
        graph, np.arange(num_nodes), np.zeros((num_nodes, 3), np.int64), np.eye(3, dtype=np.int64), num_nodes
    )


class GraphSubject(Subject):
    """``model(graph)`` through an adapter.

    Args:
        model: a module (verified as a private copy in ``dtype``) or anything the adapter can evaluate.
        graph: the graph.
        adapter: how graphs of this kind are transformed.
        dtype: float64 or float32.

    Raises:
        VerificationError: the graph is empty, or the outputs do not fit what the adapter declares.
    """

    fixed = True

    def __init__(self, model: Any, graph: Any, adapter: GraphAdapter, dtype: torch.dtype) -> None:
        bands(dtype)
        require_adapter(adapter)
        self.original, self.adapter, self.dtype = model, adapter, dtype
        self.module = converted(model, dtype) if isinstance(model, torch.nn.Module) else None
        self.model = self.module if self.module is not None else model
        self.name = type(model).__name__
        with self._explained():
            self.outputs = adapter.specs(self.model, graph)
            self.graph = adapter.cast(graph, dtype)
        self.depth = module_depth(self.module)
        laws = [s.law for s in self.outputs] + [leaf.law for leaf in adapter.leaves(self.graph)]
        self._lmax = max([law.lmax for law in laws] + [module_lmax(self.module)])
        with self._explained():
            self.raw(self.plain(self.graph))
            self._require_transform()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """First calls: a misfit of model, graph and adapter becomes one sentence."""
        try:
            with quiet(self.dtype):
                yield
        except VerificationError:
            raise
        except Exception as error:
            raise VerificationError(f"on the given graph, {self.name} raised {describe(error)}") from error

    def _require_transform(self) -> None:
        """Raise where the adapter does not move the inputs by their laws: every check of a symmetry would be blind."""
        element = Elements.of([[0.5, 0.1, -0.7, 0.3]], True, np.array([[1.0, -2.0, 0.5]]))
        images = self.adapter.leaves(self.adapter.transform(self.graph, element))
        for leaf, image in zip(self.adapter.leaves(self.graph), images, strict=True):
            given, found = (x.value.detach().to("cpu", torch.float64).numpy() for x in (leaf, image))
            expected = leaf.law.act(given[None], element)[0]
            gap = float(np.abs(found - expected).max(initial=0.0)) if found.shape == expected.shape else np.inf
            if not gap <= bands(self.dtype).eps ** 0.5 * max(1.0, float(np.abs(expected).max(initial=0.0))):
                raise VerificationError(
                    f"{type(self.adapter).__name__}.transform does not move {leaf.name} as {leaf.law.text}: after a "
                    f"rotation, inversion and shift it is off by {gap:.2g}; transform has to move every leaf by its law"
                )

    def plain(self, graph: Any) -> GraphState:
        """State of a graph whose nodes are labelled in their order."""
        return plain_state(graph, self.adapter.num_nodes(graph))

    @property
    def lmax(self) -> int:
        return self._lmax

    @property
    def has_points(self) -> bool:
        return any(leaf.law.kind == "points" for leaf in self.adapter.leaves(self.graph))

    def states(self, n: int, rng: np.random.Generator) -> list[State]:
        state = self.plain(self.graph)
        return [state] * n

    def moved(self, states: Sequence[State], elements: Elements) -> list[State]:
        return [self._with(s, self.adapter.transform(s.graph, elements[[i]])) for i, s in enumerate(states)]

    def _with(self, state: GraphState, graph: Any) -> GraphState:
        return replace(state, graph=graph)

    def raw(self, state: State) -> list[Tensor]:
        values = self.adapter.evaluate(self.model, fresh_copy(state.graph))
        for spec, value in zip(self.outputs, values, strict=True):
            if not isinstance(value, Tensor):
                raise VerificationError(f"{spec.name} is a {type(value).__name__}, expected a torch.Tensor")
        return [self._rows(value, spec, state) for spec, value in zip(self.outputs, values, strict=True)]

    def _rows(self, value: Tensor, spec: OutputSpec, state: GraphState) -> Tensor:
        """Rows of an output in the order of the labels."""
        table = as_rows(value, spec)
        if spec.level == "node":
            return self._ordered(table, state.node_rows(), self.adapter.num_nodes(state.graph), spec.name, "nodes")
        if spec.level == "edge":
            keys = self.adapter.edge_keys(state.graph)
            return self._ordered(table, state.edge_rows(keys), len(keys), spec.name, "edges")
        return table

    def energies(self, state: State) -> list[Array] | None:
        named = getattr(self.adapter, "energies", None)
        if named is None:
            return None
        masks = named(state.graph)
        none = np.zeros(1, dtype=bool)
        return [self._rows(masks[s.name], s, state).cpu().numpy() if s.name in masks else none for s in self.outputs]

    @staticmethod
    def _ordered(table: Tensor, order: np.ndarray, expected: int, name: str, what: str) -> Tensor:
        if len(table) != expected:
            raise VerificationError(f"{name} has {len(table)} rows, but the graph has {expected} {what}")
        return table[torch.from_numpy(order).to(table.device)]

    def leaves(self, state: State) -> list[Leaf]:
        return self.adapter.leaves(state.graph)

    def with_leaves(self, state: State, values: Sequence[Tensor]) -> State:
        return self._with(state, self.adapter.with_leaves(state.graph, values))

    def mutations(self, state: State) -> list[str]:
        graph = copy.deepcopy(state.graph)
        with quiet(self.dtype):
            self.adapter.evaluate(self.model, graph)
        before, after = _values(state.graph), _values(graph)
        return sorted(
            name
            for name in {**before, **after}
            if name not in before or name not in after or differs(after[name], before[name])
        )

    def num_rows(self, state: State) -> int:
        return self.adapter.num_nodes(state.graph)

    def take_rows(self, state: State, rows: Sequence[int]) -> State | None:
        graph = self.adapter.subset(state.graph, list(rows))
        return None if graph is None else self.plain(graph)

    def directions(self, state: State) -> Array:
        return self.adapter.edge_vectors(state.graph)

    def cast(self, state: State) -> State:
        return self._with(state, self.adapter.cast(state.graph, self.dtype))

    def renewed(self, change: Callable[[torch.nn.Module], Any] | None = None) -> Subject | None:
        if self.module is None:
            return None
        other = copy.copy(self)
        other.model = other.module = converted(self.original, self.dtype)
        if change is not None:
            change(other.module)
            with quiet(self.dtype):
                other.outputs = self.adapter.specs(other.model, self.graph)
        return other

    def in_dtype(self, dtype: torch.dtype) -> Subject | None:
        if self.module is None:
            return None
        try:
            return GraphSubject(self.original, self.graph, self.adapter, dtype)
        except VerificationError:
            return None

    def case_source(self, state: State, element: Elements, error: float) -> tuple[str, str]:
        """Replay code for a graph under the names ``model``, ``graph``, ``adapter``."""
        source = self.adapter.source(state.graph)
        q, t, p = numbers(element.quaternions[0]), numbers(element.translation[0]), bool(element.inversion[0])
        lines = [
            "import torch",
            f"from {package_name()} import replay_model",
            "",
            source.rstrip() or f"# graph: the given one, {self.num_rows(state)} nodes",
            f"error = replay_model(model, graph, adapter, quaternion={q}, inversion={p}, translation={t})",
            f"print(error)  # {error:.3g}: model(g x) differs from D(g) model(x)",
        ]
        example = f"@example(quaternion={q}, inversion={p}, translation={t})  # {self.num_rows(state)} nodes"
        return "\n".join(lines) + "\n", example


def replay_model(
    model: Any,
    graph: Any,
    adapter: GraphAdapter,
    *,
    quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    inversion: bool = False,
    translation: Sequence[float] = (0.0, 0.0, 0.0),
    dtype: torch.dtype = torch.float64,
) -> float:
    """Relative equivariance error of a graph model under one group element, as :func:`verify.replay` for functions."""
    from .replay import case_error

    subject = GraphSubject(model, graph, adapter, dtype)
    element = Elements.of([list(quaternion)], inversion, np.array([list(translation)], dtype=float))
    return case_error(subject, subject.plain(subject.graph), element)


def _values(graph: Any) -> dict[str, Any]:
    """What a graph holds, by name."""
    return dict(graph.to_dict() if hasattr(graph, "to_dict") else getattr(graph, "arrays", {}))
