"""The default run of ``python -m verify``: what it covers, what it prints, and that it fails when a part does."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
import torch

from verify.mutants.outcome import KillMatrix, Outcome
from verify.reporting import schema, write_reports
from verify.result import CheckResult, Verdict
from verify.settings import (
    APPROXIMATE,
    CASES,
    SETTINGS,
    check_approximate,
    check_depth,
    check_setting,
    layout_of,
    small_graph,
    small_model,
)
from verify.suite import PARTS, Task, kill_matrix_check, run_suite, run_task, tasks


def test_tasks_cover_the_theorems_all_settings_all_orbital_sets_and_the_whole_catalogue():
    keys = {part: {t.key for t in tasks(PARTS, 0) if t.part == part} for part in PARTS}
    assert keys["method"] == {"theorem_1", "theorem_2", "gradient_induction", "conventions"}
    assert {case.database for case in CASES.values()} == {"MG", "MM", "BG", "BB", "BT", "BS"}
    for database in ("MG", "MM", "BG", "BB", "BT", "BS"):
        assert {case.setting for case in CASES.values() if case.database == database} == set(SETTINGS)
    assert {case.database for case in CASES.values() if case.full} == {"MG", "BB"}
    assert {"M1", "M48", "T3", "V3", "F7", "C16"} <= keys["mutants"]
    assert [t.part for t in tasks(("method",), 0)] == ["method"] * 4


@pytest.mark.parametrize("key", ["MG/DeepHE3+TraceGrad", "BB/DeepHE3+Grad"])
def test_a_setting_passes_all_its_checks(key):
    checks = check_setting(key)
    assert [c.line() for c in checks if not c.passed] == []
    names = {c.name for c in checks}
    assert {"rotation", "hermiticity", "supercell", "far_fragment", "pole"} <= names
    assert ("time_reversal" in names) == key.startswith("BB")


def test_a_setting_with_a_fault_fails(monkeypatch):
    """The non-local norm of the baseline: sound under rotations, seen by the far fragment."""
    from verify import settings

    def with_graph_norm(database, setting, seed=0, num_blocks=2):
        from tracegrad.model import DeepHE3, NetworkSizes

        sizes = NetworkSizes("6x0e+3x1o+3x2e+2x3o", 8, 3, num_blocks, 4.0, 8, "graph")
        return DeepHE3(layout_of(database), sizes, SETTINGS[setting]).double()

    monkeypatch.setattr(settings, "small_model", with_graph_norm)
    checks = {c.name: c for c in check_setting("MG/DeepHE3")}
    assert checks["rotation"].passed
    assert not checks["far_fragment"].passed


def test_output_scales_that_depend_on_the_name_of_a_pair_are_seen(monkeypatch):
    """A fit that treats the two directions of a pair apart passes every check but the permutation of the edges."""
    from tracegrad.model.output import OutputTransform

    monkeypatch.setattr(OutputTransform, "_symmetrise", lambda self: None)
    checks = {c.name: c for c in check_setting("MM/DeepHE3")}
    assert checks["rotation"].passed
    assert checks["hermiticity"].passed
    assert not checks["edge_permutation"].passed


@pytest.mark.parametrize("key", APPROXIMATE)
def test_harmose_is_measured_in_mev_and_never_passed_as_exact(key):
    checks = {c.name: c for c in check_approximate(key)}
    assert [c.line() for c in checks.values() if not c.passed] == []
    assert "hermiticity" in checks
    assert checks["approximate"].details["rotation"] == "STRUCTURAL"
    error = checks["approximate"].error
    assert error > 1e-3
    assert check_approximate(key, budget_mev=2 * error)[-1].passed
    assert check_approximate(key, budget_mev=error / 2)[-1].verdict is Verdict.STRUCTURAL


def test_an_approximate_model_that_turns_out_exact_is_vacuous(monkeypatch):
    """The correction of HarmoSE starts at zero: verified like that, its second stage would not be tested at all."""
    monkeypatch.setattr(torch.nn.init, "normal_", lambda tensor, std: tensor)
    assert check_approximate("MM/HarmoSE")[-1].verdict is Verdict.VACUOUS


def test_small_structures_have_no_symmetry_that_would_empty_a_block():
    graph, model = small_graph("MG"), small_model("MG", "DeepHE3")
    with torch.no_grad():
        irreps = model(graph)["edge_irreps"]
    sizes = [float(irreps[:, s].abs().max()) for s in layout_of("MG").irreps.slices()]
    assert min(sizes) > 1e-6 * max(sizes)


def test_error_does_not_grow_with_depth():
    check = check_depth()
    assert check.passed
    assert [row[0] for row in check.details["errors"]] == [1, 2, 3, 5]
    assert all(error < tolerance for _, error, tolerance in check.details["errors"])


def test_one_task_of_each_part_runs_by_name():
    assert isinstance(run_task(Task("mutants", "T1", 0)), Outcome)
    assert all(isinstance(c, CheckResult) for c in run_task(Task("method", "gradient_induction", 0)))


@pytest.fixture(scope="module")
def method_report():
    lines: list[str] = []
    return run_suite(parts=("method",), workers=1, progress=lines.append), lines


def test_report_of_a_part_passes_prints_and_is_valid(method_report, tmp_path):
    report, lines = method_report
    assert report.passed, report.to_text()
    assert lines[0].startswith("noise floor")
    assert any(line.startswith("theorem_1") for line in lines)
    jsonschema.validate(json.loads(report.to_json()), schema())
    assert {"json", "junit", "markdown", "sarif"} <= set(write_reports(report, tmp_path))


def outcome(key: str, control: bool, killed: bool) -> Outcome:
    return Outcome(key, "f", "t", control, "STRUCTURAL", ("rotation",), 0.1, "rotation", killed, 0.0)


def test_blocks_of_a_setting_are_kept_one_per_irrep_the_worst():
    checks = {c.name: c for c in run_task(Task("settings", "MG/DeepHE3", 0))}
    names = [block.irrep for block in checks["rotation"].blocks]
    assert len(names) == len(set(names))
    assert max(block.ratio for block in checks["rotation"].blocks) == pytest.approx(1 / checks["rotation"].margin)


def test_kill_matrix_check_fails_and_names_what_is_wrong():
    good = kill_matrix_check(KillMatrix((outcome("M1", False, True), outcome("C1", True, False))))
    bad = kill_matrix_check(KillMatrix((outcome("M1", False, False), outcome("C1", True, True))))
    assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.STRUCTURAL)
    assert bad.error == 2.0
    assert bad.message.endswith("wrong: M1, C1")
    assert len(good.details["outcomes"]) == 2


def test_pictures_of_the_suite_are_drawn_from_its_report(method_report, tmp_path):
    report, _ = method_report
    matrix = kill_matrix_check(KillMatrix((outcome("M1", False, True), outcome("C1", True, False))))
    depth = CheckResult("depth", Verdict.PASS, 1e-15, 1e-14, details={"errors": [[1, 1e-15, 1e-14], [2, 2e-15, 1e-14]]})
    written = write_reports(replace(report, checks=[*report.checks, matrix, depth]), tmp_path)
    assert {"kill_matrix.png", "kill_matrix.svg", "error_against_layers.svg"} <= set(written)
