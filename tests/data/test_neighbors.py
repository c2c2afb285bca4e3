"""Neighbour search against ASE's, for every kind of periodicity, and in linear time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
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


CRYSTALS = {  # lattice constant; distance in units of it -> how many neighbours an atom has up to there
    "simple cubic": (bulk("Po", "sc", a=3.1), 3.1, {1.0: 6, 2.0**0.5: 18, 3.0**0.5: 26, 2.0: 32}),
    "face-centred": (bulk("Cu", "fcc", a=3.61), 3.61, {0.5**0.5: 12, 1.0: 18, 1.5**0.5: 42}),
    "diamond": (bulk("C", "diamond", a=3.57), 3.57, {0.1875**0.5: 4, 0.5**0.5: 16, 0.6875**0.5: 28}),
    "honeycomb": (
        graphene(a=2.46, vacuum=5),
        2.46,
        {(1 / 3) ** 0.5: 3, 1.0: 9, (4 / 3) ** 0.5: 12, (7 / 3) ** 0.5: 18},
    ),
}


@pytest.mark.parametrize("crystal", CRYSTALS)
@pytest.mark.parametrize("place", [0.0, 1234.5678], ids=["at the origin", "far from it"])
def test_a_shell_at_the_cutoff_is_in(crystal: str, place: float) -> None:
    unit, a, shells = CRYSTALS[crystal]
    for repeat in ((1, 1, 1), (3, 2, 1)):
        atoms = unit.repeat(repeat)
        positions = atoms.positions + place * np.array([1.0, 0.7, 0.0])
        for (distance, count), nearer in zip(shells.items(), [0, *shells.values()], strict=False):
            for cutoff in (distance * a, np.nextafter(distance * a, 0), np.nextafter(distance * a, 9)):
                assert len(neighbor_pairs(positions, atoms.cell.array, atoms.pbc, cutoff)[0]) == len(atoms) * count // 2
            i, _, _ = neighbor_pairs(positions, atoms.cell.array, atoms.pbc, distance * a - 1e-6)
            assert len(i) == len(atoms) * nearer // 2


def test_two_atoms_at_the_cutoff_are_a_pair() -> None:
    for length in (1.42, 2.0, 3.3):
        two = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + length]])
        pairs = [neighbor_pairs(two, np.zeros((3, 3)), [False] * 3, r)[0] for r in (length, length - 1e-6)]
        assert [len(i) for i in pairs] == [1, 0]


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
