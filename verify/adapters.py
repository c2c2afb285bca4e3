"""How a graph model is reached: an adapter transforms, permutes, tiles and evaluates graphs of one kind.

:class:`GraphAdapter` is the contract; :class:`DataAdapter` serves any ``torch_geometric`` ``Data`` whose fields are
declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .group import Elements
from .precision import in_precision
from .representation import VECTOR, Representation
from .subject import Leaf, OutputSpec
from .wigner import Array, Basis

FRAGMENT_DISTANCE = 1000.0  # Å from the structure to the far fragment
FRAGMENT_BOND = (1.1, 0.7, 0.4)  # Å, between its two atoms


@runtime_checkable
class GraphAdapter(Protocol):
    """What a verification needs to know about graphs of one kind.

    Operations that a kind of graph does not have return None: the check is then skipped, with that reason. Graphs are
    never changed in place.
    """

    def specs(self, model: Any, graph: Any) -> tuple[OutputSpec, ...]:
        """Names, laws and levels (``"node"``, ``"edge"``, ``"graph"``, ``"total"``) of the outputs."""

    def evaluate(self, model: Any, graph: Any) -> list[Tensor]:
        """Output tensors (rows, dim) in the order of :meth:`specs`; rows in the order of nodes or edges."""

    def num_nodes(self, graph: Any) -> int:
        """Number of nodes N."""

    def edge_keys(self, graph: Any) -> np.ndarray:
        """(E, 5) integers (i, j, Rx, Ry, Rz) of the rows of edge outputs."""

    def edge_vectors(self, graph: Any) -> Array:
        """(k, 3) edge vectors that a search aligns with the axes."""

    def leaves(self, graph: Any) -> list[Leaf]:
        """Differentiable inputs and their laws."""

    def with_leaves(self, graph: Any, values: Sequence[Tensor]) -> Any:
        """Graph with its leaves replaced, and all that follows from them, differentiably."""

    def transform(self, graph: Any, element: Elements) -> Any:
        """Image of a graph under one group element."""

    def cast(self, graph: Any, dtype: torch.dtype) -> Any:
        """Graph in another floating-point dtype."""

    def permute_nodes(self, graph: Any, order: np.ndarray) -> Any | None:
        """Graph whose node k is node order[k] of the given one."""

    def permute_edges(self, graph: Any, rng: np.random.Generator) -> Any | None:
        """The same graph with its edges in another order."""

    def batch(self, graphs: Sequence[Any]) -> Any | None:
        """Graphs joined as a model takes them in a batch, nodes one graph after the other."""

    def with_fragment(self, graph: Any) -> Any | None:
        """Graph with two more atoms far away, appended after the others."""

    def tile(self, graph: Any, repeats: tuple[int, int, int]) -> Any | None:
        """Supercell; node ``c N + i`` is node i in the c-th cell of :func:`cells`."""

    def subset(self, graph: Any, nodes: Sequence[int]) -> Any | None:
        """Graph of some of the nodes and the edges between them."""

    def blocks(self, model: Any, graph: Any) -> Mapping[tuple[int, ...], np.ndarray] | None:
        """Hamiltonian blocks {(Rx, Ry, Rz, i, j): matrix} of a prediction, where there are such."""

    def source(self, graph: Any) -> str:
        """Python source that makes the graph again under the name ``graph``; "" when it is too long."""


def cells(repeats: tuple[int, int, int]) -> np.ndarray:
    """(n, 3) offsets of the cells of a supercell."""
    return np.array(list(product(*(range(r) for r in repeats))), dtype=np.int64)


def tiled_edges(keys: np.ndarray, num_nodes: int, repeats: tuple[int, int, int]) -> np.ndarray:
    """Edges of a supercell, cell after cell, each in the order of the given edges.

    Args:
        keys: (E, 5) edges (i, j, R) of the primitive cell.
        num_nodes: N.
        repeats: number of cells along each axis.

    Returns:
        (n E, 5) edges of the supercell, with R in units of the supercell.
    """
    offsets, size = cells(repeats), np.array(repeats)
    rows = []
    for index, offset in enumerate(offsets):
        target = offset + keys[:, 2:]
        inside = np.mod(target, size)
        copy = (inside[:, 0] * size[1] + inside[:, 1]) * size[2] + inside[:, 2]
        shift = np.floor_divide(target, size)
        rows.append(np.column_stack([keys[:, 0] + index * num_nodes, keys[:, 1] + copy * num_nodes, shift]))
    return np.concatenate(rows)


@dataclass(frozen=True)
class Field:
    """One tensor of a graph: its law and what its rows are (``"node"``, ``"edge"``, ``"graph"``)."""

    irreps: Any
    level: str = "node"


class DataAdapter:
    """Adapter for ``torch_geometric`` ``Data`` with declared fields.

    Args:
        fields: name -> :class:`Field` of every tensor that transforms; ``"cartesian_points"`` are moved, irreps are
            rotated.
        outputs: name -> :class:`Field` of what the model returns: a dict with these names, or a tensor or tuple in
            this order.
        cell: name of the (1, 3, 3) cell, rows are lattice vectors in Å, or None.
        cell_shift: name of the (E, 3) integer cell of the second node of every edge, or None.
        basis: component order of the irreps.
        rebuild: recomputes what follows from the fields (edges, edge vectors) after a change, or None when nothing
            does.
        forward: how to call the model, ``forward(model, graph)``; None calls ``model(graph)``.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        outputs: Mapping[str, Field],
        *,
        cell: str | None = None,
        cell_shift: str | None = None,
        basis: Basis = "e3nn",
        rebuild: Callable[[Any], Any] | None = None,
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        if not fields or not outputs:
            raise VerificationError("DataAdapter needs at least one field that transforms and one output")
        self.fields = {name: Representation.parse(f.irreps, basis) for name, f in fields.items()}
        self.levels = {name: f.level for name, f in fields.items()}
        self.declared = {name: (Representation.parse(f.irreps, basis), f.level) for name, f in outputs.items()}
        self.cell, self.cell_shift = cell, cell_shift
        self.rebuild, self.forward = rebuild, forward

    def specs(self, model: Any, graph: Any) -> tuple[OutputSpec, ...]:
        """See :class:`GraphAdapter`."""
        for name, law in self.fields.items():
            value = graph.get(name) if hasattr(graph, "get") else getattr(graph, name, None)
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[-1] != law.dim:
                found = (
                    "nothing"
                    if value is None
                    else f"{getattr(value, 'dtype', type(value))} {tuple(getattr(value, 'shape', ()))}"
                )
                raise VerificationError(
                    f"graph field {name!r}: expected floating point with a last axis of {law.dim}, found {found}"
                )
            if not bool(torch.isfinite(value).all()):
                raise VerificationError(f"graph field {name!r} holds NaN or infinity: give a finite graph")
        if self.num_nodes(graph) == 0:
            raise VerificationError("the graph has no nodes: an empty graph verifies nothing")
        return tuple(OutputSpec(name, law, level) for name, (law, level) in self.declared.items())

    def evaluate(self, model: Any, graph: Any) -> list[Tensor]:
        """See :class:`GraphAdapter`."""
        result = self.forward(model, graph) if self.forward is not None else model(graph)
        if isinstance(result, Mapping):
            missing = [name for name in self.declared if name not in result]
            if missing:
                raise VerificationError(f"the model returned {sorted(result)}, but outputs declares {missing}")
            return [result[name] for name in self.declared]
        items = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(items) != len(self.declared):
            raise VerificationError(
                f"the model returned {len(items)} output(s), {len(self.declared)} are declared: {list(self.declared)}"
            )
        return items

    def num_nodes(self, graph: Any) -> int:
        """See :class:`GraphAdapter`."""
        return int(graph.num_nodes)

    def edge_keys(self, graph: Any) -> np.ndarray:
        """See :class:`GraphAdapter`."""
        index = graph.edge_index.T.cpu().numpy()
        shift = graph[self.cell_shift].cpu().numpy() if self.cell_shift else np.zeros((len(index), 3))
        return np.concatenate([index, shift], axis=1).astype(np.int64)

    def edge_vectors(self, graph: Any) -> Array:
        """See :class:`GraphAdapter`."""
        name = next((n for n, law in self.fields.items() if law.kind == "points"), None)
        if name is None or graph.edge_index is None:
            return np.zeros((0, 3))
        points = graph[name].detach().cpu().double().numpy()
        keys = self.edge_keys(graph)
        vectors = points[keys[:, 1]] - points[keys[:, 0]]
        if self.cell and self.cell_shift:
            vectors = vectors + keys[:, 2:] @ graph[self.cell].detach().cpu().double().numpy().reshape(-1, 3, 3)[0]
        return np.asarray(vectors[np.linalg.norm(vectors, axis=1) > 1e-9])

    def leaves(self, graph: Any) -> list[Leaf]:
        """See :class:`GraphAdapter`."""
        found = [
            Leaf(n, law, graph[n], law.kind == "points" or self.levels[n] == "edge") for n, law in self.fields.items()
        ]
        return [*found, Leaf(self.cell, VECTOR, graph[self.cell], given=True)] if self.cell else found

    def with_leaves(self, graph: Any, values: Sequence[Tensor]) -> Any:
        """See :class:`GraphAdapter`."""
        changed = graph.clone()
        for leaf, value in zip(self.leaves(graph), values, strict=True):
            changed[leaf.name] = value
        return self._rebuilt(changed)

    def _rebuilt(self, graph: Any) -> Any:
        return graph if self.rebuild is None else self.rebuild(graph)

    def transform(self, graph: Any, element: Elements) -> Any:
        """See :class:`GraphAdapter`."""
        changed = graph.clone()
        for name, law in self.fields.items():
            values = graph[name].detach().cpu().double().numpy()
            changed[name] = torch.from_numpy(np.ascontiguousarray(law.act(values[None], element)[0])).to(graph[name])
        if self.cell is not None:
            rotated = graph[self.cell].detach().cpu().double().numpy() @ element.matrix[0].T
            changed[self.cell] = torch.from_numpy(rotated).to(graph[self.cell])
        return self._rebuilt(changed)

    def cast(self, graph: Any, dtype: torch.dtype) -> Any:
        """See :class:`GraphAdapter`."""
        changed = graph.clone()
        for key, value in graph.to_dict().items():
            if isinstance(value, Tensor):
                changed[key] = in_precision(value, dtype)
        return changed

    def permute_nodes(self, graph: Any, order: np.ndarray) -> Any | None:
        """See :class:`GraphAdapter`."""
        changed, index = graph.clone(), torch.from_numpy(order)
        for key in graph.to_dict():
            if graph.is_node_attr(key):
                changed[key] = graph[key][index]
        if graph.edge_index is not None:
            changed.edge_index = torch.argsort(index)[graph.edge_index]
        return changed

    def permute_edges(self, graph: Any, rng: np.random.Generator) -> Any | None:
        """See :class:`GraphAdapter`; None when two edges cannot be told apart."""
        if graph.edge_index is None:
            return None
        keys = self.edge_keys(graph)
        if len(np.unique(keys, axis=0)) != len(keys):
            return None
        return self._with_edges(graph, torch.from_numpy(rng.permutation(len(keys))))

    def _with_edges(self, graph: Any, edges: Tensor) -> Any:
        changed = graph.clone()
        for key in graph.to_dict():
            if key == "edge_index":
                changed.edge_index = graph.edge_index[:, edges]
            elif graph.is_edge_attr(key):
                changed[key] = graph[key][edges]
        return changed

    def batch(self, graphs: Sequence[Any]) -> Any | None:
        """See :class:`GraphAdapter`."""
        from torch_geometric.data import Batch

        return Batch.from_data_list(list(graphs))

    def with_fragment(self, graph: Any) -> Any | None:
        """See :class:`GraphAdapter`; edge features of the fragment are those of the first edge."""
        if graph.edge_index is None or graph.edge_index.shape[1] == 0:
            return None
        n, changed = self.num_nodes(graph), graph.clone()
        for key in graph.to_dict():
            value = graph[key]
            if key == "edge_index":
                changed.edge_index = torch.cat([value, torch.tensor([[n, n + 1], [n + 1, n]]).to(value)], dim=1)
            elif graph.is_node_attr(key):
                changed[key] = torch.cat([value, value[:1], value[-1:]])
            elif graph.is_edge_attr(key):
                changed[key] = torch.cat([value, value[:1], value[:1]])
        for key, law in self.fields.items():
            if law.kind == "points" and self.levels[key] == "node":
                far = torch.tensor([[FRAGMENT_DISTANCE, 0.0, 0.0]]).to(graph[key])
                changed[key][n:] = torch.cat([far, far + torch.tensor([FRAGMENT_BOND]).to(far)])
        if "num_nodes" in graph:
            changed.num_nodes = n + 2
        return self._rebuilt(changed)

    def tile(self, graph: Any, repeats: tuple[int, int, int]) -> Any | None:
        """See :class:`GraphAdapter`; needs the cell and the cell shifts of the edges."""
        if self.cell is None or self.cell_shift is None:
            return None
        changed, count, n = graph.clone(), int(np.prod(repeats)), self.num_nodes(graph)
        keys = tiled_edges(self.edge_keys(graph), n, repeats)
        lattice = graph[self.cell].reshape(-1, 3, 3)[0]
        for key in graph.to_dict():
            if graph.is_node_attr(key) or (graph.is_edge_attr(key) and key != "edge_index"):
                changed[key] = torch.cat([graph[key]] * count)
        changed.edge_index = torch.from_numpy(keys[:, :2].T.copy())
        changed[self.cell_shift] = torch.from_numpy(keys[:, 2:].copy()).to(graph[self.cell_shift])
        for key, law in self.fields.items():
            if law.kind == "points":
                offsets = torch.from_numpy(np.repeat(cells(repeats), n, axis=0)).to(lattice) @ lattice
                changed[key] = changed[key] + offsets
        changed[self.cell] = (torch.tensor(repeats).to(lattice)[:, None] * lattice).reshape(graph[self.cell].shape)
        if "num_nodes" in graph:
            changed.num_nodes = n * count
        return self._rebuilt(changed)

    def subset(self, graph: Any, nodes: Sequence[int]) -> Any | None:
        """See :class:`GraphAdapter`."""
        smaller = graph.subgraph(torch.tensor(sorted(nodes)))
        return self._rebuilt(smaller) if smaller.num_edges else None

    def blocks(self, model: Any, graph: Any) -> Mapping[tuple[int, ...], np.ndarray] | None:
        """None: a plain graph has no Hamiltonian."""
        return None

    def source(self, graph: Any) -> str:
        """See :class:`GraphAdapter`."""
        from .replay import MAX_PRINTED, tensor_source

        tensors = {k: v for k, v in graph.to_dict().items() if isinstance(v, Tensor)}
        if sum(v.numel() for v in tensors.values()) > 4 * MAX_PRINTED:
            return ""
        body = "".join(f"    {name}={tensor_source(value)},\n" for name, value in tensors.items())
        return f"from torch_geometric.data import Data\n\ngraph = Data(\n{body})\n"
