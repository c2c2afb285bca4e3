"""Adapter for ``torch_geometric`` ``Data`` whose fields are declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .adapters import FRAGMENT_BOND, FRAGMENT_DISTANCE, cells, tiled_edges
from .fields import Field, are_shifts, rows_of
from .group import Elements
from .precision import in_precision
from .representation import VECTOR, Representation
from .subject import Leaf, OutputSpec
from .wigner import Array, Basis

MOST_POINTS = 8  # between which vectors are taken where a graph has no edges


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
        rebuild: recomputes what follows from the fields (edges, edge vectors) after a change, differentiably, or None
            when nothing does.
        forward: how to call the model, ``forward(model, graph)``; None calls ``model(graph)``.
        blocks: ``blocks(model, graph)``, the Hamiltonian blocks {(Rx, Ry, Rz, i, j): matrix} of all directed edges, or
            None where there are none: hermiticity is then not tested.
        time_reversal: True where the blocks, complex and spin-major, are those of a non-magnetic Hamiltonian.
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
        blocks: Callable[[Any, Any], Mapping[tuple[int, ...], np.ndarray]] | None = None,
        time_reversal: bool = False,
    ) -> None:
        if all(f.irreps is None for f in fields.values()) or not outputs:
            raise VerificationError("DataAdapter needs at least one field that transforms and one output")
        self.fields = {
            name: Representation.parse(f.irreps, basis) for name, f in fields.items() if f.irreps is not None
        }
        self.levels = {name: f.level for name, f in fields.items()}
        self.declared = {name: (Representation.parse(f.irreps, basis), f.level) for name, f in outputs.items()}
        self.cell, self.cell_shift = cell, cell_shift
        self.rebuild, self.forward = rebuild, forward
        self.hamiltonian, self.time_reversal = blocks, time_reversal

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
        self._refuse_unclear(graph)
        return tuple(OutputSpec(name, law, level) for name, (law, level) in self.declared.items())

    def _refuse_unclear(self, graph: Any) -> None:
        """Raise for stored vectors of which nothing is said (no rotation would reach them) and for unclear levels."""
        known = {*self.levels, self.cell, self.cell_shift}
        for key, value in graph.to_dict().items():
            if key in known or not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0:
                continue
            if value.layout is not torch.strided:
                continue
            level = self._level(graph, key)
            if level == "node" and key != "x" and len(value) == graph.num_edges:
                raise VerificationError(
                    f"graph field {key!r} has {len(value)} rows, as many as there are nodes and as many as there are "
                    "edges: declare it, as Field(None, 'node') or Field(None, 'edge') if it does not transform"
                )
            if self.rebuild is None and level in ("node", "edge") and self._holds_vectors(graph, value, level):
                raise VerificationError(
                    f"graph field {key!r} holds three numbers per {level} that may be a vector, and is not declared: "
                    "no rotation would reach it; pass rebuild= when it follows from the positions, else declare it: "
                    f"Field('1x1o', {level!r}) (vectors), Field(None, {level!r}) (invariants), cell_shift= (cells); "
                    "leave a label out of the graph"
                )

    def _holds_vectors(self, graph: Any, value: Tensor, level: str) -> bool:
        """Whether rows are three numbers, not all 0 or 1, or hold three columns along the vectors of the edges."""
        rows = value.detach().cpu().double().numpy().reshape(len(value), -1)
        if rows.shape[1] == 3:
            return level == "edge" or not np.isin(rows, (0.0, 1.0)).all()
        vectors = self._pair_vectors(graph)
        if level == "node" or len(vectors) != len(rows) or not vectors.any():
            return False
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths > 1e-9, lengths, 1.0)
        for start in range(rows.shape[1] - 2):
            part = rows[:, start : start + 3]
            if np.isin(part, (0.0, 1.0)).all():
                continue  # kinds, not directions
            size = np.linalg.norm(part, axis=1, keepdims=True)
            turned = part / np.where(size > 1e-9, size, 1.0)
            along = (np.abs((turned * np.roll(unit, shift, axis=1)).sum(1)) for shift in range(3))  # e3nn has (y, z, x)
            if size.any() and any((a[lengths[:, 0] > 1e-9] > 1 - 1e-6).all() for a in along):
                return True
        return False

    def _level(self, graph: Any, key: str) -> str:
        """What the rows of a tensor of the graph are: as declared, else what torch_geometric takes them for."""
        if key in self.levels:
            return self.levels[key]
        if key == "edge_index":
            return "index"
        if key in (self.cell, self.cell_shift):
            return "graph" if key == self.cell else "edge"
        return "node" if graph.is_node_attr(key) else "edge" if graph.is_edge_attr(key) else "graph"

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
        vectors = self._pair_vectors(graph)
        return np.asarray(vectors[np.linalg.norm(vectors, axis=1) > 1e-9])

    def _pair_vectors(self, graph: Any) -> Array:
        """(E, 3) vectors of the edges; where the model makes its own, those between the first points."""
        name = next((n for n, law in self.fields.items() if law.kind == "points"), None)
        if name is None:
            return np.zeros((0, 3))
        points = graph[name].detach().cpu().double().numpy()
        if graph.edge_index is None:
            first, second = np.triu_indices(min(len(points), MOST_POINTS), 1)
            return np.asarray(points[second] - points[first])
        keys = self.edge_keys(graph)
        vectors = points[keys[:, 1]] - points[keys[:, 0]]
        if self.cell and self.cell_shift:
            vectors = vectors + keys[:, 2:] @ graph[self.cell].detach().cpu().double().numpy().reshape(-1, 3, 3)[0]
        return np.asarray(vectors)

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
                changed[key] = in_precision(value.detach(), dtype)
        return self._rebuilt(changed)

    def permute_nodes(self, graph: Any, order: np.ndarray) -> Any | None:
        """See :class:`GraphAdapter`.

        None where an undeclared table (N, N) may be one of pairs of nodes, and where ``rebuild`` puts the edges into
        another order but leaves a tensor of theirs as it was.
        """
        changed, index = graph.clone(), torch.from_numpy(order)
        for key, value in graph.to_dict().items():
            if self._level(graph, key) == "node":
                table = isinstance(value, (Tensor, np.ndarray)) and value.shape[1:2] == (len(order),)
                if table and key not in {*self.levels, "x"}:
                    return None
                changed[key] = rows_of(value, index)
        if graph.edge_index is None:
            return self._rebuilt(changed)
        edges = changed.edge_index = torch.argsort(index)[graph.edge_index]
        before = dict(changed.to_dict())
        rebuilt = self._rebuilt(changed)
        found, after = rebuilt.edge_index, rebuilt.to_dict()
        if found.shape == edges.shape and bool((found == edges).all()):
            return rebuilt
        stale = any(self._level(graph, key) == "edge" and after.get(key) is value for key, value in before.items())
        return None if stale else rebuilt

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
            elif self._level(graph, key) == "edge":
                changed[key] = rows_of(graph[key], edges)
        return changed

    def batch(self, graphs: Sequence[Any]) -> Any | None:
        """See :class:`GraphAdapter`."""
        from torch_geometric.data import Batch

        return Batch.from_data_list(list(graphs))

    def with_fragment(self, graph: Any) -> Any | None:
        """See :class:`GraphAdapter`; edge features of the fragment are those of the first edge.

        None where the graph does not say how far its atoms see, and where neighbours are searched in a crystal.
        """
        if graph.edge_index is None or graph.edge_index.shape[1] == 0 or (self.cell and self.rebuild):
            return None
        n, changed = self.num_nodes(graph), graph.clone()
        for key in graph.to_dict():
            value = graph[key]
            if key == "edge_index":
                changed.edge_index = torch.cat([value, torch.tensor([[n, n + 1], [n + 1, n]]).to(value)], dim=1)
            elif self._level(graph, key) == "node":
                changed[key] = rows_of(value, torch.tensor([*range(n), 0, n - 1]))
            elif self._level(graph, key) == "edge":
                changed[key] = rows_of(value, torch.tensor([*range(graph.edge_index.shape[1]), 0, 0]))
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
        for key in graph.to_dict():
            if self._level(graph, key) in ("node", "edge"):
                changed[key] = rows_of(graph[key], torch.arange(len(graph[key])).repeat(count))
        changed.edge_index = torch.from_numpy(keys[:, :2].T.copy())
        changed[self.cell_shift] = torch.from_numpy(keys[:, 2:].copy()).to(graph[self.cell_shift])
        offsets = torch.from_numpy(np.repeat(cells(repeats), n, axis=0))
        self._put_in_cell(graph, changed, np.diag(repeats), offsets)
        if "num_nodes" in graph:
            changed.num_nodes = n * count
        return self._rebuilt(changed)

    def _put_in_cell(self, graph: Any, changed: Any, basis: np.ndarray, moves: Tensor) -> None:
        """Give a changed graph the lattice vectors ``basis @ cell``, move its nodes, and renew lattice shifts in Å."""
        lattice = graph[self.cell].reshape(-1, 3, 3)[0]
        larger = torch.from_numpy(basis).to(lattice) @ lattice
        for key, law in self.fields.items():
            if law.kind == "points" and self.levels[key] == "node":
                changed[key] = changed[key] + moves.to(lattice) @ lattice
            elif self.levels[key] == "edge" and are_shifts(graph[key], graph[self.cell_shift], lattice):
                changed[key] = changed[self.cell_shift].to(lattice) @ larger
        changed[self.cell] = larger.reshape(graph[self.cell].shape)

    def recell(self, graph: Any, basis: np.ndarray, moves: np.ndarray) -> Any | None:
        """See :class:`GraphAdapter`; None without cell and cell shifts, and where ``rebuild`` moves the nodes back."""
        if self.cell is None or self.cell_shift is None or graph.edge_index is None:
            return None
        changed, (i, j) = graph.clone(), graph.edge_index.cpu().numpy()
        inverse = np.rint(np.linalg.inv(basis)).astype(np.int64)
        shift = (graph[self.cell_shift].cpu().numpy().astype(np.int64) + moves[i] - moves[j]) @ inverse
        changed[self.cell_shift] = torch.from_numpy(shift).to(graph[self.cell_shift])
        self._put_in_cell(graph, changed, basis, torch.from_numpy(moves))
        points = [key for key, law in self.fields.items() if law.kind == "points"]
        before = {key: changed[key] for key in points}
        rebuilt = self._rebuilt(changed)
        return rebuilt if all(torch.equal(rebuilt[key], before[key]) for key in points) else None

    def subset(self, graph: Any, nodes: Sequence[int]) -> Any | None:
        """See :class:`GraphAdapter`."""
        changed, kept = graph.clone(), torch.tensor(sorted(nodes))
        if graph.edge_index is not None:
            place = graph.edge_index.new_full((self.num_nodes(graph),), -1)
            place[kept] = torch.arange(len(kept)).to(place)
            inside = (place[graph.edge_index] >= 0).all(0).nonzero()[:, 0]
            if len(inside) == 0:
                return None
            changed = self._with_edges(graph, inside)
            changed.edge_index = place[changed.edge_index]
        for key in graph.to_dict():
            if self._level(graph, key) == "node":
                changed[key] = rows_of(graph[key], kept)
        if "num_nodes" in graph:
            changed.num_nodes = len(kept)
        return self._rebuilt(changed)

    def blocks(self, model: Any, graph: Any) -> Mapping[tuple[int, ...], np.ndarray] | None:
        """See :class:`GraphAdapter`; None unless the adapter was told how to get them."""
        return None if self.hamiltonian is None else self.hamiltonian(model, graph)

    def source(self, graph: Any) -> str:
        """See :class:`GraphAdapter`."""
        from .replay import MAX_PRINTED, tensor_source

        tensors = {k: v for k, v in graph.to_dict().items() if isinstance(v, Tensor)}
        if sum(v.numel() for v in tensors.values()) > 4 * MAX_PRINTED:
            return ""
        body = "".join(f"    {name}={tensor_source(value)},\n" for name, value in tensors.items())
        return f"from torch_geometric.data import Data\n\ngraph = Data(\n{body})\n"
