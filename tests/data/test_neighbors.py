"""Neighbour search against ASE's, for every kind of periodicity, and in linear time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError

CELL = np.array([[3.0, 0.2, 0.0], [1.4, 2.5, 0.3], [0.2, 0.1, 9.0]])


def directed(i: np.ndarray, j: np.ndarray, shift: np.ndarray) -> set[tuple[int, ...]]:
    """Pairs as a set of tuples."""
    return {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)), ids=str)
def test_pairs_equal_those_of_an_independent_search(pbc: tuple[bool, ...]) -> None:
    positions = np.random.default_rng(3).normal(size=(6, 3)) * 6  # many atoms lie outside the cell
    half = directed(*neighbor_pairs(positions, CELL, np.array(pbc), 5.0))
    i, j, shift = neighbor_list("ijS", Atoms("C6", positions=positions, cell=CELL, pbc=pbc), 5.0)
    reversed_half = {(b, a, -x, -y, -z) for a, b, x, y, z in half}
    assert half.isdisjoint(reversed_half)
    assert half | reversed_half == directed(i, j, shift)
    assert all(a < b or (a == b and (x, y, z) > (0, 0, 0)) for a, b, x, y, z in half)


def test_the_comparison_notices_one_missing_pair() -> None:
    positions = np.random.default_rng(3).normal(size=(6, 3)) * 6
    pairs = neighbor_pairs(positions, CELL, np.ones(3, dtype=bool), 5.0)
    assert directed(*pairs) != directed(*(part[:-1] for part in pairs))


def test_no_pairs_within_a_short_cutoff() -> None:
    i, j, shift = neighbor_pairs(np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), 5.0)
    assert (len(i), len(j), shift.shape) == (0, 0, (0, 3))


def test_ten_thousand_atoms_take_less_than_five_seconds() -> None:
    atoms = bulk("Cu", cubic=True).repeat(14)
    start = time.perf_counter()
    i, _, _ = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    assert time.perf_counter() - start < 5
    assert len(atoms) > 10_000
    assert len(i) == len(atoms) * 42 // 2  # 12 + 6 + 24 neighbours within 5 Å


@pytest.mark.parametrize(
    ("positions", "cell", "r_max", "message"),
    [
        ([[0, 0, np.nan]], CELL, 3.0, "NaN"),
        ([[0, 0, 0]], np.ones((3, 3)), 3.0, "linearly dependent"),
        ([[0, 0, 0]], CELL, 0.0, "r_max > 0"),
        ([0, 0, 0], CELL, 3.0, r"positions \(N, 3\)"),
    ],
)
def test_input_that_cannot_be_right_is_refused(positions: object, cell: np.ndarray, r_max: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        neighbor_pairs(np.array(positions, dtype=float), cell, np.ones(3, dtype=bool), r_max)
