"""Blocks as irreps: exact inverse, rotation law, Hermitian partner, time reversal; every law has a control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import DataError
from tracegrad.so3 import (
    block_change_of_basis,
    block_irreps,
    block_to_irreps,
    blocks,
    hermitian_signs,
    irreps_to_block,
    random_rotation,
    spin_half_D,
    time_reversal_signs,
    to_convention,
    wigner_D,
    wigner_D_irreps,
)

DEGREES, SEEDS = st.integers(0, 4), st.integers(0, 2**31)
EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True)
KINDS = pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
SIGMA_Y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)


def random_block(l1: int, l2: int, spinful: bool, seed: int, *batch: int) -> torch.Tensor:
    """Random blocks in double precision."""
    generator = torch.Generator().manual_seed(seed)
    if spinful:
        return torch.randn(*batch, 2, 2, 2 * l1 + 1, 2 * l2 + 1, dtype=torch.complex128, generator=generator)
    return torch.randn(*batch, 2 * l1 + 1, 2 * l2 + 1, dtype=torch.float64, generator=generator)


def rotated(block: torch.Tensor, D1: torch.Tensor, D2: torch.Tensor, U: torch.Tensor) -> torch.Tensor:
    """H -> D1 H D2^T, spinful (U x D1) H (U x D2)^dagger, through the full spin-major matrix."""
    if not block.is_complex():
        return D1 @ block @ D2.mT
    U = U.resolve_conj().contiguous()  # torch.kron takes no lazily conjugated view
    left, right = (torch.kron(U, D.contiguous().to(U.dtype)) for D in (D1, D2))
    return from_matrix(left @ to_matrix(block) @ right.mH)


def to_matrix(block: torch.Tensor) -> torch.Tensor:
    """Matrix (2n, 2m) of a spinful block, [[uu, ud], [du, dd]]."""
    return torch.cat([torch.cat([block[0, 0], block[0, 1]], dim=1), torch.cat([block[1, 0], block[1, 1]], dim=1)])


def from_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Inverse of `to_matrix`."""
    n, m = matrix.shape[0] // 2, matrix.shape[1] // 2
    return torch.stack(
        [torch.stack([matrix[s * n : (s + 1) * n, t * m : (t + 1) * m] for t in (0, 1)]) for s in (0, 1)]
    )


def time_reversed(block: torch.Tensor) -> torch.Tensor:
    """Conjugate by i sigma_y K on the full matrix."""
    l_rows, l_columns = block.shape[-2:]
    left = torch.kron(1j * SIGMA_Y, torch.eye(l_rows, dtype=torch.complex128))
    right = torch.kron(1j * SIGMA_Y, torch.eye(l_columns, dtype=torch.complex128))
    return from_matrix(left @ to_matrix(block).conj() @ right.mH)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


@KINDS
@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_round_trip_is_exact_and_keeps_the_norm(spinful: bool, l1: int, l2: int, seed: int) -> None:
    H = random_block(l1, l2, spinful, seed, 3)
    t = block_to_irreps(H, l1, l2, spinful)
    assert t.shape == (3, block_irreps(l1, l2, spinful).dim)
    assert distance(irreps_to_block(t, l1, l2, spinful), H) < 1e-14
    assert distance(t.square().sum(-1), H.abs().square().flatten(1).sum(-1)) < 1e-12


@EXAMPLES
@given(DEGREES, DEGREES, st.booleans())
def test_change_of_basis_is_orthogonal(l1: int, l2: int, spinful: bool) -> None:
    C = block_change_of_basis(l1, l2, spinful)
    assert distance(C @ C.mT, torch.eye(len(C), dtype=torch.float64)) < 5e-15
    kept = block_change_of_basis(l1, l2, spinful, time_reversal=True)
    assert distance(kept @ kept.mT, torch.eye(len(kept), dtype=torch.float64)) < 5e-15


def test_without_the_root_of_2l_1_the_change_of_basis_is_not_orthogonal() -> None:
    roots = torch.tensor([(2 * l + 1) ** 0.5 for l in block_irreps(1, 2).ls for _ in range(2 * l + 1)]).double()
    C = block_change_of_basis(1, 2) / roots[:, None]
    assert distance(C @ C.mT, torch.eye(15).double()) > 0.5


def test_precision_of_the_input_is_kept(dtype: torch.dtype) -> None:
    spinless, spinful = random_block(2, 1, False, 0), random_block(2, 1, True, 0)
    t, u = block_to_irreps(spinless.to(dtype), 2, 1), block_to_irreps(spinful.to(dtype.to_complex()), 2, 1, True)
    assert (t.dtype, u.dtype) == (dtype, dtype)
    assert irreps_to_block(t, 2, 1).dtype == dtype
    assert irreps_to_block(u, 2, 1, True).dtype == dtype.to_complex()
    assert distance(u.double(), block_to_irreps(spinful, 2, 1, True)) < 20 * torch.finfo(dtype).eps


@KINDS
@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_rotating_the_block_rotates_its_irreps(spinful: bool, l1: int, l2: int, seed: int) -> None:
    H, R = random_block(l1, l2, spinful, seed), random_rotation(generator=torch.Generator().manual_seed(seed))
    H_rotated = rotated(H, wigner_D(l1, R), wigner_D(l2, R), spin_half_D(R))
    t, t_rotated = (block_to_irreps(block, l1, l2, spinful) for block in (H, H_rotated))
    assert distance(wigner_D_irreps(block_irreps(l1, l2, spinful), R) @ t, t_rotated) < 2e-14


@KINDS
@pytest.mark.parametrize("wrong", ["transposed D", "components reversed", "columns by the row degree's inverse"])
def test_a_wrong_rotation_is_rejected(spinful: bool, wrong: str) -> None:
    H, R = random_block(1, 2, spinful, 0), random_rotation()
    D1, D2 = wigner_D(1, R), wigner_D(2, R)
    D1, D2 = {
        "transposed D": (D1.mT, D2.mT),
        "components reversed": (D1.flip(0, 1), D2.flip(0, 1)),
        "columns by the row degree's inverse": (D1, D2.mT),
    }[wrong]
    t, t_rotated = (block_to_irreps(M, 1, 2, spinful) for M in (H, rotated(H, D1, D2, spin_half_D(R))))
    assert distance(wigner_D_irreps(block_irreps(1, 2, spinful), R) @ t, t_rotated) > 0.1


def test_a_wrong_spin_rotation_is_rejected() -> None:
    H, R = random_block(1, 2, True, 0), random_rotation()
    t = block_to_irreps(H, 1, 2, True)
    for U in (spin_half_D(R).conj(), spin_half_D(R).mH, torch.eye(2, dtype=torch.complex128)):
        t_rotated = block_to_irreps(rotated(H, wigner_D(1, R), wigner_D(2, R), U), 1, 2, True)
        assert distance(wigner_D_irreps(block_irreps(1, 2, True), R) @ t, t_rotated) > 0.1


@KINDS
@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_inversion_multiplies_by_the_parity_of_both_shells(spinful: bool, l1: int, l2: int, seed: int) -> None:
    inversion = -torch.eye(3, dtype=torch.float64)
    H, irreps = random_block(l1, l2, spinful, seed), block_irreps(l1, l2, spinful)
    t = block_to_irreps(H, l1, l2, spinful)
    inverted = block_to_irreps((-1) ** l1 * (-1) ** l2 * H, l1, l2, spinful)
    assert distance(wigner_D_irreps(irreps, inversion) @ t, inverted) < 1e-14
    natural = o3.Irreps([(1, (l, (-1) ** l)) for l in irreps.ls])  # control: parities of harmonics
    assert (distance(wigner_D_irreps(natural, inversion) @ t, inverted) < 1e-14) == (min(l1, l2) == 0 and not spinful)


@KINDS
@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_hermitian_partner_has_the_same_irreps_up_to_signs(spinful: bool, l1: int, l2: int, seed: int) -> None:
    H = random_block(l1, l2, spinful, seed)
    partner = from_matrix(to_matrix(H).mH) if spinful else H.mT
    t = block_to_irreps(H, l1, l2, spinful)
    assert distance(block_to_irreps(partner, l2, l1, spinful), hermitian_signs(l1, l2, spinful) * t) < 2e-14
    assert torch.equal(hermitian_signs(l1, l2, spinful), hermitian_signs(l2, l1, spinful))


@pytest.mark.parametrize("wrong", ["no signs", "conjugation dropped", "spins not exchanged"])
def test_a_wrong_partner_is_rejected(wrong: str) -> None:
    H, signs = random_block(1, 2, True, 0), hermitian_signs(1, 2, True)
    partner = {
        "no signs": from_matrix(to_matrix(H).mH),
        "conjugation dropped": from_matrix(to_matrix(H).mT),
        "spins not exchanged": H.conj().mT,
    }[wrong]
    expected = block_to_irreps(H, 1, 2, True) * (1 if wrong == "no signs" else signs)
    assert distance(block_to_irreps(partner, 2, 1, True), expected) > 0.1


@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_time_reversal_acts_by_signs(l1: int, l2: int, seed: int) -> None:
    H = random_block(l1, l2, True, seed)
    t, t_reversed = (block_to_irreps(block, l1, l2, True) for block in (H, time_reversed(H)))
    assert distance(time_reversal_signs(l1, l2) * t, t_reversed) < 2e-14
    without_sigma_y = block_to_irreps(H.conj(), l1, l2, True)  # control: complex conjugation alone
    assert distance(time_reversal_signs(l1, l2) * t, without_sigma_y) > 1e-3


@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_time_reversal_layout_keeps_what_time_reversal_allows(l1: int, l2: int, seed: int) -> None:
    H = random_block(l1, l2, True, seed, 2)
    symmetric = (H + torch.stack([time_reversed(block) for block in H])) / 2
    t = block_to_irreps(symmetric, l1, l2, True, time_reversal=True)
    full = block_to_irreps(symmetric, l1, l2, True)
    assert t.shape == (2, block_irreps(l1, l2, True, True).dim)
    assert torch.equal(t, full[:, time_reversal_signs(l1, l2) > 0])
    assert full[:, time_reversal_signs(l1, l2) < 0].abs().max() < 1e-14
    assert distance(irreps_to_block(t, l1, l2, True, True), symmetric) < 1e-14
    assert distance(irreps_to_block(block_to_irreps(H, l1, l2, True, True), l1, l2, True, True), symmetric) < 1e-14
    assert (
        distance(hermitian_signs(l1, l2, True, True), hermitian_signs(l1, l2, True)[time_reversal_signs(l1, l2) > 0])
        == 0
    )
    assert distance(irreps_to_block(t, l1, l2, True, True), H) > 1e-3  # control: H does not obey time reversal


@pytest.mark.parametrize("l1", [0, 1, 2])
@pytest.mark.parametrize("l2", [0, 1, 2])
def test_two_centre_integrals_are_harmonics_of_the_bond(l1: int, l2: int) -> None:
    """Slater and Koster: cylindrical symmetry leaves only Y_l(bond), and only l of the parity of l1 + l2."""
    torch.set_default_dtype(torch.float64)
    R = random_rotation(6)
    bond = R[:, :, 2]
    integrals = torch.zeros(2 * l1 + 1, 2 * l2 + 1)  # sigma, pi, delta with the bond along z
    for m in range(-min(l1, l2), min(l1, l2) + 1):
        integrals[l1 + m, l2 + m] = (1.0, -0.6, 0.2)[abs(m)]
    t = block_to_irreps(wigner_D(l1, R) @ integrals @ wigner_D(l2, R).mT, l1, l2)
    start = 0
    for _, (l, p) in block_irreps(l1, l2):
        part = t[:, start : start + 2 * l + 1]
        harmonics = o3.spherical_harmonics(l, bond[:, [1, 2, 0]], normalize=True, normalization="component")
        slope = (part * harmonics).sum(-1, keepdim=True) / (2 * l + 1)
        assert distance(part, slope * harmonics) < 1e-13
        assert slope.std() < 1e-13
        assert p == (-1) ** l or part.abs().max() < 1e-13
        start += 2 * l + 1


@pytest.mark.parametrize("spin", ["spinless", "spinful"])
@pytest.mark.parametrize("l1", [0, 1, 2])
@pytest.mark.parametrize("l2", [0, 1, 2])
def test_agrees_with_the_public_baseline(spin: str, l1: int, l2: int) -> None:
    """Direct sum and block of two edges, as DeepH-E3 (arXiv:2210.13955) writes them: component norm, OpenMX order.

    The file holds one channel per pair of degrees and two edges of the parity cases (out/edge_irreps, out/H_openmx).
    """
    stored = np.load(Path(__file__).with_name("deephe3_blocks.npz"))
    component = torch.from_numpy(stored[f"{spin}/{l1}{l2}/irreps"])
    expected = torch.from_numpy(stored[f"{spin}/{l1}{l2}/H_openmx"])
    orbital = list(range(abs(l1 - l2), l1 + l2 + 1))
    factors = [(2 * l + 1) for l in orbital for _ in range(2 * l + 1)]
    if spin == "spinful":
        factors += [
            (2 * l + 1) * (2 * L + 1) for l in orbital for L in range(abs(l - 1), l + 2) for _ in range(2 * L + 1)
        ]
        factors += factors
    orthonormal = component / torch.tensor(factors, dtype=torch.float64).sqrt()
    block = to_convention(irreps_to_block(orthonormal, l1, l2, spin == "spinful"), [l1], [l2], "openmx")
    assert distance(block.reshape(expected.shape), expected) < 1e-13
    wrong = to_convention(irreps_to_block(component, l1, l2, spin == "spinful"), [l1], [l2], "openmx")
    assert distance(wrong.reshape(expected.shape), expected) > 1e-3 or (l1 == l2 == 0 and spin == "spinless")


@KINDS
def test_gradients_are_right(spinful: bool) -> None:
    H = random_block(1, 2, spinful, 0, 2).requires_grad_()
    t = torch.randn(2, block_irreps(1, 2, spinful).dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: block_to_irreps(x, 1, 2, spinful), H)
    assert torch.autograd.gradcheck(lambda x: irreps_to_block(x, 1, 2, spinful), t)


def test_first_use_in_inference_mode_does_not_spoil_later_gradients() -> None:
    blocks._change_of_basis.cache_clear()
    with torch.inference_mode():
        block_to_irreps(random_block(1, 1, True, 0).to(torch.complex64), 1, 1, True)
    H = random_block(1, 1, True, 0).to(torch.complex64).requires_grad_()
    block_to_irreps(H, 1, 1, True).sum().backward()
    assert H.grad is not None


def test_the_returned_matrix_is_a_copy() -> None:
    expected = block_change_of_basis(1, 1)
    block_change_of_basis(1, 1).zero_()
    assert torch.equal(block_change_of_basis(1, 1), expected)


@KINDS
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
def test_any_batch_shape(spinful: bool, batch: tuple[int, ...]) -> None:
    H = random_block(1, 2, spinful, 0, *batch)
    t = block_to_irreps(H, 1, 2, spinful)
    assert t.shape == (*batch, block_irreps(1, 2, spinful).dim)
    assert irreps_to_block(t, 1, 2, spinful).shape == H.shape


@pytest.mark.parametrize(
    ("block", "spinful"),
    [
        (torch.zeros(3, 3), False),
        (torch.zeros(3, 5, dtype=torch.complex64), False),
        (torch.zeros(3, 5, dtype=torch.complex64), True),
        (torch.zeros(2, 2, 3, 5), True),
        (torch.zeros(()), False),
    ],
    ids=["wrong degree", "complex without spin", "no spin axes", "real with spin", "number"],
)
def test_blocks_of_another_shape_raise(block: torch.Tensor, spinful: bool) -> None:
    with pytest.raises(DataError, match=r"expected .* for l1 = 1, l2 = 2, spinful = (True|False), found shape"):
        block_to_irreps(block, 1, 2, spinful)


def test_vectors_of_another_length_raise() -> None:
    with pytest.raises(DataError, match=r"expected a real vector of 15 components .* found shape \(14,\)"):
        irreps_to_block(torch.zeros(14), 1, 2)
    with pytest.raises(DataError, match="complex64"):
        irreps_to_block(torch.zeros(15, dtype=torch.complex64), 1, 2)


def test_integers_are_refused_and_not_multiplied_by_rounded_coefficients() -> None:
    block, vector = torch.diag(torch.tensor([2, 0, 0])), torch.arange(9)
    with pytest.raises(DataError, match=r"expected real floating-point blocks .* of torch.int64"):
        block_to_irreps(block, 1, 1)
    with pytest.raises(DataError, match=r"floating-point numbers, found torch.int64"):
        irreps_to_block(vector, 1, 1)
    assert float(block_to_irreps(block.double(), 1, 1).square().sum()) == pytest.approx(4.0)
    assert float(irreps_to_block(vector.double(), 1, 1).square().sum()) == pytest.approx(204.0)
