"""The metrics of the paper's tables against loops over the elements of complete matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tracegrad.data import Blocks, Structure
from tracegrad.errors import DataError
from tracegrad.metrics import (
    DISTANCE_BIN,
    StructureErrors,
    mae_all,
    mae_block,
    mae_cha_block,
    mae_cha_sample,
    mae_distance,
    relative_to_baseline,
    structure_errors,
    subset_metrics,
)

ORBITALS = {6: (0, 0, 1), 14: (0, 1)}
LABELS = {6: {"s1": [0], "s2": [1], "p1": [2, 3, 4]}, 14: {"s1": [0], "p1": [1, 2, 3]}}
PAIRS = [(0, 0, 0, 0, 1), (1, 0, 0, 0, 1), (0, 0, 0, 0, 2), (1, 0, 0, 0, 0), (0, 1, 0, 1, 2)]


def make_structure(spinful: bool = False, seed: int = 0, name: str = "one") -> Structure:
    """Return three atoms with a random Hermitian Hamiltonian (half)."""
    random = np.random.default_rng(seed)
    numbers = np.array([6, 14, 6])
    sizes = {z: (2 if spinful else 1) * sum(2 * l + 1 for l in shells) for z, shells in ORBITALS.items()}
    blocks: dict[tuple[int, ...], Any] = {}
    for key in [(0, 0, 0, i, i) for i in range(3)] + PAIRS:
        shape = (sizes[int(numbers[key[3]])], sizes[int(numbers[key[4]])])
        block = random.normal(size=shape) + (1j * random.normal(size=shape) if spinful else 0)
        on_site = key[3] == key[4] and key[:3] == (0, 0, 0)
        blocks[key] = 0.5 * (block + block.conj().T) if on_site else block
    hamiltonian = Blocks.from_dict(blocks)  # type: ignore[arg-type]
    positions = np.array([[0.0, 0, 0], [1.2, 0, 0], [0, 1.3, 0.1]])
    cell, pbc = np.diag([5.0, 5.0, 9.0]), np.array([True, True, False])
    return Structure(numbers, positions, cell, pbc, ORBITALS, spinful, hamiltonian, name=name)


def perturbed(structure: Structure, scale: float = 0.1, seed: int = 1) -> Blocks:
    """Return a prediction with Hermitian on-site blocks."""
    assert structure.hamiltonian is not None
    noise = make_structure(structure.spinful, seed).hamiltonian
    assert noise is not None
    return structure.hamiltonian.with_values(structure.hamiltonian.values + scale * noise.values)


def loop_errors(predicted: Blocks, structure: Structure) -> dict[str, list[float]]:
    """Return |ΔH| of every element of every directed pair by the label of its block."""
    assert structure.hamiltonian is not None
    target, found = structure.hamiltonian.completed().to_dict(), predicted.completed().to_dict()
    errors: dict[str, list[float]] = {}
    for key, block in target.items():
        rows, columns = (LABELS[int(structure.numbers[atom])] for atom in key[3:])
        n_rows, n_columns = (block.shape[k] // (2 if structure.spinful else 1) for k in (0, 1))
        for row_name, row in rows.items():
            for column_name, column in columns.items():
                for a in row:
                    for b in column:
                        for s in range(block.shape[0] // n_rows):
                            for t in range(block.shape[1] // n_columns):
                                element = (s * n_rows + a, t * n_columns + b)
                                label = f"{row_name}-{column_name}"
                                errors.setdefault(label, []).append(abs(found[key][element] - block[element]))
    return errors


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
@pytest.mark.parametrize("form", ["half", "complete", "mixed"])
def test_sums_are_those_of_the_complete_matrix(spinful: bool, form: str) -> None:
    structure = make_structure(spinful)
    predicted = perturbed(structure)
    expected = loop_errors(predicted, structure)
    if form != "half":
        predicted = predicted.completed()
    if form == "complete":
        assert structure.hamiltonian is not None
        structure = replace(structure, hamiltonian=structure.hamiltonian.completed())
    errors = structure_errors(predicted, structure)
    assert errors.block_sum.keys() == expected.keys()
    for name, values in expected.items():
        assert errors.block_sum[name] == pytest.approx(sum(values), rel=1e-12)
        assert errors.block_count[name] == len(values)
    everything = [value for values in expected.values() for value in values]
    assert errors.mean == pytest.approx(float(np.mean(everything)), rel=1e-12)
    assert errors.bin_sum.sum() == pytest.approx(sum(everything), rel=1e-12)
    assert errors.bin_count.sum() == len(everything)


def test_both_directions_count_where_a_prediction_is_not_hermitian() -> None:
    structure = make_structure()
    assert structure.hamiltonian is not None
    complete = structure.hamiltonian.completed()
    reverse = np.flatnonzero(~complete.canonical)
    values = complete.values.copy()
    values[complete.offsets[reverse[0]] : complete.offsets[reverse[0] + 1]] += 1.0
    errors = structure_errors(complete.with_values(values), structure)
    size = int(complete.sizes[reverse[0]])
    assert errors.mean == pytest.approx(size / len(complete.values), rel=1e-12)


def test_spin_errors_are_complex_moduli() -> None:
    structure = make_structure(spinful=True)
    assert structure.hamiltonian is not None
    shifted = structure.hamiltonian.with_values(structure.hamiltonian.values + (0.3 + 0.4j))
    assert structure_errors(shifted, structure).mean == pytest.approx(0.5, rel=1e-12)


def test_order_of_the_predicted_pairs_does_not_matter() -> None:
    structure = make_structure()
    predicted = perturbed(structure)
    shuffled = predicted.select(np.random.default_rng(0).permutation(predicted.n_edges))
    assert structure_errors(shuffled, structure).block_sum == structure_errors(predicted, structure).block_sum


def test_distance_bins_hold_the_pairs_of_that_length() -> None:
    structure = make_structure()
    errors = structure_errors(perturbed(structure), structure)
    bins = {round(entry["from"] / DISTANCE_BIN): entry for entry in mae_distance([errors])}
    assert bins[0]["elements"] == 25 + 16 + 25  # on-site blocks of C, Si, C
    assert bins[2]["elements"] == 2 * (20 + 25)  # 1.2 Å (C-Si) and 1.304 Å (C-C), both directions
    assert sum(entry["elements"] for entry in bins.values()) == sum(errors.block_count.values())
    lengths = np.linalg.norm(structure.edge_vectors(structure.hamiltonian), axis=1)  # type: ignore[arg-type]
    assert set(bins) == set(np.floor(lengths / DISTANCE_BIN).astype(int).tolist())


def record(name: str, blocks: dict[str, tuple[float, int]]) -> StructureErrors:
    """Return errors with given (sum in eV, count) per block."""
    sums = {key: value for key, (value, _) in blocks.items()}
    counts = {key: count for key, (_, count) in blocks.items()}
    return StructureErrors(name, sums, counts, np.array([1.0]), np.array([1]))


OURS = [record("a", {"s1-s1": (1.0, 10), "s1-p1": (2.0, 30)}), record("b", {"s1-s1": (4.0, 20), "s1-p1": (6.0, 60)})]
BASE = [record("a", {"s1-s1": (9.0, 10), "s1-p1": (9.0, 30)}), record("b", {"s1-s1": (1.0, 20), "s1-p1": (6.0, 60)})]


def test_mae_all_is_a_mean_over_structures_not_over_elements() -> None:
    assert mae_all(OURS) == pytest.approx(1000 * (3 / 40 + 10 / 80) / 2)
    assert mae_all(OURS) != pytest.approx(1000 * 13 / 120)


def test_mae_block_is_pooled_over_edges() -> None:
    assert mae_block(OURS) == pytest.approx({"s1-s1": 1000 * 5 / 30, "s1-p1": 1000 * 8 / 90})
    assert mae_block(OURS)["s1-s1"] != pytest.approx(1000 * (1 / 10 + 4 / 20) / 2)


def test_challenging_metrics_are_taken_where_the_baseline_is_worst() -> None:
    assert mae_cha_sample(OURS, BASE) == pytest.approx(1000 * 3 / 40)  # the baseline is worst on a
    assert mae_cha_sample(OURS, OURS) == pytest.approx(1000 * 10 / 80)  # its own worst is b
    assert mae_cha_block(OURS, BASE) == pytest.approx(mae_block(OURS)["s1-s1"])
    swapped = [record("a", {"s1-s1": (0.0, 10), "s1-p1": (9.0, 30)}), BASE[1]]
    assert mae_cha_block(OURS, swapped) == pytest.approx(mae_block(OURS)["s1-p1"])


def test_records_can_be_made_relative_to_the_baseline_later() -> None:
    ours, base = {"all": subset_metrics(OURS)}, {"all": subset_metrics(BASE)}
    assert ours["all"]["cha_reference"] == "self"
    filled = relative_to_baseline(ours, base)["all"]
    assert filled["cha_reference"] == "DeepHE3"
    assert filled["mae_cha_sample"] == pytest.approx(mae_cha_sample(OURS, BASE))
    assert filled["mae_cha_block"] == pytest.approx(mae_cha_block(OURS, BASE))
    assert ours["all"]["cha_reference"] == "self"
    assert relative_to_baseline(base, base)["all"]["mae_cha_sample"] == pytest.approx(1000 * 18 / 40)
    other = {"all": subset_metrics([OURS[0]])}
    with pytest.raises(DataError, match="same structures"):
        relative_to_baseline(ours, other)
    for wrong, message in (
        ({}, "with the subset all, found none"),
        ({"nt": base["all"]}, "with the subset all, found nt"),
        ({"all": 3}, r"numbers by name in metrics\.all\.per_structure, found None"),
        ({"all": {**base["all"], "mae_block": {"C-C": "small"}}}, r"metrics\.all\.mae_block, found"),
    ):
        with pytest.raises(DataError, match=message):
            relative_to_baseline(ours, wrong)


def test_what_cannot_be_compared_is_refused() -> None:
    structure = make_structure()
    predicted = perturbed(structure)
    with pytest.raises(DataError, match="no prediction for the pair"):
        structure_errors(predicted.select(np.arange(predicted.n_edges - 1)), structure)
    with pytest.raises(DataError, match="found none"):
        structure_errors(predicted, replace(structure, hamiltonian=None))
    with pytest.raises(DataError, match="other shapes"):
        structure_errors(perturbed(make_structure(spinful=True)), structure)
    with pytest.raises(DataError, match="at least one structure"):
        mae_all([])
