"""Rotation of a graph together with its frames: the frames turn along, so that all targets stay as they are."""

from __future__ import annotations

import copy

from torch import Tensor
from torch_geometric.data import Data

from tracegrad.so3.frames import frame_matrix


def rotate_graph(graph: Data, R: Tensor) -> Data:
    """Graph of the rotated structure.

    Args:
        graph: graph of :func:`tracegrad.graph.build_graph`; not changed.
        R: ``(3, 3)`` proper rotation in ``(x, y, z)``.

    Returns:
        A graph whose frames are the old ones turned by ``R``, ``D(Q^T R^T)``; targets in the frames are unchanged.
    """
    rotated = copy.copy(graph)
    R = R.to(graph.positions)
    rotated.positions = graph.positions @ R.T
    rotated.edge_vectors = graph.edge_vectors @ R.T
    rotated.cell = graph.cell @ R.T
    rotated.wigner = [D @ frame_matrix(l, R).T for l, D in enumerate(graph.wigner)]
    return rotated
