"""Theorems 1 and 2 hold for the method, and every impostor is rejected by the part that is meant for it."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.group import haar
from verify.method import (
    check_gradient_induction,
    check_theorem_1,
    check_theorem_2,
    label_of_irreps,
    library_trace_label,
)
from verify.mutants import method as faults
from verify.operators import NONLINEARITIES, GradientOperator, random_nonlinearity
from verify.result import Verdict
from verify.theorems import (
    block_cases,
    check_gradient_operator,
    check_trace_label,
    frobenius_label,
    trace_errors,
    trace_tolerance,
    transform_block,
)
from verify.wigner import spin_half, wigner_D

FEW = settings(max_examples=60, deadline=None)
LABELS = {"norm": frobenius_label, "trace_label": library_trace_label, "labels of irreps": label_of_irreps}


@pytest.mark.parametrize("name", LABELS)
@given(case=block_cases())
@FEW
def test_trace_label_is_invariant_and_is_the_frobenius_norm(name, case):
    errors = trace_errors(LABELS[name], case)
    assert set(errors) == {"rotation", "independent rotations", "Haar pairs", "Frobenius norm"}
    assert max(errors.values()) <= 2 * trace_tolerance(case)


@given(case=block_cases(lmax=3, spinful=True, is_complex=True))
@FEW
def test_spinful_transformation_is_unitary_on_both_sides(case):
    block = case.block()
    quaternions = np.array([case.left, case.right], dtype=float)
    D = {l: torch.from_numpy(d.copy()) for l, d in wigner_D([case.l_p, case.l_q], quaternions, "z-polar").items()}
    U = torch.from_numpy(spin_half(quaternions).copy())
    moved = transform_block(block, D[case.l_p][0], D[case.l_q][1], (U[0], U[1]))
    back = transform_block(moved, D[case.l_p][0].mT, D[case.l_q][1].mT, (U[0].mH, U[1].mH))
    torch.testing.assert_close(back, block, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("label", "blind", "sees"),
    [
        (faults.sum_of_moduli, None, "rotation"),
        (faults.square_of_sum, None, "rotation"),
        (faults.one_spin_block, None, "rotation"),
    ],
)
def test_labels_that_rotations_change_are_rejected(label, blind, sees):
    result = check_trace_label(label, lmax=2, examples=0)
    assert result.verdict is Verdict.STRUCTURAL
    assert result.details["errors"][sees] > 1e-3


def test_trace_without_dagger_passes_rotations_and_fails_the_discriminating_tests():
    case = next(c for c in _real_cases(l_p=2, l_q=2) if not c.spinful)
    errors = trace_errors(faults.trace_without_dagger, case)
    assert errors["rotation"] <= trace_tolerance(case)
    assert errors["independent rotations"] > 1e-2
    assert errors["Haar pairs"] > 1e-2
    assert errors["Frobenius norm"] > 1e-2


def _real_cases(l_p, l_q):
    from verify.theorems import BlockCase

    for seed, spinful in product(range(3), (False, True)):
        left, right = (tuple(q) for q in haar(2, np.random.default_rng(seed)))
        yield BlockCase(l_p, l_q, spinful, False, left, right, seed)


def test_half_of_the_norm_is_invariant_but_not_the_label():
    """Invariance alone does not pin the label down: a scaled norm passes all groups and fails the comparison."""
    result = check_trace_label(lambda block, spinful: 0.5 * frobenius_label(block, spinful), lmax=2, examples=0)
    errors = result.details["errors"]
    assert result.verdict is Verdict.STRUCTURAL
    assert max(errors["rotation"], errors["Haar pairs"]) < 1e-13 < errors["Frobenius norm"]


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_labels_without_a_value_are_rejected(value):
    result = check_trace_label(lambda block, spinful: block.flatten(1).abs().sum(1) * value, lmax=1, examples=0)
    assert not result.passed


def test_search_shrinks_an_impostor_to_small_degrees_and_a_simple_rotation():
    result = check_trace_label(faults.trace_without_dagger, lmax=2, examples=30, equal_degrees=True)
    assert "l_p=0 l_q=0" in result.details["shrunk"] or "l_p=1 l_q=1" in result.details["shrunk"]
    assert "seed=0" in result.details["shrunk"]


def test_first_theorem_passes_for_all_implementations():
    assert check_theorem_1(examples=5).passed


def test_second_theorem_holds_to_degree_twelve_for_every_nonlinearity():
    result = check_theorem_2(lmax=12)
    assert result.passed, result.message
    assert result.details["errors"]["closed form"] < 1e-13


@given(
    irreps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12), st.sampled_from([-1, 1])), min_size=1, max_size=3),
    kind=st.sampled_from(NONLINEARITIES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_operator_is_equivariant_for_any_irreps_and_nonlinearity(irreps, kind, seed):
    entries = o3.Irreps([(mul, (l, p)) for mul, l, p in irreps])
    operator = GradientOperator(entries, kind=kind, seed=seed)
    result = check_gradient_operator(
        operator, operator.irreps, scalar=operator.scalar, closed_form=operator.closed_form, seed=seed, trials=2
    )
    assert result.passed or (result.verdict is Verdict.SUSPECT and result.error < 1e-11), result.message


def test_library_operator_passes_in_both_forms():
    results = check_gradient_induction()
    assert [r.passed for r in results] == [True, True], [r.message for r in results]
    assert all(r.details["errors"]["finite difference"] < 1e-9 for r in results)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (faults.OneComponentNonlinear, "rotation"),
        (faults.ComponentwiseNonlinear, "rotation"),
        (faults.RandomCoupling, "rotation"),
        (faults.ComponentLayerNorm, "rotation"),
        (faults.ComponentGate, "rotation"),
        (faults.DetachedGradient, "finite difference"),
        (faults.DetachedGradient, "closed form"),
    ],
)
def test_broken_operators_are_rejected_by_the_part_meant_for_them(kind, part):
    operator, sound = kind(faults.FEATURES), GradientOperator(faults.FEATURES)
    result = check_gradient_operator(operator, faults.FEATURES, scalar=sound.scalar, closed_form=sound.closed_form)
    assert result.verdict is Verdict.STRUCTURAL
    assert result.details["errors"][part] > 1e-3


def test_detached_gradient_is_equivariant_so_that_rotations_cannot_find_it():
    result = check_gradient_operator(faults.DetachedGradient(faults.FEATURES), faults.FEATURES)
    assert result.passed


def test_vanishing_operator_is_rejected():
    """The channel sum of a bare LayerNorm is constant: its gradient is zero, and equivariant."""
    result = check_gradient_operator(lambda f: 0 * f, "2x0e + 2x1o")
    assert not result.passed
    assert "not zero" in result.message


@pytest.mark.parametrize("kind", NONLINEARITIES)
def test_nonlinearities_are_random_and_have_no_symmetry(kind):
    module = random_nonlinearity(kind, 6, seed=0)
    u = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (module(u) - module(-u)).abs().max() > 1e-3
    assert (module(u) - random_nonlinearity(kind, 6, seed=1)(u)).abs().max() > 1e-3
    torch.testing.assert_close(module(u), random_nonlinearity(kind, 6, seed=0)(u), rtol=0, atol=0)
