"""Comparison with an earlier report: an error that still passes but has grown tenfold is a regression.

Errors below the noise floor of either run are taken as equal to it, so that round-off cannot raise an alarm.
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
BASELINE = "baseline"
COUNTS = ("dtype_leak", "input_mutation", "vacuity", "kill_matrix", BASELINE)


@dataclass(frozen=True)
class Growth:
    """One check in two reports.

    Args:
        name: name of the check.
        before: error in the baseline, not less than the noise floor.
        after: error now, not less than the noise floor.
    """

    name: str
    before: float
    after: float

    @property
    def factor(self) -> float:
        """How many times larger the error has become."""
        return self.after / self.before if self.before > 0 else math.inf

    def line(self) -> str:
        """One printed line."""
        return f"{self.name}: {self.before:.2e} -> {self.after:.2e} ({self.factor:.3g} times)"


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
        _errors(content, float(content["noise_floor"]["value"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"{path} is no whole report: expected a value in noise_floor, a name and an error in every check "
            f"({type(error).__name__}: {error}). Give the report.json of an earlier run"
        ) from error
    return content


def _errors(report: Mapping[str, Any], floor: float) -> dict[str, float]:
    """Name -> error of every check, raised to the floor."""
    return {
        c["name"]: max(float(c["error"]), floor) for c in report["checks"] if c["name"].split(": ")[-1] not in COUNTS
    }


def growths(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Growth]:
    """Checks that both reports have, the fastest growing first.

    Args:
        current: content of the new report.
        baseline: content of the old one.
    """
    floor = max(float(current["noise_floor"]["value"]), float(baseline["noise_floor"]["value"]))
    now, then = _errors(current, floor), _errors(baseline, floor)
    return sorted((Growth(name, then[name], now[name]) for name in now if name in then), key=lambda g: -g.factor)


def compare(current: Mapping[str, Any], baseline: Mapping[str, Any], limit: float = GROWTH) -> CheckResult:
    """The trend as a check: fails when an error has grown by more than the limit, or a check has disappeared.

    Args:
        current: content of the new report.
        baseline: content of the old one.
        limit: largest growth that passes.

    Returns:
        Check "baseline"; its error is the largest growth.
    """
    found = growths(current, baseline)
    names = {BASELINE} | {c["name"] for c in current["checks"]} | set(current.get("skipped", {}))
    lost = [c["name"] for c in baseline["checks"] if c["name"] not in names]
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
    parser = argparse.ArgumentParser(prog="python -m verify.trend", description="Compare two reports of the verifier.")
    parser.add_argument("current", type=Path, help="report.json of the new run")
    parser.add_argument("baseline", type=Path, help="report.json of the run to compare with")
    parser.add_argument("--limit", type=float, default=GROWTH, help="largest growth that passes (default 10)")
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
