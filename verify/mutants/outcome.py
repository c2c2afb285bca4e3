"""The kill matrix: what the verifier said about every entry of the catalogue. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..result import CheckResult


@dataclass(frozen=True)
class Outcome:
    """What the verifier said about one fault or control.

    Args:
        key: name in the catalogue.
        family: family of the catalogue.
        title: what was done.
        control: True for a sound variant.
        verdict: verdict of the report.
        checks: names of the checks that did not pass, worst first.
        error: largest finite relative error among them; when all passed, that of the check nearest to its tolerance.
        expected: check that was expected to find it.
        killed: True when a fault was found, or a control was flagged.
        seconds: wall time.
        precedent: where the fault happened before.
        margin: smallest tolerance / error of all checks that have a tolerance.
        verdicts: check -> verdict, for the picture.
    """

    key: str
    family: str
    title: str
    control: bool
    verdict: str
    checks: tuple[str, ...]
    error: float
    expected: str
    killed: bool
    seconds: float
    precedent: str = ""
    margin: float = math.inf
    verdicts: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """One printed line."""
        state = ("FLAGGED" if self.killed else "clear") if self.control else ("killed" if self.killed else "MISSED")
        found = ", ".join(self.checks) or "-"
        return f"{self.key:<5} {state:<8} {self.verdict:<11} {self.error:8.1e}  {self.title} [{found}]"


@dataclass(frozen=True)
class KillMatrix:
    """All outcomes of one run.

    Args:
        outcomes: in the order of the catalogue.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def faults(self) -> tuple[Outcome, ...]:
        """Planted faults."""
        return tuple(o for o in self.outcomes if not o.control)

    @property
    def controls(self) -> tuple[Outcome, ...]:
        """Sound variants."""
        return tuple(o for o in self.outcomes if o.control)

    @property
    def missed(self) -> tuple[Outcome, ...]:
        """Faults that were not found."""
        return tuple(o for o in self.faults if not o.killed)

    @property
    def flagged(self) -> tuple[Outcome, ...]:
        """Controls that were flagged."""
        return tuple(o for o in self.controls if o.killed)

    @property
    def passed(self) -> bool:
        """True when every fault was found and no control was flagged."""
        return bool(self.outcomes) and not self.missed and not self.flagged

    def tally(self) -> str:
        """One sentence of figures."""
        killed = len(self.faults) - len(self.missed)
        found = f"{killed} of {len(self.faults)} faults killed"
        return f"{found}, {len(self.flagged)} of {len(self.controls)} controls flagged"


def matrix_of(check: CheckResult) -> KillMatrix:
    """Kill matrix kept in the details of a check.

    Args:
        check: a check with ``details["outcomes"]``.
    """
    rows = check.details["outcomes"]
    return KillMatrix(tuple(Outcome(**{**row, "checks": tuple(row["checks"])}) for row in rows))
