"""Up to which distance the data have a block for every pair of elements."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks, match_keys, reverse_keys
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.data.structure import Structure

PairCutoffs = dict[tuple[int, int], float]  # two atomic numbers, the smaller first -> Å
MARGIN = 1e-3  # Å; lengths closer to a cutoff than this may be on either side of it


def pair_cutoffs(structures: Iterable[Structure], cutoff: float) -> PairCutoffs:
    """Pairs of elements whose blocks end before the cutoff of the whole set.

    Engines with orbitals of finite reach (OpenMX, SIESTA) keep a pair where the orbitals of its two elements touch.
    That shows in the data: some pair of these elements within ``cutoff`` has no block. The longest pair that has one is
    then as far as these elements reach. A set with one cutoff for all lacks nothing within it and gives an empty
    dictionary.

    Args:
        structures: with Hamiltonians.
        cutoff: longest pair of the set, Å.

    Returns:
        Two atomic numbers, the smaller first -> longest pair with a block, Å; 0 where no pair of them has one.
    """
    longest: PairCutoffs = {}
    lacking: set[tuple[int, int]] = set()
    for structure in structures:
        blocks = structure.hamiltonian
        assert blocks is not None
        lengths = np.linalg.norm(structure.edge_vectors(blocks), axis=1)
        for pair, members in _by_elements(structure, blocks.edge_index):
            longest[pair] = max(longest.get(pair, 0.0), float(lengths[members].max()))
        absent = absent_pairs(structure, blocks, cutoff, {}, MARGIN)
        lacking.update(pair for pair, _ in _by_elements(structure, absent))
    return {pair: longest.get(pair, 0.0) for pair in sorted(lacking)}


def within_reach(
    structure: Structure, pairs: NDArray[np.int64], lengths: NDArray[np.float64], cutoffs: PairCutoffs, margin: float
) -> NDArray[np.bool_]:
    """Which pairs are no longer than their elements reach.

    Args:
        structure: gives the elements.
        pairs: (2, P) atoms.
        lengths: (P,) Å.
        cutoffs: of :func:`pair_cutoffs`; pairs of other elements are all within reach.
        margin: Å that a pair may be longer.
    """
    within = np.ones(len(lengths), dtype=np.bool_)
    for pair, members in _by_elements(structure, pairs):
        if pair in cutoffs:
            within[members] = lengths[members] <= cutoffs[pair] + margin
    return within


def absent_pairs(
    structure: Structure, blocks: Blocks, cutoff: float, cutoffs: PairCutoffs, margin: float
) -> NDArray[np.int64]:
    """(2, P) atoms of the pairs that are well within reach and have no block.

    Args:
        structure: the structure, Å.
        blocks: one direction of every pair, or both.
        cutoff: of the data, Å.
        cutoffs: of :func:`pair_cutoffs`.
        margin: Å by which they are nearer than the longest pair.
    """
    if cutoff <= margin:
        return np.empty((2, 0), dtype=np.int64)
    i, j, shift = neighbor_pairs(structure.positions, structure.cell, structure.pbc, cutoff - margin)
    wanted = np.concatenate([shift, i[:, None], j[:, None]], axis=1)
    keys = np.concatenate([blocks.keys(), reverse_keys(blocks.keys())])
    absent = match_keys(keys, wanted) < 0
    pairs = np.stack([i, j])[:, absent]
    vectors = structure.positions[pairs[1]] + shift[absent] @ structure.cell - structure.positions[pairs[0]]
    lengths = np.linalg.norm(vectors, axis=1)
    return pairs[:, within_reach(structure, pairs, lengths, cutoffs, -margin)]


def _by_elements(structure: Structure, pairs: NDArray[np.int64]) -> list[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Pairs of atoms by their two elements, the smaller atomic number first."""
    elements = np.sort(structure.numbers[pairs], axis=0)
    kinds, kind = np.unique(elements, axis=1, return_inverse=True)
    return [((int(a), int(b)), np.flatnonzero(kind.reshape(-1) == k)) for k, (a, b) in enumerate(kinds.T.tolist())]
