"""What a verification leaves behind: verdicts, one record per check, and the report.

Plain data only: every field is a number, a string, or a list/dict of those, so that a report survives JSON unchanged.
Sources of the bands and codes: the tolerance policy in ``docs/verification.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum, StrEnum
from typing import Any

SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """Outcome of one check or of a whole report; ``exit_code`` is what a command returns for it."""

    PASS = "PASS"
    SUSPECT = "SUSPECT"
    PRECISION = "PRECISION"
    VACUOUS = "VACUOUS"
    STRUCTURAL = "STRUCTURAL"
    HARNESS_NOISE = "HARNESS_NOISE"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 broken, 2 suspect or precision, 3 vacuous, 4 harness noise too high."""
        return _EXIT_CODES[self]

    @property
    def severity(self) -> int:
        """Rank in the order PASS < SUSPECT < PRECISION < VACUOUS < STRUCTURAL < HARNESS_NOISE."""
        return list(Verdict).index(self)

    def __str__(self) -> str:
        return self.value


_EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.STRUCTURAL: 1,
    Verdict.SUSPECT: 2,
    Verdict.PRECISION: 2,
    Verdict.VACUOUS: 3,
    Verdict.HARNESS_NOISE: 4,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Most severe of the verdicts; PASS when there is none."""
    return max(verdicts, key=lambda v: v.severity, default=Verdict.PASS)


@dataclass(frozen=True)
class BlockError:
    """Error of one irrep block of one output, the worst over the trials of a check.

    Args:
        output: name or index of the output, such as ``"output 0"`` or ``"edge_irreps"``.
        block: position of the block in the output's irreps.
        irrep: ``"4x1o"``; ``"cartesian_points"`` or ``"invariant"`` for outputs without irreps.
        error: RMS(f(gx) - D f(x)) / scale, dimensionless.
        peak: largest absolute component of the difference over scale, dimensionless.
        scale: larger RMS of the two sides, in the output's unit.
        jitter: relative change of the block under a 1-ulp change of the inputs.
        tolerance: largest error that passes.
        trial: index of the worst trial.
        zero: True where the block is zero up to round-off on every trial (not judged).
    """

    output: str
    block: int
    irrep: str
    error: float
    peak: float
    scale: float
    jitter: float
    tolerance: float
    trial: int = 0
    zero: bool = False

    @property
    def ratio(self) -> float:
        """Error over tolerance: above 1 the block fails."""
        return self.error / self.tolerance if self.tolerance > 0 else math.inf


@dataclass(frozen=True)
class Counterexample:
    """Smallest input and group element found that show the failure, with the code that replays it.

    Args:
        code: Python source that reproduces the error, given the tested function under the name ``func``.
        example: the same case as a hypothesis ``@example(...)`` line.
        error: relative error of the case.
        rows: number of rows (points) left in the inputs.
        live_irreps: irreps of the inputs that are not zero.
        quaternion: integer or real quaternion (w, x, y, z) of the rotation.
        inversion: True when the rotation is followed by the inversion.
        translation: shift of the points, Å.
        calls: evaluations of the function spent on shrinking.
    """

    code: str
    example: str
    error: float
    rows: int
    live_irreps: list[str]
    quaternion: list[float]
    inversion: bool
    translation: list[float]
    calls: int


@dataclass(frozen=True)
class CheckResult:
    """One check with its verdict.

    Args:
        name: check name, such as ``"rotation"``.
        verdict: PASS, SUSPECT, PRECISION, STRUCTURAL, VACUOUS.
        error: worst relative error (of the block with the largest error / tolerance).
        tolerance: tolerance of that block.
        message: one sentence for people.
        trials: evaluations that entered the error.
        blocks: per-block table; empty for checks without blocks.
        counterexample: shrunk case, or None.
        details: further figures (plain data).
    """

    name: str
    verdict: Verdict
    error: float
    tolerance: float
    message: str = ""
    trials: int = 0
    blocks: list[BlockError] = field(default_factory=list)
    counterexample: Counterexample | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def margin(self) -> float:
        """Tolerance over error: above 1 the check passes, inf for an exact zero, 0 for NaN."""
        if math.isnan(self.error):
            return 0.0
        return self.tolerance / self.error if self.error > 0 else math.inf

    @property
    def passed(self) -> bool:
        """True for PASS only."""
        return self.verdict is Verdict.PASS

    def line(self) -> str:
        """One printed line: name, verdict, error, tolerance, margin, trials, message."""
        figures = f"error {self.error:9.2e}  tolerance {self.tolerance:9.2e}  margin {self.margin:9.3g}"
        text = f"{self.name:<20} {self.verdict:<10} {figures}  n={self.trials}"
        return f"{text}  {self.message}" if self.message else text


@dataclass(frozen=True)
class ModuleError:
    """Error of one module tested alone on its recorded input, and of the whole model up to it.

    Args:
        name: dotted name inside the model.
        kind: class name.
        irreps_in: declared irreps, joined by " , ".
        irreps_out: declared irreps.
        local_error: relative error of the module alone.
        tolerance: noise of the module alone, times 25, or the static term.
        cumulative_error: relative error of the module's output when the model's input is transformed.
        source_file: file of the class.
        source_line: line of the class.
        leak: irrep content of the output that the declared irreps do not allow.
        example: how a broken output looks ("a 1o output contains 0e"), empty when clean.
    """

    name: str
    kind: str
    irreps_in: str
    irreps_out: str
    local_error: float
    tolerance: float
    cumulative_error: float
    source_file: str = ""
    source_line: int = 0
    leak: dict[str, float] = field(default_factory=dict)
    example: str = ""

    @property
    def ratio(self) -> float:
        """Local error over tolerance: above 1 the module breaks the symmetry by itself."""
        return self.local_error / self.tolerance if self.tolerance > 0 else math.inf


@dataclass(frozen=True)
class NoiseFloor:
    """Self-check of the instruments: measured residuals, their limits, and the verdict of the harness.

    Args:
        residuals: name -> largest residual, dimensionless.
        limits: name -> largest residual that is accepted.
    """

    residuals: dict[str, float]
    limits: dict[str, float]

    @property
    def value(self) -> float:
        """Largest residual: the printed noise floor."""
        return max(self.residuals.values(), default=0.0)

    @property
    def ok(self) -> bool:
        """True when every residual is at most its limit (NaN is not)."""
        return all(self.residuals[name] <= self.limits[name] for name in self.residuals)

    def line(self) -> str:
        """One printed line."""
        parts = ", ".join(f"{name} {value:.1e}" for name, value in self.residuals.items())
        return f"noise floor {self.value:.1e} ({parts})"


@dataclass(frozen=True)
class Report:
    """Everything one verification found.

    Args:
        target: name of what was verified.
        checks: one record per check that ran.
        noise_floor: self-check of the instruments.
        environment: versions, dtypes, seeds, flags.
        skipped: check name -> why it does not apply.
        modules: localisation table in the order of execution; empty when nothing failed.
        statistics: name -> figures of the clean i.i.d. trials (rule of three).
        settings: seed, trials, dtype and others that repeat the run.
    """

    target: str
    checks: list[CheckResult]
    noise_floor: NoiseFloor
    environment: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    modules: list[ModuleError] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """HARNESS_NOISE when the self-check failed, VACUOUS when no check ran, else the worst verdict."""
        if not self.noise_floor.ok:
            return Verdict.HARNESS_NOISE
        if not self.checks:
            return Verdict.VACUOUS
        return worst(check.verdict for check in self.checks)

    @property
    def passed(self) -> bool:
        """True when the verdict is PASS."""
        return self.verdict is Verdict.PASS

    @property
    def exit_code(self) -> int:
        """Exit code of a command that made this report."""
        return self.verdict.exit_code

    @property
    def failures(self) -> list[CheckResult]:
        """Checks that did not pass, worst first."""
        return sorted((c for c in self.checks if not c.passed), key=lambda c: -c.verdict.severity)

    @property
    def culprit(self) -> ModuleError | None:
        """First module whose own error leaves its noise, children before parents."""
        return next((m for m in self.modules if m.ratio > 1), None)

    def check(self, name: str) -> CheckResult:
        """The check of that name; KeyError with the names there are."""
        for item in self.checks:
            if item.name == name:
                return item
        raise KeyError(f"no check {name!r} in this report; there are {[c.name for c in self.checks]}")

    @property
    def sentence(self) -> str:
        """Verdict and exit code; of an approximate model that passes, within which budget, and that it is not exact."""
        names = {check.name for check in self.checks}
        limit = self.settings.get("budget_mev")
        within = limit is not None and self.passed and "budget" in names and "rotation" not in names
        approximate = f", approximate model within {limit:g} meV, not exact" if within else ""
        return f"{self.verdict} (exit code {self.exit_code}{approximate})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data with ``schema_version``; non-finite numbers become the strings "inf", "-inf", "nan"."""
        body = {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "verdict": self.verdict.value,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "noise_floor": {**asdict(self.noise_floor), "value": self.noise_floor.value, "ok": self.noise_floor.ok},
            "checks": [{**asdict(c), "verdict": c.verdict.value, "margin": c.margin} for c in self.checks],
            "skipped": self.skipped,
            "modules": [{**asdict(m), "ratio": m.ratio} for m in self.modules],
            "statistics": self.statistics,
            "environment": self.environment,
            "settings": self.settings,
        }
        plain = _plain(body)
        assert isinstance(plain, dict)
        return plain

    def to_json(self, indent: int | None = 2) -> str:
        """The same as a JSON string (RFC 8259: no NaN, no Infinity)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_text(self) -> str:
        """What a terminal shows: noise floor, one line per check, culprit, counterexamples, verdict."""
        lines = [f"target: {self.target}", self.noise_floor.line()]
        lines += [check.line() for check in self.checks]
        lines += [f"{name:<20} skipped    {reason}" for name, reason in self.skipped.items()]
        bound = self.statistics.get("rule_of_three")
        if bound:
            lines.append(str(bound))
        culprit = self.culprit
        if culprit is not None:
            where = f"{culprit.source_file}:{culprit.source_line}" if culprit.source_file else culprit.kind
            lines.append(f"first broken module: {culprit.name} ({culprit.kind}, {where}) {culprit.example}".rstrip())
        for check in self.checks:
            if check.counterexample is not None:
                lines += [f"--- counterexample for {check.name}:", check.counterexample.code.rstrip()]
        lines.append(f"verdict: {self.sentence}")
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """Markdown job summary."""
        from .reporting import to_markdown

        return str(to_markdown(self))

    def to_junit(self) -> str:
        """JUnit XML."""
        from .reporting import to_junit

        return str(to_junit(self))

    def to_sarif(self) -> str:
        """SARIF 2.1.0 JSON."""
        from .reporting import to_sarif

        return str(to_sarif(self))

    def __str__(self) -> str:
        return self.to_text()


def _plain(value: Any) -> Any:
    """Value with enums, tuples and non-finite floats made fit for JSON."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float) or hasattr(value, "__float__"):
        number = float(value)
        if math.isnan(number):
            return "nan"
        return number if math.isfinite(number) else ("inf" if number > 0 else "-inf")
    return str(value)
