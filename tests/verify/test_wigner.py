"""The verifier's own rotations: against exact values, e3nn's spherical harmonics and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.group import (
    Elements,
    aligning,
    haar,
    integer_quaternions,
    near_pole,
    octahedral,
    quaternion_between,
    quaternion_product,
    rotation_matrix,
    simple_quaternions,
)
from verify.selfcheck import self_check
from verify.wigner import axis_matrix, generators, spherical_harmonics, spin_half, wigner_D

EPS = np.finfo(np.float64).eps
SWAP = np.eye(3)[[2, 0, 1]]  # (x, y, z) -> (z, x, y)


def _special(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([haar(20, rng), integer_quaternions(10, rng), octahedral(), near_pole()])


@pytest.mark.parametrize("basis", ["e3nn", "z-polar"])
@pytest.mark.parametrize("l", range(13))
def test_D_is_orthogonal_to_a_few_ulp(l: int, basis: str) -> None:
    d = wigner_D([l], _special(np.random.default_rng(l)), basis)[l]
    assert np.abs(d @ d.transpose(0, 2, 1) - np.eye(2 * l + 1)).max() < 10 * EPS


@pytest.mark.parametrize("l", range(1, 7))
def test_D_moves_the_spherical_harmonics_of_e3nn(l: int) -> None:
    rng = np.random.default_rng(l)
    q = _special(rng)
    vectors = rng.normal(size=(len(q), 3))
    moved = np.einsum("nij,nj->ni", rotation_matrix(q), vectors)
    left, right = (o3.spherical_harmonics(l, torch.from_numpy(v), normalize=True).numpy() for v in (moved, vectors))
    assert np.abs(left - np.einsum("nij,nj->ni", wigner_D([l], q, "e3nn")[l], right)).max() < 40 * EPS * (1 + l)


def test_D_of_degree_one_is_the_rotation_in_the_order_of_the_basis() -> None:
    q = _special(np.random.default_rng(0))
    R = rotation_matrix(q)
    assert np.abs(wigner_D([1], q, "e3nn")[1] - R).max() < 6 * EPS
    P = np.eye(3)[[1, 2, 0]]  # (x, y, z) -> (y, z, x)
    assert np.abs(wigner_D([1], q, "z-polar")[1] - P @ R @ P.T).max() < 6 * EPS


def test_the_two_orders_differ_by_the_permutation_of_the_axes() -> None:
    q = haar(10, np.random.default_rng(1))
    permuted = q[:, [0, 3, 1, 2]]  # axis (x, y, z) -> (z, x, y)
    assert np.abs(rotation_matrix(permuted) - SWAP @ rotation_matrix(q) @ SWAP.T).max() < 6 * EPS
    for l, d in wigner_D([2, 5], q, "e3nn").items():
        assert np.abs(d - wigner_D([l], permuted, "z-polar")[l]).max() < 10 * EPS


def test_axis_matrix_of_degree_two_has_its_exact_entries() -> None:
    half, root = 0.5, 3**0.5 / 2
    found = np.sort(np.unique(np.abs(axis_matrix(2))))
    assert np.array_equal(found, np.sort([0.0, half, root, 1.0]))


@given(st.tuples(*[st.integers(-50, 50)] * 4), st.tuples(*[st.integers(-50, 50)] * 4))
@settings(max_examples=50)
def test_D_is_a_homomorphism(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    a, b = (np.array([q if any(q) else (1, 0, 0, 0)], dtype=float) for q in (first, second))
    product = quaternion_product(a, b)
    for l, d in wigner_D([1, 3, 8], product).items():
        assert np.abs(d - wigner_D([l], a)[l] @ wigner_D([l], b)[l]).max() < 20 * EPS * (1 + l)


@pytest.mark.parametrize("basis", ["e3nn", "z-polar"])
def test_generators_are_the_derivative_of_D(basis: str) -> None:
    step = 1e-5
    for axis in range(3):
        q = np.zeros((2, 4))
        q[:, 0], q[:, 1 + axis] = np.cos(step / 2), [np.sin(step / 2), -np.sin(step / 2)]
        for l, d in wigner_D([1, 2, 4], q, basis).items():
            assert np.abs((d[0] - d[1]) / (2 * step) - generators(l, basis)[axis]).max() < 1e-8


def test_spin_half_is_a_double_cover() -> None:
    q = haar(5, np.random.default_rng(2))
    u = spin_half(q)
    assert np.abs(u @ u.conj().transpose(0, 2, 1) - np.eye(2)).max() < 4 * EPS
    assert np.array_equal(spin_half(-q), -u)


def test_spherical_harmonics_are_normalised() -> None:
    vectors = np.random.default_rng(3).normal(size=(10, 3))
    for l in range(9):
        squares = (spherical_harmonics(l, vectors) ** 2).sum(axis=1)
        assert np.allclose(squares, 2 * l + 1, rtol=1e-13)


def test_octahedral_group_has_24_signed_permutations() -> None:
    R = rotation_matrix(octahedral())
    assert len({tuple(m.ravel()) for m in np.rint(R).astype(int)}) == 24
    assert np.array_equal(R, np.rint(R))
    assert np.allclose(np.linalg.det(R), 1)


def test_integer_quaternions_give_rational_rotations_without_loss() -> None:
    R = rotation_matrix(integer_quaternions(200, np.random.default_rng(4)))
    assert np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() <= 2 * EPS


def test_aligning_rotations_put_the_direction_on_every_axis() -> None:
    direction = np.array([0.3, -0.2, 0.7])
    images = rotation_matrix(aligning(direction, (0.0,))) @ direction / np.linalg.norm(direction)
    assert np.allclose(np.sort(np.abs(images), axis=1), [0, 0, 1], atol=1e-15)
    opposite = rotation_matrix(quaternion_between(direction, -direction)[None])[0] @ direction
    assert np.allclose(opposite, -direction)


def test_haar_moments_are_those_of_the_invariant_measure() -> None:
    R = rotation_matrix(haar(20_000, np.random.default_rng(5)))
    assert np.abs(R.mean(axis=0)).max() < 0.03
    assert np.abs((R**2).mean(axis=0) - 1 / 3).max() < 0.02


def test_simple_quaternions_start_with_half_turns() -> None:
    q = simple_quaternions()
    assert [list(v) for v in q[:3]] == [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert not (q[:, 1:] == 0).all(axis=1).any()


def test_points_are_inverted_after_the_rotation_and_then_shifted() -> None:
    element = Elements.of([[0, 0, 0, 1]], True, np.array([[1.0, 2.0, 3.0]]))
    assert np.array_equal(element.move(np.array([[[1.0, 0.0, 5.0]]])), [[[2.0, 2.0, -2.0]]])


def test_self_check_is_quiet_for_the_instruments_as_they_are() -> None:
    floor = self_check(12)
    assert floor.ok
    assert floor.value < 5e-15


def test_self_check_rejects_a_transposed_D(monkeypatch: pytest.MonkeyPatch) -> None:
    import verify.selfcheck as module

    def transposed(degrees: list[int], quaternions: np.ndarray, basis: str = "e3nn") -> dict[int, np.ndarray]:
        return {l: d.transpose(0, 2, 1) for l, d in wigner_D(degrees, quaternions, basis).items()}

    monkeypatch.setattr(module, "wigner_D", transposed)
    floor = self_check.__wrapped__(3)
    assert not floor.ok
    assert floor.residuals["homomorphism"] > 0.1


def test_self_check_rejects_a_D_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import verify.selfcheck as module

    def rounded(degrees: list[int], quaternions: np.ndarray, basis: str = "e3nn") -> dict[int, np.ndarray]:
        return {l: d.astype(np.float32).astype(float) for l, d in wigner_D(degrees, quaternions, basis).items()}

    monkeypatch.setattr(module, "wigner_D", rounded)
    assert not self_check.__wrapped__(3).ok
