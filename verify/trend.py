"""Comparison with an earlier report: an error that still passes but has grown tenfold is a regression.

Errors are measured in tolerances, each in that of its own run, since a tolerance knows the round-off of its check and
inputs. Below a hundredth of a tolerance, or below the noise floor of either run, errors are taken as equal, so that
round-off cannot raise an alarm. A check of tolerance 0 passes with the error 0 alone: any other error is infinite in
tolerances, and has grown unless it was there before. What has no limit, such as an error in meV without a budget, is
compared in its own unit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.errors import TracegradError, VerificationError

from .result import CheckResult, Report, Verdict

GROWTH = 10.0
LEAST = 0.01  # in tolerances; other seeds and other weights move sound errors of this size by more than tenfold
BASELINE = "baseline"
COUNTS = ("dtype_leak", "input_mutation", "vacuity", "kill_matrix", BASELINE)


@dataclass(frozen=True)
class Growth:
    """One check in two reports.

    Args:
        name: name of the check.
        before: error in the baseline, in tolerances, not less than `LEAST`.
        after: error now, in tolerances, not less than `LEAST`.
        errors: both errors as the reports have them.
    """

    name: str
    before: float
    after: float
    errors: tuple[float, float]

    @property
    def factor(self) -> float:
        """How many times larger the error has become; what is infinite in both has not grown."""
        return 1.0 if self.before == self.after == math.inf else self.after / self.before

    def line(self) -> str:
        """One printed line."""
        sizes = f"{self.before:.2g} -> {self.after:.2g} tolerances, {self.factor:.3g} times"
        return f"{self.name}: {self.errors[0]:.2e} -> {self.errors[1]:.2e} ({sizes})"


def load_report(path: Path) -> dict[str, Any]:
    """Report written by ``Report.to_json``.

    Args:
        path: the JSON file.

    Returns:
        Its content.

    Raises:
        VerificationError: it cannot be read or is no report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(
            f"cannot read the report {path}: {error}. Give the report.json of an earlier run"
        ) from error
    if not isinstance(content, dict) or not {"schema_version", "checks", "noise_floor"} <= set(content):
        raise VerificationError(f"{path} is no report: expected the fields schema_version, checks and noise_floor")
    try:
        growths(content, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"{path} is no whole report: expected a value in noise_floor, and in every check a name, an error and a "
            f"tolerance ({type(error).__name__}: {error}). Give the report.json of an earlier run"
        ) from error
    return content


def _compared(report: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Name -> error and tolerance of every check whose error is no count."""
    return {
        c["name"]: (float(c["error"]), float(c["tolerance"]))
        for c in report["checks"]
        if c["name"].split(": ")[-1] not in COUNTS
    }


def _growth(name: str, then: tuple[float, float], now: tuple[float, float], floor: float) -> Growth:
    """Growth of one check.

    Args:
        name: name of the check.
        then: error and tolerance in the baseline.
        now: error and tolerance in the new report.
        floor: noise floor, in the unit of the errors.
    """
    limited = math.isfinite(then[1]) and math.isfinite(now[1])
    sizes = []
    for error, tolerance in (then, now):
        unit = tolerance if limited else 1.0
        if unit > 0:
            sizes.append(max(error / unit, LEAST, floor / unit))
        else:
            sizes.append(LEAST if error == 0 else math.inf)
    return Growth(name, sizes[0], sizes[1], (then[0], now[0]))


def growths(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Growth]:
    """Checks that both reports have, the fastest growing first.

    Args:
        current: content of the new report.
        baseline: content of the old one.
    """
    floor = max(float(current["noise_floor"]["value"]), float(baseline["noise_floor"]["value"]))
    now, then = _compared(current), _compared(baseline)
    found = [_growth(name, then[name], now[name], floor) for name in now if name in then]
    return sorted(found, key=lambda growth: -growth.factor)


def compare(current: Mapping[str, Any], baseline: Mapping[str, Any], limit: float = GROWTH) -> CheckResult:
    """The trend as a check: fails when an error has grown by more than the limit, or a check is no longer made.

    Args:
        current: content of the new report.
        baseline: content of the old one.
        limit: largest growth that passes.

    Returns:
        Check "baseline"; its error is the largest growth, a factor between errors in tolerances.
    """
    found = growths(current, baseline)
    names = {BASELINE} | {c["name"] for c in current["checks"]}
    skipped = current.get("skipped", {})
    lost = [
        f"{c['name']} ({skipped[c['name']]})" if c["name"] in skipped else c["name"]
        for c in baseline["checks"]
        if c["name"] not in names
    ]
    grown = [growth for growth in found if not growth.factor <= limit]
    largest = found[0].factor if found else 0.0
    details = {"grown": [g.line() for g in grown], "lost": lost, "compared": len(found)}
    if grown or lost:
        message = "; ".join([*(g.line() for g in grown[:5]), *(f"no longer checked: {name}" for name in lost[:5])])
        return CheckResult(BASELINE, Verdict.STRUCTURAL, largest, limit, message, len(found), details=details)
    if not found:
        return CheckResult(
            BASELINE, Verdict.VACUOUS, 0.0, limit, "the reports have no check in common", 0, details=details
        )
    return CheckResult(
        BASELINE, Verdict.PASS, largest, limit, f"no error has grown {limit:g} times", len(found), details=details
    )


def compare_report(report: Report, baseline: Path, limit: float = GROWTH) -> CheckResult:
    """`compare` for a report in memory and a baseline on disk."""
    return compare(report.to_dict(), load_report(baseline), limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m verify.trend NEW OLD [--limit 10]``; exit code 0, 1 grown, 2 bad input, 3 nothing in common."""
    name = f"python -m {__package__}.trend"
    parser = argparse.ArgumentParser(prog=name, description="Compare two reports of the verifier.")
    parser.add_argument("current", type=Path, help="report.json of the new run")
    parser.add_argument("baseline", type=Path, help="report.json of the run to compare with")
    parser.add_argument("--limit", type=float, default=GROWTH, help="largest growth that passes, a factor (10)")
    options = parser.parse_args(arguments)
    try:
        result = compare(load_report(options.current), load_report(options.baseline), options.limit)
    except TracegradError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(result.line() + "\n")
    return result.verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
