"""Means over seeds and paired tests between settings.

Two questions, two samples. Whether a setting is better *on these trained networks* is answered by pairing the test
structures (each structure's error averaged over the seeds first). Whether it is better *when trained again* is answered
by pairing seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tracegrad.errors import DataError


@dataclass(frozen=True)
class Summary:
    """Values of one quantity over seeds.

    Args:
        values: one number per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1 in the denominator), None for one value."""
        if len(self.values) < 2:
            return None
        return float(np.std(self.values, ddof=1))


def relative_change(value: float, baseline: float) -> float | None:
    """Change against the baseline as a fraction; negative is better.

    Args:
        value: error of a setting, meV.
        baseline: error of the baseline, meV.

    Returns:
        (value - baseline) / baseline, or None when the baseline is zero.
    """
    return (value - baseline) / baseline if baseline else None


@dataclass(frozen=True)
class PairedTest:
    """Two-sided paired comparison of two settings.

    Args:
        first: label of the first setting.
        second: label of the second setting.
        over: what is paired: ``"test structures"`` or ``"seeds"``.
        n: number of pairs.
        mean_difference: mean of first - second, meV; negative: the first is better.
        t: Student's t of the differences, None for fewer than two pairs.
        p_t: its two-sided p-value.
        wilcoxon: Wilcoxon's signed-rank statistic (the smaller rank sum), None for fewer than two pairs.
        p_wilcoxon: its two-sided p-value.
    """

    first: str
    second: str
    over: str
    n: int
    mean_difference: float
    t: float | None
    p_t: float | None
    wilcoxon: float | None
    p_wilcoxon: float | None


def paired_test(
    first: Mapping[str, float], second: Mapping[str, float], names: tuple[str, str], over: str = "test structures"
) -> PairedTest:
    """Test whether two settings differ, pairing what they have in common.

    Args:
        first: error of the first setting by key (structure or seed), meV.
        second: error of the second setting by the same keys, meV.
        names: labels of the two settings.
        over: what the keys are.

    Returns:
        Student's and Wilcoxon's paired tests.

    Raises:
        DataError: the keys differ or there are none.
    """
    if not first or set(first) != set(second):
        only = sorted(map(str, set(first) ^ set(second)))
        raise DataError(
            f"paired test of {names[0]} and {names[1]}: expected the same {over} on both sides, found "
            f"{len(first)} and {len(second)}, unpaired: {', '.join(only) or 'none'}"
        )
    differences = np.array([first[key] - second[key] for key in sorted(first)])
    t, p_t = _student(differences)
    w, p_w = _wilcoxon(differences)
    return PairedTest(*names, over, len(differences), float(differences.mean()), t, p_t, w, p_w)


def _student(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    """Student's one-sample t of paired differences, written out so that equal differences need no special warning."""
    n = len(differences)
    if n < 2:
        return None, None
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0.0:
        return (0.0, 1.0) if mean == 0.0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / (spread / math.sqrt(n))
    return t, float(2.0 * stats.t.sf(abs(t), n - 1))


def _wilcoxon(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    """Wilcoxon's signed-rank test; pairs without a difference are dropped."""
    if len(differences) < 2:
        return None, None
    if not differences.any():
        return 0.0, 1.0
    result = stats.wilcoxon(differences[differences != 0.0])
    return float(result.statistic), float(result.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values of one family for their number (Holm 1979, step-down).

    Args:
        p_values: two-sided p-values; None where there was no test.

    Returns:
        adjusted p-values in the same order.
    """
    ordered = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p))
        adjusted[index] = running
    return adjusted
