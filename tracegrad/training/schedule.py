"""Learning rate over a run, and the budget that ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tracegrad.config import TrainingConfig

ONE_CYCLE_RISE = 0.3  # part of the run in which the rate rises, and the first rate as a fraction of the largest:
ONE_CYCLE_FIRST = 0.04  # the defaults of Smith and Topin, arXiv:1708.07120, as torch.optim has them


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many steps or seconds, whichever comes first; 0 means no such limit.

    Args:
        steps: optimiser steps.
        seconds: wall time of training, summed over all parts of a resumed run.
    """

    steps: int
    seconds: float

    @classmethod
    def from_config(cls, config: TrainingConfig, steps_per_epoch: int) -> Budget:
        """The smaller of ``epochs`` and ``max_steps``, and ``max_seconds``."""
        limits = [limit for limit in (config.epochs * steps_per_epoch, config.max_steps) if limit]
        return cls(min(limits, default=0), config.max_seconds)

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the budget that is spent, 0 to 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(max(by_steps, by_time), 1.0)


@dataclass
class RateSchedule:
    """Learning rate of every step: warm-up × schedule × decays by the validation loss.

    Args:
        config: rate, schedule and their numbers.
        steps_per_epoch: steps in a pass over the training set.
    """

    config: TrainingConfig
    steps_per_epoch: int
    factor: float = 1.0
    smoothed: float = math.nan
    best: float = math.inf
    bad_epochs: int = 0
    cooling_epochs: int = 0
    _state: tuple[str, ...] = field(default=("factor", "smoothed", "best", "bad_epochs", "cooling_epochs"), repr=False)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate of the step (counted from 0) at that fraction of the budget."""
        config = self.config
        warmup = min((step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
        return config.learning_rate * self.factor * warmup * self._shape(step, progress)

    def _shape(self, step: int, progress: float) -> float:
        config = self.config
        if config.schedule == "slippery_slope":
            return slippery_slope(step // self.steps_per_epoch, config.start, config.interval, config.decay)
        if config.schedule == "cosine":
            return cosine(progress, 1.0, config.final_rate)
        if config.schedule == "one_cycle":
            return one_cycle(progress, config.final_rate)
        return 1.0

    def observe(self, loss: float, epochs: int) -> None:
        """Tell the schedule the validation loss after `epochs` more epochs; only ``plateau`` reacts.

        The loss is smoothed exponentially; a decay follows when it has not improved for ``patience`` epochs, and none
        during ``cooldown`` epochs after that (DeepH-E3, arXiv:2210.13955, and its published runs).
        """
        if self.config.schedule != "plateau":
            return
        newest = 1.0 - (1.0 - self.config.smoothing) ** epochs
        self.smoothed = loss if math.isnan(self.smoothed) else (1.0 - newest) * self.smoothed + newest * loss
        if self.cooling_epochs > 0:
            self.cooling_epochs -= epochs
            self.bad_epochs = 0
        elif self.smoothed >= self.best * (1.0 - self.config.threshold):
            self.bad_epochs += epochs
        if self.smoothed < self.best * (1.0 - self.config.threshold):
            self.best, self.bad_epochs = self.smoothed, 0
        if self.bad_epochs > self.config.patience:
            self.decay(self.config.decay)
            self.cooling_epochs, self.bad_epochs = self.config.cooldown, 0

    def decay(self, factor: float) -> None:
        """Multiply all later rates."""
        self.factor *= factor

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers to continue from."""
        return {name: getattr(self, name) for name in self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the numbers of ``state_dict``."""
        for name in self._state:
            setattr(self, name, state[name])


def slippery_slope(epoch: int, start: int, interval: int, decay: float) -> float:
    """decay^k with k = 0 before `start`, then one more every `interval` epochs (release of DeepH-E3)."""
    return float(decay ** (1 + (epoch - start) // interval)) if epoch >= start else 1.0


def cosine(progress: float, first: float, last: float) -> float:
    """Half a cosine from `first` to `last` over the progress 0 to 1."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def one_cycle(progress: float, last: float) -> float:
    """Rise to 1 over the first 30 % of the run, then fall to `last`, both along a cosine (arXiv:1708.07120)."""
    if progress < ONE_CYCLE_RISE:
        return cosine(progress / ONE_CYCLE_RISE, ONE_CYCLE_FIRST, 1.0)
    return cosine((progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE), 1.0, last)
