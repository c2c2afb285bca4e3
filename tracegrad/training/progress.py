"""Progress of a run: a bar with the remaining time, or a line now and then where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tracegrad.training.callbacks import Supervisor

LINE_SECONDS = 30.0  # between two lines where there is no terminal
BAR_SECONDS = 0.2  # between two updates of the bar


class ProgressDisplay(Callback):
    """Show how far the run is, the last validation loss and the learning rate, on standard error.

    Args:
        supervisor: of the run, asked for the state.
        title: what is trained.
        notes: sentences for the user, shown once before the first step.
    """

    def __init__(self, supervisor: Supervisor, title: str, notes: Sequence[str] = ()) -> None:
        self.supervisor = supervisor
        self.title = title
        self.notes = tuple(notes)
        self.console = Console(stderr=True, markup=False, emoji=False)
        self.shown = 0.0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=1.0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the notes, then open the bar."""
        if trainer.is_global_zero:
            for note in self.notes:
                self.console.print(note, highlight=False, markup=False, soft_wrap=True)
        if trainer.is_global_zero and self.console.is_terminal:
            self.bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the display, not more often than it can be read."""
        wait = BAR_SECONDS if self.console.is_terminal else LINE_SECONDS
        if trainer.is_global_zero and (time.monotonic() - self.shown >= wait or trainer.should_stop):
            self.shown = time.monotonic()
            done = self.supervisor.budget.progress(trainer.global_step, self.supervisor.seconds)
            text = f"{self.title}  {self.describe(trainer.global_step)}"
            self.bar.update(self.task, completed=done, description=text)
            if not self.console.is_terminal:
                seconds = self.supervisor.seconds
                left = f", {seconds * (1 - done) / done:.0f} s to go" if done else ""
                line = f"{text}  {100 * done:.0f} %  {seconds:.0f} s{left}"
                self.console.print(line, highlight=False, soft_wrap=True)

    def describe(self, step: int) -> str:
        """Step, last validation loss as a root mean square in meV, and rate."""
        last = next((row for row in reversed(self.supervisor.history) if "val_loss" in row), None)
        if last is None:
            return f"step {step}"
        mae = f"  MAE {last['val_mae']:.2f} meV" if "val_mae" in last else ""
        return f"step {step}  val rms {1000 * last['val_loss'] ** 0.5:.2f} meV{mae}  rate {last['rate']:.1e}"

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self.bar.live.is_started:
            self.bar.stop()
