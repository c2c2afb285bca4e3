"""Wigner-D against exact arithmetic, e3nn and the group laws; every law has a control that breaks it."""

from __future__ import annotations

import mpmath
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import DataError
from tracegrad.so3 import rotations
from tracegrad.so3.rotations import (
    euler_angles,
    exchange_matrix_rows,
    random_rotation,
    rotation_from_angles,
    rotation_from_quaternion,
    wigner_D,
    wigner_D_from_angles,
    wigner_D_irreps,
)

P = torch.eye(3, dtype=torch.float64)[[1, 2, 0]]  # (x, y, z) -> (y, z, x)
COMPONENTS = st.integers(-50, 50)
QUATERNIONS = st.tuples(COMPONENTS, COMPONENTS, COMPONENTS, COMPONENTS).filter(any)
DEGREES = st.integers(0, 12)
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
NEAR_POLES = [
    (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 1), (10**8, 1, 0, 0), (10**16, 0, 1, 0),
    (1, 10**8, 0, 0), (1, 0, 10**12, 5), (10**8, 1, 1, 10**7), (3, -7, 2, 5),
]  # fmt: skip


def rotation(quaternion: tuple[int, ...]) -> torch.Tensor:
    """Rotation of an integer quaternion, in float64."""
    return rotation_from_quaternion(torch.tensor(quaternion, dtype=torch.float64))


def exact_D(l: int, quaternion: tuple[int, ...]) -> torch.Tensor:
    """D to 30 digits: the exponential of angular momentum, built from ladder operators on |l m> and made real."""
    with mpmath.workdps(30):
        n = 2 * l + 1
        raising, j_z, basis = mpmath.zeros(n), mpmath.zeros(n), mpmath.zeros(n)
        root = 1 / mpmath.sqrt(2)
        for m in range(-l, l + 1):
            j_z[l + m, l + m] = m
            if m < l:
                raising[l + m + 1, l + m] = mpmath.sqrt(l * (l + 1) - m * (m + 1))
            if m > 0:  # cos-like and sin-like functions, without the Condon-Shortley phase
                basis[l + m, l + m], basis[l - m, l + m] = (-1) ** m * root, root
                basis[l - m, l - m], basis[l + m, l - m] = 1j * root, -1j * (-1) ** m * root
        basis[l, l] = 1
        w, x, y, z = (mpmath.mpf(component) for component in quaternion)
        length = mpmath.sqrt(x * x + y * y + z * z)
        if length == 0:
            return torch.eye(n, dtype=torch.float64)
        angle = 2 * mpmath.atan2(length, w)
        j_x, j_y = (raising + raising.T) / 2, (raising - raising.T) / 2j
        exponent = -1j * (angle / length) * (x * j_x + y * j_y + z * j_z)
        matrix = mpmath.expm((basis.H * exponent * basis).apply(mpmath.re))
        return torch.tensor([[float(matrix[i, j]) for j in range(n)] for i in range(n)], dtype=torch.float64)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


@pytest.mark.parametrize("l", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("quaternion", NEAR_POLES, ids=str)
def test_error_is_below_1e_14_against_exact_arithmetic(l: int, quaternion: tuple[int, ...]) -> None:
    assert distance(wigner_D(l, rotation(quaternion)), exact_D(l, quaternion)) < 1e-14


@pytest.mark.parametrize("quaternion", [(3, -7, 2, 5), (10**8, 1, 0, 0), (1, 0, 10**12, 5)], ids=str)
def test_error_is_below_1e_14_at_the_highest_degree(quaternion: tuple[int, ...]) -> None:
    exact = exact_D(12, quaternion)
    assert distance(wigner_D(12, rotation(quaternion)), exact) < 1e-14
    assert distance(wigner_D(12, rotation(quaternion).float()).double(), exact) > 1e-14  # control: half the digits


def test_exact_arithmetic_rejects_the_transpose() -> None:
    exact = exact_D(3, (3, -7, 2, 5))
    assert distance(wigner_D(3, rotation((3, -7, 2, 5))).mT, exact) > 0.1


def test_angles_by_arc_cosine_would_lose_half_the_digits_near_the_pole() -> None:
    R = rotation((10**8, 1, 0, 0))
    alpha, _, gamma = euler_angles(R)
    lossy = wigner_D_from_angles(4, alpha, torch.arccos(R[..., 2, 2].clamp(-1, 1)), gamma)
    assert distance(lossy, exact_D(4, (10**8, 1, 0, 0))) > 1e-9


@pytest.mark.parametrize("l", [1, 2, 5, 12])
def test_exchange_matrix_is_correct_to_the_last_bit(l: int) -> None:
    reflection = torch.tensor([-1.0] * l + [1.0] * (l + 1), dtype=torch.float64)  # (x, z, y) = S R_x(pi/2) (x, y, z)
    exact = reflection[:, None] * exact_D(l, (1, 1, 0, 0))
    exact = torch.where(exact.abs() < 1e-25, 0.0, exact)
    J = torch.tensor(exchange_matrix_rows(l), dtype=torch.float64)
    assert torch.equal(J, exact)
    assert not torch.equal(torch.nextafter(J, torch.ones_like(J)), exact)


@pytest.mark.parametrize("l", range(13))
def test_exchange_matrix_is_symmetric_and_its_own_inverse(l: int) -> None:
    J = torch.tensor(exchange_matrix_rows(l), dtype=torch.float64)
    assert torch.equal(J, J.mT)
    assert distance(J @ J, torch.eye(2 * l + 1, dtype=torch.float64)) < 1e-15


@pytest.mark.parametrize("l", range(13))
def test_agrees_with_e3nn(l: int) -> None:
    torch.set_default_dtype(torch.float64)  # e3nn builds its generators in the default dtype
    R = random_rotation(8)
    R_e3nn = P @ R @ P.T
    assert distance(wigner_D(l, R), o3.wigner_D(l, *o3.matrix_to_angles(R_e3nn))) < 1e-12
    if l > 0:  # control: the same rotation with vectors fed as (x, y, z)
        assert distance(wigner_D(l, R), o3.wigner_D(l, *o3.matrix_to_angles(R))) > 0.1


@EXAMPLES
@given(QUATERNIONS)
def test_degree_one_is_the_rotation_itself(quaternion: tuple[int, ...]) -> None:
    R = rotation(quaternion)
    assert distance(wigner_D(1, R), P @ R @ P.T) < 2e-15


def test_degree_one_is_not_the_rotation_in_another_order() -> None:
    R = rotation((3, -7, 2, 5))
    assert distance(wigner_D(1, R), R) > 0.1


@EXAMPLES
@given(DEGREES, QUATERNIONS, QUATERNIONS)
def test_product_of_rotations_is_product_of_matrices(l: int, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    R1, R2 = rotation(first), rotation(second)
    assert distance(wigner_D(l, R1 @ R2), wigner_D(l, R1) @ wigner_D(l, R2)) < 2e-14


def test_product_in_the_wrong_order_is_rejected() -> None:
    R1, R2 = rotation((3, -7, 2, 5)), rotation((1, 4, -2, 6))
    assert distance(wigner_D(3, R1 @ R2), wigner_D(3, R2) @ wigner_D(3, R1)) > 0.1


@EXAMPLES
@given(DEGREES, QUATERNIONS)
def test_matrices_are_orthogonal_and_invert_with_the_rotation(l: int, quaternion: tuple[int, ...]) -> None:
    R = rotation(quaternion)
    D = wigner_D(l, R)
    assert distance(D @ D.mT, torch.eye(2 * l + 1, dtype=torch.float64)) < 5e-15
    assert distance(wigner_D(l, R.mT), D.mT) < 2e-14


@EXAMPLES
@given(st.integers(0, 11), QUATERNIONS, st.integers(0, 2**31))
def test_rotated_point_has_rotated_harmonics(l: int, quaternion: tuple[int, ...], seed: int) -> None:
    R = rotation(quaternion)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    Y, Y_rotated = (o3.spherical_harmonics(l, v[:, [1, 2, 0]], normalize=True) for v in (x, x @ R.mT))
    assert distance(Y @ wigner_D(l, R).mT, Y_rotated) < 2e-13


@pytest.mark.parametrize("wrong", ["transposed", "components reversed", "sign of odd m"])
def test_a_wrong_representation_does_not_rotate_harmonics(wrong: str) -> None:
    R = rotation((3, -7, 2, 5))
    x = torch.randn(5, 3, dtype=torch.float64)
    D = wigner_D(2, R)
    phase = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    D = {"transposed": D.mT, "components reversed": D.flip(0, 1), "sign of odd m": phase[:, None] * D * phase}[wrong]
    Y, Y_rotated = (o3.spherical_harmonics(2, v[:, [1, 2, 0]], normalize=True) for v in (x, x @ R.mT))
    assert distance(Y @ D.mT, Y_rotated) > 0.1


@EXAMPLES
@given(st.one_of(QUATERNIONS, st.sampled_from(NEAR_POLES)))
def test_euler_angles_give_the_rotation_back(quaternion: tuple[int, ...]) -> None:
    R = rotation(quaternion)
    alpha, beta, gamma = euler_angles(R)
    assert distance(rotation_from_angles(alpha, beta, gamma), R) < 2e-15
    assert 0 <= beta <= torch.pi


def test_euler_angles_in_another_order_give_another_rotation() -> None:
    alpha, beta, gamma = euler_angles(rotation((3, -7, 2, 5)))
    assert distance(rotation_from_angles(gamma, beta, alpha), rotation((3, -7, 2, 5))) > 0.1


def test_dtype_of_the_input_is_kept(dtype: torch.dtype) -> None:
    R = random_rotation(16)
    D = wigner_D(6, R.to(dtype))
    assert D.dtype == dtype
    assert distance(D.double(), wigner_D(6, R)) < 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_accepted(half: torch.dtype) -> None:
    R = random_rotation(4).to(half)
    assert wigner_D(2, R).dtype == half
    assert distance(wigner_D(2, R).double(), wigner_D(2, R.double())) < 20 * torch.finfo(half).eps
    assert wigner_D_irreps("1o+2e", R).dtype == half


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)], ids=str)
def test_any_batch_shape(shape: tuple[int, ...]) -> None:
    R = random_rotation(6)[: int(torch.tensor(shape).prod())].reshape(*shape, 3, 3)
    assert wigner_D(3, R).shape == (*shape, 7, 7)
    assert wigner_D_irreps("2x0e+1o", R).shape == (*shape, 5, 5)
    for index in range(R.reshape(-1, 3, 3).shape[0]):
        alone = wigner_D(3, R.reshape(-1, 3, 3)[index])
        assert distance(wigner_D(3, R).reshape(-1, 7, 7)[index], alone) < 1e-15


def test_angles_broadcast() -> None:
    alpha, beta, gamma = torch.rand(4, 1).double(), torch.rand(3).double(), torch.tensor(0.5).double()
    R = rotation_from_angles(alpha, beta, gamma)
    assert R.shape == (4, 3, 3, 3)
    assert distance(wigner_D_from_angles(2, alpha, beta, gamma), wigner_D(2, R)) < 5e-15


@pytest.mark.parametrize("l", [1, 2, 3])
def test_random_rotations_are_uniform(l: int, generator: torch.Generator) -> None:
    R = random_rotation(4000, generator)
    assert distance(torch.linalg.det(R), torch.ones(4000).double()) < 1e-14
    limit = 5 / (4000 * (2 * l + 1)) ** 0.5  # mean of D is 0, mean of its square 1 / (2l+1)
    assert wigner_D(l, R).mean(0).abs().max() < limit
    about_z = rotation_from_angles(torch.rand(4000).double() * 6.28, torch.zeros(1).double(), torch.zeros(1).double())
    assert wigner_D(l, about_z).mean(0).abs().max() > limit


def test_random_rotations_repeat_with_their_generator(dtype: torch.dtype) -> None:
    first, second = (random_rotation(3, torch.Generator().manual_seed(7), dtype) for _ in range(2))
    assert first.dtype == dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, random_rotation(3, torch.Generator().manual_seed(8), dtype))
    assert random_rotation().shape == (3, 3)


@EXAMPLES
@given(QUATERNIONS, st.sampled_from([1.0, -1.0]))
def test_irreps_are_laid_out_in_blocks_with_parity(quaternion: tuple[int, ...], sign: float) -> None:
    R = rotation(quaternion)
    D = wigner_D_irreps("2x1o+1e+0o+2e", sign * R)
    parts = [sign * wigner_D(1, R)] * 2 + [wigner_D(1, R), sign * wigner_D(0, R), wigner_D(2, R)]
    assert distance(D, torch.block_diag(*parts)) < 1e-15


def test_irreps_of_natural_parity_follow_harmonics_through_inversion() -> None:
    improper, x = -random_rotation(), torch.randn(5, 3, dtype=torch.float64)
    irreps = o3.Irreps.spherical_harmonics(4)
    Y, Y_moved = (o3.spherical_harmonics(irreps, v[:, [1, 2, 0]], normalize=True) for v in (x, x @ improper.mT))
    assert distance(Y @ wigner_D_irreps(irreps, improper).mT, Y_moved) < 1e-13
    assert distance(Y @ wigner_D_irreps(irreps, -improper).mT, Y_moved) > 0.1  # control: parity forgotten


def test_first_use_in_inference_mode_does_not_spoil_later_gradients() -> None:
    rotations._EXCHANGE_MATRICES.clear()
    R = random_rotation(2)
    with torch.inference_mode():
        wigner_D(2, R)
    R.requires_grad_()
    wigner_D(2, R).sum().backward()
    assert R.grad is not None


@pytest.mark.parametrize(
    "R", [torch.eye(2), torch.eye(3, dtype=torch.int64), torch.zeros(3)], ids=["2x2", "integers", "vector"]
)
def test_what_is_no_rotation_raises(R: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"shape \(\.\.\., 3, 3\)"):
        wigner_D(1, R)
    with pytest.raises(DataError, match=r"shape \(\.\.\., 3, 3\)"):
        wigner_D_irreps("1o", R)


def test_negative_degree_raises() -> None:
    with pytest.raises(DataError, match="at least 0, found -1"):
        wigner_D(-1, torch.eye(3))
