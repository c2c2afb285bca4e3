"""Rotation of a graph together with its frames: the frames turn along, so that all targets stay as they are."""

from __future__ import annotations

import copy

from torch import Tensor
from torch_geometric.data import Data

from tracegrad.so3.frames import frame_matrix


def rotate_graph(graph: Data, R: Tensor) -> Data:
    """Graph of the rotated structure.

    Args:
        graph: graph of :func:`tracegrad.graph.build_graph`, or several as one; not changed.
        R: ``(3, 3)`` proper rotation in ``(x, y, z)``, best in float64: its matrices are computed before they are
            rounded to the dtype of the graph.

    Returns:
        A graph whose frames are the old ones turned by ``R``, ``D(Q^T R^T)``; targets in the frames are unchanged.
    """
    rotated = copy.copy(graph)
    for name in ("positions", "edge_vectors", "cell"):
        rotated[name] = graph[name] @ R.T.to(graph[name])
    rotated.wigner = [D @ frame_matrix(l, R.double()).T.to(D) for l, D in enumerate(graph.wigner)]
    return rotated
