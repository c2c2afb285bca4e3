"""Fermi level of a smeared occupation, from the blocks, on the k-mesh of the SCF.

The spin-orbit operator is added after the SCF, so the engine's own Fermi level does not know it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from tracegrad.data.diagnostics import bloch_sum
from tracegrad.data.structure import Structure

BOLTZMANN_EV = 8.617333262e-5
TEMPERATURE = 300.0
PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


def monkhorst_pack(mesh: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the points u = (2 r - n - 1) / 2 n, r = 1..n, along each axis; an even n leaves Gamma out.

    Source: Monkhorst, Pack, Phys. Rev. B 13, 5188 (1976), Eq. (3).

    Returns:
        (K, 3) fractional coordinates in the reciprocal cell.
    """
    axes = [(2 * np.arange(1, n + 1) - n - 1) / (2 * n) for n in mesh]
    return np.array(list(product(*axes)))


def energy_levels(
    structure: Structure, spin_orbit: NDArray[np.float64] | None, k: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the eigenvalues (eV) of H(k) c = E S(k) c, with H(k) = 1 ⊗ H + Σ_a sigma_a ⊗ i W_a if there is spin-orbit.

    Args:
        structure: Structure with scalar-relativistic Hamiltonian (eV) and overlap.
        spin_orbit: (3, n) W_x, W_y, W_z in eV laid out as the values of the Hamiltonian, or None.
        k: (3,) fractional coordinates.
    """
    hamiltonian, overlap = structure.hamiltonian, structure.overlap
    assert hamiltonian is not None
    assert overlap is not None
    spin = np.eye(1 if spin_orbit is None else 2)
    h = np.kron(spin, bloch_sum(structure, hamiltonian.completed(), k.tolist()))
    s = np.kron(spin, bloch_sum(structure, overlap.completed(), k.tolist()))
    for pauli, w in zip(PAULI, () if spin_orbit is None else spin_orbit, strict=False):
        # i W obeys the Hermitian law of the blocks, since W(j, i, -R) = -W(i, j, R)^T.
        h = h + np.kron(pauli, bloch_sum(structure, hamiltonian.with_values(1j * w).completed(), k.tolist()))
    levels: NDArray[np.float64] = scipy.linalg.eigvalsh(h, s)
    return levels


def fermi_level(
    structure: Structure, spin_orbit: NDArray[np.float64] | None, electrons: int, mesh: tuple[int, int, int]
) -> float:
    """Return the level (eV) at which the Fermi-Dirac occupation of 300 K holds all electrons.

    Args:
        structure: Structure with scalar-relativistic Hamiltonian (eV) and overlap.
        spin_orbit: (3, n) W_x, W_y, W_z in eV laid out as the values of the Hamiltonian, or None.
        electrons: Valence electrons of the cell.
        mesh: Monkhorst-Pack mesh.
    """
    energies = np.array([energy_levels(structure, spin_orbit, k) for k in monkhorst_pack(mesh)])
    weight = (2 if spin_orbit is None else 1) / len(energies)

    def excess(mu: float) -> float:
        return float(weight * expit((mu - energies) / (BOLTZMANN_EV * TEMPERATURE)).sum()) - electrons

    return float(brentq(excess, energies.min() - 1.0, energies.max() + 1.0, xtol=1e-10))
