"""What happens around the steps: rate, mean of the weights, validation, return after a blow-up, end of the budget."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch_geometric.data import Data

from tracegrad.atomic import atomic_write
from tracegrad.config import TrainingConfig
from tracegrad.data import Structure
from tracegrad.training.guard import Snapshot, TrainingError, WeightAverage
from tracegrad.training.module import TrainingModule
from tracegrad.training.schedule import Budget, RateSchedule
from tracegrad.training.validation import squared_error, validation_mae

HISTORY_FILE = "history.csv"
HISTORY_FIELDS = ("step", "epoch", "seconds", "rate", "train_loss", "train_trace", "val_loss", "val_mae", "event")
HISTORY_SECONDS = 5.0  # between two versions of the file
VALIDATION_SHARE = 0.05  # of the time, when ``validate_every`` is 0
STEP_OVER_FORWARD = 3.0  # a training step costs about three forward passes
NEVER = 2**62  # a step that no run reaches


def validation_interval(config: TrainingConfig, num_train: int, num_val: int) -> int:
    """Epochs between two validations."""
    automatic = math.ceil(num_val / (STEP_OVER_FORWARD * num_train * VALIDATION_SHARE))
    return config.validate_every or max(1, automatic)


@dataclass(frozen=True)
class ValidationSet:
    """Structures that choose the weights, never trained on.

    Args:
        graphs: with targets.
        structures: the same, for MAE_all; empty where it is not measured.
    """

    graphs: Sequence[Data]
    structures: Sequence[Structure] = field(default=())


class Supervisor(Callback):
    """Drives one run.

    Every step: learning rate, mean of the weights, a note where the loss is not finite (on a GPU it is looked at only
    where losses are logged). Every few epochs: validation loss with the mean of the weights, a snapshot if it is the
    best one, a return to the best one if the loss has stayed above ``revert_ratio`` × best for ``revert_epochs``
    epochs. At the end of the budget: a last validation and a stop.

    Args:
        config: numbers of all that.
        budget: end of the run.
        schedule: learning rate.
        average: mean of the weights.
        validation: validation set.
        interval: epochs between two validations.
        folder: for ``history.csv``.

    Attributes:
        best: weights to go back to.
        held: step and validation loss of the weights that were last validated or gone back to; at the end of a run
            those of its weights.
        first_bad: first step since the last return whose loss was not finite, on the device of the loss.
    """

    def __init__(
        self,
        config: TrainingConfig,
        budget: Budget,
        schedule: RateSchedule,
        average: WeightAverage,
        validation: ValidationSet,
        interval: int,
        folder: Path,
    ) -> None:
        self.config = config
        self.budget = budget
        self.schedule = schedule
        self.average = average
        self.validation = validation
        self.interval = interval
        self.folder = folder
        self.best: Snapshot | None = None
        self.held = (0, math.inf)
        self.first_bad = torch.tensor(NEVER)
        self.history: list[dict[str, Any]] = []
        self.blown_epochs = 0
        self.nan_reverts = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.written = -math.inf

    @property
    def seconds(self) -> float:
        """Wall time of training so far, in all parts of the run."""
        return self.seconds_before + time.monotonic() - self.started

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Start the clock; stop at once if a resumed run was complete."""
        self.started = time.monotonic()
        if self.best is None:
            self.best = Snapshot(pl_module.model, self.average, trainer.optimizers[0], math.inf, 0)
        trainer.should_stop = self.budget.progress(trainer.global_step, self.seconds) >= 1.0

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule, batch: Data, batch_idx: int
    ) -> None:
        """Set the learning rate of the step."""
        pl_module.progress = self.budget.progress(trainer.global_step, self.seconds)
        rate = self.schedule.rate(trainer.global_step, pl_module.progress)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, pl_module: TrainingModule, outputs: Any, batch: Data, batch_idx: int
    ) -> None:
        """Look after the step that was made."""
        step = trainer.global_step
        done = agree(trainer, self.budget.progress(step, self.seconds) >= 1.0)
        self.average.update()
        self._note_loss(pl_module, step)
        validate = step % (self.interval * self.schedule.steps_per_epoch) == 0 or done
        log = validate or step % self.config.log_every == 0
        bad = self._first_bad_step(trainer) if log or reads_at_once(batch) else NEVER
        if bad < NEVER:
            self._return_after_nan(trainer, pl_module, bad)
        elif log:
            self._record(trainer, pl_module, step, validate)
        trainer.should_stop = trainer.should_stop or done

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the whole learning curve."""
        if trainer.is_global_zero:
            write_history(self.folder / HISTORY_FILE, self.history)

    def _note_loss(self, module: TrainingModule, step: int) -> None:
        """Note the step where its loss is not finite, without waiting for the device."""
        assert module.terms is not None
        total = module.terms.total.detach()
        self.first_bad = torch.minimum(self.first_bad.to(total.device), torch.where(total.isfinite(), NEVER, step))

    def _first_bad_step(self, trainer: lightning.Trainer) -> int:
        """First step with a loss that was not finite in any process of the run."""
        if trainer.world_size == 1:
            return int(self.first_bad)
        return int(trainer.strategy.reduce(self.first_bad, reduce_op="min"))

    def _record(self, trainer: lightning.Trainer, module: TrainingModule, step: int, validate: bool) -> None:
        """Write the losses to the loggers, after a validation where one is due."""
        assert module.terms is not None
        row: dict[str, Any] = {
            "step": step,
            "epoch": step / self.schedule.steps_per_epoch,
            "rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": float(module.terms.hamiltonian.detach()),
        }
        if module.terms.trace is not None:
            row["train_trace"] = float(module.terms.trace.detach())
        if validate:
            row.update(self._validate(trainer, module))
            row.update(self._judge(trainer, module, row["val_loss"], step))
        row["seconds"] = self.seconds
        self.history.append(row)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)
        if validate and trainer.is_global_zero and time.monotonic() - self.written >= HISTORY_SECONDS:
            write_history(self.folder / HISTORY_FILE, self.history)
            self.written = time.monotonic()

    def _validate(self, trainer: lightning.Trainer, module: TrainingModule) -> dict[str, float]:
        """Validation loss in eV², and MAE_all in meV if asked for, with the mean of the weights."""
        module.model.eval()
        graphs = self.validation.graphs[trainer.global_rank :: trainer.world_size]
        with self.average.applied():
            sums = torch.tensor(
                squared_error(module.model, graphs, module.loss.reverse), dtype=torch.float64, device=module.device
            )
            squared, elements = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
            result = {"val_loss": squared / elements}
            if self.validation.structures:
                result["val_mae"] = validation_mae(module.model, self.validation.graphs, self.validation.structures)
        module.model.train()
        return result

    def _judge(self, trainer: lightning.Trainer, module: TrainingModule, loss: float, step: int) -> dict[str, str]:
        """Keep the best weights, or go back to them when the loss has been far above for long enough."""
        assert self.best is not None
        self.held = (step, loss)
        self.schedule.observe(loss, self.interval)
        if loss < self.best.loss:
            self.best = Snapshot(module.model, self.average, trainer.optimizers[0], loss, step)
        if not math.isfinite(loss):
            self._count_return(f"the validation loss is not a finite number at step {step}")
            self._return_to_best(trainer, module)
            return {"event": f"validation loss not finite; returned to step {self.best.step}"}
        blown = self.config.revert_ratio > 0 and not loss <= self.config.revert_ratio * self.best.loss
        self.blown_epochs = self.blown_epochs + self.interval if blown else 0
        if self.blown_epochs < self.config.revert_epochs:
            return {}
        self._return_to_best(trainer, module)
        return {"event": f"returned to step {self.best.step}"}

    def _return_to_best(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        assert self.best is not None
        self.best.restore(module.model, self.average, trainer.optimizers[0])
        self.schedule.decay(self.config.revert_decay)
        self.held = (self.best.step, self.best.loss)
        self.first_bad = torch.full_like(self.first_bad, NEVER)
        self.blown_epochs = 0

    def _return_after_nan(self, trainer: lightning.Trainer, module: TrainingModule, bad: int) -> None:
        """Go back to the best weights, a few times; then stop and name the batch of the first bad step."""
        assert self.best is not None
        batches, step = module.batches, trainer.global_step
        names = ", ".join(name for k in batches.order.joint(bad - 1) for name in batches.graphs[k].names)
        self._count_return(f"the loss is not a finite number at step {bad}, batch: {names}")
        self._return_to_best(trainer, module)
        event = f"loss not finite on {names}; returned to step {self.best.step}"
        row = {"step": step, "epoch": step / self.schedule.steps_per_epoch, "seconds": self.seconds, "event": event}
        self.history.append(row)

    def _count_return(self, reason: str) -> None:
        """Count the returns after numbers that are not finite.

        Raises:
            TrainingError: there were too many.
        """
        assert self.best is not None
        self.nan_reverts += 1
        if self.nan_reverts > self.config.max_nan_reverts:
            raise TrainingError(
                f"{reason}, after {self.nan_reverts - 1} returns to the best weights (step {self.best.step}, "
                f"validation loss {self.best.loss:.3e} eV^2); lower training.learning_rate, set training.clip, or "
                "check that structure"
            )

    def take_best(self, model: nn.Module) -> None:
        """Put the best weights in place of those of the last step."""
        assert self.best is not None
        self.best.restore_weights(model)
        self.average.load_state_dict(self.best.average)
        self.held = (self.best.step, self.best.loss)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the weights and the optimiser."""
        return {
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict(),
            "best": None if self.best is None else self.best.state_dict(),
            "held": self.held,
            "history": list(self.history),
            "blown_epochs": self.blown_epochs,
            "nan_reverts": self.nan_reverts,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])
        self.best = Snapshot.from_state_dict(state["best"])
        self.held = state.get("held", self.held)  # states of earlier versions lack it
        self.history = list(state["history"])
        self.blown_epochs = int(state["blown_epochs"])
        self.nan_reverts = int(state["nan_reverts"])
        self.seconds_before = float(state["seconds"])


def reads_at_once(batch: Data) -> bool:
    """Whether numbers of the step can be read at no cost: on a GPU every look waits for it."""
    return not batch.edge_vectors.is_cuda


def agree(trainer: lightning.Trainer, flag: bool) -> bool:
    """Whether the flag is set in any process of the run."""
    if trainer.world_size == 1:
        return flag
    return bool(trainer.strategy.reduce_boolean_decision(flag, all=False))


def write_history(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the learning curve as CSV; losses in eV², MAE in meV, seconds of wall time."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HISTORY_FIELDS, restval="")
        writer.writeheader()
        writer.writerows(rows)
