"""Measurement, tolerance, verdicts and reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from e3nn.o3 import Irreps

from tracegrad.errors import VerificationError
from verify.group import Elements, haar
from verify.measure import Jitter, deviations, jitter_of, zero_floor
from verify.representation import Representation, parse_entries
from verify.result import CheckResult, Counterexample, NoiseFloor, Report, Verdict, worst
from verify.tolerances import bands, block_tolerances, reading_of_ratio, static_tolerance, verdict_of
from verify.trial_statistics import breaking_measure_bound

LAW = Representation.parse("2x0e+1x1o")


def _rows(n: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(n, 4, 5)))


def test_error_is_relative_to_the_block_and_not_to_the_whole_output() -> None:
    right = _rows(3)
    right = [x * np.array([1e6, 1e6, 1, 1, 1]) for x in right]
    left = [x.copy() for x in right]
    left[1][:, 2:] += 1e-3
    found = deviations(left, right, LAW)
    assert found.error[1, 1] > 1e-4
    assert found.error[:, 0].max() == 0


def test_error_does_not_change_with_the_unit() -> None:
    left, right = _rows(2), _rows(2, 1)
    a, b = (deviations([s * x for x in left], [s * x for x in right], LAW).error for s in (1.0, 1e-11))
    assert np.allclose(a, b)


def test_large_constant_of_an_invariant_does_not_hide_its_error() -> None:
    right = [x + 1000.0 * np.array([1, 1, 0, 0, 0]) for x in _rows(3)]
    left = [x + 1e-3 * np.array([1, 0, 0, 0, 0]) for x in right]
    assert deviations(left, right, LAW).error[:, 0].min() > 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_value_that_is_not_finite_is_an_infinite_error(bad: float) -> None:
    left, right = _rows(1), _rows(1)
    left[0][0, 0] = bad
    assert np.isinf(deviations(left, right, LAW).error[0, 0])


def test_another_number_of_rows_is_an_infinite_error() -> None:
    left, right = _rows(2), _rows(2)
    left[1] = left[1][:2]
    found = deviations(left, right, LAW)
    assert np.isinf(found.error[1]).all()
    assert (found.error[0] == 0).all()


def test_block_that_cancels_to_round_off_is_zero_and_not_judged() -> None:
    right = _rows(3)
    for x in right:
        x[:, 2:] *= 1e-17
    jitter = Jitter(np.array([1e-16, 1e-16]), np.array([1e-16, 10.0]))
    found = deviations(right, right, LAW, zero_floor(jitter, 1.0, bands(torch.float64).eps))
    assert found.zero.tolist() == [False, True]


def test_block_that_jumps_by_its_size_is_not_zero() -> None:
    right = _rows(3)
    jitter = Jitter(np.array([1e-16, 1.0]), np.array([1e-16, 1.0]))
    found = deviations(right, right, LAW, zero_floor(jitter, 1.0, bands(torch.float64).eps))
    assert found.zero.tolist() == [False, False]


def test_jitter_is_never_below_the_last_digit() -> None:
    base = [x + 1e8 for x in _rows(4)]
    found = jitter_of(base, base, Representation.parse("5x0e"), bands(torch.float64).eps)
    assert found.relative[0] > 1e-14


def test_static_tolerance_is_that_of_the_policy() -> None:
    assert static_tolerance(torch.float64, 2, 2) == pytest.approx(1.8e-14, rel=0.05)
    assert static_tolerance(torch.float32, 2, 2) == pytest.approx(9.9e-6, rel=0.05)


def test_jitter_cannot_raise_the_tolerance_above_the_cap() -> None:
    assert block_tolerances(1e-14, np.array([1e-3]), torch.float64)[0] == 1e-10
    assert block_tolerances(1e-14, np.array([np.inf]), torch.float64)[0] == 1e-10
    assert block_tolerances(1e-14, np.array([np.nan]), torch.float64)[0] == 1e-14


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (1e-15, Verdict.PASS),
        (2e-10, Verdict.SUSPECT),
        (1e-7, Verdict.PRECISION),
        (1e-2, Verdict.STRUCTURAL),
        (float("nan"), Verdict.STRUCTURAL),
        (float("inf"), Verdict.STRUCTURAL),
    ],
)
def test_bands_of_float64(error: float, verdict: Verdict) -> None:
    assert verdict_of(error, 1e-14, torch.float64) is verdict


def test_half_precision_cannot_be_verified() -> None:
    with pytest.raises(VerificationError, match="bfloat16"):
        bands(torch.bfloat16)


def test_ratio_of_precisions_is_read_as_round_off_or_structure() -> None:
    assert reading_of_ratio(4e8).startswith("round-off")
    assert reading_of_ratio(1.0).startswith("structural")
    assert "additive" in reading_of_ratio(1.9e3)


def test_bound_without_failures_is_the_rule_of_three() -> None:
    assert breaking_measure_bound(0, 64) == pytest.approx(3 / 64, rel=0.03)
    assert breaking_measure_bound(1, 64) > breaking_measure_bound(0, 64)
    assert breaking_measure_bound(64, 64) == 1.0


def test_action_on_irreps_is_that_of_e3nn() -> None:
    irreps = Irreps("2x0e+1x0o+2x1o+1x2e+1x3o")
    elements = Elements.of(haar(4, np.random.default_rng(0)), np.array([False, True, False, True]))
    x = np.random.default_rng(1).normal(size=(4, 3, irreps.dim))
    law = Representation.parse(irreps)
    torch.set_default_dtype(torch.float64)
    D = irreps.D_from_matrix(torch.from_numpy(elements.matrix)).numpy()
    assert np.abs(law.act(x, elements) - np.einsum("nij,nrj->nri", D, x)).max() < 1e-7  # e3nn's own D is the limit


def test_generator_is_the_derivative_of_the_action() -> None:
    law, x, step = Representation.parse("1x1o+1x2e"), np.random.default_rng(2).normal(size=(1, 2, 8)), 1e-5
    q = np.array([[np.cos(step / 2), 0, np.sin(step / 2), 0]])
    plus, minus = (law.act(x, Elements.of(s)) for s in (q, q * [1, -1, -1, -1]))
    assert np.abs((plus - minus) / (2 * step) - law.act_generator(x, 1)).max() < 1e-8


@pytest.mark.parametrize("entry", ["8y1", "1x1o+", 3.5, object()])
def test_entry_that_is_no_irreps_raises_with_the_known_forms(entry: object) -> None:
    with pytest.raises(VerificationError, match="cartesian_points"):
        Representation.parse(entry)


def test_empty_irreps_raise() -> None:
    with pytest.raises(VerificationError, match="empty"):
        Representation.parse("0x1o")


def test_single_entry_and_list_form_of_e3nn_are_understood() -> None:
    assert [law.text for law in parse_entries("1x1o", "irreps_in")] == ["1x1o"]
    assert [law.text for law in parse_entries(["1x1o", None], "irreps_in")] == ["1x1o", "None"]
    assert [law.text for law in parse_entries([(2, (1, -1))], "irreps_in")] == ["2x1o"]


def _report(*verdicts: Verdict, residual: float = 0.0) -> Report:
    checks = [CheckResult(f"check {i}", v, 1e-3, 1e-14) for i, v in enumerate(verdicts)]
    return Report("test", checks, NoiseFloor({"residual": residual}, {"residual": 1e-14}))


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.STRUCTURAL], 1),
        ([Verdict.SUSPECT], 2),
        ([Verdict.PRECISION, Verdict.SUSPECT], 2),
        ([Verdict.VACUOUS], 3),
        ([Verdict.VACUOUS, Verdict.STRUCTURAL], 1),
        ([], 3),
    ],
)
def test_exit_code_is_that_of_the_worst_verdict(verdicts: list[Verdict], code: int) -> None:
    assert _report(*verdicts).exit_code == code


def test_harness_noise_outranks_every_verdict() -> None:
    assert _report(Verdict.PASS, residual=1e-3).exit_code == 4
    assert _report(Verdict.STRUCTURAL, residual=float("nan")).verdict is Verdict.HARNESS_NOISE


def test_worst_of_nothing_is_a_pass() -> None:
    assert worst([]) is Verdict.PASS


def test_report_survives_json_with_values_that_are_not_finite() -> None:
    case = Counterexample("code", "@example", 1.0, 1, ["1x1o"], [1, 0, 0, 0], False, [0, 0, 0], 3)
    check = CheckResult(
        "rotation", Verdict.STRUCTURAL, float("inf"), 1e-14, counterexample=case, details={"x": np.float64("nan")}
    )
    plain = json.loads(Report("t", [check], NoiseFloor({}, {})).to_json())
    assert plain["checks"][0]["error"] == "inf"
    assert plain["checks"][0]["details"]["x"] == "nan"
    assert plain["checks"][0]["counterexample"]["live_irreps"] == ["1x1o"]
    assert plain["exit_code"] == 1


def test_check_that_is_not_there_raises_with_the_names() -> None:
    with pytest.raises(KeyError, match="check 0"):
        _report(Verdict.PASS).check("rotation")


def test_line_shows_error_tolerance_and_margin() -> None:
    line = CheckResult("rotation", Verdict.PASS, 2e-15, 1e-14, trials=64).line()
    assert "2.00e-15" in line
    assert "1.00e-14" in line
    assert "margin         5" in line
