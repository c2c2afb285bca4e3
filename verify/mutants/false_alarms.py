"""How often a sound control is flagged: seeded runs of all controls, and a bound on the rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..trial_statistics import breaking_measure_bound
from .catalogue import CONTROLS
from .matrix import kill_matrix


@dataclass(frozen=True)
class Alarms:
    """Count of control runs and of those that were flagged.

    Args:
        runs: control runs.
        alarms: "key seed: checks" of the flagged ones.
    """

    runs: int
    alarms: tuple[str, ...]

    def line(self) -> str:
        """One printed line with the bound at 95 % confidence."""
        bound = breaking_measure_bound(len(self.alarms), self.runs)
        text = f"{len(self.alarms)} false alarms in {self.runs} control runs"
        text += f" (at 95 % confidence at most {100 * bound:.2g} % of runs)"
        return "; ".join([text, *self.alarms])


def count_false_alarms(
    runs: int, *, seed: int = 0, workers: int = 1, progress: Callable[[str], None] | None = None
) -> Alarms:
    """Verify controls with one seed after another until there are enough runs.

    Args:
        runs: number of control runs, at least 1.
        seed: first seed; weights, inputs and rotations all follow from it.
        workers: processes.
        progress: gets one line per seed.

    Returns:
        The count.
    """
    keys = [control.key for control in CONTROLS]
    done, alarms, current = 0, [], seed
    while done < runs:
        chosen = keys[: runs - done]
        matrix = kill_matrix(chosen, seed=current, workers=workers)
        done += len(chosen)
        alarms += [f"{o.key} seed {current}: {', '.join(o.checks)} {o.error:.1e}" for o in matrix.flagged]
        if progress is not None:
            progress(f"{done} runs, {len(alarms)} alarms {alarms[-1] if matrix.flagged else ''}".rstrip())
        current += 1
    return Alarms(done, tuple(alarms))
