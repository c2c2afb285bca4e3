"""Measurements on one structure that tell whether its matrices can be right; ``check`` judges them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks, match_keys, reverse_keys
from tracegrad.data.deeph import reorder_orbitals
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.data.structure import Structure
from tracegrad.so3 import wigner_D
from tracegrad.so3.conventions import CONVENTIONS, from_convention, to_convention

BOND_FRAME_PAIRS = 400  # shortest pairs used; the longer ones carry small overlaps
MAX_ORBITALS = 2000  # above this the eigenvalues of S(k) are not computed
K_POINTS = {"Gamma": (0.0, 0.0, 0.0), "M": (0.5, 0.0, 0.0), "K": (1 / 3, 1 / 3, 0.0), "general": (0.17, 0.29, 0.0)}
MISSING_MARGIN = 1e-6  # Å; pairs closer than this to the longest stored one are not missed
BOND_SEARCH = 3.0  # sums of covalent radii within which another atom is looked for
NOBLE_GASES = (2, 10, 18, 36, 54, 86)
MISSING_NEIGHBOURS = 5  # stored pairs of nearly equal length that tell how large a missing block would be


def bond_frame_defects(structure: Structure, stored: str = "e3nn") -> dict[str, float]:
    r"""How far two-centre overlaps mix different m in the frame of their bond, for every orbital convention.

    The overlap of two atom-centred orbitals conserves m about the bond axis, so with Q d = |d| z all elements of
    :math:`D(Q)\, S\, D(Q)^T` between different m vanish if, and only if, the order and signs of the orbitals are right.

    Args:
        structure: with an overlap, as read under the assumption that the file is in ``stored``.
        stored: the convention the reader assumed; blocks are turned back to it before another one is tried.

    Returns:
        Convention -> largest element between different m over the largest element between equal m; empty without
        an overlap between two atoms.
    """
    if structure.overlap is None:
        return {}
    half = structure.overlap.hermitian_half()
    lengths = np.linalg.norm(structure.edge_vectors(half), axis=1)
    order = np.argsort(lengths, kind="stable")
    chosen = half.select(order[lengths[order] > 1e-3][:BOND_FRAME_PAIRS])
    if not chosen.n_edges:
        return {}
    bare = Structure(**{**structure.fields(), "hamiltonian": None, "overlap": chosen})
    raw = reorder_orbitals(bare, stored, to_convention) if stored != "e3nn" else bare
    rotations = rotations_to_z(structure.edge_vectors(chosen))
    lmax = max(l for shells in structure.orbitals.values() for l in shells)
    wigner = [wigner_D(l, rotations).numpy() for l in range(lmax + 1)]
    return {c: _m_mixing(reorder_orbitals(raw, c, from_convention), wigner) for c in CONVENTIONS}


def rotations_to_z(vectors: NDArray[np.float64]) -> torch.Tensor:
    """(E, 3, 3) proper rotations Q with Q d = |d| z."""
    z = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    helper = np.where(np.abs(z[:, 2:]) < 0.7, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return torch.from_numpy(np.stack([x, np.cross(z, x), z], axis=1))


def _m_mixing(structure: Structure, wigner: Sequence[NDArray[np.float64]]) -> float:
    blocks = structure.overlap
    assert blocks is not None
    mixed = kept = 0.0
    species = structure.numbers[blocks.edge_index]
    for first, second in np.unique(species, axis=1).T.tolist():
        edges = np.flatnonzero((species[0] == first) & (species[1] == second))
        shells = structure.orbitals[first], structure.orbitals[second]
        rows, columns = blocks.shapes[edges[0]].tolist()
        positions = blocks.offsets[edges][:, None, None] + np.arange(rows * columns).reshape(rows, columns)
        left, right = (_block_diagonal(wigner, ls, edges) for ls in shells)
        framed = np.abs(left @ blocks.values[positions] @ right.transpose(0, 2, 1))
        m_rows, m_columns = (np.concatenate([np.arange(-l, l + 1) for l in ls]) for ls in shells)
        equal = m_rows[:, None] == m_columns
        mixed, kept = max(mixed, float(framed[:, ~equal].max(initial=0))), max(kept, float(framed[:, equal].max()))
    return mixed / kept if kept > 0 else 0.0


def _block_diagonal(
    wigner: Sequence[NDArray[np.float64]], shells: Sequence[int], edges: NDArray[np.int64]
) -> NDArray[np.float64]:
    size = sum(2 * l + 1 for l in shells)
    matrix = np.zeros((len(edges), size, size))
    start = 0
    for l in shells:
        stop = start + 2 * l + 1
        matrix[:, start:stop, start:stop] = wigner[l][edges]
        start = stop
    return matrix


def smallest_overlap_eigenvalue(structure: Structure) -> float | None:
    """Smallest eigenvalue of S(k) = Σ_R S(R) exp(2πi k·R) at Γ, M, K and one general point.

    Returns:
        None without an overlap, with an infinite one, or above 2000 orbitals.
    """
    if structure.overlap is None or int(structure.n_orbitals.sum()) > MAX_ORBITALS:
        return None
    complete = structure.overlap.completed()
    if not np.isfinite(complete.values).all():
        return None
    smallest = [np.linalg.eigvalsh(bloch_sum(structure, complete, k))[0] for k in K_POINTS.values()]
    return float(min(smallest))


def bloch_sum(structure: Structure, blocks: Blocks, k: Sequence[float]) -> NDArray[np.complex128]:
    """Matrix at a k point, M(k) = Σ_R M(R) exp(+2πi k·R).

    Args:
        structure: gives the number of orbitals of every atom.
        blocks: spinless blocks, both directions stored.
        k: fractional coordinates of the k point.

    Returns:
        (n, n) complex matrix over all orbitals of the cell.
    """
    starts = np.concatenate([[0], np.cumsum(structure.n_orbitals)])
    matrix = np.zeros((starts[-1], starts[-1]), dtype=np.complex128)
    phases = np.exp(2j * np.pi * (blocks.cell_shift @ np.asarray(k, dtype=np.float64)))
    for (rows, columns), edges, positions in blocks.grouped():
        i, j = blocks.edge_index[:, edges]
        row = starts[i][:, None, None] + np.arange(rows)[:, None]
        column = starts[j][:, None, None] + np.arange(columns)
        np.add.at(matrix, (row, column), blocks.values[positions] * phases[edges][:, None, None])
    return matrix


def missing_pairs(structure: Structure, blocks: Blocks) -> tuple[int, float]:
    """Pairs of atoms nearer than the longest stored pair of their elements that have no block.

    Returns:
        count: how many there are.
        expected: how large (largest element) the largest of their blocks would be, judged by the stored pairs of
            nearly the same length; small where a program leaves out blocks that vanish.
    """
    keys = np.concatenate([blocks.keys(), reverse_keys(blocks.keys())])
    lengths = np.linalg.norm(structure.edge_vectors(blocks), axis=1)
    if not np.isfinite(lengths).all() or lengths.max(initial=0.0) <= MISSING_MARGIN:
        return 0, 0.0
    i, j, shift = neighbor_pairs(structure.positions, structure.cell, structure.pbc, float(lengths.max()))
    wanted = np.concatenate([shift, i[:, None], j[:, None]], axis=1)
    absent = np.flatnonzero(match_keys(keys, wanted) < 0)
    if not len(absent):
        return 0, 0.0
    distance = np.linalg.norm(structure.positions[j] + shift @ structure.cell - structure.positions[i], axis=1)
    magnitude = np.maximum.reduceat(np.abs(blocks.values), blocks.offsets[:-1])
    species = np.sort(structure.numbers[blocks.edge_index], axis=0)
    lacking = np.sort(structure.numbers[np.stack([i, j])[:, absent]], axis=0)
    count, expected = 0, 0.0
    for pair in np.unique(lacking, axis=1).T:
        same = np.flatnonzero((species == pair[:, None]).all(axis=0) & (lengths > 1e-3))
        within = distance[absent[(lacking == pair[:, None]).all(axis=0)]]
        within = within[within <= lengths[same].max(initial=-np.inf) - MISSING_MARGIN]
        if len(within):
            sizes = np.median(magnitude[same[_nearest(lengths[same], within)]], axis=1)
            count, expected = count + len(within), float(np.fmax.reduce(sizes, initial=expected))  # NaN tells nothing
    return count, expected


def _nearest(lengths: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """(W, n) which n = MISSING_NEIGHBOURS lengths (all, if fewer) are nearest to each wanted one; of equals the first.

    They are among the n that follow its place in rising order and the n that follow it in falling order.
    """
    beyond = np.full(MISSING_NEIGHBOURS, len(lengths))
    rising, falling = (np.append(np.argsort(sign * lengths, kind="stable"), beyond) for sign in (1, -1))
    padded = np.append(lengths, np.inf)
    up = np.searchsorted(padded[rising], wanted)
    down = np.searchsorted(-lengths[falling[: len(lengths)]], -wanted, side="right")
    step = np.arange(MISSING_NEIGHBOURS)
    candidates = np.concatenate([rising[up[:, None] + step], falling[down[:, None] + step]], axis=1)
    order = np.lexsort((candidates, np.abs(padded[candidates] - wanted[:, None])), axis=1)
    return np.take_along_axis(candidates, order[:, : min(MISSING_NEIGHBOURS, len(lengths))], axis=1)


def shortest_bond(structure: Structure) -> float | None:
    """Shortest distance of two atoms over the sum of their covalent radii, about 1 where lengths are in Å.

    Returns:
        None where no two atoms are within three times that sum; noble gases do not count.
    """
    bonding = np.flatnonzero(~np.isin(structure.numbers, NOBLE_GASES))
    radii = covalent_radii[structure.numbers[bonding]]
    if not len(bonding):
        return None
    positions = structure.positions[bonding]
    i, j, shift = neighbor_pairs(positions, structure.cell, structure.pbc, BOND_SEARCH * 2 * float(radii.max()))
    lengths = np.linalg.norm(positions[j] + shift @ structure.cell - positions[i], axis=1)
    ratios = lengths / (radii[i] + radii[j])
    return float(ratios.min()) if ratios.min(initial=np.inf) <= BOND_SEARCH else None


def mean_onsite_energy(structure: Structure) -> dict[int, float]:
    """Atomic number -> mean diagonal element of the on-site Hamiltonian blocks in eV.

    H → H + μS moves it by about μ, so within a set it shows whether all structures share one zero of energy.
    """
    blocks = structure.hamiltonian
    if blocks is None:
        return {}
    i, j = blocks.edge_index
    on_site = np.flatnonzero((i == j) & ~blocks.cell_shift.any(axis=1))
    means = np.array([np.diagonal(blocks.block(int(edge))).real.mean() for edge in on_site])
    species = structure.numbers[i[on_site]]
    return {int(z): float(means[species == z].mean()) for z in np.unique(species)}
