"""What stands in a run record about energies and states, against what the tables measure of the same structure."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from tracegrad.config import load_config
from tracegrad.data import Blocks, Structure, load_dataset
from tracegrad.evaluation import evaluate_physics, evaluate_structures
from tracegrad.metrics import subset_metrics
from tracegrad.model import build_model
from tracegrad.physics import compare_hamiltonians, physics_metrics
from tracegrad.physics.bloch import with_spin

SMALL = ("hidden_irreps=4x0e+4x1o", "embed_dim=4", "num_blocks=1", "num_radial=4")


@pytest.mark.parametrize(("key", "hermitian"), [("MM", True), ("BB", True), ("BB", False)])
def test_a_network_is_measured_by_its_energies_too(key: str, hermitian: bool, root: Path) -> None:
    dataset = load_dataset(key)
    config = load_config(preset="smoke", dataset=key, overrides=[*SMALL, f"hermitian={str(hermitian).lower()}"])
    model = build_model(config.model, dataset).double()
    with torch.no_grad():
        physics = evaluate_physics(model, dataset.test)
        metrics = subset_metrics(evaluate_structures(model, dataset.test[:1]))
    assert physics["mae_raw"] == pytest.approx(metrics["mae_all"], rel=1e-9)  # two programs, one number
    assert physics["structure"] == dataset.test.names[0]
    assert physics["mae_aligned"] <= physics["mae_raw"]
    assert physics["occupied_energy_mae"] > 100.0  # untrained
    assert 0 < physics["state_similarity"] < 0.99
    assert physics["k_points"] == 4
    schema = json.loads((root / "benchmarks" / "schema_run.json").read_text(encoding="utf-8"))
    subset = {**schema, **schema["$defs"]["subset"]}
    jsonschema.validate({**metrics, "physics": physics}, subset)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**metrics, "physics": {**physics, "state_similarity": 2.0}}, subset)


def test_the_shift_of_a_perfect_network_is_no_error_of_its_states() -> None:
    structure = load_dataset("BB").test[0]
    hamiltonian, overlap = structure.hamiltonian, structure.overlap
    assert hamiltonian is not None
    assert overlap is not None
    moved = hamiltonian.with_values(hamiltonian.values + 0.1 * with_spin(overlap).values)
    physics = physics_metrics(moved, structure)
    assert physics["occupied_energy_mae"] == pytest.approx(100.0, abs=1e-4)
    assert physics["occupied_energy_mae_aligned"] < 1e-4
    assert physics["state_similarity"] == pytest.approx(1.0, abs=1e-7)
    assert physics["gap_predicted"] == pytest.approx(physics["gap_dft"], abs=1e-7)


def test_what_cannot_be_measured_is_left_out() -> None:
    structure = load_dataset("MG").test[0]
    hamiltonian = structure.hamiltonian
    assert hamiltonian is not None
    bare = Structure(**{**structure.fields(), "overlap": None})
    assert physics_metrics(hamiltonian, bare) == {"structure": structure.name}
    shells = dict.fromkeys(structure.orbitals, (0, 0, 0, 1, 0, 0, 1, 0, 0))  # of no basis with known electrons
    foreign = Structure(**{**structure.fields(), "orbitals": shells, "metadata": {}})
    assert set(physics_metrics(hamiltonian, foreign)) == {"structure", "mae_raw", "mae_aligned", "mu"}


def test_of_two_independent_directions_the_hermitian_part_counts() -> None:
    structure = load_dataset("BB").test[0]
    assert structure.hamiltonian is not None
    whole = structure.hamiltonian.completed()
    on_site = (whole.edge_index[0] == whole.edge_index[1]) & ~whole.cell_shift.any(axis=1)
    random = np.random.default_rng(0).normal(size=whole.values.shape)
    noise = whole.with_values(np.where(np.repeat(on_site, whole.sizes), 0.0, 0.05 * random))
    anti = noise.values - noise.select(noise.reverse_index).adjoint().values  # vanishes in the Hermitian part
    crooked = whole.with_values(whole.values + anti)
    assert crooked.hermiticity_defect() > 0.01
    points = np.array([[0.17, 0.29, 0.0]])
    assert compare_hamiltonians(crooked, structure, points=points)["occupied_energy_mae"] < 1e-6
    half: Blocks = crooked.hermitian_part()
    assert half.is_half
    assert np.abs(half.values - structure.hamiltonian.select(np.arange(half.n_edges)).values).max() < 1e-12
