"""Wigner-D matrices of the verifier: J matrices from exact integers, quaternions in, float64 out.

Written independently of ``tracegrad.so3`` and of e3nn, so that an error there cannot hide itself. No inverse cosine, no
matrix exponential, no trigonometric function at all: the powers of exp(i alpha), exp(i beta), exp(i gamma) come
straight from the quaternion, which stays accurate at the poles.

Two component orders, both m = -l..l: ``"z-polar"`` (l=1: y, z, x; physics, tracegrad) and ``"e3nn"`` (l=1: x, y, z;
e3nn's own, whose polar axis is y). They are related by D_e3nn(R) = D_z(Q R Q^T) with Q (x, y, z) = (z, x, y).

Sources: Wigner, *Group Theory* (1959), Eq. (15.27) for d(pi/2); Pinchon and Hoggan, J. Phys. A 40, 1597 (2007) for the
factorisation D(alpha, beta, gamma) = X(alpha) A X(beta) A^T X(gamma).
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import comb, factorial, isqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Basis = Literal["e3nn", "z-polar"]

_SQRT_BITS = 160  # fractional bits of the integer square root; float64 keeps 53


def _sqrt(square: Fraction) -> float:
    """Square root of a rational number, correctly rounded to float64."""
    scaled = isqrt((square.numerator << (2 * _SQRT_BITS)) // square.denominator)
    return float(Fraction(scaled, 1 << _SQRT_BITS))


def _d_half_pi_integer(l: int, row: int, column: int) -> int:
    """Integer K with d^l_{row,column}(pi/2) = K 2^-l sqrt((l+row)!(l-row)! / ((l+column)!(l-column)!))."""
    total = 0
    for k in range(max(0, column - row), min(l + column, l - row) + 1):
        total += (-1) ** (k + row - column) * comb(l + column, k) * comb(l - column, l - row - k)
    return total


def _rotation_about_y(l: int) -> list[list[Fraction]]:
    """Signed squares of the real representation matrix of the rotation by -pi/2 about y (z-polar basis).

    The matrix couples cosine with cosine and sine with sine functions only. Entry = sign * sqrt(|value|).
    """
    size = 2 * l + 1
    table = [[Fraction(0)] * size for _ in range(size)]
    for row in range(l + 1):
        for column in range(l + 1):
            ratio = Fraction(
                factorial(l + row) * factorial(l - row), factorial(l + column) * factorial(l - column) * 4**l
            )
            sign = (-1) ** (row + column)
            plus = _d_half_pi_integer(l, row, column)
            minus = (-1) ** column * _d_half_pi_integer(l, row, -column)
            # m = 0 has one function instead of two: 1/2 of the sum once per zero index, times sqrt(2) per zero index
            weight = Fraction(1, 2) ** ((row == 0) + (column == 0))
            cosine, sine = sign * (plus + minus), sign * (plus - minus)
            # transposed: d(-beta) = d(beta)^T
            table[l + column][l + row] = _signed_square(cosine, ratio * weight)
            if row and column:
                table[l - column][l - row] = _signed_square(sine, ratio)
    return table


def _signed_square(integer: int, factor: Fraction) -> Fraction:
    """sign(integer) * integer^2 * factor."""
    return factor * integer * abs(integer)


@cache
def axis_matrix(l: int) -> Array:
    """Real representation matrix of the rotation by -pi/2 about x, which carries the z axis to the y axis.

    Entries are correctly rounded square roots of exact rationals.

    Args:
        l: degree, >= 0.

    Returns:
        (2l+1, 2l+1) matrix A with R_y(beta) = A R_z(beta) A^T, z-polar basis.
    """
    squares = _rotation_about_y(l)
    matrix: Array = np.array([[_sqrt(abs(v)) * (1 if v >= 0 else -1) for v in row] for row in squares])
    cosine = np.array([(1, 0, -1, 0)[abs(m) % 4] for m in range(-l, l + 1)], dtype=float)
    sine = np.array([(0, 1, 0, -1)[abs(m) % 4] * -np.sign(m) for m in range(-l, l + 1)], dtype=float)
    # R_x(-pi/2) = R_z(-pi/2) R_y(-pi/2) R_z(pi/2); X(-pi/2) on the left, X(pi/2) on the right: signed permutations
    matrix = cosine[:, None] * matrix - sine[:, None] * matrix[::-1]
    matrix = np.asarray(matrix * cosine - matrix[:, ::-1] * sine)
    matrix.flags.writeable = False
    return matrix


def _phases(quaternions: Array) -> tuple[Complex, Complex, Complex]:
    """exp(i alpha), exp(i beta), exp(i gamma) of the z-y-z angles of unit quaternions (n, 4) = (w, x, y, z)."""
    w, x, y, z = quaternions.T
    outer, inner = np.hypot(w, z), np.hypot(x, y)
    half_sum, half_difference = np.ones(len(w), dtype=np.complex128), np.ones(len(w), dtype=np.complex128)
    np.divide(w + 1j * z, outer, out=half_sum, where=outer > 0)
    np.divide(y - 1j * x, inner, out=half_difference, where=inner > 0)
    half_beta: Complex = np.asarray((outer + 1j * inner) / np.hypot(outer, inner))
    return half_sum * half_difference, half_beta * half_beta, half_sum * half_difference.conj()


def _powers(phase: Complex, lmax: int) -> Complex:
    """Powers 0..lmax of unit complex numbers, (n, lmax+1), each renormalised."""
    table = np.ones((len(phase), lmax + 1), dtype=np.complex128)
    for m in range(1, lmax + 1):
        half = table[:, m // 2] * table[:, m - m // 2] if m > 1 else phase
        table[:, m] = half / np.abs(half)
    return table


def _trigonometry(powers: Complex, l: int) -> tuple[Array, Array]:
    """cos(|m| angle) and the signed sine that multiplies the reversed rows, both (n, 2l+1)."""
    m = np.arange(-l, l + 1)
    values = powers[:, np.abs(m)]
    return values.real, -np.sign(m) * values.imag


def wigner_D(degrees: list[int], quaternions: Array, basis: Basis = "e3nn") -> dict[int, Array]:
    """Wigner-D of proper rotations for several degrees at once.

    D(R) = X(alpha) A X(beta) A^T X(gamma), Y(R r) = D(R) Y(r).

    Args:
        degrees: l values.
        quaternions: (n, 4) as (w, x, y, z), any length but zero, float64.
        basis: ``"e3nn"`` or ``"z-polar"``; the rotation is the physical one in (x, y, z) for both.

    Returns:
        {l: (n, 2l+1, 2l+1)}, float64.
    """
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    if basis == "e3nn":
        unit = unit[:, [0, 3, 1, 2]]
    lmax = max(degrees, default=0)
    alpha, beta, gamma = (_powers(phase, lmax) for phase in _phases(unit))
    result: dict[int, Array] = {}
    for l in sorted(set(degrees)):
        a = axis_matrix(l)
        cosine, sine = _trigonometry(beta, l)
        middle = np.matmul(a, cosine[:, :, None] * a.T + sine[:, :, None] * a.T[::-1])
        cosine, sine = _trigonometry(alpha, l)
        middle = cosine[:, :, None] * middle + sine[:, :, None] * middle[:, ::-1]
        cosine, sine = _trigonometry(gamma, l)
        result[l] = middle * cosine[:, None] - middle[:, :, ::-1] * sine[:, None]
    return result


@cache
def generators(l: int, basis: Basis = "e3nn") -> Array:
    """Real antisymmetric generators of rotations about x, y, z: D(exp(t K_a)) = 1 + t G_a + O(t^2).

    Args:
        l: degree.
        basis: component order.

    Returns:
        (3, 2l+1, 2l+1), float64, no matrix exponential involved.
    """
    size = 2 * l + 1
    about_z = np.zeros((size, size))
    for m in range(1, l + 1):
        about_z[l + m, l - m], about_z[l - m, l + m] = -m, m
    a = axis_matrix(l)
    about_y = a @ about_z @ a.T
    about_x = about_y @ about_z - about_z @ about_y  # [K_y, K_z] = K_x
    triple = np.stack([about_x, about_y, about_z])
    return triple[[1, 2, 0]] if basis == "e3nn" else triple  # Q R Q^T turns the axis e_x into e_y, e_y into e_z


def spherical_harmonics(l: int, vectors: Array, basis: Basis = "e3nn") -> Array:
    """Real spherical harmonics by the Legendre recursion, normalised to sum_m Y_m^2 = 2l+1; the self-check's oracle.

    Args:
        l: degree.
        vectors: (n, 3) non-zero vectors (x, y, z).
        basis: component order.

    Returns:
        (n, 2l+1), m = -l..l, no Condon-Shortley sign.
    """
    x, y, z = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    if basis == "e3nn":
        x, y, z = z, x, y
    azimuth = np.ones((len(x), l + 1), dtype=np.complex128)  # ((x + iy))^m = sin^m theta exp(i m phi)
    for m in range(1, l + 1):
        azimuth[:, m] = azimuth[:, m - 1] * (x + 1j * y)
    result = np.empty((len(x), 2 * l + 1))
    for m in range(l + 1):
        previous, current = np.zeros_like(z), np.full_like(z, float(np.prod(np.arange(1, 2 * m, 2, dtype=float))))
        for degree in range(m + 1, l + 1):
            previous, current = current, ((2 * degree - 1) * z * current - (degree + m - 1) * previous) / (degree - m)
        norm = np.sqrt((2 * l + 1) * (2.0 if m else 1.0) * factorial(l - m) / factorial(l + m))
        result[:, l + m] = norm * current * azimuth[:, m].real
        if m:
            result[:, l - m] = norm * current * azimuth[:, m].imag
    return result


def spin_half(quaternions: Array) -> Complex:
    """Spin-1/2 representation U(q) = w - i (x sigma_x + y sigma_y + z sigma_z).

    Args:
        quaternions: (n, 4), any length but zero.

    Returns:
        (n, 2, 2) complex128; U(-q) = -U(q).
    """
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [[w - 1j * z, -y - 1j * x], [y - 1j * x, w + 1j * z]]
    return np.moveaxis(np.array(rows), -1, 0)
