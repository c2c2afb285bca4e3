"""What sisl reads is what we have: H(k) and S(k) element by element, with and without spin, and its energies."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from tracegrad.data import Blocks, Structure, load_dataset
from tracegrad.errors import DataError
from tracegrad.physics import bloch_matrices, energies_at, to_sisl

needs_sisl = pytest.mark.skipif(find_spec("sisl") is None, reason="needs sisl (pip install tracegrad[physics])")
POINTS = np.random.default_rng(0).uniform(-1, 1, (4, 3))


def order_of(structure: Structure) -> np.ndarray:
    """Return the row of sisl for every row of ours: the spins of an orbital are neighbours there."""
    spins = 2 if structure.spinful else 1
    rows, start = [], 0
    for atom in structure.numbers.tolist():
        n = sum(2 * l + 1 for l in structure.orbitals[atom])
        rows += [spins * (start + orbital) + spin for spin in range(spins) for orbital in range(n)]
        start += n
    return np.array(rows)


def deviation(exported: Any, structure: Structure, k: np.ndarray) -> float:
    """Return the largest difference of H(k) and S(k)."""
    order = order_of(structure)
    ours = (matrix.dense(k) for matrix in bloch_matrices(structure))
    theirs = (exported.Hk(k, format="array"), exported.Sk(k, format="array"))
    rows = np.ix_(order, order)
    return max(float(np.abs(a - b[rows]).max()) for a, b in zip(ours, theirs, strict=True))


def changed_spin(structure: Structure, change: str) -> Structure:
    """Return the structure with a fault in its spin blocks."""
    assert structure.hamiltonian is not None
    blocks = {}
    for key, block in structure.hamiltonian.to_dict().items():
        parts = block.reshape(2, block.shape[0] // 2, 2, block.shape[1] // 2)
        if change == "spins swapped":
            parts = parts[::-1, :, ::-1]
        elif change == "off-diagonal blocks swapped":
            parts = parts.copy()
            parts[0, :, 1], parts[1, :, 0] = parts[1, :, 0].copy(), parts[0, :, 1].copy()
        else:
            parts = parts.conj()
        blocks[key] = parts.reshape(block.shape)
    return replace(structure, hamiltonian=Blocks.from_dict(blocks))


@needs_sisl
@pytest.mark.parametrize("key", ["MM", "BB", "BT"])
def test_matrices_at_any_k_are_ours(key: str) -> None:
    structure = load_dataset(key).test[0]
    exported = to_sisl(structure)
    assert (exported.spin.is_spinorbit, exported.orthogonal) == (structure.spinful, False)
    for k in POINTS:
        assert deviation(exported, structure, k) < 1e-10
        assert deviation(exported, structure, -k) < 1e-10
    assert structure.overlap is not None
    other = replace(structure, overlap=structure.overlap.with_values(1.01 * structure.overlap.values))
    assert deviation(exported, other, POINTS[0]) > 1e-3


@needs_sisl
@pytest.mark.parametrize("change", ["spins swapped", "off-diagonal blocks swapped", "complex conjugate"])
def test_a_fault_of_the_spin_blocks_is_seen(change: str) -> None:
    structure = load_dataset("BT").test[0]
    wrong = changed_spin(structure, change)
    assert deviation(to_sisl(wrong), wrong, POINTS[0]) < 1e-10
    assert deviation(to_sisl(wrong), structure, POINTS[0]) > 1e-3


@needs_sisl
@pytest.mark.parametrize("key", ["MM", "BB"])
def test_sisl_has_the_same_energies(key: str) -> None:
    structure = load_dataset(key).test[0]
    exported = to_sisl(structure)
    for k in ([0.0, 0, 0], [0.17, 0.29, 0]):
        expected = energies_at(structure, [k])[0]
        assert np.abs(np.sort(exported.eigh(k)) - expected).max() < 1e-8
        if any(k):
            assert np.abs(np.sort(exported.eigh([k[0], -k[1] / 2, 0])) - expected).max() > 1e-3


@needs_sisl
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spin_points_where_sisl_says_it_does(axis: int) -> None:
    pauli = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    site, one = {(0, 0, 0, 0, 0): -pauli[axis]}, {(0, 0, 0, 0, 0): np.ones((1, 1))}
    atom = (np.array([1]), np.zeros((1, 3)), 9.0 * np.eye(3), np.ones(3, dtype=bool), {1: (0,)}, True)
    structure = Structure(*atom, Blocks.from_dict(site), Blocks.from_dict(one), name="spin").validate()
    moments = np.asarray(to_sisl(structure).eigenstate([0, 0, 0]).spin_moment()).squeeze()
    lowest = moments[:, 0] if moments.shape[0] == 3 else moments[0]
    assert lowest == pytest.approx(np.eye(3)[axis], abs=1e-12)


@needs_sisl
def test_atoms_and_orbitals_keep_their_names() -> None:
    structure = load_dataset("BT").test[0]
    geometry = to_sisl(structure).geometry
    assert geometry.atoms.Z.tolist() == structure.numbers.tolist()
    assert np.array_equal(geometry.xyz, structure.positions)
    names = [orbital.tag for orbital in geometry.atoms[0].orbitals]
    shells = structure.orbitals[int(structure.numbers[0])]
    assert len(names) == len(set(names)) == sum(2 * l + 1 for l in shells)
    assert names[:5] == ["s1(0)", "s2(0)", "p1(-1)", "p1(0)", "p1(1)"]


def test_sisl_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sisl", None)
    with pytest.raises(DataError, match="pip install sisl"):
        to_sisl(load_dataset("MM").test[0])


@needs_sisl
def test_a_structure_without_overlap_is_refused() -> None:
    with pytest.raises(DataError, match="expected overlap blocks"):
        to_sisl(replace(load_dataset("BB").test[0], overlap=None))
