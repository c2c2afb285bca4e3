"""A tenfold growth of an error fails, round-off does not, and a report that cannot be compared never passes."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tracegrad.errors import VerificationError
from verify import verify_equivariance
from verify.result import CheckResult, NoiseFloor, Report, Verdict
from verify.trend import compare, compare_report, growths, load_report, main

TOLERANCE = 1e-12


def report(floor: float = 1e-16, tolerance: float = TOLERANCE, **errors: float) -> dict:
    checks = [CheckResult(name, Verdict.PASS, error, tolerance, "", 8) for name, error in errors.items()]
    return Report("model", checks, NoiseFloor({"d": floor}, {"d": 1e-14})).to_dict()


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (3e-14, 2.9e-13, Verdict.PASS),
        (3e-14, 3.1e-13, Verdict.STRUCTURAL),
        (3e-13, 1e-15, Verdict.PASS),
        (0.0, 9e-14, Verdict.PASS),  # from a hundredth of the tolerance, 1e-14
        (0.0, 1.1e-13, Verdict.STRUCTURAL),
    ],
)
def test_tenfold_growth_is_the_limit(before, after, verdict):
    assert compare(report(rotation=after), report(rotation=before)).verdict is verdict


def test_errors_are_measured_in_the_tolerance_of_their_own_run():
    old, error = report(rotation=1e-15, tolerance=1e-14), 1e-13
    assert compare(report(rotation=error, tolerance=1e-12), old).passed  # 0.1 tolerances in both
    assert not compare(report(rotation=error, tolerance=9e-14), old).passed


def test_errors_below_the_noise_floor_cannot_grow():
    old, new = report(floor=1e-15, tolerance=2e-15, rotation=1e-19), report(tolerance=2e-15, rotation=1.9e-15)
    assert compare(new, old).passed
    assert not compare(new, report(tolerance=2e-15, rotation=1e-19)).passed


def test_error_where_none_is_tolerated_has_grown_unless_it_was_there_before():
    sound, unsteady = report(determinism=0.0, tolerance=0.0), report(determinism=1e-16, tolerance=0.0)
    assert compare(sound, sound).passed
    assert not compare(unsteady, sound).passed
    assert compare(unsteady, unsteady).passed  # it fails by its own verdict
    assert compare(sound, unsteady).passed


def test_error_without_a_limit_is_compared_in_its_own_unit():
    old = report(budget=0.05, tolerance=math.inf)
    assert compare(report(budget=0.4, tolerance=math.inf), old).passed
    assert not compare(report(budget=0.6, tolerance=math.inf), old).passed
    assert compare(report(budget=0.4, tolerance=0.5), old).passed  # a budget was given since
    assert not compare(report(budget=0.6, tolerance=0.7), old).passed


def passing_report(fault: float, seed: int) -> dict:
    """Report of a function that stretches z by a fault so small that every check passes."""

    def func(x: Tensor) -> Tensor:
        stretch = 1 + fault * torch.tensor([0.0, 0.0, 1.0]).to(x)
        return torch.exp(-x.square().sum(-1, keepdim=True) / 9) * x * stretch

    found = verify_equivariance(func, ["1x1o"], ["1x1o"], seed=seed, trials=8, search=0)
    assert found.passed, found.to_text()
    return found.to_dict()


def test_reports_of_a_sound_function_never_differ_by_their_seeds_and_a_fault_that_grows_is_seen():
    sound = [passing_report(0.0, seed) for seed in range(6)]
    compared = [compare(new, old) for new, old in itertools.permutations(sound, 2)]
    assert [c.message for c in compared if not c.passed] == []
    grown = passing_report(7e-15, 0)
    assert all("rotation" in compare(grown, old).message for old in sound)


def test_a_check_that_disappeared_fails_and_a_new_one_does_not():
    old = report(rotation=1e-15, inversion=1e-15)
    lost = compare(report(rotation=1e-15), old)
    assert not lost.passed
    assert "no longer checked: inversion" in lost.message
    assert compare(old, report(rotation=1e-15)).passed


def test_a_check_that_is_skipped_now_fails_with_the_reason_and_one_that_always_was_does_not():
    new = report(rotation=1e-15) | {"skipped": {"gradient": "the outputs carry no gradient"}}
    lost = compare(new, report(rotation=1e-15, gradient=1e-15))
    assert not lost.passed
    assert "no longer checked: gradient (the outputs carry no gradient)" in lost.message
    assert compare(new, new).passed


def test_reports_that_were_compared_can_be_compared_again():
    first = report(rotation=1e-15)
    link = {"name": "baseline", "error": 0.5, "tolerance": 10.0, "verdict": "PASS"}
    second = first | {"checks": [*first["checks"], link]}
    assert compare(first, second).passed  # the new report is compared before its own check of the baseline is added
    third = first | {"checks": [*first["checks"], link | {"error": 9.0}]}
    assert compare(third, second).passed  # growths are not errors


def test_counts_are_not_compared_as_errors():
    assert compare(report(rotation=1e-15, kill_matrix=2.0), report(rotation=1e-15, kill_matrix=0.0)).passed


def test_nothing_in_common_is_vacuous():
    assert compare(report(a=1e-15), report()).verdict is Verdict.VACUOUS


def test_an_error_that_became_infinite_or_not_a_number_fails():
    for value in (float("inf"), float("nan")):
        assert not compare(report(rotation=value), report(rotation=1e-15)).passed


def test_growths_are_sorted_and_have_lines():
    rows = growths(report(a=2e-13, b=2e-14), report(a=1e-15, b=1e-14))
    assert [g.name for g in rows] == ["a", "b"]
    assert rows[0].line() == "a: 1.00e-15 -> 2.00e-13 (0.01 -> 0.2 tolerances, 20 times)"


def test_command_gives_exit_codes_and_names_the_growth(tmp_path, capsys):
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    new.write_text(json.dumps(report(rotation=2e-13)))
    old.write_text(json.dumps(report(rotation=1e-15)))
    assert main([str(old), str(old)]) == 0
    assert main([str(new), str(old)]) == 1
    assert "rotation: 1.00e-15 -> 2.00e-13" in capsys.readouterr().out
    assert main([str(new), str(old), "--limit", "1000"]) == 0


HALF = (
    '"checks": [{}], "noise_floor": {"value": 0}',
    '"checks": [], "noise_floor": {}',
    '"checks": 1, "noise_floor": 1',
    '"checks": [{"name": "rotation", "error": 0}], "noise_floor": {"value": 0}',
)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "not json", None, *(f'{{"schema_version": 1, {part}}}' for part in HALF)]
)
def test_command_refuses_what_is_no_report(tmp_path, capsys, content):
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    good.write_text(json.dumps(report(rotation=1e-15)))
    if content is not None:
        bad.write_text(content)
    assert main([str(good), str(bad)]) == 2
    assert "report" in capsys.readouterr().err
    with pytest.raises(VerificationError):
        load_report(bad)


def test_reports_in_memory_compare_with_files(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(rotation=1e-15)))
    checks = [CheckResult("rotation", Verdict.PASS, 1e-15, 1e-12, "", 8)]
    assert compare_report(Report("model", checks, NoiseFloor({"d": 1e-16}, {"d": 1e-14})), path).passed


@pytest.mark.parametrize("package", ["verify", "tracegrad.verify"])
@pytest.mark.parametrize("command", ["trend", "speed", "mutants"])
def test_help_of_a_command_names_the_module_that_was_run(package, command, tmp_path, root):
    if package != "verify":  # as installed
        (tmp_path / "tracegrad").mkdir()
        (tmp_path / "tracegrad" / "__init__.py").write_text(
            f"__path__ = [{str(root / 'tracegrad')!r}, {str(tmp_path / 'tracegrad')!r}]"
        )
        (tmp_path / "tracegrad" / "verify").symlink_to(root / "verify")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    run = [sys.executable, "-m", f"{package}.{command}", "--help"]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"usage: python -m {package}.{command} "), done.stderr
