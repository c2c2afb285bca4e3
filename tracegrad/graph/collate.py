"""Several graphs as one, with the edge order [self-loops | forward | reversed] kept over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.graph.build import reverse_edges
from tracegrad.graph.fields import EDGE_FIELDS, HALF_FIELDS, NODE_FIELDS


def collate(graphs: Sequence[Data]) -> Data:
    """Join graphs into one disconnected graph.

    Args:
        graphs: graphs of :func:`tracegrad.graph.build_graph`, all of one layout.

    Returns:
        One graph; ``batch`` tells the structure of every atom.
    """
    if len(graphs) == 1:
        return graphs[0]
    batch = Data()
    batch.num_nodes = sum(g.num_nodes for g in graphs)
    batch.num_pairs = sum(g.num_pairs for g in graphs)
    batch.names = [name for g in graphs for name in g.names]
    batch.cell = torch.cat([g.cell for g in graphs])
    counts = torch.tensor([g.num_nodes for g in graphs])
    batch.batch = torch.repeat_interleave(torch.arange(len(graphs)), counts).to(batch.cell.device)
    offsets = (counts.cumsum(0) - counts).tolist()
    shifted = [g.edge_index.T + offset for g, offset in zip(graphs, offsets, strict=True)]
    batch.edge_index = _join_edges(shifted, graphs).T
    batch.reverse_edge = reverse_edges(batch.num_nodes, batch.num_pairs).to(batch.cell.device)
    batch.wigner = [_join_edges([g.wigner[l] for g in graphs], graphs) for l in range(len(graphs[0].wigner))]
    for field in NODE_FIELDS:
        batch[field] = torch.cat([g[field] for g in graphs])
    for field in EDGE_FIELDS:
        batch[field] = _join_edges([g[field] for g in graphs], graphs)
    for field in HALF_FIELDS:
        if all(field in g for g in graphs):
            batch[field] = _join_segments([torch.split(g[field], [g.num_nodes, g.num_pairs]) for g in graphs])
    return batch


def _join_edges(fields: Sequence[Tensor], graphs: Sequence[Data]) -> Tensor:
    sizes = [[g.num_nodes, g.num_pairs, g.num_pairs] for g in graphs]
    return _join_segments([torch.split(field, size) for field, size in zip(fields, sizes, strict=True)])


def _join_segments(segments: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.cat([part for parts in zip(*segments, strict=True) for part in parts])
