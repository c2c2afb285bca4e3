"""Whether two structures are of the same atoms, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tracegrad.data.blocks import Blocks
from tracegrad.data.structure import Structure, orbital_table
from tracegrad.errors import DataError

SAME_PLACE = 1e-3  # Å that lattice vectors and places of the same atoms may differ by, as files round


def atom_order(found: Structure, reference: Structure, source: str | Path) -> NDArray[np.int64]:
    """Which atom of ``reference`` each atom of ``found`` is, by their places.

    Args:
        found: atoms that were read, with their blocks.
        reference: atoms that they should be, Å.
        source: where ``found`` was read, for messages.

    Returns:
        (N,) index into the atoms of ``reference``.

    Raises:
        DataError: other atoms, orbitals, lattice vectors or positions; also where an atom is named by another image.
    """
    if sorted(found.numbers.tolist()) != sorted(reference.numbers.tolist()):
        raise DataError(f"{source}: holds other atoms than the structure {reference.name or ''}".rstrip())
    shells = [{z: each.orbitals.get(z) for z in set(reference.numbers.tolist())} for each in (found, reference)]
    if shells[0] != shells[1]:
        ours, theirs = (orbital_table({z: s for z, s in each.items() if s}) for each in shells)
        raise DataError(f"{source}: expected the orbitals {theirs} of the structure, found {ours}")
    gap = float(np.abs(found.cell - reference.cell)[_directions(found, reference)].max(initial=0.0))
    if gap > SAME_PLACE:
        raise DataError(f"{source}: its cell differs from that of the structure by {gap:.3g} Å; expected the same one")
    distance, order = cKDTree(reference.positions).query(found.positions)
    worst = int(distance.argmax())
    if distance[worst] > SAME_PLACE or len(set(order.tolist())) < found.n_atoms:
        raise DataError(
            f"{source}: atom {worst} lies {distance[worst]:.3g} Å from the nearest atom of the structure; expected the "
            "same atoms, each in the same cell"
        )
    other = np.flatnonzero(found.numbers != reference.numbers[order])
    if len(other):
        raise DataError(f"{source}: atom {other[0]} is of another element than the structure has there")
    return np.asarray(order, dtype=np.int64)


def _directions(found: Structure, reference: Structure) -> NDArray[np.bool_]:
    """(3,) lattice vectors that mean something: of periodic directions, and of those in which blocks reach cells."""
    used = np.array(reference.pbc, dtype=np.bool_)
    for blocks in (found.hamiltonian, found.overlap):
        if blocks is not None:
            used |= (blocks.cell_shift != 0).any(axis=0)
    return used


def renumbered(blocks: Blocks, order: NDArray[np.int64]) -> Blocks:
    """Blocks whose atom k is named ``order[k]``."""
    return replace(blocks, edge_index=order[blocks.edge_index])
