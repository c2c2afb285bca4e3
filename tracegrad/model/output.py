"""From the numbers of the network to eV: a fitted scale and a two-centre reference, both functions of the distance."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.graph.layout import TargetLayout


class OutputTransform(nn.Module):
    """Leave the output of the network as it is.

    Args:
        targets: what is predicted.
    """

    def __init__(self, targets: TargetLayout) -> None:
        super().__init__()
        self.targets = targets

    def forward(self, flat: Tensor, graph: Data) -> Tensor:
        """Frame vectors in eV, ``(rows, D)``."""
        return flat
