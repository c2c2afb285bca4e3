"""Predicted Hamiltonian blocks of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.data import Blocks
from tracegrad.graph import TargetLayout
from tracegrad.graph.build import half_keys
from tracegrad.graph.targets import irreps_to_blocks

if TYPE_CHECKING:
    from tracegrad.model.deephe3 import DeepHE3


def predict_blocks(model: nn.Module, graph: Data) -> Blocks:
    """Hamiltonian of a structure, eV, in the order ``m = -l .. l``.

    Args:
        model: a network of this package.
        graph: graph of one structure, of the model's dtype.

    Returns:
        The Hermitian half, or all directed edges where the model is not Hermitian.
    """
    network = cast("DeepHE3", model)  # or any network with its `in_frame` and `targets`
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            return blocks_of_frame(network.in_frame(graph)["frame"], graph, network.targets)
    finally:
        network.train(training)


def blocks_of_frame(flat: Tensor, graph: Data, targets: TargetLayout) -> Blocks:
    """Blocks from the irreps of the Hermitian half, or of all edges, in the frames of the edges, ``(rows, D)``, eV."""
    rows = len(flat)
    irreps = targets.frame.from_frame(flat.double(), [D[:rows].double() for D in graph.wigner])
    keys = half_keys(graph)
    if rows != len(keys):
        keys = np.concatenate([graph.cell_shift.cpu().numpy(), graph.edge_index.T.cpu().numpy()], axis=1)
    return irreps_to_blocks(irreps.cpu(), keys, graph.edge_type[:rows].cpu(), targets)
