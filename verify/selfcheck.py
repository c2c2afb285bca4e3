"""Self-check of the instruments before anything is judged; its figure is the printed noise floor.

Four independent identities: the homomorphism D(q1 q2) = D(q1) D(q2), the spherical harmonics Y(R r) = D(R) Y(r) from a
Legendre recursion, the intertwining of e3nn's 3j symbols, and the spin-1/2 double cover U (r . sigma) U^+ = (R r) .
sigma.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .group import haar, integer_quaternions, near_pole, octahedral, quaternion_product, rotation_matrix
from .result import NoiseFloor
from .wigner import Array, Basis, generators, spherical_harmonics, spin_half, wigner_D

LIMIT_FACTOR = 20.0  # limits are 20 eps (1 + l), times the number of factors where there are several
_EPS = float(np.finfo(np.float64).eps)
_TRIPLES = ((1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 3), (2, 3, 4), (3, 3, 6), (4, 4, 4))


def _homomorphism(degrees: list[int], first: Array, second: Array, basis: Basis) -> float:
    a, b = wigner_D(degrees, first, basis), wigner_D(degrees, second, basis)
    product = wigner_D(degrees, quaternion_product(first, second), basis)
    return max(float(np.abs(a[l] @ b[l] - product[l]).max()) / (1 + l) for l in degrees)


def _harmonics(degrees: list[int], quaternions: Array, basis: Basis, rng: np.random.Generator) -> float:
    d = wigner_D(degrees, quaternions, basis)
    vectors = rng.normal(size=(len(quaternions), 3))
    moved = np.einsum("nij,nj->ni", rotation_matrix(quaternions), vectors)
    worst = 0.0
    for l in degrees:
        left = spherical_harmonics(l, moved, basis)
        right = np.einsum("nij,nj->ni", d[l], spherical_harmonics(l, vectors, basis))
        worst = max(worst, float(np.abs(left - right).max() / np.sqrt(2 * l + 1) / (1 + l)))
    return worst


def _intertwiner(quaternions: Array, lmax: int) -> float:
    import torch
    from e3nn.o3 import wigner_3j

    triples = [t for t in _TRIPLES if max(t) <= lmax]
    d = wigner_D(list(range(lmax + 1)), quaternions, "e3nn")
    worst = 0.0
    for triple in triples:
        symbol = wigner_3j(*triple, dtype=torch.float64).numpy()
        image = np.einsum("nai,nbj,nck,ijk->nabc", *(d[l] for l in triple), symbol, optimize=True)
        worst = max(worst, float(np.abs(image - symbol).max()) / (1 + max(triple)))
    return worst


def _double_cover(quaternions: Array) -> float:
    paulis = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    u = spin_half(quaternions)
    image = np.einsum("nab,ibc,ndc->niad", u, paulis, u.conj())
    expected = np.einsum("nji,jad->niad", rotation_matrix(quaternions), paulis)
    sign = np.abs(spin_half(-quaternions) + u).max()
    return float(max(np.abs(image - expected).max(), sign))


def _generators(degrees: list[int]) -> float:
    """Commutators [K_x, K_y] = K_z and cyclic."""
    worst = 0.0
    for l in degrees:
        x, y, z = generators(l, "e3nn")
        worst = max(
            worst,
            float(np.abs(x @ y - y @ x - z).max()) / (1 + l) ** 2,
            float(np.abs(y @ z - z @ y - x).max()) / (1 + l) ** 2,
        )
    return worst


@cache
def self_check(lmax: int = 4) -> NoiseFloor:
    """Residuals of the instruments for degrees up to ``lmax``, on Haar, integer, octahedral and near-pole elements.

    Args:
        lmax: largest degree that the verification needs.

    Returns:
        Residuals over (1 + l) and their limit 20 eps; ``ok`` is False when a figure is too high (exit code 4).
    """
    rng = np.random.default_rng(20_240_229)
    degrees = list(range(lmax + 1))
    sample = np.concatenate([haar(12, rng), integer_quaternions(8, rng), octahedral()[::4], near_pole()[::3]])
    partner = np.concatenate([haar(len(sample) - 6, rng), integer_quaternions(6, rng)])
    bases: tuple[Basis, ...] = ("e3nn", "z-polar")
    residuals = {
        "homomorphism": max(_homomorphism(degrees, sample, partner, basis) for basis in bases),
        "spherical harmonics": max(_harmonics(degrees, sample, basis, rng) for basis in bases),
        "3j intertwiner": _intertwiner(sample[:12], min(max(lmax, 1), 6)),
        "spin double cover": _double_cover(sample),
        "generators": _generators(degrees),
    }
    return NoiseFloor(residuals, dict.fromkeys(residuals, LIMIT_FACTOR * _EPS))
