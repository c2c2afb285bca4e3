"""Spin-orbit operator of the GTH potentials, added after the scalar-relativistic SCF.

    V_SO = sum over atoms, l, i, j, m, m' of |p_i^{lm}> k_ij^l <lm| L·S |lm'> <p_j^{lm'}|,   S = sigma / 2,

with the projectors p_i^l ~ r^(l + 2i - 2) exp(-r² / 2 r_l²) of the potential. With L_a = i M_a in real spherical
harmonics (M_a real and antisymmetric) this is H_full = 1 ⊗ H + i Σ_a sigma_a ⊗ W_a with real
W_a = Σ B^T (k ⊗ M_a / 2) B, where B are the overlaps of projectors and orbitals; W(j, i, -R) = -W(i, j, R)^T.

Source: Hartwigsen, Goedecker, Hutter, Phys. Rev. B 58, 3641 (1998); parameters from there and from Krack, Theor. Chem.
Acc. 114, 145 (2005), as in CP2K's GTH_SOC_POTENTIALS. Integrals by PySCF.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma, sqrt
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import NDArray

from tracegrad.data.blocks import match_keys
from tracegrad.data.dft.systems import BOHR_IN_ANGSTROM, ELEMENTS
from tracegrad.errors import DataError

PROJECTOR_RANGE = 9.5
PYSCF_BASIS = "gth-dzvp-molopt-sr"
# PySCF has p as x, y, z; from l = 2 on its order is m = -l..l.
PYSCF_P_ORDER = (1, 2, 0)


@dataclass(frozen=True)
class Channel:
    """Projectors of one l: radius r_l (bohr) and the spin-orbit parameters k_ij (Hartree)."""

    l: int
    radius: float
    strength: tuple[tuple[float, ...], ...]


def _channels(r1: float, k11: float, k12: float, k22: float, r2: float, d11: float) -> tuple[Channel, ...]:
    return Channel(1, r1, ((k11, k12), (k12, k22))), Channel(2, r2, ((d11,),))


CHANNELS: dict[str, tuple[Channel, ...]] = {
    "Bi": _channels(0.76639400, 0.33910609, -0.02108594, 0.02494923, 0.96565479, 0.02035678),
    "Te": _channels(0.58989076, 0.28709255, -0.13816104, 0.16347435, 0.81338925, 0.00929869),
    "Se": _channels(0.47049162, 0.15386757, -0.09508784, 0.11250945, 0.62560034, 0.00489231),
}


def angular_momentum(l: int) -> NDArray[np.float64]:
    """Return the real matrices M_a with <lm| L_a |lm'> = i M_a in real spherical harmonics, m = -l..l.

    Returns:
        (3, 2l + 1, 2l + 1), antisymmetric; a = x, y, z.
    """
    m = np.arange(-l, l + 1)
    raising = np.diag(np.sqrt(l * (l + 1) - m[:-1] * (m[:-1] + 1.0)), -1)
    complex_l = np.array([(raising + raising.T) / 2, (raising - raising.T) / 2j, np.diag(m).astype(complex)])
    # Rows: real harmonics in terms of the complex ones (Condon-Shortley phase in the complex ones only).
    to_real = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    to_real[l, l] = 1.0
    for k in range(1, l + 1):
        phase = (-1.0) ** k
        to_real[l + k, [l + k, l - k]] = phase / sqrt(2), 1 / sqrt(2)
        to_real[l - k, [l + k, l - k]] = -1j * phase / sqrt(2), 1j / sqrt(2)
    matrices = np.array([to_real.conj() @ component @ to_real.T for component in complex_l])
    assert abs(matrices.real).max() < 1e-12
    result: NDArray[np.float64] = matrices.imag
    return result


def spin_orbit_blocks(atoms: Atoms, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return W_x, W_y, W_z for the given pairs.

    Args:
        atoms: Periodic structure, Å.
        pairs: (P, 5) rows Rx, Ry, Rz, i, j.

    Returns:
        (3, n) in Hartree, the row-major blocks one after another in the order of the pairs, as ``Blocks.values``.

    Raises:
        DataError: If PySCF is missing or an element has no spin-orbit parameters.
    """
    unknown = sorted(set(atoms.symbols) - set(CHANNELS))
    if unknown:
        raise DataError(f"no spin-orbit parameters for {', '.join(unknown)}; there are some for {', '.join(CHANNELS)}")
    n_orbitals = np.array([ELEMENTS[symbol].n_orbitals for symbol in atoms.symbols])
    widest = int(n_orbitals.max())
    padded = np.zeros((3, len(pairs), widest, widest))
    symbols = list(atoms.symbols)
    neighbours, vectors = _neighbours(atoms)
    for atom, symbol in enumerate(symbols):
        near = neighbours[:, 0] == atom
        images = neighbours[near, 1:]
        overlaps = _projector_overlaps(symbol, [symbols[j] for j in images[:, 0]], vectors[near], widest)
        where = _pair_index(images, pairs)
        first, second = np.nonzero(where >= 0)
        for a, kernel in enumerate(_kernels(symbol)):
            right = kernel @ overlaps
            products = np.matmul(overlaps.transpose(0, 2, 1)[first], right[second])
            np.add.at(padded[a], where[first, second], products)
    blocks = [padded[:, e, : n_orbitals[i], : n_orbitals[j]].reshape(3, -1) for e, (i, j) in enumerate(pairs[:, 3:])]
    return np.concatenate(blocks, axis=1)


def source_note(symbols: tuple[str, ...]) -> str:
    """Return the parameters of the operator and where they come from, for a manifest."""
    parts = []
    for symbol in symbols:
        p, d = CHANNELS[symbol]
        (k11, k12), (_, k22) = p.strength
        parts.append(f"{symbol} l=1 (k11, k12, k22) = ({k11}, {k12}, {k22}), l=2 k11 = {d.strength[0][0]}")
    return (
        "GTH spin-orbit operator, not self-consistent, k in Hartree: "
        + "; ".join(parts)
        + ". Hartwigsen, Goedecker, Hutter, Phys. Rev. B 58, 3641 (1998); Krack, Theor. Chem. Acc. 114, 145 (2005)"
    )


def _pair_index(images: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, n) position in ``pairs`` of the first atom (moved to the home cell) with the second one, or -1."""
    n = len(images)
    first, second = np.repeat(images, n, axis=0), np.tile(images, (n, 1))
    keys = np.column_stack([second[:, 1:] - first[:, 1:], first[:, 0], second[:, 0]])
    return match_keys(pairs, keys).reshape(n, n)


def _kernels(symbol: str) -> NDArray[np.float64]:
    """(3, p, p) k ⊗ M_a / 2 over all projectors of an element, in the order l, i, m."""
    size = sum(len(channel.strength) * (2 * channel.l + 1) for channel in CHANNELS[symbol])
    kernels = np.zeros((3, size, size))
    start = 0
    for channel in CHANNELS[symbol]:
        blocks = np.array([np.kron(channel.strength, m) / 2 for m in angular_momentum(channel.l)])
        stop = start + blocks.shape[1]
        kernels[:, start:stop, start:stop] = blocks
        start = stop
    return kernels


def _neighbours(atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n, 5) rows i, j, Rx, Ry, Rz of all atoms within the projector range, i itself included, and r_j - r_i."""
    i, j, shifts, vectors = primitive_neighbor_list(
        "ijSD", [True] * 3, atoms.cell.array, atoms.positions, PROJECTOR_RANGE, self_interaction=True
    )
    return np.column_stack([i, j, shifts]).astype(np.int64), vectors


def _projector_overlaps(
    symbol: str, symbols: list[str], vectors: NDArray[np.float64], widest: int
) -> NDArray[np.float64]:
    """Overlaps <p | chi> of the projectors of an atom at the origin with the orbitals of its neighbours.

    Args:
        symbol: Element of the atom at the origin.
        symbols: Elements of the n neighbours.
        vectors: (n, 3) their positions, Å.
        widest: Number of orbital columns; smaller elements are padded with zeros.

    Returns:
        (n, projectors in the order l, i, m, widest).
    """
    gto = import_pyscf()
    channels = CHANNELS[symbol]
    projectors = gto.M(
        atom=[(f"ghost-{symbol}", (0.0, 0.0, 0.0))],
        basis={f"ghost-{symbol}": [[c.l, [0.5 / c.radius**2, 1.0]] for c in channels]},
        unit="B",
        verbose=0,
    )
    orbitals = gto.M(
        atom=list(zip(symbols, vectors / BOHR_IN_ANGSTROM, strict=True)),
        basis={s: gto.basis.load(PYSCF_BASIS, s) for s in set(symbols)},
        unit="B",
        spin=None,
        verbose=0,
    )
    order = _standard_order(orbitals)
    first = gto.intor_cross("int1e_ovlp", projectors, orbitals, comp=1)[:, order]
    second = gto.intor_cross("int1e_r2_origi", projectors, orbitals, comp=1)[:, order]
    rows: list[NDArray[np.float64]] = []
    start = 0
    for channel in channels:
        stop = start + 2 * channel.l + 1
        m_order = start + np.array(_m_order(channel.l))
        radials = (first[m_order], _second_projector_norm(channel) * second[m_order])
        rows += radials[: len(channel.strength)]
        start = stop
    flat = np.concatenate(rows)
    padded = np.zeros((len(symbols), len(flat), widest))
    ends = np.cumsum([ELEMENTS[s].n_orbitals for s in symbols])
    for n, (s, end) in enumerate(zip(symbols, ends, strict=True)):
        size = ELEMENTS[s].n_orbitals
        padded[n, :, :size] = flat[:, end - size : end]
    return padded


def _second_projector_norm(channel: Channel) -> float:
    """Norm of p_2 over that of r² p_1, from int r^(2l+4i-2) exp(-r²/r_l²) dr = Γ(l+2i-1/2) r_l^(2l+4i-1) / 2."""
    return sqrt(gamma(channel.l + 1.5) / gamma(channel.l + 3.5)) / channel.radius**2


def _standard_order(molecule: Any) -> list[int]:
    """Positions in PySCF's orbitals of the orbitals in the order m = -l..l."""
    order: list[int] = []
    for shell in range(molecule.nbas):
        l = molecule.bas_angular(shell)
        for _ in range(molecule.bas_nctr(shell)):
            start = len(order)
            order += [start + m for m in _m_order(l)]
    return order


def _m_order(l: int) -> tuple[int, ...]:
    return PYSCF_P_ORDER if l == 1 else tuple(range(2 * l + 1))


def import_pyscf(purpose: str = "the spin-orbit operator of BB, BT and BS needs PySCF") -> Any:
    """Return PySCF's module of Gaussian orbitals.

    Args:
        purpose: what needs it, for the message.

    Raises:
        DataError: If PySCF is not installed.
    """
    try:
        from pyscf import gto
    except ImportError as error:
        raise DataError(f"{purpose}; install it with: pip install pyscf") from error
    return gto
