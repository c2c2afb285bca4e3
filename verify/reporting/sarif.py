"""SARIF 2.1.0 of a report: one result per check that failed, at the source line of the module that broke."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..result import CheckResult, ModuleError, Report, Verdict
from .rules import DOCUMENT, Rule, rule_of

SCHEMA = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/main/sarif-2.1/schema/sarif-schema-2.1.0.json"
MAX_RESULTS = 1000
FINGERPRINT = "equivariance/v1"


def _location(report: Report, module: ModuleError | None, root: Path) -> dict[str, Any]:
    """Where to look: the module's class, else the target's own source, else the page on verification."""
    file, line, logical = DOCUMENT, 1, report.target
    if module is not None and module.source_file:
        file, line, logical = module.source_file, module.source_line, f"{report.target}.{module.name}"
    elif report.settings.get("source_file"):
        file, line = str(report.settings["source_file"]), int(report.settings.get("source_line", 1))
    return {
        "physicalLocation": {"artifactLocation": artifact(file, root), "region": {"startLine": max(1, line)}},
        "logicalLocations": [{"fullyQualifiedName": logical, "kind": "module"}],
    }


def artifact(file: str, root: Path) -> dict[str, str]:
    """Relative to the checkout when the file lies in it, else an absolute file URI."""
    path = Path(file)
    if not path.is_absolute():
        return {"uri": quote(path.as_posix()), "uriBaseId": "%SRCROOT%"}
    if path.resolve().is_relative_to(root):
        return {"uri": quote(path.resolve().relative_to(root).as_posix()), "uriBaseId": "%SRCROOT%"}
    return {"uri": path.as_uri()}


def fingerprint(*parts: str) -> str:
    """Digest of what identifies a finding from run to run: names only, no figures, no lines."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _result(
    report: Report, check: CheckResult, module: ModuleError | None, rule: Rule, index: int, root: Path
) -> dict[str, Any]:
    text = f"{check.name}: {check.verdict}."
    if check.error > check.tolerance:
        unit = str(check.details.get("unit", ""))
        figures = f"{check.error:.2e} above the tolerance {check.tolerance:.2e}"
        text = f"{check.name}: {check.verdict}, {'error' if unit else 'relative error'} {figures} {unit}".rstrip() + "."
    if check.message:
        text += f" {check.message}."
    if module is not None:
        text += (
            f" First broken module: {module.name} ({module.kind}), own error {module.local_error:.2e}. {module.example}"
        )
    level = "warning" if check.verdict in (Verdict.SUSPECT, Verdict.PRECISION) else "error"
    names = (report.target, check.name, module.name if module else "")
    return {
        "ruleId": rule.identifier,
        "ruleIndex": index,
        "level": level,
        "kind": "fail",
        "message": {"text": text.strip()},
        "locations": [_location(report, module, root)],
        "partialFingerprints": {FINGERPRINT: fingerprint(rule.identifier, *names)},
        "properties": {
            "verdict": check.verdict.value,
            "error": f"{check.error:.6e}",
            "tolerance": f"{check.tolerance:.6e}",
        },
    }


def _noise_result(report: Report) -> CheckResult:
    floor = report.noise_floor
    worst = max(floor.residuals, key=lambda name: floor.residuals[name] / floor.limits[name])
    return CheckResult(
        "self_check", Verdict.HARNESS_NOISE, floor.residuals[worst], floor.limits[worst], f"residual of {worst}"
    )


def to_sarif(report: Report, root: Path | None = None) -> str:
    """Report as SARIF 2.1.0.

    Args:
        report: the report.
        root: root of the checkout, to which paths are relative; the current folder by default.

    Returns:
        JSON with one run; no result when everything passed. Rule names and fingerprints stay the same from run to run.
    """
    base = (root or Path.cwd()).resolve()
    failures = list(report.failures)
    if not report.noise_floor.ok:
        failures.insert(0, _noise_result(report))
    rules: dict[str, Rule] = {}
    for check in [*report.checks, *failures]:
        rules.setdefault(rule_of(check.name).identifier, rule_of(check.name))
    order = {identifier: index for index, identifier in enumerate(rules)}
    results = [
        _result(report, check, report.culprit, rule_of(check.name), order[rule_of(check.name).identifier], base)
        for check in failures[:MAX_RESULTS]
    ]
    driver = {
        "name": "tracegrad-verify",
        "version": str(report.environment.get("tracegrad", "0")),
        "informationUri": "https://arxiv.org/abs/2405.05722",
        "rules": [_rule(rule) for rule in rules.values()],
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"equivariance/{report.target}/"},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "root of the checkout"}}},
        "invocations": [{"executionSuccessful": report.noise_floor.ok, "exitCode": report.exit_code}],
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.identifier,
        "name": "".join(part.capitalize() for part in rule.identifier.split("/")[-1].split("_")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.help},
        "help": {"text": f"{rule.help} See {DOCUMENT}.", "markdown": f"{rule.help} See `{DOCUMENT}`."},
        "defaultConfiguration": {"level": "error"},
    }
