"""Runs a grid: hands over what is not finished, collects records, reports failures; can be stopped at any moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.board import Board, State
from benchmarks.executors import Executor, Job
from benchmarks.ledger import Ledger
from benchmarks.plan import Run, train_arguments
from benchmarks.worker import GRACE_SECONDS, STOP_FILE, RunJob
from tracegrad.errors import ConfigError, TracegradError

TRAINER = (sys.executable, "-m", "tracegrad", "train")
LOG_LINES = 15  # of a failed run that are shown
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Failure:
    """A run that left no record.

    Args:
        run: the run.
        reason: what was expected and found.
        tail: last lines of its log.
    """

    run: Run
    reason: str
    tail: tuple[str, ...]

    def line(self) -> str:
        """One sentence with the last words of the log."""
        last = next((line for line in reversed(self.tail) if line and not line.startswith("#")), "the log is empty")
        return f"{self.run.name}: {self.reason} ({last})"


@dataclass
class Outcome:
    """What has become of a sweep so far, also where it is interrupted.

    Args:
        started: names of the runs that were handed over.
        failures: in the order in which they ended.
    """

    started: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def sweep(
    runs: Sequence[Run],
    ledger: Ledger,
    executor: Executor,
    board: Board,
    outcome: Outcome,
    *,
    environment: Sequence[tuple[str, str | None]] = (),
    trainer: Sequence[str] = TRAINER,
) -> None:
    """Finish every run that is not finished; a failed one does not stop the others.

    Args:
        runs: the runs; those with a record are not repeated.
        ledger: claimed output folder.
        executor: where the runs are executed.
        board: shows the states.
        outcome: is told of every start and failure.
        environment: variables of the trainings; None removes one.
        trainer: training command, to which the arguments of each run are appended.

    Raises:
        ConfigError: the first run was refused; when others have been taken it is a failure of that run.
        KeyboardInterrupt: after the running trainings were asked to stop; the same sweep can be resumed.
    """
    waiting: list[Run] = []
    for run in runs:
        if ledger.finished(run):
            board.update(run, State.KEPT, ledger.collected(run))
        else:
            waiting.append(run)
    active: dict[Run, Job] = {}
    try:
        while waiting or active:
            while waiting and len(active) < executor.slots:
                run = waiting.pop(0)
                board.update(run, State.RUNNING)
                arguments = train_arguments(run, ledger.conditions, ledger.training(run))
                training = RunJob((*trainer, *arguments), ledger.folder(run), tuple(environment))
                (ledger.folder(run) / STOP_FILE).unlink(missing_ok=True)
                try:
                    active[run] = executor.submit(training, run.name)
                except ConfigError as error:
                    if not outcome.started:
                        raise
                    board.update(run, State.FAILED)
                    outcome.failures.append(Failure(run, str(error), ()))
                outcome.started.append(run.name)
            ended = [run for run, job in active.items() if job.done()]
            for run in ended:
                del active[run]
                outcome.failures += _settle(run, ledger, board)
            if not ended:
                time.sleep(POLL_SECONDS)
    except BaseException:
        _stop(active, ledger)
        raise


def _stop(active: dict[Run, Job], ledger: Ledger) -> None:
    """Ask the trainings to stop, wait until they have, and take the others out of the queue."""
    for run in active:
        ledger.folder(run).mkdir(parents=True, exist_ok=True)
        (ledger.folder(run) / STOP_FILE).touch()
    limit = time.monotonic() + GRACE_SECONDS + 10 * POLL_SECONDS
    while time.monotonic() < limit and not all(job.done() for job in active.values()):
        time.sleep(POLL_SECONDS)
    for job in active.values():
        if not job.done():
            job.cancel()


def _settle(run: Run, ledger: Ledger, board: Board) -> list[Failure]:
    """Collect the record of a run that has ended, or say why there is none."""
    try:
        board.update(run, State.DONE, ledger.collect(run))
    except (TracegradError, ValueError, OSError) as error:  # whatever a training left, the others go on
        board.update(run, State.FAILED)
        return [Failure(run, str(error), log_tail(ledger, run))]
    return []


def log_tail(ledger: Ledger, run: Run, lines: int = LOG_LINES) -> tuple[str, ...]:
    """Last lines of a run's log; empty when there is none."""
    try:
        text = ledger.log(run).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(text.rstrip().splitlines()[-lines:])
