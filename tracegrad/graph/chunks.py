"""A structure too large for one graph: its pairs in chunks, each a graph of its own that is built when it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.data import Structure
from tracegrad.errors import DataError
from tracegrad.graph.build import Pairs, cast_graph, check_apart, graph_from_pairs
from tracegrad.graph.layout import TargetLayout


@dataclass(frozen=True)
class PairChunk:
    """Some undirected pairs of a structure, both directions, with the atoms at their ends.

    A graph has a self-loop at every node, an atom can be a node of several chunks, and one of them owns its self-loop.

    Attributes:
        graph: of the atoms and pairs of the chunk, nodes numbered from 0.
        nodes: ``(n,)`` atom of every node, ascending.
        owns_loop: ``(n,)`` whether this chunk stands for the self-loop of the node.
    """

    graph: Data
    nodes: Tensor
    owns_loop: Tensor


class PairChunks:
    """All pairs of a structure in chunks of about equal size; every pair and every self-loop belongs to one of them.

    Held in memory are 40 bytes per pair; frames (of ``lmax = 4``, 660 bytes per directed edge in float32) only of the
    chunk in use. Pairs that are sorted by their first atom make chunks with few nodes.

    Args:
        structure: atoms and cell, Å.
        pairs: of :func:`tracegrad.graph.build.structure_pairs`.
        layout: which blocks are predicted.
        chunk_edges: directed edges in a chunk, self-loops left out.
        lmax: largest degree of the frames.
        dtype: of the graphs; everything is computed in float64.
        device: of the graphs.

    Raises:
        DataError: unknown elements or other orbitals, two atoms at one place, or ``chunk_edges`` below 2.
    """

    def __init__(
        self,
        structure: Structure,
        pairs: Pairs,
        layout: TargetLayout,
        *,
        chunk_edges: int,
        lmax: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if chunk_edges < 2:
            raise DataError(f"expected at least 2 edges in a chunk, the directions of one pair, found {chunk_edges}")
        layout.check_orbitals(structure)
        check_apart(structure, pairs)
        self.structure, self.pairs, self.layout = structure, pairs, layout
        self.lmax, self.dtype, self.device = lmax, dtype, device
        self.species = layout.species(structure.numbers.tolist(), structure.name).to(device)
        count = max(1, math.ceil(2 * len(pairs[0]) / chunk_edges))
        self._pair_bounds = np.linspace(0, len(pairs[0]), count + 1).astype(np.int64)
        self._atom_bounds = np.linspace(0, structure.n_atoms, count + 1).astype(np.int64)

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self._pair_bounds) - 1

    def __iter__(self) -> Iterator[PairChunk]:
        """Build one chunk after the other."""
        for number in range(len(self)):
            yield self._build(number)

    def _build(self, number: int) -> PairChunk:
        i, j, shift = (part[slice(*self._pair_bounds[number : number + 2])] for part in self.pairs)
        first, last = self._atom_bounds[number : number + 2].tolist()
        nodes = np.unique(np.concatenate([i, j, np.arange(first, last)]))
        structure = self.structure
        graph = graph_from_pairs(
            torch.from_numpy(structure.numbers[nodes]),
            torch.from_numpy(structure.positions[nodes]),
            torch.from_numpy(np.array(structure.cell)),
            torch.from_numpy(np.stack([np.searchsorted(nodes, i), np.searchsorted(nodes, j)])),
            torch.from_numpy(np.asarray(shift, dtype=np.int64)),
            self.layout,
            lmax=self.lmax,
            name=structure.name,
        )
        graph = cast_graph(graph, self.dtype).to(self.device)
        owned = (nodes >= first) & (nodes < last)
        return PairChunk(graph, torch.from_numpy(nodes).to(self.device), torch.from_numpy(owned).to(self.device))
