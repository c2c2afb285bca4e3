"""Errors of predictions: the μ gauge is no error, states and spaces are compared whatever their basis."""

from __future__ import annotations

import numpy as np
import pytest

from tracegrad.data import Blocks, Structure, load_dataset
from tracegrad.errors import DataError
from tracegrad.physics import (
    bloch_matrices,
    compare_hamiltonians,
    gauge_errors,
    gaussian_overlap,
    mu_shift,
    solve,
    state_similarity,
    valence_electrons,
)
from tracegrad.physics.bloch import with_spin

POINTS = np.array([[0.0, 0, 0], [0.17, 0.29, 0]])


@pytest.fixture(scope="module", params=["MM", "BB"])
def structure(request: pytest.FixtureRequest) -> Structure:
    """Return a structure without and one with spin."""
    return load_dataset(request.param).test[0]


def shifted(structure: Structure, mu: float) -> Blocks:
    """Return H + μS."""
    hamiltonian, overlap = structure.hamiltonian, structure.overlap
    assert hamiltonian is not None
    assert overlap is not None
    metric = with_spin(overlap) if structure.spinful else overlap
    assert np.array_equal(metric.keys(), hamiltonian.keys())
    return hamiltonian.with_values(hamiltonian.values + mu * metric.values)


def test_a_rigid_shift_is_no_error_once_aligned(structure: Structure) -> None:
    moved = shifted(structure, 0.25)
    assert mu_shift(moved, structure) == pytest.approx(0.25, abs=1e-12)
    result = compare_hamiltonians(moved, structure, points=POINTS)
    assert result["mae_raw"] > 0.5
    assert result["mae_aligned"] < 1e-9
    assert result["mu"] == pytest.approx(250.0)
    assert result["occupied_energy_mae"] == pytest.approx(250.0, abs=1e-5)
    assert result["occupied_energy_mae_aligned"] < 1e-5
    assert result["state_similarity"] == pytest.approx(1.0, abs=1e-8)
    assert result["occupied_similarity"] == pytest.approx(1.0, abs=1e-8)
    assert result["gap_predicted"] == pytest.approx(result["gap_dft"], abs=1e-7)


def test_an_error_that_is_no_shift_is_seen(structure: Structure) -> None:
    hamiltonian = structure.hamiltonian
    assert hamiltonian is not None
    noise = np.random.default_rng(0).normal(size=hamiltonian.values.shape) * 2e-3
    partner = hamiltonian.with_values(hamiltonian.values + noise)
    on_site = {
        key: (b + b.conj().T) / 2 for key, b in partner.to_dict().items() if key[3] == key[4] and not any(key[:3])
    }
    noisy = Blocks.from_dict({**partner.to_dict(), **on_site})
    result = compare_hamiltonians(noisy, structure, points=POINTS)
    assert result["mae_aligned"] > 1.0
    assert result["occupied_energy_mae"] > 1.0
    assert result["state_similarity"] < 0.999
    assert result["occupied_similarity"] < 1 - 1e-6


def test_similarity_does_not_depend_on_the_basis_of_degenerate_states() -> None:
    structure = load_dataset("BB").test[0]
    hamiltonian, overlap = bloch_matrices(structure)
    s = overlap.dense([0, 0, 0])
    state = solve(hamiltonian.dense([0, 0, 0]), s, vectors=True)
    assert state.vectors is not None
    turned = state.vectors.copy()
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    for n in range(0, turned.shape[1] - 1, 2):  # within each Kramers pair
        turned[:, n : n + 2] = turned[:, n : n + 2] @ turn
    assert state_similarity(state.energies, state.vectors, turned, s) == pytest.approx(1.0, abs=1e-9)
    split = np.arange(len(state.energies), dtype=float)  # the control: no two states are degenerate
    assert state_similarity(split, state.vectors, turned, s) < 0.6


def test_missing_pairs_and_matrices_are_named(structure: Structure) -> None:
    hamiltonian = structure.hamiltonian
    assert hamiltonian is not None
    with pytest.raises(DataError, match="predicted block for every DFT block"):
        gauge_errors(hamiltonian.select(np.arange(hamiltonian.n_edges - 1)), structure)
    bare = Structure(**{**structure.fields(), "overlap": None})
    assert gauge_errors(hamiltonian, bare) == {"mae_raw": 0.0}
    with pytest.raises(DataError, match="overlap"):
        mu_shift(hamiltonian, bare)


@pytest.mark.parametrize(("key", "r_cut"), [("MG", 7.5), ("MM", 8.0), ("BT", 10.0)])
def test_analytic_overlaps_are_those_of_the_engine(key: str, r_cut: float) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF (pip install tracegrad[dft])")
    structure = load_dataset(key).test[0]
    assert structure.overlap is not None
    ours, theirs = gaussian_overlap(structure, r_cut).to_dict(), structure.overlap.to_dict()
    assert ours.keys() == theirs.keys()
    assert max(np.abs(ours[e] - theirs[e]).max() for e in theirs) < 1e-7
    turned = Structure(
        **{**structure.fields(), "positions": structure.positions[:, [1, 0, 2]], "pbc": np.zeros(3, bool)}
    )
    wrong = gaussian_overlap(turned, r_cut).to_dict()
    assert max(np.abs(wrong[e] - theirs[e]).max() for e in wrong if e in theirs) > 0.01
    other = Structure(**{**structure.fields(), "orbitals": dict.fromkeys(structure.orbitals, (0, 1))})
    assert valence_electrons(other) is None
    with pytest.raises(DataError, match="basis"):
        gaussian_overlap(other, r_cut)


def test_a_fermi_level_below_all_bands_leaves_the_gauge_errors(structure: Structure) -> None:
    assert structure.hamiltonian is not None
    unknown = Structure(
        **{
            **structure.fields(),
            "metadata": {**structure.metadata, "fermi_energy_eV": -500.0},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracegrad.physics.bands.valence_electrons", lambda _: None)
        found = compare_hamiltonians(structure.hamiltonian, unknown, points=POINTS[:1])
    assert found["occupied"] == 0
    assert found["mae_raw"] == 0
    assert "state_similarity" not in found
