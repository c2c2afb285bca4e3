r"""Hamiltonians with an analytic answer: what a rotated structure must give, computed without any Wigner matrix.

A trace label or a gradient-induced feature cannot tell a wrong orbital convention from a right one (both theorems
hold for any orthogonal matrix in place of D). These oracles can: they recompute the block of the rotated structure
from integrals over real orbitals and leave it to the tested D to carry the old block to the new one.

Orbitals are real solid harmonics in the order m = -l..l with z polar (s; y, z, x; xy, yz, z2, xz, x2-y2; ...),
written as polynomials in x, y, z. Nothing here uses `tracegrad.so3`, e3nn, or another module of the verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import comb, factorial, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Monomials = dict[tuple[int, int, int], float]

PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=np.complex128)
"""Pauli matrices in the order x, y, z; basis (up, down)."""

LEVI_CIVITA = np.zeros((3, 3, 3))
LEVI_CIVITA[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1.0
LEVI_CIVITA[[0, 2, 1], [2, 1, 0], [1, 0, 2]] = -1.0


@cache
def _harmonic(l: int, m: int) -> tuple[tuple[tuple[int, int, int], float], ...]:
    r"""Real solid harmonic of degree l as monomials x^i y^j z^k.

    .. math:: S_{lm} = N_{lm}\, \Pi_l^{|m|}(z, r) \times \{\mathrm{Re}, \mathrm{Im}\}(x + iy)^{|m|}, \quad
              N_{lm} = \sqrt{(2 - \delta_{m0}) (l - |m|)! / (l + |m|)!}

    Re for m >= 0, Im for m < 0 (Racah's normalisation; Helgaker, Jorgensen and Olsen, Eq. 6.4.47).
    """
    order = abs(m)
    norm = sqrt((1 if m == 0 else 2) * factorial(l - order) / factorial(l + order))
    terms: Monomials = {}
    for k in range((l - order) // 2 + 1):
        falling = factorial(l - 2 * k) / factorial(l - 2 * k - order)
        radial = (-1) ** k * comb(l, k) * comb(2 * l - 2 * k, l) * falling / 2**l
        for a, b in product(range(k + 1), repeat=2):
            if a + b > k:
                continue
            even = factorial(k) // (factorial(a) * factorial(b) * factorial(k - a - b))
            for q in range(order + 1):
                if q % 2 != (1 if m < 0 else 0):
                    continue
                sign = (-1) ** (q // 2)
                powers = (2 * a + order - q, 2 * b + q, 2 * (k - a - b) + l - 2 * k - order)
                terms[powers] = terms.get(powers, 0.0) + norm * radial * even * sign * comb(order, q)
    return tuple(terms.items())


def solid_harmonic(l: int, m: int, points: Array) -> Array:
    """Value of the real solid harmonic (Racah's normalisation) at points.

    Args:
        l: degree.
        m: component, -l..l.
        points: (..., 3) in any unit of length.

    Returns:
        (...) in that unit to the power l.
    """
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    total: Array = np.zeros_like(x)
    for (i, j, k), coefficient in _harmonic(l, m):
        total += coefficient * x**i * y**j * z**k
    return total


@cache
def _monomials(degree: int) -> tuple[tuple[int, int, int], ...]:
    """All (i, j, k) with i + j + k = degree."""
    return tuple((i, j, degree - i - j) for i in range(degree, -1, -1) for j in range(degree - i, -1, -1))


@cache
def harmonic_coefficients(l: int) -> Array:
    """Solid harmonics of degree l in monomials: (2l+1, (l+1)(l+2)/2), rows m = -l..l."""
    columns = {powers: c for c, powers in enumerate(_monomials(l))}
    rows = np.zeros((2 * l + 1, len(columns)))
    for m in range(-l, l + 1):
        for powers, coefficient in _harmonic(l, m):
            rows[m + l, columns[powers]] = coefficient
    return rows


@cache
def angular_momentum(l: int) -> Array:
    r"""Matrices of L = -i r x nabla between the solid harmonics of one shell, by differentiating their monomials.

    Args:
        l: degree.

    Returns:
        (3, 2l+1, 2l+1) complex, axes (x y z, row m, column m); imaginary and antisymmetric.
    """
    columns = {powers: c for c, powers in enumerate(_monomials(l))}
    rows = harmonic_coefficients(l)
    inverse = np.linalg.pinv(rows)
    result = np.zeros((3, 2 * l + 1, 2 * l + 1), dtype=np.complex128)
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        derivative = np.zeros((len(columns), len(columns)))
        for powers, column in columns.items():
            for up, down, sign in ((b, c, 1.0), (c, b, -1.0)):
                if powers[down]:
                    moved = list(powers)
                    moved[down] -= 1
                    moved[up] += 1
                    target = columns[moved[0], moved[1], moved[2]]
                    derivative[column, target] += sign * powers[down]
        result[axis] = -1j * (rows @ derivative @ inverse).T
    return result


@cache
def _quadrature(n: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Hermite quadrature, exact for polynomials of degree 2n - 1."""
    nodes, weights = np.polynomial.hermite.hermgauss(n)
    return nodes, weights


@dataclass(frozen=True)
class Shell:
    """A shell of 2l+1 Gaussian orbitals S_lm(r - R) exp(-exponent |r - R|^2).

    Args:
        atom: index of the atom that carries it.
        l: degree.
        exponent: 1/Å^2.
    """

    atom: int
    l: int
    exponent: float


@dataclass(frozen=True)
class GaussianOracle:
    r"""A Hamiltonian over Gaussian orbitals whose every block has a closed form.

    .. math:: H_{ab} = \langle a | -\tfrac{1}{2} \nabla^2 - \sum_C w\, e^{-\gamma |r - R_C|^2} | b \rangle

    and with spin, W being the spinless block, L the angular momentum about the orbital's own atom, E the vector from
    the first to the last atom, w the well of the last and N the cross product of the vector to the last but one with E,

    .. math:: H_{ab} = W\, 1 + \tfrac{\xi}{2} \sum_k (L^a_k W + W L^b_k) \sigma_k
              + \tfrac{\xi}{2} \langle a | (E \times P + N (E \cdot P)) \cdot \sigma | b \rangle, \quad
              P = \{w, -i \nabla\} .

    The wells sit on all atoms, so that with four or more of them blocks have no symmetry about their bond and all
    irreps of the product are live. The spinful form is Hermitian and obeys time reversal.

    Args:
        shells: shells of all atoms.
        depth: w, in the unit of the kinetic term.
        decay: gamma, 1/Å^2.
        coupling: xi, dimensionless.
    """

    shells: tuple[Shell, ...]
    depth: float = 1.3
    decay: float = 0.4
    coupling: float = 0.3

    def block(self, positions: Array, a: int, b: int, spinful: bool = False) -> Array:
        """Block between shells a and b of the structure.

        Args:
            positions: (N, 3) in Å.
            a: index of the row shell.
            b: index of the column shell.
            spinful: whether to add the spin-orbit term and the two spin axes.

        Returns:
            (2l_a+1, 2l_b+1) real, or (2, 2, 2l_a+1, 2l_b+1) complex with axes (row spin, column spin, row, column).
        """
        row, column = self.shells[a], self.shells[b]
        result = self._kinetic(positions, row, column)
        for centre in positions:
            result = result - self.depth * self._product(positions, row, column, centre, self.decay)
        if not spinful:
            return result
        left = np.einsum("kmn,nq->kmq", angular_momentum(row.l), result)
        right = np.einsum("mn,knq->kmq", result, angular_momentum(column.l))
        field = positions[-1] - positions[0]
        normal = np.cross(positions[-2] - positions[0], field)
        tensor = np.einsum("ijk,i->kj", LEVI_CIVITA, field) + np.outer(normal, field)
        momentum = -1j * self._momentum(positions, row, column)
        fields = np.einsum("kj,jmq->kmq", tensor, momentum)
        vector = self.coupling * (0.5 * (left + right) + fields)
        with_spin: Array = np.einsum("st,mq->stmq", np.eye(2), result) + np.einsum("kst,kmq->stmq", PAULI, vector)
        return with_spin

    def overlap(self, positions: Array, a: int, b: int) -> Array:
        """Overlap between shells a and b: (2l_a+1, 2l_b+1)."""
        return self._product(positions, self.shells[a], self.shells[b], positions[0], 0.0)

    def _product(self, positions: Array, row: Shell, column: Shell, centre: Array, decay: float) -> Array:
        """Integral of the two orbitals and a Gaussian at a third centre."""
        table = _axis_tables(positions, row, column, centre, decay, row.l, column.l)
        return _contract(table, row.l, column.l, column.l)

    def _momentum(self, positions: Array, row: Shell, column: Shell) -> Array:
        """Integrals of (w d - d w) / 2, w the well of the last atom: (3, 2l_a+1, 2l_b+1), antisymmetric."""
        table = _axis_tables(positions, row, column, positions[-1], self.decay, row.l + 1, column.l + 1)
        right = _slope(table, column.l, column.exponent)[:, : row.l + 1]
        left = _slope(table.swapaxes(1, 2), row.l, row.exponent).swapaxes(1, 2)[:, :, : column.l + 1]
        parts = []
        for axis in range(3):
            mixed = table[:, : row.l + 1, : column.l + 1].copy()
            mixed[axis] = 0.5 * (right[axis] - left[axis])
            parts.append(_contract(mixed, row.l, column.l, column.l))
        return np.stack(parts)

    def _kinetic(self, positions: Array, row: Shell, column: Shell) -> Array:
        r"""Kinetic integrals, by :math:`-\tfrac12 \partial^2` on the column orbital's one-dimensional factors."""
        table = _axis_tables(positions, row, column, positions[0], 0.0, row.l, column.l + 2)
        beta, n = column.exponent, column.l
        second = np.zeros_like(table[:, :, : n + 1])
        for j in range(n + 1):
            second[:, :, j] = 4 * beta**2 * table[:, :, j + 2] - 2 * beta * (2 * j + 1) * table[:, :, j]
            if j >= 2:
                second[:, :, j] += j * (j - 1) * table[:, :, j - 2]
        total = np.zeros((2 * row.l + 1, 2 * column.l + 1))
        for axis in range(3):
            mixed = table[:, :, : n + 1].copy()
            mixed[axis] = -0.5 * second[axis]
            total += _contract(mixed, row.l, n, n)
        return total


def _axis_tables(
    positions: Array, row: Shell, column: Shell, centre: Array, decay: float, rows: int, columns: int
) -> Array:
    """One-dimensional integrals (3, rows+1, columns+1) of x^i x^j exp(...) about the two centres, exact."""
    A, B = positions[row.atom], positions[column.atom]
    total = row.exponent + column.exponent + decay
    middle = (row.exponent * A + column.exponent * B + decay * centre) / total
    pairs = (
        (row.exponent, column.exponent, A - B),
        (row.exponent, decay, A - centre),
        (column.exponent, decay, B - centre),
    )
    exponent = sum(p * q * np.square(d) for p, q, d in pairs) / total
    nodes, weights = _quadrature((rows + columns) // 2 + 1)
    x = middle[:, None] + nodes[None, :] / sqrt(total)
    left = (x - A[:, None])[:, None, :] ** np.arange(rows + 1)[None, :, None]
    right = (x - B[:, None])[:, None, :] ** np.arange(columns + 1)[None, :, None]
    table: Array = np.einsum("dik,djk,k->dij", left, right, weights) * (np.exp(-exponent) / sqrt(total))[:, None, None]
    return table


def _slope(table: Array, degree: int, exponent: float) -> Array:
    """One-dimensional integrals of the derivative of the column's factor x^j exp(-exponent x^2), j = 0..degree."""
    slope: Array = -2 * exponent * table[:, :, 1 : degree + 2]
    slope[:, :, 1:] += np.arange(1, degree + 1) * table[:, :, :degree]
    return slope


def _contract(table: Array, l1: int, l2: int, degree: int) -> Array:
    """Products of the three axes' integrals, summed into solid harmonics."""
    left, right = np.array(_monomials(l1)), np.array(_monomials(degree))
    cartesian = np.ones((len(left), len(right)))
    for axis in range(3):
        cartesian = cartesian * table[axis][left[:, axis][:, None], right[:, axis][None, :]]
    result: Array = harmonic_coefficients(l1) @ cartesian @ harmonic_coefficients(l2).T
    return result


def random_oracle(lmax: int, seed: int, atoms: int = 4) -> tuple[GaussianOracle, Array]:
    """A small molecule with one shell of every degree on its first two atoms.

    Args:
        lmax: largest degree.
        seed: seed of positions and exponents.
        atoms: number of atoms, at least 2; those after the second only carry wells. Three have a mirror plane.

    Returns:
        the oracle, its shells ordered (atom 0: l = 0..lmax, atom 1: l = 0..lmax), and positions (atoms, 3) in Å.
    """
    draw = np.random.default_rng(seed)
    shells = [Shell(atom, l, float(draw.uniform(0.4, 0.9))) for atom in (0, 1) for l in range(lmax + 1)]
    return GaussianOracle(tuple(shells)), draw.normal(scale=0.9, size=(atoms, 3))


def slater_koster_block(l1: int, l2: int, direction: Sequence[float] | Array, bonds: Sequence[float] | Array) -> Array:
    r"""Two-centre block of degrees up to 2 from direction cosines (Slater and Koster, Phys. Rev. 94, 1498 (1954),
    Table I).

    Args:
        l1: degree on the first atom, 0 to 2.
        l2: degree on the second atom, 0 to 2.
        direction: unit vector (l, m, n) from the first to the second atom.
        bonds: integrals of |m| = 0, 1, .. min(l1, l2): sigma, pi, delta; for l1 > l2 those of the pair (l2, l1).

    Returns:
        (2l1+1, 2l2+1) in the order m = -l..l, in the unit of the integrals.
    """
    if l1 > l2:
        swapped: Array = (-1) ** (l1 + l2) * slater_koster_block(l2, l1, direction, bonds).T
        return swapped
    unit = np.asarray(direction, dtype=np.float64)
    sigma = bonds[0]
    if l1 == 0:
        return sigma * _sigma_orbital(l2, unit)[None, :]
    if l1 == 1 and l2 == 1:
        p = unit[[1, 2, 0]]
        return np.outer(p, p) * (sigma - bonds[1]) + np.eye(3) * bonds[1]
    if l1 == 1:
        return _p_d_block(unit, sigma, bonds[1])
    return _d_d_block(unit, sigma, bonds[1], bonds[2])


def _sigma_orbital(l: int, unit: Array) -> Array:
    """Component along the bond of every orbital of the shell, written out."""
    x, y, z = unit
    if l == 0:
        return np.array([1.0])
    if l == 1:
        return np.array([y, z, x])
    root = sqrt(3.0)
    return np.array(
        [root * x * y, root * y * z, z * z - 0.5 * (x * x + y * y), root * z * x, 0.5 * root * (x * x - y * y)]
    )


def _p_d_block(unit: Array, sigma: float, pi: float) -> Array:
    """Rows y, z, x; columns xy, yz, z2, zx, x2-y2."""
    l, m, n = unit
    root = sqrt(3.0)
    half, axial = 0.5 * (l * l - m * m), n * n - 0.5 * (l * l + m * m)
    row_x = [
        root * l * l * m * sigma + m * (1 - 2 * l * l) * pi,
        root * l * m * n * sigma - 2 * l * m * n * pi,
        l * axial * sigma - root * l * n * n * pi,
        root * l * l * n * sigma + n * (1 - 2 * l * l) * pi,
        root * l * half * sigma + l * (1 - l * l + m * m) * pi,
    ]
    row_y = [
        root * m * m * l * sigma + l * (1 - 2 * m * m) * pi,
        root * m * m * n * sigma + n * (1 - 2 * m * m) * pi,
        m * axial * sigma - root * m * n * n * pi,
        root * l * m * n * sigma - 2 * l * m * n * pi,
        root * m * half * sigma - m * (1 + l * l - m * m) * pi,
    ]
    row_z = [
        root * l * m * n * sigma - 2 * l * m * n * pi,
        root * n * n * m * sigma + m * (1 - 2 * n * n) * pi,
        n * axial * sigma + root * n * (l * l + m * m) * pi,
        root * n * n * l * sigma + l * (1 - 2 * n * n) * pi,
        root * n * half * sigma - n * (l * l - m * m) * pi,
    ]
    return np.array([row_y, row_z, row_x])


def _d_d_block(unit: Array, sigma: float, pi: float, delta: float) -> Array:
    """Rows and columns xy, yz, z2, zx, x2-y2."""
    l, m, n = unit
    l2, m2, n2, root = l * l, m * m, n * n, sqrt(3.0)
    a, c = l2 - m2, n2 - 0.5 * (l2 + m2)
    block = np.zeros((5, 5))
    block[0, 0] = 3 * l2 * m2 * sigma + (l2 + m2 - 4 * l2 * m2) * pi + (n2 + l2 * m2) * delta
    block[1, 1] = 3 * m2 * n2 * sigma + (m2 + n2 - 4 * m2 * n2) * pi + (l2 + m2 * n2) * delta
    block[3, 3] = 3 * n2 * l2 * sigma + (n2 + l2 - 4 * n2 * l2) * pi + (m2 + n2 * l2) * delta
    block[0, 1] = 3 * l * m2 * n * sigma + l * n * (1 - 4 * m2) * pi + l * n * (m2 - 1) * delta
    block[0, 3] = 3 * l2 * m * n * sigma + m * n * (1 - 4 * l2) * pi + m * n * (l2 - 1) * delta
    block[1, 3] = 3 * m * n2 * l * sigma + m * l * (1 - 4 * n2) * pi + m * l * (n2 - 1) * delta
    block[0, 4] = 1.5 * l * m * a * sigma - 2 * l * m * a * pi + 0.5 * l * m * a * delta
    block[1, 4] = 1.5 * m * n * a * sigma - m * n * (1 + 2 * a) * pi + m * n * (1 + 0.5 * a) * delta
    block[3, 4] = 1.5 * n * l * a * sigma + n * l * (1 - 2 * a) * pi - n * l * (1 - 0.5 * a) * delta
    block[0, 2] = root * (l * m * c * sigma - 2 * l * m * n2 * pi + 0.5 * l * m * (1 + n2) * delta)
    block[1, 2] = root * (m * n * c * sigma + m * n * (l2 + m2 - n2) * pi - 0.5 * m * n * (l2 + m2) * delta)
    block[2, 3] = root * (l * n * c * sigma + l * n * (l2 + m2 - n2) * pi - 0.5 * l * n * (l2 + m2) * delta)
    block[4, 4] = 0.75 * a * a * sigma + (l2 + m2 - a * a) * pi + (n2 + 0.25 * a * a) * delta
    block[2, 4] = root * (0.5 * a * c * sigma - n2 * a * pi + 0.25 * (1 + n2) * a * delta)
    block[2, 2] = c * c * sigma + 3 * n2 * (l2 + m2) * pi + 0.75 * (l2 + m2) ** 2 * delta
    return block + np.triu(block, 1).T
