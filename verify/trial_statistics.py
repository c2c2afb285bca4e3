"""What clean i.i.d. trials prove, and what they do not."""

from __future__ import annotations

from typing import Any

from .result import CheckResult, Verdict

CONFIDENCE = 0.95


def breaking_measure_bound(failures: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound on the fraction of (input, rotation) pairs that break the symmetry (Clopper-Pearson, one-sided).

    Without failures this is 1 - (1 - confidence)^(1/n), the exact form of the rule of three (3 / n).

    Args:
        failures: failed trials.
        trials: independent trials, >= 1.
        confidence: one-sided confidence.

    Returns:
        Bound in [0, 1].
    """
    if failures >= trials:
        return 1.0
    if failures == 0:
        return float(1.0 - (1.0 - confidence) ** (1.0 / trials))
    from scipy.stats import beta

    return float(beta.ppf(confidence, failures + 1, trials - failures))


def trial_statistics(rotation: CheckResult, fixed_input: bool) -> dict[str, Any]:
    """Figures of the Haar trials: failures, bound, and the sentence that is printed.

    Args:
        rotation: the rotation check (chosen cases of the search never enter).
        fixed_input: True when all trials share one given input.

    Returns:
        Plain data with the key ``rule_of_three`` for people; empty where no trial was judged (nothing but zeros, NaN,
        or an exception).
    """
    if rotation.verdict is Verdict.VACUOUS or "failed_trials" not in rotation.details:
        return {}
    failures, n = int(rotation.details["failed_trials"]), rotation.trials
    bound = breaking_measure_bound(failures, n)
    what = "rotations of the given input" if fixed_input else "pairs of input and rotation"
    sentence = f"{failures} of {n} Haar trials fail: at 95 % confidence at most {100 * bound:.2g} % of all {what}"
    sentence += " break the symmetry"
    if failures == 0:
        sentence += f" (rule of three: 3/{n} = {300 / n:.2g} %)"
    return {"trials": n, "failures": failures, "breaking_measure_95": bound, "rule_of_three": sentence}
