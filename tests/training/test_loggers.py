"""What a run shows and logs: the loggers hold the numbers of history.csv, and the display names the remaining time."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tracegrad.cli.predict import chunk_display
from tracegrad.config import Config
from tracegrad.data import Dataset
from tracegrad.errors import ConfigError
from tracegrad.training import progress, train

Tiny = Callable[..., Config]


class Recorder(Logger):
    """Stands for the logger of Weights & Biases, which needs an account."""

    made: list[Recorder]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options, self.rows = options, []
        self.made.append(self)

    name = version = "recorder"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self.rows.append((step, metrics))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Nothing to keep."""


def history(folder: Path, column: str) -> dict[int, float]:
    """Return the rows of one column of history.csv that hold a number."""
    with (folder / "history.csv").open(newline="") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


def test_tensorboard_holds_the_numbers_of_the_history(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    train(tiny(training={"loggers": ["tensorboard"]}), tmp_path / "run", quiet=True, dataset=dataset)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for column in ("train_loss", "val_loss", "rate"):
        logged = {event.step: event.value for event in events.Scalars(column)}
        assert logged == pytest.approx(history(tmp_path / "run", column), rel=1e-6)
        assert len(logged) >= 3
    train(tiny(), tmp_path / "without", quiet=True, dataset=dataset)
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_weights_and_biases_gets_the_configuration_and_the_numbers(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder.made = []
    monkeypatch.setattr("tracegrad.training.run.WandbLogger", Recorder)
    config = tiny(training={"loggers": ["wandb"]})
    train(config, tmp_path / "run", quiet=True, dataset=dataset)
    (logger,) = Recorder.made
    assert logger.options["config"] == config.to_dict()
    assert logger.options["save_dir"] == str(tmp_path / "run")
    logged = {step: row["val_loss"] for step, row in logger.rows if "val_loss" in row}
    assert logged == pytest.approx(history(tmp_path / "run", "val_loss"), rel=1e-9)
    train(tiny(), tmp_path / "without", quiet=True, dataset=dataset)
    assert len(Recorder.made) == 1


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_weights_and_biases_is_asked_for_where_it_is_missing(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install wandb"):
        train(tiny(training={"loggers": ["wandb"]}), tmp_path / "run", quiet=True, dataset=dataset)
    train(tiny(training={"epochs": 1}), tmp_path / "run", quiet=True, dataset=dataset)  # the folder is still free


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_shows_how_far_it_is(
    terminal: bool, tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens: list[Console] = []

    def screen(**options: Any) -> Console:
        screens.append(Console(force_terminal=terminal, width=160, record=True, file=io.StringIO()))
        return screens[-1]

    monkeypatch.setattr(progress, "Console", screen)
    for name in ("LINE_SECONDS", "BAR_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)
    train(tiny(), tmp_path / "run", dataset=dataset)
    text = screens[0].export_text()
    assert "toy DeepHE3+TraceGrad seed 42  step 12  val rms " in text
    assert ("ETA" in text) == terminal  # without one a line now and then says the same in per cent
    assert terminal or "100 %" in text
    train(tiny(), tmp_path / "quiet", quiet=True, dataset=dataset)
    assert len(screens) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_prediction_shows_how_far_it_is(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracegrad.cli.predict.LINE_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    for hidden in (False, True):
        with chunk_display("twisted [110] [/] :smile:", hidden) as show:
            for done in range(1, 4):
                show(done, 3)
        text = capsys.readouterr().err
        assert ("3 of 3 chunks" in text) == ("twisted [110] [/] :smile:" in text) == (not hidden)
        assert ("ETA" in text) == (terminal and not hidden)
