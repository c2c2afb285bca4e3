"""SARIF 2.1.0: the schema of the standard, stable names, and the source line of the module that broke."""

from __future__ import annotations

import functools
import inspect
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from verify import verify_equivariance
from verify.reporting import to_sarif
from verify.reporting.sarif import artifact
from verify.result import CheckResult, ModuleError, NoiseFloor, Report, Verdict

STRUCTURE = json.loads((Path(__file__).parent / "sarif-2.1.0-structure.json").read_text())
"""Names, types and limits of the standard's JSON schema, for the objects of a report; the rest of a run is open."""

CODE_SCANNING = {
    "type": "object",
    "required": ["ruleId", "message", "locations", "partialFingerprints", "level"],
    "properties": {
        "ruleId": {"type": "string", "pattern": "^equivariance/[a-z0-9_]+$"},
        "locations": {"minItems": 1},
        "partialFingerprints": {"minProperties": 1},
    },
}
"""What code scanning needs of a result besides the standard."""


@pytest.fixture
def report(root) -> Report:
    module = ModuleError(
        "gate", "Gate", "1o", "1o", 0.2, 1e-14, 0.2, str(root / "verify" / "mutants" / "network.py"), 41
    )
    checks = [
        CheckResult("rotation", Verdict.STRUCTURAL, 0.25, 1e-14, "64 of 64 trials fail", 64),
        CheckResult("dtype_leak", Verdict.PRECISION, 1.0, 0.0, "inside: to_copy", 1),
        CheckResult("vacuity", Verdict.PASS, 0.0, 0.0, "", 1),
    ]
    floor = NoiseFloor({"homomorphism": 1e-16}, {"homomorphism": 1e-14})
    return Report("my.model", checks, floor, modules=[module])


def run_of(report, root):
    content = json.loads(to_sarif(report, root))
    jsonschema.validate(content, STRUCTURE, cls=jsonschema.Draft4Validator)
    for result in content["runs"][0]["results"]:
        jsonschema.validate(result, CODE_SCANNING)
    return content["runs"][0]


def test_failures_become_results_with_rule_and_level(report, root):
    run = run_of(report, root)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("equivariance/rotation", "error"),
        ("equivariance/dtype_leak", "warning"),
    ]
    assert all(rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"])


def test_results_point_at_the_source_line_of_the_broken_module(report, root):
    place = run_of(report, root)["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "verify/mutants/network.py", "uriBaseId": "%SRCROOT%"}
    assert place["region"]["startLine"] == 41


def test_without_a_module_the_place_is_the_target_or_the_page(report, root):
    bare = replace(report, modules=[])
    assert run_of(bare, root)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == (
        "docs/verification.md"
    )
    sourced = replace(bare, settings={"source_file": str(root / "verify" / "api.py"), "source_line": 7})
    place = run_of(sourced, root)["results"][0]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("verify/api.py", 7)


def broken(x):
    """A plain function, found at its own line."""
    return x + 0.1


@pytest.mark.parametrize("func", [broken, functools.partial(broken)])
def test_failure_of_a_plain_function_points_at_its_source(root, func):
    done = verify_equivariance(func, ["1x1o"], ["1x1o"], trials=4, search=0, checks=["rotation"], diagnose=False)
    place = run_of(done, root)["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("tests/verify/test_sarif.py")
    assert place["region"]["startLine"] == inspect.getsourcelines(broken)[1]


def test_function_without_a_source_points_at_the_page(root):
    done = verify_equivariance(torch.tanh, ["1x1o"], ["1x1o"], trials=4, search=0, checks=["rotation"], diagnose=False)
    place = run_of(done, root)["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "docs/verification.md"


def test_a_figure_is_named_by_its_unit_and_only_where_it_is_too_large(report, root):
    checks = [
        CheckResult("rotation", Verdict.VACUOUS, 0.0, 0.0, "every output block is zero", 8),
        CheckResult("budget", Verdict.STRUCTURAL, 1.43, 0.5, "", 8, details={"unit": "meV"}),
        CheckResult("inversion", Verdict.STRUCTURAL, 0.25, 1e-14, "", 8),
    ]
    results = run_of(replace(report, checks=checks, modules=[]), root)["results"]
    texts = {text.split(":")[0]: text for text in (result["message"]["text"] for result in results)}
    assert "above" not in texts["rotation"]
    assert "error 1.43e+00 above the tolerance 5.00e-01 meV" in texts["budget"]
    assert "relative" not in texts["budget"]
    assert "relative error 2.50e-01 above the tolerance 1.00e-14" in texts["inversion"]


def test_fingerprints_do_not_depend_on_figures_or_lines(report, root):
    first = run_of(report, root)["results"]
    moved = [replace(report.modules[0], source_line=99, local_error=0.5)]
    checks = [replace(report.checks[0], error=0.31, message="61 of 64 trials fail"), *report.checks[1:]]
    second = run_of(replace(report, modules=moved, checks=checks), root)["results"]
    assert [r["partialFingerprints"] for r in first] == [r["partialFingerprints"] for r in second]


def test_fingerprints_tell_findings_apart(report, root):
    results = run_of(report, root)["results"] + run_of(replace(report, target="other"), root)["results"]
    renamed = replace(report, modules=[replace(report.modules[0], name="other")])
    results += run_of(renamed, root)["results"]
    prints = [tuple(r["partialFingerprints"].values()) for r in results]
    assert len(set(prints)) == len(prints)


def test_noisy_harness_is_a_result_of_its_own(report, root):
    noisy = replace(report, noise_floor=NoiseFloor({"homomorphism": 1.0}, {"homomorphism": 1e-14}), checks=[])
    run = run_of(noisy, root)
    assert [r["ruleId"] for r in run["results"]] == ["equivariance/self_check"]
    assert run["invocations"][0]["exitCode"] == 4


def test_files_outside_the_checkout_keep_an_absolute_uri(root):
    assert artifact("/somewhere/else.py", root) == {"uri": "file:///somewhere/else.py"}
    assert artifact("relative/file.py", root) == {"uri": "relative/file.py", "uriBaseId": "%SRCROOT%"}
    assert artifact(str(Path(root) / "a b.py"), root)["uri"] == "a%20b.py"


def _place(content):
    return content["runs"][0]["results"][0]["locations"][0]["physicalLocation"]


VIOLATIONS = {
    "version": lambda c: c.update(version="2.0.0"),
    "no runs": lambda c: c.pop("runs"),
    "no tool": lambda c: c["runs"][0].pop("tool"),
    "no name": lambda c: c["runs"][0]["tool"]["driver"].pop("name"),
    "no message": lambda c: c["runs"][0]["results"][0].pop("message"),
    "level": lambda c: c["runs"][0]["results"][0].update(level="fatal"),
    "kind": lambda c: c["runs"][0]["results"][0].update(kind="failed"),
    "unknown property of a result": lambda c: c["runs"][0]["results"][0].update(severity=1),
    "unknown property of a run": lambda c: c["runs"][0].update(result=[]),
    "line": lambda c: _place(c)["region"].update(startLine=0),
    "place without an artifact": lambda c: _place(c).pop("artifactLocation") and _place(c).pop("region"),
    "fingerprint that is no text": lambda c: c["runs"][0]["results"][0].update(partialFingerprints={"a": 1}),
    "invocation": lambda c: c["runs"][0]["invocations"][0].pop("executionSuccessful"),
    "two rules alike": lambda c: c["runs"][0]["tool"]["driver"]["rules"].append(
        c["runs"][0]["tool"]["driver"]["rules"][0]
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_structure_refuses_what_the_standard_forbids(report, root, name):
    content = json.loads(to_sarif(report, root))
    VIOLATIONS[name](content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, STRUCTURE, cls=jsonschema.Draft4Validator)


def test_report_of_a_real_failure_and_of_a_pass_keep_to_the_standard(root):
    for func, found in ((lambda x: x + 0.1, True), (lambda x: 2 * x, False)):
        done = verify_equivariance(func, ["1x1o"], ["1x1o"], trials=4, search=0)
        assert bool(run_of(done, root)["results"]) is found
