"""Which pairs of a structure the network sees, and which of their blocks are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tracegrad.data import Blocks, Structure
from tracegrad.data.cutoffs import MARGIN, PairCutoffs, absent_pairs, within_reach
from tracegrad.errors import DataError
from tracegrad.graph import Pairs, structure_pairs

ROUND_OFF = 1e-9  # Å, of a length that is computed in two ways


@dataclass(frozen=True)
class Overlap:
    """Where the overlap comes from.

    Attributes:
        blocks: a given one.
        gaussian: whether it is computed by analytic integrals.
        source: in words.
    """

    blocks: Blocks | None
    gaussian: bool
    source: str


@dataclass(frozen=True)
class Reach:
    """How far the pairs of the training data reach.

    Attributes:
        cutoff: longest pair, Å.
        of_pairs: that of the pairs of elements whose blocks end before, Å.
    """

    cutoff: float
    of_pairs: PairCutoffs

    def covers(self, structure: Structure, pairs: NDArray[np.int64], lengths: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which pairs ``(2, P)`` of some lengths in Å the training data can have."""
        within = within_reach(structure, pairs, lengths, self.of_pairs, MARGIN)
        return within & (lengths <= self.cutoff + MARGIN)


@dataclass(frozen=True)
class Plan:
    """What is to be predicted.

    The network sees every pair as far as its training data reach, however few of the blocks are kept: with fewer
    neighbours than in training its numbers change by electronvolts.

    Attributes:
        structure: without matrices, or with a given overlap.
        pairs: the pairs that the network sees, each once.
        overlap: where S comes from.
        chunk_edges: directed edges in a chunk, or None to predict the whole at once.
        cutoff: longest pair whose block is kept, Å.
        missing: pairs within the reach of the training data that a given overlap lacks.
    """

    structure: Structure
    pairs: Pairs
    overlap: Overlap
    chunk_edges: int | None
    cutoff: float
    missing: int = 0

    @property
    def num_blocks(self) -> int:
        """Blocks that are kept: on-site ones, and one of each pair."""
        return self.structure.n_atoms + int((_lengths(self.structure, self.pairs) <= self.cutoff + ROUND_OFF).sum())

    def kept(self, part: Blocks) -> Blocks:
        """The predicted blocks that are kept."""
        return _shorter(self.structure, part, self.cutoff)


def pairs_within(structure: Structure, reach: Reach) -> Pairs:
    """All pairs of atoms that are no longer than the training data reach, as :func:`structure_pairs` gives them."""
    i, j, shift = structure_pairs(structure, reach.cutoff)
    chosen = reach.covers(structure, np.stack([i, j]), _lengths(structure, (i, j, shift)))
    return i[chosen], j[chosen], shift[chosen]


def covered(structure: Structure, overlap: Blocks, reach: Reach, cut: bool) -> Blocks:
    """A given overlap as far as the training data reach.

    Args:
        structure: the atoms, Å.
        overlap: of these atoms.
        reach: of the training data.
        cut: leave longer pairs out, which are refused otherwise.

    Raises:
        DataError: the blocks are not of this structure, or reach further than the training data.
    """
    structure = replace(structure, overlap=overlap).validate("the given overlap")
    lengths = np.linalg.norm(structure.edge_vectors(overlap), axis=1)
    within = reach.covers(structure, overlap.edge_index, lengths)
    if within.all():
        return overlap
    if not cut:
        worst = int(np.flatnonzero(~within)[np.argmax(lengths[~within])])
        pair = [int(z) for z in sorted(structure.numbers[overlap.edge_index[:, worst]].tolist())]
        limit = min(reach.cutoff, reach.of_pairs.get((pair[0], pair[1]), reach.cutoff))
        raise DataError(
            f"the overlap has {chemical_symbols[pair[0]]}-{chemical_symbols[pair[1]]} pairs of {lengths[worst]:.3f} Å, "
            f"the training went up to {limit:.3f} Å; give --r-max to cut the overlap"
        )
    return overlap.select(np.flatnonzero(within))


def missing_neighbours(structure: Structure, overlap: Blocks, reach: Reach) -> int:
    """How many pairs well within the reach of the training data have no block in an overlap."""
    if not np.isfinite(reach.cutoff):
        return 0
    return int(absent_pairs(structure, overlap, reach.cutoff, reach.of_pairs, MARGIN).shape[1])


def longest_pair_of(structure: Structure, blocks: Blocks) -> float:
    """Length of the longest pair, Å."""
    return float(np.linalg.norm(structure.edge_vectors(blocks), axis=1).max(initial=0.0))


def _shorter(structure: Structure, blocks: Blocks, cutoff: float) -> Blocks:
    within = np.linalg.norm(structure.edge_vectors(blocks), axis=1) <= cutoff + ROUND_OFF
    return blocks if within.all() else blocks.select(np.flatnonzero(within))


def _lengths(structure: Structure, pairs: Pairs) -> NDArray[np.float64]:
    i, j, shift = pairs
    vectors = structure.positions[j] + shift @ structure.cell - structure.positions[i]
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1)
    return lengths
