"""States to resume from: complete, written atomically, read without running any code from them."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from tracegrad.atomic import atomic_write
from tracegrad.errors import ConfigError
from tracegrad.training.callbacks import agree
from tracegrad.training.checkpoint import read_tensors

RESUME_FILE = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's states as files that are old or new but never partial, read with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to a temporary file, flush it to the disk, rename it."""
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data; anything else in the file is refused."""
        return read_tensors(Path(path))


class ResumeState(Callback):
    """Save the run every so many seconds, on SIGINT and SIGTERM, and at its end.

    Args:
        folder: of the run.
        seconds: between two states.
        data: hash of the split that the run is trained on; a state of another one is refused.
        device: that the run computes on from here, in words; the record names every one that it had.
    """

    def __init__(self, folder: Path, seconds: float, data: str, device: str) -> None:
        self.path = folder / RESUME_FILE
        self.seconds = seconds
        self.data = data
        self.devices = [device]
        self.interrupted = False
        self.saved = time.monotonic()
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Turn the first SIGINT or SIGTERM into a request to save and stop."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.handlers[number] = signal.signal(number, self._request_stop)
            except ValueError:  # not in the main thread: the caller handles signals
                return

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ask for a stop after this step; a second signal stops at once."""
        self.interrupted = True
        self._give_handlers_back()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, when asked to stop, and after the last step."""
        self.interrupted = agree(trainer, self.interrupted)
        if agree(trainer, time.monotonic() - self.saved >= self.seconds) or self.interrupted or trainer.should_stop:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()
        if self.interrupted:
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Give the signals back."""
        self._give_handlers_back()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_handlers_back()

    def _give_handlers_back(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states, the hash of the data and the devices so far."""
        checkpoint["random_states"] = random_states()
        checkpoint["split_sha256"] = self.data
        checkpoint["devices"] = self.devices

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the random states and the devices so far back.

        Raises:
            ConfigError: the names of the structures, or their subsets, are not those that the run began with.
        """
        begun = checkpoint.get("split_sha256", self.data)  # states of earlier versions lack it
        if begun != self.data:
            raise ConfigError(
                f"{self.path}: the run began with the split {begun}, found {self.data}; bring the data back, or give "
                "another --out"
            )
        before = list(checkpoint.get("devices", ()))
        self.devices = before if before[-1:] == self.devices else before + self.devices
        set_random_states(checkpoint["random_states"])


def random_states() -> dict[str, Any]:
    """States of the generators of torch, numpy and Python, as tensors and plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Continue all generators from ``random_states``."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
