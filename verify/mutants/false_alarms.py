"""How often a sound control is flagged: seeded runs of all controls, and a bound on the rate."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from ..trial_statistics import breaking_measure_bound
from .catalogue import CONTROLS
from .matrix import kill_matrix
from .outcome import KillMatrix


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
        workers: processes; each takes one seed at a time.
        progress: gets one line per seed.

    Returns:
        The count.
    """
    keys = [control.key for control in CONTROLS]
    seeds = range(seed, seed - (-runs // len(keys)))
    shares = [keys[: runs - index * len(keys)] for index in range(len(seeds))]
    done, alarms = 0, []
    for current, matrix in zip(seeds, _matrices(shares, seeds, workers), strict=True):
        done += len(matrix.outcomes)
        alarms += [f"{o.key} seed {current}: {', '.join(o.checks)} {o.error:.1e}" for o in matrix.flagged]
        if progress is not None:
            progress(f"{done} runs, {len(alarms)} alarms {alarms[-1] if matrix.flagged else ''}".rstrip())
    return Alarms(done, tuple(alarms))


def _matrices(shares: list[list[str]], seeds: range, workers: int) -> Iterator[KillMatrix]:
    """Kill matrix of the controls of every seed, in order."""
    if workers <= 1:
        yield from map(_of_seed, shares, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_of_seed, shares, seeds)


def _of_seed(keys: list[str], seed: int) -> KillMatrix:
    return kill_matrix(keys, seed=seed)
