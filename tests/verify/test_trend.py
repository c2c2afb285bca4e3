"""A tenfold growth of an error fails, round-off does not, and a report that cannot be compared never passes."""

from __future__ import annotations

import json

import pytest

from tracegrad.errors import VerificationError
from verify.result import CheckResult, NoiseFloor, Report, Verdict
from verify.trend import compare, compare_report, growths, load_report, main


def report(floor: float = 1e-16, **errors: float) -> dict:
    checks = [CheckResult(name, Verdict.PASS, error, 1e-12, "", 8) for name, error in errors.items()]
    return Report("model", checks, NoiseFloor({"d": floor}, {"d": 1e-14})).to_dict()


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (1e-15, 9e-15, Verdict.PASS),
        (1e-15, 1.1e-14, Verdict.STRUCTURAL),
        (1e-14, 1e-15, Verdict.PASS),
        (0.0, 9e-16, Verdict.PASS),  # from the floor of 1e-16
        (0.0, 1e-14, Verdict.STRUCTURAL),
    ],
)
def test_tenfold_growth_is_the_limit(before, after, verdict):
    assert compare(report(rotation=after), report(rotation=before)).verdict is verdict


def test_errors_below_the_noise_floor_cannot_grow():
    assert compare(report(floor=1e-15, rotation=9e-16), report(rotation=1e-19)).passed


def test_a_check_that_disappeared_fails_and_a_new_one_does_not():
    old = report(rotation=1e-15, inversion=1e-15)
    lost = compare(report(rotation=1e-15), old)
    assert not lost.passed
    assert "no longer checked: inversion" in lost.message
    assert compare(old, report(rotation=1e-15)).passed


def test_a_check_that_is_skipped_now_has_not_disappeared():
    new = report(rotation=1e-15) | {"skipped": {"translation": "no points"}}
    assert compare(new, report(rotation=1e-15, translation=1e-15)).passed


def test_reports_that_were_compared_can_be_compared_again():
    first = report(rotation=1e-15)
    link = {"name": "baseline", "error": 0.5, "verdict": "PASS"}
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
    rows = growths(report(a=1e-14, b=2e-15), report(a=1e-15, b=1e-15))
    assert [g.name for g in rows] == ["a", "b"]
    assert rows[0].line() == "a: 1.00e-15 -> 1.00e-14 (10 times)"


def test_command_gives_exit_codes_and_names_the_growth(tmp_path, capsys):
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    new.write_text(json.dumps(report(rotation=1e-13)))
    old.write_text(json.dumps(report(rotation=1e-15)))
    assert main([str(old), str(old)]) == 0
    assert main([str(new), str(old)]) == 1
    assert "rotation: 1.00e-15 -> 1.00e-13" in capsys.readouterr().out
    assert main([str(new), str(old), "--limit", "1000"]) == 0


HALF = (
    '"checks": [{}], "noise_floor": {"value": 0}',
    '"checks": [], "noise_floor": {}',
    '"checks": 1, "noise_floor": 1',
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
