"""How often a sound control is flagged: seeded runs of all controls, and a bound on the rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tracegrad.errors import VerificationError

from ..trial_statistics import breaking_measure_bound
from ..workers import in_order
from .catalogue import CONTROLS
from .matrix import run_entry


@dataclass(frozen=True)
class ControlRun:
    """One control verified with one seed.

    Args:
        key: key of the control.
        seed: seed of its weights, of the inputs and of the verifier.
        flagged: whether it was taken for a fault.
        checks: names of the checks that did not pass.
        margin: smallest tolerance / error of its checks.
    """

    key: str
    seed: int
    flagged: bool
    checks: tuple[str, ...]
    margin: float


@dataclass(frozen=True)
class Alarms:
    """All control runs of one count.

    Args:
        runs: the runs, in the order of their seeds.
    """

    runs: tuple[ControlRun, ...]

    @property
    def flagged(self) -> tuple[ControlRun, ...]:
        """Runs that were taken for faults."""
        return tuple(run for run in self.runs if run.flagged)

    def line(self) -> str:
        """One printed line with the bound at 95 % confidence, the run nearest to a flag, and the flagged runs."""
        bound = breaking_measure_bound(len(self.flagged), len(self.runs))
        text = f"{len(self.flagged)} false alarms in {len(self.runs)} control runs"
        text += f" (at 95 % confidence at most {100 * bound:.2g} % of runs)"
        nearest = min(self.runs, key=lambda run: run.margin)
        text += f"; smallest margin {nearest.margin:.3g} ({nearest.key} seed {nearest.seed})"
        return "; ".join([text, *(f"{run.key} seed {run.seed}: {', '.join(run.checks)}" for run in self.flagged)])


def count_false_alarms(
    runs: int,
    *,
    seed: int = 0,
    workers: int = 1,
    record: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Alarms:
    """Verify controls with one seed after another until there are enough runs.

    Args:
        runs: number of control runs, at least 1.
        seed: first seed; weights, inputs and rotations all follow from it.
        workers: processes.
        record: file with one JSON line per run; runs that it already holds are not made again, new ones are added.
        progress: gets one line per run.

    Returns:
        The count.

    Raises:
        VerificationError: ``runs`` is not positive, or the record cannot be understood.
    """
    if runs < 1:
        raise VerificationError(f"runs is {runs}, expected a positive number")
    keys = [control.key for control in CONTROLS]
    wanted = [(keys[index % len(keys)], seed + index // len(keys)) for index in range(runs)]
    done = _read(record) if record is not None else {}
    missing = [pair for pair in wanted if pair not in done]
    for run in in_order(control_run, missing, workers):
        done[run.key, run.seed] = run
        if record is not None:
            with record.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
        if progress is not None:
            state = "FLAGGED " + ", ".join(run.checks) if run.flagged else "clear"
            progress(f"{run.key:<4} seed {run.seed:<4} margin {run.margin:8.3g}  {state}")
    return Alarms(tuple(done[pair] for pair in wanted))


def _read(record: Path) -> dict[tuple[str, int], ControlRun]:
    """Runs of a record; a last line that was cut off is dropped from the file."""
    if not record.exists():
        return {}
    text = record.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        record.write_text(whole, encoding="utf-8")
    found = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            run = ControlRun(**{**row, "checks": tuple(row["checks"])})
        except (ValueError, TypeError, KeyError) as error:
            raise VerificationError(f"{record}, line {number}: expected one run of this command per line") from error
        found[run.key, run.seed] = run
    return found


def control_run(pair: tuple[str, int]) -> ControlRun:
    """Verify one control with one seed, all checks.

    Args:
        pair: key and seed.
    """
    key, seed = pair
    outcome = run_entry(key, seed)
    return ControlRun(key, seed, outcome.killed, outcome.checks, outcome.margin)
