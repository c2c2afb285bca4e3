"""Reports in every form hold what was found, are valid, and say nothing twice."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import jsonschema
import pytest

from verify.mutants.outcome import KillMatrix, Outcome
from verify.reporting import kill_matrix_markdown, schema, to_html, to_junit, to_markdown, to_sarif, write_reports
from verify.reporting.pictures import (
    error_against_depth,
    error_against_layers,
    error_per_irrep,
    kill_matrix,
    save,
)
from verify.reporting.rules import rule_of
from verify.result import BlockError, CheckResult, Counterexample, ModuleError, NoiseFloor, Report, Verdict

FLOOR = NoiseFloor({"homomorphism": 3e-16, "double cover": 1e-16}, {"homomorphism": 1e-14, "double cover": 1e-14})


@pytest.fixture
def passing() -> Report:
    block = BlockError("output 0", 0, "4x1o", 2e-15, 6e-15, 0.7, 1e-15, 3e-14)
    checks = [
        CheckResult("rotation", Verdict.PASS, 2e-15, 3e-14, "", 64, [block]),
        CheckResult("determinism", Verdict.PASS, 0.0, 0.0, "", 4),
    ]
    return Report("layer", checks, FLOOR, {"torch": "2.13"}, {"translation": "no points"}, settings={"seed": 0})


@pytest.fixture
def failing(passing, root) -> Report:
    bad = BlockError("output 0", 1, "2x2e", 0.3, 0.9, 0.7, 1e-15, 3e-14)
    shrunk = Counterexample(
        "func(x)  # <1 | 2> & more", "@example(q=(0, 0, 1, 0))", 0.3, 1, ["1x1o"], [0, 0, 1, 0], False, [0, 0, 0], 300
    )
    module = ModuleError(
        "layers.0.gate", "Gate", "4x1o", "4x1o", 0.2, 1e-14, 0.2, str(root / "verify" / "result.py"), 12,
        {"0e": 0.1}, "a 1o output contains 0e",
    )  # fmt: skip
    sound = replace(module, name="embed", local_error=1e-16, cumulative_error=1e-16)
    checks = [
        *passing.checks,
        CheckResult("inversion", Verdict.STRUCTURAL, 0.3, 3e-14, "a | b < c", 16, [bad], shrunk),
        CheckResult("gradient", Verdict.PRECISION, 1e-7, 1e-13, "", 4),
        CheckResult("vacuity", Verdict.VACUOUS, math.inf, 0.0, "not \x07 finite", 4),
    ]
    return replace(passing, checks=checks, modules=[sound, module])


@pytest.fixture
def noisy(passing) -> Report:
    return replace(passing, noise_floor=NoiseFloor({"homomorphism": 1e-3}, {"homomorphism": 1e-14}))


@pytest.fixture
def outcomes() -> KillMatrix:
    common = {"family": "f", "seconds": 0.1, "verdicts": {"rotation": "STRUCTURAL", "search": "PASS"}}
    return KillMatrix(
        (
            Outcome("M1", title="SiLU | vectors", control=False, verdict="STRUCTURAL", checks=("rotation",), error=0.1,
                    expected="rotation", killed=True, **common),
            Outcome("C1", title="sound", control=True, verdict="PASS", checks=(), error=1e-15, expected="",
                    killed=False, **{**common, "verdicts": {"rotation": "PASS"}}),
        )
    )  # fmt: skip


@pytest.fixture(params=["passing", "failing", "noisy"])
def report(request) -> Report:
    return request.getfixturevalue(request.param)


def test_json_obeys_the_schema_in_the_repository(report):
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(json.loads(report.to_json()), schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("verdict"),
        lambda r: r.update(verdict="FINE"),
        lambda r: r.update(extra=1),
        lambda r: r["checks"][0].update(error="large"),
        lambda r: r["checks"][0].update(trials=-1),
        lambda r: r.update(schema_version=2),
    ],
)
def test_schema_refuses_spoilt_reports(failing, spoil):
    content = json.loads(failing.to_json())
    spoil(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema(), cls=jsonschema.Draft202012Validator)


def test_junit_counts_cases_and_names_every_check(failing):
    suite = ElementTree.fromstring(to_junit(failing)).find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 7, "failures": 2, "errors": 1, "skipped": 1}
    assert [c.get("name") for c in suite.findall("testcase")] == [
        "self_check", "rotation", "determinism", "inversion", "gradient", "vacuity", "translation",
    ]  # fmt: skip
    failure = suite.find("testcase[@name='inversion']/failure")
    assert failure.get("type") == "STRUCTURAL"
    assert "func(x)  # <1 | 2> & more" in failure.text


def test_junit_of_a_noisy_harness_is_an_error(noisy):
    suite = ElementTree.fromstring(to_junit(noisy)).find("testsuite")
    assert suite.get("errors") == "1"
    assert suite.find("testcase[@name='self_check']/error").get("type") == "HARNESS_NOISE"


def test_junit_survives_characters_that_xml_forbids(failing):
    assert "\x07" not in to_junit(failing)
    assert "not  finite" in to_junit(failing)


def test_markdown_tables_are_not_broken_by_messages(failing):
    text = to_markdown(failing)
    table = [line for line in text.splitlines() if line.startswith("| ") and "inversion" in line]
    header = next(line for line in text.splitlines() if line.startswith("| verdict"))
    assert table[0].replace("\\|", "").count("|") == header.count("|")
    assert "a 1o output contains 0e" in text
    assert "func(x)" in text
    assert "2x2e" in text


def test_markdown_of_reasons_and_names_is_text(passing):
    text = to_markdown(replace(passing, target="a<b>", skipped={"pole": "needs <T> | U"}))
    assert "<b>" not in text
    assert "<T>" not in text


def test_markdown_of_a_pass_has_no_failure_sections(passing):
    text = to_markdown(passing)
    assert "PASS" in text
    assert "Counterexample" not in text
    assert "above their tolerance" not in text
    assert "margin" in text


def test_markdown_stays_below_the_limit_of_job_summaries(passing):
    long = replace(passing, settings={f"key{i}": "v" * 1000 for i in range(2000)})
    assert len(to_markdown(long).encode()) <= 1024 * 1024


def test_page_is_self_contained_and_escapes_what_it_shows(failing, tmp_path):
    page = write_reports(failing, tmp_path)["html"].read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('src="data:image/png;base64,') == 2
    assert "http" not in page
    assert "a | b &lt; c" in page
    assert "func(x)  # &lt;1 | 2&gt; &amp; more" in page
    assert "a 1o output contains 0e" in page
    assert "STRUCTURAL (exit code 1)" in page


def test_page_shows_the_kill_matrix_and_closes_every_tag(passing, outcomes):
    check = CheckResult(
        "kill_matrix", Verdict.PASS, 0.0, 0.0, details={"outcomes": [asdict(o) for o in outcomes.outcomes]}
    )
    page = to_html(replace(passing, checks=[*passing.checks, check]))
    assert "1 of 1 faults killed, 0 of 1 controls flagged" in page
    for tag in ("table", "tr", "td", "h2", "body"):
        assert page.count(f"<{tag}>") + page.count(f"<{tag} ") == page.count(f"</{tag}>")


def test_every_form_is_written_and_no_temporary_is_left(failing, tmp_path):
    written = write_reports(failing, tmp_path / "out")
    assert {"json", "junit", "markdown", "sarif", "text", "html"} <= set(written)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {p.name for p in written.values()}
    assert {"error_per_irrep.png", "error_per_irrep.svg", "error_against_depth.svg"} <= names
    assert json.loads(written["json"].read_text())["target"] == "layer"


def test_pictures_are_png_and_svg_and_the_same_every_time(failing, outcomes, tmp_path):
    figures = {
        "irrep": lambda: error_per_irrep(failing),
        "depth": lambda: error_against_depth(failing.modules, "depth"),
        "layers": lambda: error_against_layers([(1, 1e-15, 1e-14), (2, 0.0, 1e-14)], "layers"),
        "kill": lambda: kill_matrix(outcomes),
    }
    for name, make in figures.items():
        first, second = save(make(), tmp_path, name), {}
        content = {key: path.read_bytes() for key, path in first.items()}
        second = save(make(), tmp_path, name)
        assert {key: path.read_bytes() for key, path in second.items()} == content
        assert content[f"{name}.png"].startswith(b"\x89PNG")
        assert ElementTree.fromstring(content[f"{name}.svg"]).tag.endswith("svg")


def test_titles_of_pictures_are_no_formulas(failing, tmp_path):
    figure = error_per_irrep(replace(failing, target="cost $x_{1$ of $"))
    assert all(path.stat().st_size for path in save(figure, tmp_path, "title").values())


def test_pictures_of_nothing_are_left_out(noisy):
    assert error_against_depth([], "empty") is None
    assert error_per_irrep(replace(noisy, checks=[])) is None


def test_kill_matrix_table_has_one_row_per_entry(outcomes):
    text = kill_matrix_markdown(outcomes)
    assert text.count("\n| M1") == text.count("\n| C1") == 1
    assert "1 of 1 faults killed, 0 of 1 controls flagged" in text


def test_kill_matrix_fails_for_a_missed_fault_and_for_a_flagged_control(outcomes):
    fault, control = outcomes.outcomes
    assert outcomes.passed
    assert not KillMatrix((replace(fault, killed=False), control)).passed
    assert not KillMatrix((fault, replace(control, killed=True))).passed
    assert not KillMatrix(()).passed


def test_rules_are_named_by_check_and_not_by_setting():
    assert rule_of("rotation").identifier == "equivariance/rotation"
    assert rule_of("BB/DeepHE3+TraceGrad: hermiticity") == rule_of("hermiticity")
    assert rule_of("something new").identifier == "equivariance/something_new"


def test_sarif_of_a_pass_has_no_result(passing):
    assert json.loads(to_sarif(passing))["runs"][0]["results"] == []
