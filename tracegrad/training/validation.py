"""Errors on the validation set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from tracegrad.data import Structure
from tracegrad.loss import ReversedFrame, hamiltonian_loss
from tracegrad.metrics import mae_all, structure_errors


@torch.no_grad()
def squared_error(
    model: nn.Module, graphs: Sequence[Data], reverse: ReversedFrame | None = None
) -> tuple[float, float]:
    """Sum of |ΔH|² in eV² and number of matrix elements over all directed edges of some structures."""
    squared, elements = 0.0, 0.0
    for graph in graphs:
        count = float(torch.dot(graph.target_weight.double(), graph.target_elements.double()))
        outputs: Any = model.in_frame(graph)  # type: ignore[operator]
        squared += float(hamiltonian_loss(outputs["frame"], graph, reverse)) * count
        elements += count
    return squared, elements


@torch.no_grad()
def validation_mae(model: nn.Module, graphs: Sequence[Data], structures: Sequence[Structure]) -> float:
    """MAE_all of some structures in meV."""
    from tracegrad.model import predict_blocks

    pairs = zip(graphs, structures, strict=True)
    return mae_all([structure_errors(predict_blocks(model, graph), structure) for graph, structure in pairs])
