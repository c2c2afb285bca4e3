"""Statistics against scipy's own tests and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import Summary, holm, paired_test, relative_change
from tracegrad.errors import DataError

NAMES = ("first", "second")


def keyed(values: list[float]) -> dict[str, float]:
    return {f"structure {k:03d}": value for k, value in enumerate(values)}


def test_mean_and_sample_standard_deviation_by_hand() -> None:
    summary = Summary((2.0, 4.0, 9.0))
    assert summary.mean == 5.0
    assert summary.std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert summary.std != pytest.approx(
        np.std([2.0, 4.0, 9.0])
    )  # control: the population's, a factor sqrt(2/3) too small


def test_one_seed_has_no_spread() -> None:
    assert Summary((3.0,)).std is None


def test_relative_change_by_hand() -> None:
    assert relative_change(0.175, 0.251) == pytest.approx(-0.302788844)
    assert relative_change(1.0, 0.0) is None


@pytest.mark.parametrize("size", [2, 3, 7, 30])
def test_paired_tests_equal_those_of_scipy(size: int) -> None:
    generator = np.random.default_rng(size)
    first = generator.normal(1.0, 0.3, size)
    second = first + generator.normal(0.2, 0.3, size)
    found = paired_test(keyed(first.tolist()), keyed(second.tolist()), NAMES)
    t, w = stats.ttest_rel(first, second), stats.wilcoxon(first, second)
    assert (found.t, found.p_t) == pytest.approx((t.statistic, t.pvalue), rel=1e-12)
    assert (found.wilcoxon, found.p_wilcoxon) == pytest.approx((w.statistic, w.pvalue), rel=1e-12)
    assert found.mean_difference == pytest.approx((first - second).mean())
    unpaired = stats.ttest_ind(first, second)
    assert found.p_t != pytest.approx(unpaired.pvalue, rel=1e-3)  # control: pairing is what is tested


def test_paired_tests_by_hand() -> None:
    # differences 1, 2, 3: mean 2, sample deviation 1, t = 2·sqrt(3); all signs equal: W = 0, p = 2/2^3
    found = paired_test(keyed([2.0, 4.0, 6.0]), keyed([1.0, 2.0, 3.0]), NAMES)
    assert found.t == pytest.approx(2 * math.sqrt(3))
    # Student's t with 2 degrees of freedom: P(|T| > t) = 1 - t / sqrt(2 + t²)
    assert found.p_t == pytest.approx(1 - math.sqrt(12 / 14))
    assert (found.wilcoxon, found.p_wilcoxon) == (0.0, 0.25)


def test_pairs_are_matched_by_name_not_by_order() -> None:
    first, second = {"a": 1.0, "b": 5.0, "c": 9.0}, {"c": 10.0, "a": 2.5, "b": 6.1}
    ordered = dict(sorted(second.items()))
    assert paired_test(first, second, NAMES) == paired_test(first, ordered, NAMES)


def test_equal_errors_give_no_significance() -> None:
    found = paired_test(keyed([1.0, 2.0]), keyed([1.0, 2.0]), NAMES)
    assert (found.t, found.p_t, found.wilcoxon, found.p_wilcoxon) == (0.0, 1.0, 0.0, 1.0)


def test_a_constant_difference_is_no_division_by_zero() -> None:
    found = paired_test(keyed([1.5, 2.5]), keyed([1.0, 2.0]), NAMES)
    assert (found.t, found.p_t) == (math.inf, 0.0)


def test_one_pair_is_not_tested() -> None:
    found = paired_test(keyed([1.0]), keyed([2.0]), NAMES)
    assert (found.n, found.t, found.p_t, found.p_wilcoxon) == (1, None, None, None)


@pytest.mark.parametrize("second", [{}, {"a": 1.0}, {"a": 1.0, "c": 2.0}], ids=["empty", "fewer", "other"])
def test_unpaired_samples_are_rejected(second: dict[str, float]) -> None:
    with pytest.raises(DataError, match="expected the same test structures on both sides"):
        paired_test({"a": 1.0, "b": 2.0}, second, NAMES)


def test_holm_by_hand() -> None:
    # sorted .01, .02, .04 times 3, 2, 1; None is not counted
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])  # never below a smaller one
    assert holm([0.04, 0.03]) != pytest.approx([0.08, 0.06])  # control: Bonferroni


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_values_and_bonferroni(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert adjusted is not None
        assert raw <= adjusted <= min(1.0, len(p_values) * raw) + 1e-15
