"""Live table of a sweep: what waits, runs, is done or failed; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.plan import Run

VISIBLE_ROWS = 40  # longer sweeps show what runs or failed, and count the rest


class State(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    KEPT = "kept"  # finished by an earlier sweep
    FAILED = "failed"


STYLES = {State.RUNNING: "bold cyan", State.DONE: "green", State.KEPT: "dim green", State.FAILED: "bold red"}


@dataclass
class Entry:
    """One row of the board.

    Args:
        run: the run.
        state: where it stands.
        started: when it was handed over, s of the monotonic clock.
        record: its record once it is finished.
    """

    run: Run
    state: State = State.WAITING
    started: float = 0.0
    record: Mapping[str, Any] | None = None


class Board:
    """Shows the states of the runs.

    Args:
        runs: all runs, in their order.
        console: where to.
    """

    def __init__(self, runs: Sequence[Run], console: Console) -> None:
        self.entries = {run.name: Entry(run) for run in runs}
        self.console = console

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the table on the terminal while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self.table, console=self.console, refresh_per_second=2):
            yield

    def update(self, run: Run, state: State, record: Mapping[str, Any] | None = None) -> None:
        """Take note of a new state."""
        entry = self.entries[run.name]
        entry.state, entry.record = state, record
        if state is State.RUNNING:
            entry.started = time.monotonic()
        if not self.console.is_terminal:
            done = sum(e.state in (State.DONE, State.KEPT) for e in self.entries.values())
            text = " ".join(part for part in (f"{state:8}", run.name, _errors(record)) if part)
            self.console.print(f"[{done}/{len(self.entries)}] {text}", markup=False, highlight=False, soft_wrap=True)

    def table(self) -> Table:
        """Draw the table."""
        table = Table(title=self.summary(), title_justify="left")
        for name in ("data", "method", "seed", "state"):
            table.add_column(name, no_wrap=True)
        table.add_column("seconds", justify="right")
        table.add_column("MAE_all (meV)")
        entries = list(self.entries.values())
        if len(entries) > VISIBLE_ROWS:
            entries = [e for e in entries if e.state in (State.RUNNING, State.FAILED)][:VISIBLE_ROWS]
        for entry in entries:
            run, style = entry.run, STYLES.get(entry.state, "")
            cells = (run.dataset, run.label, str(run.seed), entry.state.value, _seconds(entry), _errors(entry.record))
            table.add_row(*cells, style=style)
        return table

    def summary(self) -> str:
        """Count the states in one line."""
        counts = {state: sum(e.state is state for e in self.entries.values()) for state in State}
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _seconds(entry: Entry) -> str:
    """Training time of a finished run, time since the start of a running one."""
    if entry.record is not None:
        return f"{entry.record['train_seconds']:.0f}"
    return f"{time.monotonic() - entry.started:.0f}" if entry.state is State.RUNNING else ""


def _errors(record: Mapping[str, Any] | None) -> str:
    """MAE_all of each subset."""
    if record is None:
        return ""
    return ", ".join(f"{name} {metrics['mae_all']:.3f}" for name, metrics in record["metrics"].items())
