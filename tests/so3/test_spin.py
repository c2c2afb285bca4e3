"""Spin one half: double cover of the rotations, and 2x2 matrices as scalar and vector."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import DataError
from tracegrad.so3 import components_to_spin, pauli_matrices, random_rotation, spin_half_D, spin_to_components, wigner_D
from tracegrad.so3.rotations import rotation_from_quaternion

COMPONENTS = st.integers(-50, 50)
QUATERNIONS = st.tuples(COMPONENTS, COMPONENTS, COMPONENTS, COMPONENTS).filter(any)
SEEDS = st.integers(0, 2**31)
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def quaternion_matrix(quaternion: tuple[int, ...]) -> torch.Tensor:
    """Textbook map from unit quaternions to SU(2): w 1 - i (x sigma_x + y sigma_y + z sigma_z), normalised."""
    w, x, y, z = (torch.tensor(quaternion, dtype=torch.float64) / torch.tensor(quaternion).double().norm()).tolist()
    one, sigma_y, sigma_z, sigma_x = pauli_matrices()
    return w * one - 1j * (x * sigma_x + y * sigma_y + z * sigma_z)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


def distance_up_to_sign(a: torch.Tensor, b: torch.Tensor) -> float:
    """Smaller of the distances to b and to -b."""
    return min(distance(a, b), distance(a, -b))


def complex_blocks(seed: int, *shape: int) -> torch.Tensor:
    """Random complex128 numbers."""
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@EXAMPLES
@given(QUATERNIONS)
def test_is_the_quaternion_up_to_sign(quaternion: tuple[int, ...]) -> None:
    U = spin_half_D(rotation_from_quaternion(torch.tensor(quaternion, dtype=torch.float64)))
    assert distance_up_to_sign(U, quaternion_matrix(quaternion)) < 2e-15


def test_the_conjugate_is_another_representation() -> None:
    U = spin_half_D(rotation_from_quaternion(torch.tensor([3.0, -7, 2, 5], dtype=torch.float64)))
    assert distance_up_to_sign(U.conj(), quaternion_matrix((3, -7, 2, 5))) > 0.1


@EXAMPLES
@given(QUATERNIONS, QUATERNIONS)
def test_product_is_that_of_the_rotations_up_to_sign(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    R1, R2 = (rotation_from_quaternion(torch.tensor(q, dtype=torch.float64)) for q in (first, second))
    assert distance_up_to_sign(spin_half_D(R1 @ R2), spin_half_D(R1) @ spin_half_D(R2)) < 4e-15


def test_a_full_turn_in_two_halves_changes_the_sign() -> None:
    half_turn = spin_half_D(torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)))
    assert distance(half_turn @ half_turn, -torch.eye(2, dtype=torch.complex128)) < 1e-15


def test_is_unitary_of_determinant_one_in_both_precisions(dtype: torch.dtype) -> None:
    U = spin_half_D(random_rotation(10, dtype=dtype))
    assert U.dtype == {torch.float32: torch.complex64, torch.float64: torch.complex128}[dtype]
    assert distance(U @ U.mH, torch.eye(2)) < 10 * torch.finfo(dtype).eps
    assert distance(torch.linalg.det(U), torch.ones(10)) < 10 * torch.finfo(dtype).eps


def test_spin_is_even_under_inversion() -> None:
    R = random_rotation(4)
    assert torch.equal(spin_half_D(-R), spin_half_D(R))


@EXAMPLES
@given(SEEDS, SEEDS)
def test_vector_part_rotates_as_an_l_1_irrep(seed: int, rotation_seed: int) -> None:
    R = random_rotation(generator=torch.Generator().manual_seed(rotation_seed))
    H, U = complex_blocks(seed, 2, 2), spin_half_D(R)
    before, after = spin_to_components(H), spin_to_components(U @ H @ U.mH)
    assert distance(after[0], before[0]) < 1e-14
    assert distance(after[1:], wigner_D(1, R).to(torch.complex128) @ before[1:]) < 1e-14


def test_vector_part_in_the_order_x_y_z_does_not_rotate_as_l_1() -> None:
    R, H = random_rotation(), complex_blocks(1, 2, 2)
    U = spin_half_D(R)
    before, after = (spin_to_components(M)[[3, 1, 2]] for M in (H, U @ H @ U.mH))
    assert distance(after, wigner_D(1, R).to(torch.complex128) @ before) > 0.1


@EXAMPLES
@given(SEEDS)
def test_conversion_is_unitary_and_inverts(seed: int) -> None:
    H = complex_blocks(seed, 3, 2, 2, 5, 4)
    h = spin_to_components(H, dim=-4)
    assert h.shape == (3, 4, 5, 4)
    assert distance(components_to_spin(h, dim=-3), H) < 2e-15
    assert abs(float(h.abs().square().sum() / H.abs().square().sum()) - 1) < 1e-14


def test_components_are_the_coefficients_of_the_pauli_matrices() -> None:
    h = complex_blocks(2, 4)
    assert distance(components_to_spin(h), torch.einsum("a,ast->st", h, pauli_matrices()) / 2**0.5) < 1e-15
    assert distance(components_to_spin(h), torch.einsum("a,ats->st", h, pauli_matrices()) / 2**0.5) > 0.1


def test_wrong_axes_raise() -> None:
    with pytest.raises(DataError, match=r"lengths \(2, 2\) .* found shape \(2, 3\)"):
        spin_to_components(torch.zeros(2, 3, dtype=torch.complex128))
    with pytest.raises(DataError, match=r"lengths \(4,\) .* found shape \(3,\)"):
        components_to_spin(torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(DataError, match="negative"):
        spin_to_components(torch.zeros(2, 2, dtype=torch.complex128), dim=0)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (4, 4), ()])
def test_other_shapes_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"shape \(\.\.\., 3, 3\), found"):
        spin_half_D(torch.ones(shape))


def test_other_dtypes_raise() -> None:
    with pytest.raises(DataError, match=r"found torch\.float16; convert"):
        spin_half_D(torch.eye(3, dtype=torch.float16))
