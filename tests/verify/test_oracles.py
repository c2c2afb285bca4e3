"""The analytic Hamiltonians are right by themselves, and tell wrong conventions from right ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tracegrad.so3 import block_irreps, block_to_irreps, hermitian_signs, irreps_to_block
from verify.conventions import (
    check_block_irreps,
    check_hermitian_signs,
    check_orbital_convention,
    own_orbital_matrix,
    own_spin_matrix,
    quaternion_of,
)
from verify.group import haar, near_pole, octahedral, rotation_matrix
from verify.method import check_library_conventions
from verify.mutants import method as faults
from verify.oracles import (
    GaussianOracle,
    Shell,
    angular_momentum,
    random_oracle,
    slater_koster_block,
    solid_harmonic,
)
from verify.result import Verdict


def test_solid_harmonics_have_the_written_order_and_signs():
    x, y, z = point = np.array([0.3, -0.7, 1.1])
    root = np.sqrt(3)
    expected = {
        1: [y, z, x],
        2: [root * x * y, root * y * z, z * z - (x * x + y * y) / 2, root * x * z, root / 2 * (x * x - y * y)],
    }
    for l, values in expected.items():
        found = [solid_harmonic(l, m, point) for m in range(-l, l + 1)]
        np.testing.assert_allclose(found, values, rtol=1e-14)


@pytest.mark.parametrize("l", range(6))
def test_angular_momentum_obeys_its_algebra(l):
    L = angular_momentum(l)
    np.testing.assert_allclose(L[0] @ L[1] - L[1] @ L[0], 1j * L[2], atol=1e-12)
    np.testing.assert_allclose(sum(a @ a for a in L), l * (l + 1) * np.eye(2 * l + 1), atol=1e-12)
    np.testing.assert_array_equal(L.real, 0)


def test_overlaps_and_kinetic_integrals_equal_those_of_pyscf():
    gto = pytest.importorskip("pyscf.gto")
    positions = np.array([[0.1, -0.2, 0.3], [0.9, 0.4, -0.6]])
    exponents = {0: 0.7, 1: 0.6, 2: 0.5, 3: 0.8}
    shells = tuple(Shell(atom, l, a) for atom in (0, 1) for l, a in exponents.items())
    oracle = GaussianOracle(shells, depth=0.0)
    molecule = gto.M(
        atom=[("H", p) for p in positions],
        basis={"H": [[l, [a, 1.0]] for l, a in exponents.items()]},
        unit="Bohr",
        verbose=0,
    )
    for name, ours in (("int1e_ovlp", oracle.overlap), ("int1e_kin", oracle.block)):
        found = molecule.intor(name)
        norms = _norms(molecule, oracle, positions)
        for a, b in [(0, 4), (1, 5), (1, 6), (2, 5), (2, 6), (3, 6), (3, 7)]:
            rows, columns = _pyscf_shell(molecule, a), _pyscf_shell(molecule, b)
            block = found[np.ix_(rows, columns)]
            mine = ours(positions, a, b) / np.outer(norms[a], norms[b])
            np.testing.assert_allclose(mine, block, atol=1e-12)


def _pyscf_shell(molecule, shell):
    start, stop = molecule.ao_loc_nr()[shell : shell + 2]
    order = np.arange(start, stop)
    return order[[1, 2, 0]] if stop - start == 3 else order  # pyscf orders p as x, y, z


def _norms(molecule, oracle, positions):
    return [np.sqrt(np.diag(oracle.overlap(positions, k, k))) for k in range(len(oracle.shells))]


def test_spinful_oracle_is_hermitian_and_obeys_time_reversal():
    oracle, positions = random_oracle(3, seed=1)
    for a, b in [(0, 5), (1, 6), (2, 7), (3, 6)]:
        block, reverse = oracle.block(positions, a, b, True), oracle.block(positions, b, a, True)
        np.testing.assert_allclose(reverse, block.conj().transpose(1, 0, 3, 2), atol=1e-14)
        flip = np.array([[0, -1j], [1j, 0]])
        reversed_time = np.einsum("st,tumn,uv->svmn", flip, block.conj(), flip)
        np.testing.assert_allclose(reversed_time, block, atol=1e-14)


def test_oracle_blocks_have_every_irrep_alive():
    oracle, positions = random_oracle(2, seed=0)
    for l1, l2 in [(1, 1), (1, 2), (2, 2)]:
        block = torch.from_numpy(oracle.block(positions, l1, 3 + l2, True))
        t = block_to_irreps(block, l1, l2, True, True)
        sizes = [float(t[s].abs().max()) for s in block_irreps(l1, l2, True, True).slices()]
        assert min(sizes) > 1e-4 * max(sizes)


@pytest.mark.parametrize(("l1", "l2"), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (2, 1)])
def test_slater_koster_blocks_are_diagonal_in_m_along_the_pole(l1, l2):
    bonds = [0.7, -0.4, 0.2]
    block = slater_koster_block(l1, l2, [0.0, 0.0, 1.0], bonds)
    expected = np.zeros_like(block)
    sign = (-1) ** (l1 + l2) if l1 > l2 else 1
    for m in range(-min(l1, l2), min(l1, l2) + 1):
        expected[l1 + m, l2 + m] = sign * bonds[abs(m)]
    np.testing.assert_allclose(block, expected, atol=1e-15)


def test_library_conventions_pass():
    results = check_library_conventions()
    assert all(r.passed for r in results), [r.line() for r in results]
    assert {"Gaussian orbitals", "Gaussian orbitals with spin", "Slater-Koster"} == set(results[1].details["errors"])


@pytest.mark.parametrize("wrong", [faults.transposed_D, faults.reversed_order])
def test_wrong_orbital_matrices_are_rejected(wrong):
    result = check_orbital_convention(wrong, lmax=2)
    assert result.verdict is Verdict.STRUCTURAL
    assert min(result.details["errors"].values()) > 0.1


def test_one_wrong_phase_is_rejected():
    def phased(l, R):
        signs = torch.ones(2 * l + 1, dtype=torch.float64)
        signs[-1] = -1.0 if l == 2 else 1.0
        return signs[:, None] * own_orbital_matrix(l, R) * signs

    assert check_orbital_convention(phased, lmax=1).details["errors"]["Slater-Koster"] > 0.1
    assert not check_orbital_convention(phased, lmax=2).passed


def test_wrong_spin_matrices_are_rejected():
    result = check_orbital_convention(own_orbital_matrix, lambda R: own_spin_matrix(R).conj(), lmax=1)
    assert result.details["errors"]["Gaussian orbitals"] < 1e-12
    assert result.details["errors"]["Gaussian orbitals with spin"] > 1e-2


def test_wrong_order_of_irreps_and_wrong_signs_are_rejected():
    def layout(l1, l2, spinful):
        return [(mul, ir.l) for mul, ir in block_irreps(l1, l2, spinful)]

    def swapped(block, l1, l2, spinful):
        t = block_to_irreps(block, l1, l2, spinful)
        return t.flip(-1) if l1 and l2 else t

    assert not check_block_irreps(swapped, layout, lmax=1).passed

    def signs(l1, l2, spinful):
        return hermitian_signs(l1, l2, spinful)

    def there(block, l1, l2, spinful):
        return block_to_irreps(block, l1, l2, spinful)

    assert check_hermitian_signs(signs, there, lmax=2).passed
    assert not check_hermitian_signs(faults.no_signs, there, lmax=2).passed
    assert not check_hermitian_signs(lambda a, b, s: -signs(a, b, s), there, lmax=2).passed


def test_blocks_survive_the_way_to_irreps_and_back():
    oracle, positions = random_oracle(2, seed=3)
    block = torch.from_numpy(oracle.block(positions, 2, 4, True))
    torch.testing.assert_close(
        irreps_to_block(block_to_irreps(block, 2, 1, True), 2, 1, True), block, rtol=0, atol=1e-14
    )


def test_quaternion_of_a_matrix_gives_the_matrix_back_at_poles_and_half_turns():
    quaternions = np.concatenate([haar(20, np.random.default_rng(0)), octahedral(), near_pole()])
    for R in rotation_matrix(quaternions):
        np.testing.assert_allclose(rotation_matrix(quaternion_of(R)[None])[0], R, atol=5e-16)
