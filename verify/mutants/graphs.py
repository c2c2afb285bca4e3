"""Faults of graphs and of state (M35-M39): node order, side effects, leftover randomness."""

from __future__ import annotations

import torch
from torch import Tensor

from .kinds import Mutant, Subject, network_with
from .network import Context, Network


def first_neighbours(value: Tensor, context: Context) -> Tensor:
    """Only the three neighbours of lowest index are kept."""
    rank = context.neighbour - (context.neighbour > context.centre).long()
    return value * (rank < 3)[:, None]


def sign_from_index(value: Tensor, context: Context) -> Tensor:
    """Edge vectors pointing from the lower to the higher index."""
    return value * torch.where(context.centre < context.neighbour, 1.0, -1.0).to(value.dtype)[:, None]


def index_weight(value: Tensor, context: Context) -> Tensor:
    """Features scaled by the node's index."""
    return value * (1 + 0.1 * torch.arange(len(value), dtype=value.dtype, device=value.device))[:, None]


class MutatesInputs(Network):
    """Network that centres its positions and scales its features in place."""

    def forward(self, positions: Tensor, features: Tensor) -> Tensor:
        """Output features; the inputs are changed."""
        with torch.no_grad():
            positions -= positions.mean(0)
            features *= 1.01
        return super().forward(positions, features)


def stochastic_gain(value: Tensor, context: Context) -> Tensor:
    """Dropout left on: a random gain of 1e-3."""
    return value * (1 + 1e-3 * torch.rand(len(value), 1, dtype=value.dtype, device=value.device))


def _mutating(seed: int) -> Subject:
    network = MutatesInputs(seed)
    return Subject(network, network.irreps_in, [network.irreps_out])


MUTANTS = (
    Mutant(
        "M35",
        "graphs",
        "neighbours truncated by index",
        network_with("graph", first_neighbours),
        precedent="pytorch_cluster#106, torchmd-net#21",
        found_by="node_permutation",
    ),
    Mutant(
        "M36",
        "graphs",
        "edge sign from the index order",
        network_with("vectors", sign_from_index),
        found_by="node_permutation",
    ),
    Mutant(
        "M37",
        "graphs",
        "features scaled by node index",
        network_with("mixed", index_weight),
        found_by="node_permutation",
    ),
    Mutant("M38", "graphs", "inputs changed in place", _mutating, found_by="input_mutation"),
    Mutant(
        "M39",
        "graphs",
        "stochastic gain of 1e-3",
        network_with("mixed", stochastic_gain),
        precedent="equidiff#9",
        found_by="determinism",
    ),
)
