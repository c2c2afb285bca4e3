"""Weights to go back to, the running mean of the weights, and the error that stops a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracegrad.errors import TracegradError


class TrainingError(TracegradError):
    """Training cannot go on: the loss is not a number, or the budget is used up."""


class WeightAverage:
    """Exponential mean of the trained weights, w̄ ← d w̄ + (1 - d) w with d = min(decay, (1 + t) / (10 + t)).

    The smaller d of the first steps t forgets the random start.

    Args:
        model: network whose weights are averaged.
        decay: 0 switches the mean off: the mean is then the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.weights] if decay else []
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a new step into the mean."""
        self.steps += 1
        if self.mean:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.mean, self.weights, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network use the mean within the block; no data are copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for k, mean in enumerate(self.mean):
            weight = self.weights[k]
            self.mean[k], weight.data = weight.data, mean

    def state_dict(self) -> dict[str, Any]:
        """The mean and the number of steps in it."""
        return {"steps": self.steps, "mean": list(self.mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the numbers of ``state_dict``."""
        self.steps = int(state["steps"])
        for mean, saved in zip(self.mean, state["mean"], strict=True):
            mean.copy_(saved)


class Snapshot:
    """A copy of weights, their mean and the optimiser, to go back to.

    Args:
        model: network.
        average: mean of its weights.
        optimizer: its optimiser.
        loss: validation loss that belongs to it, eV².
        step: step it was taken after.
    """

    def __init__(
        self, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, loss: float, step: int
    ) -> None:
        self.loss = loss
        self.step = step
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.average = _copied(average.state_dict())
        self.optimizer = _copied(optimizer.state_dict())

    def restore(self, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer) -> None:
        """Put everything back as it was."""
        self.restore_weights(model)
        average.load_state_dict(self.average)
        optimizer.load_state_dict(_copied(self.optimizer))

    @torch.no_grad()
    def restore_weights(self, model: nn.Module) -> None:
        """Put the weights back."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Snapshot:
        """The snapshot that ``state_dict`` came from."""
        snapshot = cls.__new__(cls)
        vars(snapshot).update(state)
        return snapshot


def _copied(value: Any) -> Any:
    """Copy of nested dictionaries, lists and tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
