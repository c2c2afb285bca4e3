"""The six bundled sets: manifests, checksums, quantisation, loading time, and physics of what is read."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.linalg
import torch

from tracegrad.data import DATABASES, Blocks, Structure, load_dataset
from tracegrad.data.bundle import NOT_PUBLISHED, verify_bundle
from tracegrad.data.compact import HARTREE_EV
from tracegrad.data.diagnostics import bloch_sum
from tracegrad.errors import DataError
from tracegrad.graph import TargetLayout, build_graph

REQUIRED = ("engine", "functional", "basis", "potentials", "cutoff", "kmesh", "vacuum_alignment", "seeds", "r_cut")


@pytest.mark.parametrize("key", DATABASES)
def test_a_manifest_says_what_the_set_is_and_seals_it(key: str) -> None:
    entry = DATABASES[key]
    for path in entry.bundled_paths:
        manifest = verify_bundle(path)
        assert all(manifest[name] for name in REQUIRED)
        assert (manifest["key"], manifest["licence"], manifest["note"]) == (key, "CC0-1.0", NOT_PUBLISHED)
        assert manifest["spinful"] is entry.spinful
        assert {s: tuple(ls) for s, ls in manifest["orbitals"].items()} == entry.orbitals_bundled
    assert entry.counts_bundled == tuple(len(subset) for subset in load_dataset(key).subsets.values())


@pytest.mark.parametrize("key", DATABASES)
def test_a_set_loads_in_three_seconds_and_its_values_are_multiples_of_the_quantum(key: str) -> None:
    start = time.process_time()
    dataset = load_dataset(key)
    structures = [structure for subset in dataset.subsets.values() for structure in subset]  # each one is validated
    assert time.process_time() - start < 3
    stated = dataset.manifest["quantisation"]["hamiltonian_max_error_eV"]
    values = structures[0].hamiltonian.values.real / (2 * stated)
    assert np.abs(values - np.rint(values)).max() < 1e-6
    assert stated == pytest.approx(0.5e-6 * HARTREE_EV)
    assert dataset.spinful is DATABASES[key].spinful
    assert {structure.spinful for structure in structures} == {dataset.spinful}


@pytest.mark.parametrize("key", ["BG", "BS"])  # the most edges; the largest matrices, with spin
def test_a_set_is_read_and_all_its_graphs_are_built_in_ten_seconds(key: str) -> None:
    torch.set_num_threads(1)
    start = time.process_time()
    dataset = load_dataset(key)
    layout = TargetLayout.from_dataset(dataset)
    edges = 0
    for subset in dataset.subsets.values():
        edges += sum(int(build_graph(s, layout, dtype=torch.float32).edge_index.shape[1]) for s in subset)
    assert time.process_time() - start < 10
    assert edges == {"BG": 69_948, "BS": 36_520}[key]


def test_all_sets_together_stay_below_the_size_limit() -> None:
    assert sum(path.stat().st_size for entry in DATABASES.values() for path in entry.bundled_paths) < 55e6


def spectrum(structure: Structure, hamiltonian: Blocks) -> np.ndarray:
    """Eigenvalues at Gamma in eV."""
    assert structure.overlap is not None
    overlap = bloch_sum(structure, structure.overlap.completed(), (0, 0, 0))
    twice = Structure(**{**structure.fields(), "orbitals": {z: (*ls, *ls) for z, ls in structure.orbitals.items()}})
    matrix = bloch_sum(twice, hamiltonian.completed(), (0, 0, 0))
    # The blocks are spin-major per atom: each atom's orbitals are (up, down).
    full = np.zeros_like(matrix)
    starts = np.concatenate([[0], np.cumsum(structure.n_orbitals)])
    for a in range(structure.n_atoms):
        for b in range(structure.n_atoms):
            block = overlap[starts[a] : starts[a + 1], starts[b] : starts[b + 1]]
            rows, columns = slice(2 * starts[a], 2 * starts[a + 1]), slice(2 * starts[b], 2 * starts[b + 1])
            full[rows, columns] = np.kron(np.eye(2), block)
    values: np.ndarray = scipy.linalg.eigh(matrix, full, eigvals_only=True)
    return values


def test_spin_orbit_states_come_in_kramers_pairs() -> None:
    structure = load_dataset("BB").test[0]
    hamiltonian = structure.hamiltonian
    assert hamiltonian is not None
    levels = spectrum(structure, hamiltonian)
    assert np.abs(levels[::2] - levels[1::2]).max() < 1e-6
    # Control: a field that acts on spin up only keeps H Hermitian but breaks the pairs.
    magnetic = hamiltonian.with_values(hamiltonian.values.copy())
    magnetic.block(magnetic.index((0, 0, 0, 0, 0)))[0, 0] += 0.1
    broken = spectrum(structure, magnetic)
    assert np.abs(broken[::2] - broken[1::2]).max() > 1e-3


def test_structures_are_read_only_when_asked_for() -> None:
    train = load_dataset("MG").train
    assert len(train[2:5]) == 3
    assert train[2:5][0].name == train[2].name == train.names[2]
    assert train[2] is not train[2]
    with pytest.raises(IndexError):
        train[len(train)]


@pytest.mark.parametrize(("key", "message"), [("mm", "Did you mean 'MM'"), ("XX", "Known: BB, BG, BS, BT, MG, MM")])
def test_an_unknown_key_is_answered_with_the_known_ones(key: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(key)
