"""How far the pairs of every two elements reach is read off the data; a set with one cutoff has none but that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracegrad.data import Structure, load_dataset
from tracegrad.data.cutoffs import MARGIN, absent_pairs, pair_cutoffs, within_reach

S, MO = 16, 42


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    """Return two structures of MoS2, of which every pair within the cutoff is stored."""
    return list(load_dataset("MM").train)[:2]


def lengths_of(structure: Structure) -> np.ndarray:
    """Return the lengths of all pairs."""
    assert structure.hamiltonian is not None
    return np.linalg.norm(structure.edge_vectors(structure.hamiltonian), axis=1)


def cut(structure: Structure, reach: dict[tuple[int, int], float]) -> Structure:
    """Leave out what is longer than its two elements reach."""
    blocks = structure.hamiltonian
    assert blocks is not None
    kept = within_reach(structure, blocks.edge_index, lengths_of(structure), reach, 0.0)
    return replace(structure, hamiltonian=blocks.select(np.flatnonzero(kept)), overlap=None)


def longest_of(structure: Structure, pair: tuple[int, int]) -> float:
    """Return the longest stored pair of two elements."""
    assert structure.hamiltonian is not None
    elements = np.sort(structure.numbers[structure.hamiltonian.edge_index], axis=0)
    return float(lengths_of(structure)[(np.array(pair) == elements.T).all(axis=1)].max())


def test_one_cutoff_for_all_leaves_nothing_to_say(structures: list[Structure]) -> None:
    assert pair_cutoffs(structures, max(lengths_of(s).max() for s in structures)) == {}


def test_elements_that_reach_less_far_are_found_with_their_longest_pair(structures: list[Structure]) -> None:
    reach = {(S, S): 4.5, (S, MO): 4.9}
    short = [cut(s, reach) for s in structures]
    cutoff = max(lengths_of(s).max() for s in short)
    found = pair_cutoffs(short, cutoff)
    assert found == {pair: max(longest_of(s, pair) for s in short) for pair in reach}
    assert all(found[pair] <= limit < max(longest_of(s, pair) for s in structures) for pair, limit in reach.items())
    assert pair_cutoffs([short[0], structures[1]], cutoff).keys() == reach.keys()  # one incomplete structure tells


def test_elements_without_any_pair_reach_nowhere(structures: list[Structure]) -> None:
    short = [cut(s, {(S, S): 0.0}) for s in structures]
    assert pair_cutoffs(short, max(lengths_of(s).max() for s in short)) == {(S, S): 0.0}


def test_absent_pairs_are_those_within_reach(structures: list[Structure]) -> None:
    whole, short = structures[0], cut(structures[0], {(S, S): 4.5})
    cutoff = float(lengths_of(whole).max())
    assert whole.hamiltonian is not None
    assert short.hamiltonian is not None
    assert absent_pairs(whole, whole.hamiltonian, cutoff, {}, MARGIN).shape == (2, 0)
    lacking = absent_pairs(whole, short.hamiltonian, cutoff, {}, MARGIN)
    assert lacking.shape[1] > 0
    assert (whole.numbers[lacking] == S).all()
    near = [(lengths_of(s) < cutoff - MARGIN).sum() for s in (whole, short)]
    assert lacking.shape[1] * (1 if whole.hamiltonian.is_half else 2) == near[0] - near[1]
    assert absent_pairs(whole, short.hamiltonian, cutoff, pair_cutoffs([short], cutoff), MARGIN).shape == (2, 0)
    assert absent_pairs(whole, short.hamiltonian, 0.0, {}, MARGIN).shape == (2, 0)
