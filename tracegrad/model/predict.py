"""Predicted Hamiltonian blocks of a graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from tracegrad.data import Blocks
from tracegrad.graph.build import half_keys
from tracegrad.graph.targets import irreps_to_blocks


def predict_blocks(model: nn.Module, graph: Data) -> Blocks:
    """Hamiltonian of a structure, eV, in the order ``m = -l .. l``.

    Args:
        model: a network of this package.
        graph: graph of one structure, of the model's dtype.

    Returns:
        The Hermitian half, or all directed edges where the model is not Hermitian.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        flat = model.in_frame(graph)["frame"]
        rows = len(flat)
        irreps = model.targets.frame.from_frame(flat.double(), [D[:rows].double() for D in graph.wigner])
    model.train(training)
    keys = half_keys(graph)
    if rows != len(keys):
        keys = np.concatenate([graph.cell_shift.cpu().numpy(), graph.edge_index.T.cpu().numpy()], axis=1)
    return irreps_to_blocks(irreps.cpu(), keys, graph.edge_type[:rows].cpu(), model.targets)
