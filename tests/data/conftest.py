"""Small structures made without DFT, and helpers that damage files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracegrad.data import Blocks, Structure

ORBITALS = {6: (0, 0, 1), 16: (0, 1, 2)}  # C: 5 orbitals, S: 9
CELL = np.array([[3.1, 0.0, 0.0], [-1.4, 2.7, 0.0], [0.1, 0.2, 9.0]])
HALF_KEYS = [
    (0, 0, 0, 0, 0),
    (0, 0, 0, 1, 1),
    (0, 0, 0, 2, 2),
    (0, 0, 0, 0, 1),
    (-1, 2, 0, 0, 1),
    (0, 0, 0, 0, 2),
    (0, 1, 0, 1, 2),
    (1, -1, 0, 1, 1),
    (0, 0, 1, 2, 2),
]


def random_matrix(
    numbers: list[int], *, factor: int, complex_values: bool, seed: int
) -> dict[tuple[int, ...], np.ndarray]:
    """Hermitian half of a random matrix over ``HALF_KEYS`` as a dictionary; on-site blocks are Hermitian."""
    rng = np.random.default_rng(seed)
    size = [factor * sum(2 * l + 1 for l in ORBITALS[z]) for z in numbers]
    blocks: dict[tuple[int, ...], np.ndarray] = {}
    for key in HALF_KEYS:
        shape = (size[key[3]], size[key[4]])
        block = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)
        blocks[key] = block + block.conj().T if key[:3] == (0, 0, 0) and key[3] == key[4] else block
    return blocks


def time_reversal_symmetric(numbers: list[int], seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Spinful half with H = 1 ⊗ H0 + i Σ σ_a ⊗ W_a, built with explicit Kronecker products."""
    pauli = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    scalar = random_matrix(numbers, factor=1, complex_values=False, seed=seed)
    vector = [random_matrix(numbers, factor=1, complex_values=False, seed=seed + 1 + a) for a in range(3)]
    full = {}
    for key, block in scalar.items():
        total = np.kron(np.eye(2), block).astype(complex)
        for a in range(3):
            w = vector[a][key]
            w = (w - w.T) / 2 if key[:3] == (0, 0, 0) and key[3] == key[4] else w
            total += 1j * np.kron(pauli[a], w)
        full[key] = total
    return full


@pytest.fixture
def make_structure() -> Callable[..., Structure]:
    """Make a structure of three atoms, C S C or as given, with a random Hamiltonian and overlap (Hermitian halves)."""

    def make(
        spinful: bool = False, seed: int = 0, numbers: tuple[int, ...] = (6, 16, 6), name: str = "toy"
    ) -> Structure:
        rng = np.random.default_rng(seed + 100)
        species = list(numbers)
        matrix = (
            time_reversal_symmetric(species, seed)
            if spinful
            else random_matrix(species, factor=1, complex_values=False, seed=seed)
        )
        overlap = random_matrix(species, factor=1, complex_values=False, seed=seed + 50)
        return Structure(
            numbers=np.array(species),
            positions=rng.normal(size=(3, 3)) * 3,
            cell=CELL.copy(),
            pbc=np.ones(3, dtype=bool),
            orbitals=dict(ORBITALS),
            spinful=spinful,
            hamiltonian=Blocks.from_dict(matrix),
            overlap=Blocks.from_dict({key: 0.01 * block for key, block in overlap.items()}),
            name=name,
            metadata={"fermi_energy_eV": -1.25},
        )

    return make


@pytest.fixture
def truncate() -> Callable[[Path], None]:
    """Cut a file in the middle."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


@pytest.fixture
def same_blocks() -> Callable[[Blocks, Blocks], bool]:
    """Compare two sets of blocks by key, bit for bit, whatever their order."""

    def compare(first: Blocks, second: Blocks) -> bool:
        ours, theirs = first.to_dict(), second.to_dict()
        return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)

    return compare
