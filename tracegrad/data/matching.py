"""Whether two structures are of the same atoms, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks
from tracegrad.data.structure import Structure, orbital_table
from tracegrad.errors import DataError

SAME_PLACE = 1e-3  # Å that cells and positions of the same atoms may differ by, as files round


def atom_order(found: Structure, reference: Structure, source: str | Path) -> NDArray[np.int64]:
    """Which atom of ``reference`` each atom of ``found`` is: the same order, or grouped by element as in the new form.

    Args:
        found: atoms that were read.
        reference: atoms that they should be, Å.
        source: where ``found`` was read, for messages.

    Returns:
        (N,) index into the atoms of ``reference``.

    Raises:
        DataError: other atoms, orbitals, cell or positions; also where an atom is named by another of its images.
    """
    if sorted(found.numbers.tolist()) != sorted(reference.numbers.tolist()):
        raise DataError(f"{source}: holds other atoms than the structure {reference.name or ''}".rstrip())
    shells = [{z: each.orbitals.get(z) for z in set(reference.numbers.tolist())} for each in (found, reference)]
    if shells[0] != shells[1]:
        ours, theirs = (orbital_table({z: s for z, s in each.items() if s}) for each in shells)
        raise DataError(f"{source}: expected the orbitals {theirs} of the structure, found {ours}")
    gap = float(np.abs(found.cell - reference.cell).max())
    if gap > SAME_PLACE:
        raise DataError(
            f"{source}: its cell differs from that of the structure by {gap:.3g} Å; expected the same atoms"
        )
    distances = []
    for order in (np.arange(found.n_atoms), np.argsort(reference.numbers, kind="stable")):
        if np.array_equal(found.numbers, reference.numbers[order]):
            moved = np.abs(found.positions - reference.positions[order]).max(axis=1)
            if moved.max(initial=0.0) <= SAME_PLACE:
                return np.asarray(order, dtype=np.int64)
            distances.append((float(moved.max()), int(moved.argmax())))
    if not distances:
        raise DataError(f"{source}: holds its atoms in another order than the structure; expected the same order")
    distance, atom = min(distances)
    raise DataError(
        f"{source}: atom {atom} lies {distance:.3g} Å from where the structure has it; expected the same atoms, each "
        "in the same cell"
    )


def renumbered(blocks: Blocks, order: NDArray[np.int64]) -> Blocks:
    """Blocks whose atom k is named ``order[k]``."""
    return replace(blocks, edge_index=order[blocks.edge_index])
