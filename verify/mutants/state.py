"""Faults that one state of a module hides (M46-M48): the other mode, a weight of zero, the first call; two controls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .activations import bias, on
from .kinds import Mutant, network_of
from .network import Context, Network

biased = on("1o", bias)


class EvaluationBias(Network):
    """Network with a bias on l = 1 that acts in evaluation mode only."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, {"hidden": self.act})

    def act(self, value: Tensor, context: Context) -> Tensor:
        """Biased features in evaluation mode."""
        return value if self.training else biased(value, context)


class ClosedBranch(Network):
    """Network with a biased branch, times a weight that is zero before training."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, {"hidden": self.act})
        self.opening = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def act(self, value: Tensor, context: Context) -> Tensor:
        """Features and the branch."""
        return value + self.opening * biased(value, context)


class ClosedSoundBranch(ClosedBranch):
    """The same with a branch that keeps the symmetry."""

    def act(self, value: Tensor, context: Context) -> Tensor:
        """Features and the branch."""
        return value + self.opening * value * value.square().mean(1, keepdim=True)


class FirstCallScale(Network):
    """Network that divides its features by their size at the first call."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, {"hidden": self.act})
        self.scale: Tensor | None = None

    def act(self, value: Tensor, context: Context) -> Tensor:
        """Scaled features."""
        if self.scale is None:
            self.scale = value.detach().square().mean().sqrt()
        return value / self.scale


class RunningScale(Network):
    """Network that divides by the size of its features in training mode, by a kept one in evaluation mode."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, {"hidden": self.act})
        self.kept: Tensor
        self.register_buffer("kept", torch.tensor(0.7, dtype=torch.float64))

    def act(self, value: Tensor, context: Context) -> Tensor:
        """Scaled features."""
        return value / (value.square().mean().sqrt() if self.training else self.kept)


MUTANTS = (
    Mutant("M46", "state", "bias on l=1 in evaluation mode only", network_of(EvaluationBias), found_by="modes"),
    Mutant("M47", "state", "biased branch behind a weight of zero", network_of(ClosedBranch), found_by="weights"),
    Mutant("M48", "state", "scale fixed by the first call", network_of(FirstCallScale), found_by="history"),
)

CONTROLS = (
    Mutant(
        "C15",
        "controls",
        "size of the features kept for evaluation mode",
        network_of(RunningScale),
        control=True,
    ),
    Mutant("C16", "controls", "sound branch behind a weight of zero", network_of(ClosedSoundBranch), control=True),
)
