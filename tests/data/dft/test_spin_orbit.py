"""The spin-orbit operator against PySCF's own periodic projectors, and the symmetries that it must have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms

from tracegrad.data.dft.calculation import Calculation, Request
from tracegrad.data.dft.csr import Geometry, half_pairs
from tracegrad.data.dft.fermi import energy_levels
from tracegrad.data.dft.generate import generate
from tracegrad.data.dft.spin_orbit import CHANNELS, angular_momentum, spin_orbit_blocks
from tracegrad.data.dft.systems import ELEMENTS
from tracegrad.errors import DataError
from tracegrad.so3 import wigner_D_irreps

SHELLS = "2x0e+2x1o+1x2e"


@pytest.mark.parametrize("l", [0, 1, 2, 3])
def test_angular_momentum_has_its_algebra(l: int) -> None:
    x, y, z = 1j * angular_momentum(l)
    np.testing.assert_allclose(x @ y - y @ x, 1j * z, atol=1e-12)
    np.testing.assert_allclose(y @ z - z @ y, 1j * x, atol=1e-12)
    np.testing.assert_allclose(x @ x + y @ y + z @ z, l * (l + 1) * np.eye(2 * l + 1), atol=1e-12)
    # Control: the opposite sign, a Hermitian matrix as well, breaks the commutator.
    if l:
        assert abs((-x) @ (-y) - (-y) @ (-x) - 1j * (-z)).max() > 0.5


def test_p_matrices_are_the_levi_civita_symbol() -> None:
    """On p_y, p_z, p_x: L_a p_b = i eps_abc p_c."""
    matrices = angular_momentum(1)
    y, z, x = 0, 1, 2
    for a, (b, c) in enumerate([(y, z), (z, x), (x, y)]):
        expected = np.zeros((3, 3))
        expected[c, b], expected[b, c] = 1.0, -1.0
        np.testing.assert_allclose(matrices[a], expected, atol=1e-14)


@pytest.fixture(scope="module")
def dimer() -> tuple[Atoms, np.ndarray]:
    """Return a Bi-Te pair without any symmetry in a small skew cell, and its pairs within 9 Å, both directions."""
    pytest.importorskip("pyscf", reason="needs PySCF (pip install tracegrad[dft])")
    cell = [[6.0, 0.3, 0.0], [-2.9, 5.4, 0.2], [0.4, 0.1, 9.0]]
    atoms = Atoms("BiTe", positions=[[0.3, 0.2, 2.0], [2.2, 1.5, 3.7]], cell=cell, pbc=True)
    half = half_pairs(Geometry(atoms.positions, atoms.cell.array, np.array([13, 13])), 9.0)
    return atoms, half


def as_blocks(values: np.ndarray, count: int) -> np.ndarray:
    return values.reshape(3, count, 13, 13)


def test_reverse_of_a_pair_has_minus_the_transpose(dimer: tuple[Atoms, np.ndarray]) -> None:
    atoms, pairs = dimer
    reverse = np.column_stack([-pairs[:, :3], pairs[:, 4], pairs[:, 3]])
    w, turned = (as_blocks(spin_orbit_blocks(atoms, p), len(p)) for p in (pairs, reverse))
    np.testing.assert_allclose(turned, -w.transpose(0, 1, 3, 2), atol=1e-14)
    assert abs(w).max() > 1e-2


def test_operator_rotates_with_the_atoms(dimer: tuple[Atoms, np.ndarray]) -> None:
    """W is an axial vector in spin space: W'_a = R_ab D W_b D^T, under proper rotations and the inversion."""
    atoms, pairs = dimer
    w = as_blocks(spin_orbit_blocks(atoms, pairs), len(pairs))
    proper = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    proper *= np.linalg.det(proper)
    for turn in (proper, -proper):
        moved = Atoms(atoms.symbols, positions=atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
        found = as_blocks(spin_orbit_blocks(moved, pairs), len(pairs))
        d = wigner_D_irreps(SHELLS, torch.from_numpy(turn)).numpy()
        expected = np.einsum("ab,mn,benk,lk->aeml", proper, d, w, d)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        # Control: spin left unturned.
        assert abs(np.einsum("mn,benk,lk->beml", d, w, d) - found).max() > 1e-3


def test_bloch_sum_equals_pyscfs_periodic_projectors(dimer: tuple[Atoms, np.ndarray]) -> None:
    """The k-space operator from PySCF's own projector integrals, without the cut of the pairs at 9 Å."""
    pbc_gto = pytest.importorskip("pyscf.pbc.gto")
    from pyscf.pbc.gto.pseudo import pp_int

    atoms, _ = dimer
    pairs = half_pairs(Geometry(atoms.positions, atoms.cell.array, np.array([13, 13])), 19.0)
    basis = "gth-dzvp-molopt-sr"
    cell = pbc_gto.M(
        atom=list(zip(atoms.symbols, atoms.positions, strict=True)),
        a=atoms.cell.array,
        basis=basis,
        pseudo="gth-pbe",
        precision=1e-12,
        spin=1,
        verbose=0,
    )
    k = np.array([0.21, -0.34, 0.13])
    fake, blocks = pp_int.fake_cell_vnl(cell)
    integrals = pp_int._int_vnl(cell, fake, blocks, cell.get_abs_kpts(k)[None])
    expected = np.zeros((3, 26, 26), dtype=complex)
    for projector, hl in enumerate(blocks):
        symbol, l = atoms.symbols[fake._bas[projector, 0]], fake.bas_angular(projector)
        channel = next((c for c in CHANNELS[symbol] if c.l == l), None)
        if channel is None:
            continue
        order = [1, 2, 0] if l == 1 else list(range(2 * l + 1))
        overlaps = []
        for i in range(len(channel.strength)):
            start = sum(2 * fake.bas_angular(p) + 1 for p in range(projector) if len(blocks[p]) > i)
            # PySCF keeps the norm of the projectors in its copy of the potential's own parameters.
            norm = np.sqrt(hl[i, i] / cell._pseudo[symbol][5 + l][2][i][i])
            overlaps.append(norm * integrals[i][0][start : start + 2 * l + 1][order])
        for a, m in enumerate(angular_momentum(l)):
            for i, left in enumerate(overlaps):
                for j, right in enumerate(overlaps):
                    expected[a] += channel.strength[i][j] / 2 * left.conj().T @ m @ right
    orbitals = np.concatenate([13 * n + np.array([0, 1, 3, 4, 2, 6, 7, 5, 8, 9, 10, 11, 12]) for n in range(2)])
    expected = expected[:, orbitals][:, :, orbitals]

    w = as_blocks(spin_orbit_blocks(atoms, pairs), len(pairs))
    found = np.zeros((3, 2, 13, 2, 13), dtype=complex)
    for edge, (x, y, z, i, j) in enumerate(pairs.tolist()):
        phase = np.exp(2j * np.pi * (k @ [x, y, z]))
        found[:, i, :, j] += phase * w[:, edge]
        if edge >= 2:  # the first two are on site
            found[:, j, :, i] -= phase.conj() * w[:, edge].transpose(0, 2, 1)
    np.testing.assert_allclose(found.reshape(3, 26, 26), expected, atol=5e-8)
    assert abs(expected).max() > 1e-2


def test_spinful_levels_of_the_recorded_dimer_are_kramers_pairs(read: Callable[..., Calculation]) -> None:
    result = read("bismuth_dimer")
    structure = result.scalar_structure()
    levels = energy_levels(structure, result.spin_orbit, np.zeros(3))
    assert len(levels) == 52
    assert abs(levels[::2] - levels[1::2]).max() < 1e-9
    scalar = energy_levels(structure, None, np.zeros(3))
    assert abs(levels[::2] - scalar).max() > 0.1
    # Control: a matrix that is not odd under time reversal splits the pairs.
    broken = energy_levels(structure, np.stack([abs(w) for w in result.spin_orbit]), np.zeros(3))
    assert abs(broken[::2] - broken[1::2]).max() > 1e-4


def test_spinful_structure_is_hermitian_and_holds_both_spins(read: Callable[..., Calculation]) -> None:
    structure = read("bismuth_dimer").structure()
    assert structure.spinful
    assert structure.hamiltonian.block(0).shape == (26, 26)
    assert structure.hamiltonian.hermiticity_defect() < 1e-9
    fermi, scalar = structure.metadata["fermi_energy_eV"], structure.metadata["fermi_energy_scalar_eV"]
    assert abs(fermi - scalar) > 1e-3


def test_strength_grows_with_the_nucleus() -> None:
    """The strongest projector: Se, Te, Bi in the order of their numbers."""
    strongest = [CHANNELS[symbol][0].strength[0][0] for symbol in ("Se", "Te", "Bi")]
    assert all(a < b for a, b in pairwise(strongest))
    assert all(ELEMENTS[symbol].n_orbitals == 13 for symbol in CHANNELS)


def test_element_without_parameters_is_refused() -> None:
    atoms = Atoms("C", positions=[[0.0, 0.0, 0.0]], cell=[5, 5, 5], pbc=True)
    with pytest.raises(DataError, match="no spin-orbit parameters for C"):
        spin_orbit_blocks(atoms, np.zeros((1, 5), dtype=np.int64))


def test_missing_pyscf_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    program = tmp_path / "cp2k.psmp"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(DataError, match=r"pip install pyscf"):
        generate([Request("BB", "test", 0)], tmp_path / "out")
