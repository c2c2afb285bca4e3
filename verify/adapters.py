"""How a graph model is reached: an adapter transforms, permutes, tiles and evaluates graphs of one kind.

:class:`GraphAdapter` is the contract; :class:`verify.DataAdapter` serves any ``torch_geometric`` ``Data`` whose fields
are declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .group import Elements
from .subject import Leaf, OutputSpec
from .wigner import Array

FRAGMENT_DISTANCE = 1000.0  # Å from the structure to the far fragment
FRAGMENT_BOND = (1.1, 0.7, 0.4)  # Å, between its two atoms


class GraphAdapter(Protocol):
    """What a verification needs to know about graphs of one kind.

    Operations that a kind of graph does not have return None: the check is then skipped, with that reason. Graphs are
    never changed in place; one that has a method ``clone`` is cloned before every evaluation.

    An adapter may also have:

    - ``energies(graph)``: name of an output -> (rows, dim), True for the components that are energies in eV, which a
      budget in meV counts; an output that is not named has none. Without the method all are.
    - ``recell(graph, basis, moves)``: the same crystal with the lattice vectors ``basis @ cell`` and node i moved by
      ``moves[i] @ cell``, ``basis`` (3, 3) and ``moves`` (N, 3) integers; None where that is not possible. Without the
      method the choice of the cell is not tested.
    - ``time_reversal``: True where the blocks are those of a non-magnetic Hamiltonian with spin, spin-major. Without
      it time reversal is not tested.
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


def fresh_copy(graph: Any) -> Any:
    """Differentiable copy that a model may write to; a kind without ``clone`` is its adapter's to protect."""
    return graph.clone() if hasattr(graph, "clone") else graph


def missing_methods(adapter: Any) -> list[str]:
    """Names of the methods of :class:`GraphAdapter` that an object lacks."""
    wanted = [name for name, value in vars(GraphAdapter).items() if callable(value) and not name.startswith("_")]
    return [name for name in wanted if not callable(getattr(adapter, name, None))]


def require_adapter(adapter: Any) -> None:
    """Raise where an object cannot serve as an adapter.

    Raises:
        VerificationError: a method is missing; the message names all that are.
    """
    missing = missing_methods(adapter)
    if missing:
        raise VerificationError(
            f"the adapter {type(adapter).__name__} lacks {', '.join(missing)}: expected all methods of "
            "verify.GraphAdapter (those that do not apply return None), or a verify.DataAdapter"
        )
