r"""Rotations and their real representations.

Every rotation is a physical one, acting on column vectors (x, y, z). The representation of degree l acts on the real
spherical harmonics of the z-polar basis, components m = -l..l (l = 1: y, z, x; l = 2: xy, yz, z2, xz, x2-y2), and obeys

.. math:: Y_l(R x) = D^l(R)\, Y_l(x), \qquad D^l(R_1 R_2) = D^l(R_1) D^l(R_2), \qquad D^1(R) = P R P^T,\ P = (y, z, x).

D is computed from z-y-z Euler angles as Z(alpha) J Z(-beta) J Z(gamma), where Z mixes only m and -m and J is the
constant matrix of the exchange of y and z (D. Pinchon and P. E. Hoggan, J. Phys. A 40, 1597 (2007)). J is found in
exact integer arithmetic.
"""

from __future__ import annotations

from math import comb, factorial, isqrt

import torch
from e3nn import o3

from tracegrad.errors import DataError
from tracegrad.so3.traces import is_transient

_WORK_DTYPES = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_EXCHANGE_MATRICES: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}


def euler_angles(R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Physical z-y-z angles of a rotation, accurate also where the second angle is near 0 or pi.

    .. math:: R = R_z(\alpha) R_y(\beta) R_z(\gamma)

    The first two angles are read off the image of z. The third one is read off :math:`R_z(-\alpha) R = R_y(\beta)
    R_z(\gamma)`, so that an ill-determined alpha near the poles is made good by gamma.

    Args:
        R: (..., 3, 3) proper rotations, any floating dtype.

    Returns:
        (alpha, beta, gamma), each (...), in radians, with alpha and gamma in [-pi, pi] and beta in [0, pi].

    Raises:
        DataError: R is not a floating tensor of shape (..., 3, 3).
    """
    _check_rotation(R)
    alpha = torch.atan2(R[..., 1, 2], R[..., 0, 2])
    beta = torch.atan2(torch.hypot(R[..., 0, 2], R[..., 1, 2]), R[..., 2, 2])
    cos, sin = alpha.cos(), alpha.sin()
    gamma = torch.atan2(cos * R[..., 1, 0] - sin * R[..., 0, 0], cos * R[..., 1, 1] - sin * R[..., 0, 1])
    return alpha, beta, gamma


def rotation_from_angles(alpha: torch.Tensor, beta: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    r"""Rotation matrix of physical z-y-z angles.

    .. math:: R = R_z(\alpha) R_y(\beta) R_z(\gamma)

    Args:
        alpha: (...) in radians; the three broadcast.
        beta: (...) in radians.
        gamma: (...) in radians.

    Returns:
        (..., 3, 3) proper rotations acting on (x, y, z).
    """
    shape = (alpha + beta + gamma).shape
    alpha, beta, gamma = alpha.expand(shape), beta.expand(shape), gamma.expand(shape)
    ca, sa, cb, sb, cc, sc = alpha.cos(), alpha.sin(), beta.cos(), beta.sin(), gamma.cos(), gamma.sin()
    rows = [
        [ca * cb * cc - sa * sc, -ca * cb * sc - sa * cc, ca * sb],
        [sa * cb * cc + ca * sc, -sa * cb * sc + ca * cc, sa * sb],
        [-sb * cc, sb * sc, cb],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def random_rotation(
    n: int | None = None, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Rotations drawn from the Haar measure, by normalised Gaussian quaternions.

    Args:
        n: number of rotations; None for one without a leading axis.
        generator: source of randomness; None for the global one.
        dtype: dtype of the result (the rotation is built in float64).

    Returns:
        (n, 3, 3), or (3, 3) when `n` is None.
    """
    shape = (4,) if n is None else (n, 4)
    quaternion = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return rotation_from_quaternion(quaternion).to(dtype)


def rotation_from_quaternion(quaternion: torch.Tensor) -> torch.Tensor:
    """Rotation of a quaternion of any non-zero length.

    Args:
        quaternion: (..., 4), components (w, x, y, z); w = cos(angle / 2) and (x, y, z) = sin(angle / 2) axis when of
            length 1.

    Returns:
        (..., 3, 3) proper rotations.
    """
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def wigner_D(l: int, R: torch.Tensor) -> torch.Tensor:
    r"""Representation of degree l of proper rotations on real spherical harmonics, m = -l..l.

    .. math:: D^l(R) = Z(\alpha)\, J\, Z(-\beta)\, J\, Z(\gamma)

    Example::

        P = torch.eye(3)[[1, 2, 0]]
        torch.testing.assert_close(wigner_D(1, R), P @ R @ P.T)

    Args:
        l: degree, at least 0 (tested to 12).
        R: (..., 3, 3) proper rotations acting on (x, y, z); for improper ones see `wigner_D_irreps`.

    Returns:
        (..., 2l+1, 2l+1) orthogonal matrices in the dtype of R; error below 1e-14 in float64 for l up to 12. Not meant
        to be differentiated: the angles have no derivative at the poles.

    Raises:
        DataError: R is not a floating tensor of shape (..., 3, 3), or l is negative.
    """
    _check_rotation(R)
    angles = euler_angles(R.to(_WORK_DTYPES.get(R.dtype, R.dtype)))
    return wigner_D_from_angles(l, *angles).to(R.dtype)


def wigner_D_from_angles(l: int, alpha: torch.Tensor, beta: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Representation of degree l of the rotation with physical z-y-z angles; see `wigner_D`.

    Args:
        l: degree, at least 0.
        alpha: (...) in radians; the three broadcast.
        beta: (...) in radians.
        gamma: (...) in radians.

    Returns:
        (..., 2l+1, 2l+1) in the dtype of the angles.

    Raises:
        DataError: l is negative.
    """
    J = _exchange_matrix(l, beta.dtype, beta.device)
    cos_b, sin_b = _multiple_angles(l, beta)
    about_y = (J * cos_b[..., None, :] - J.flip(-1) * sin_b[..., None, :]) @ J
    cos_a, sin_a = _multiple_angles(l, alpha)
    about_zy = cos_a[..., :, None] * about_y - sin_a[..., :, None] * about_y.flip(-2)
    cos_c, sin_c = _multiple_angles(l, gamma)
    return about_zy * cos_c[..., None, :] + about_zy.flip(-1) * sin_c[..., None, :]


def wigner_D_irreps(irreps: o3.Irreps | str, R: torch.Tensor) -> torch.Tensor:
    r"""Block-diagonal representation of rotations, proper or not, on a list of irreps.

    .. math:: D(R) = \bigoplus_i p_i^{(1 - \det R) / 2}\, D^{l_i}(R \det R)

    Args:
        irreps: list of irreps with multiplicities, in e3nn's notation.
        R: (..., 3, 3) orthogonal matrices of determinant 1 or -1.

    Returns:
        (..., dim, dim) orthogonal matrices in the dtype of R.

    Raises:
        DataError: R is not a floating tensor of shape (..., 3, 3).
    """
    _check_rotation(R)
    irreps = o3.Irreps(irreps)
    work = R.to(_WORK_DTYPES.get(R.dtype, R.dtype))
    sign = torch.linalg.det(work).sign()[..., None, None]
    angles = euler_angles(work * sign)
    by_degree = {l: wigner_D_from_angles(l, *angles) for l in sorted(set(irreps.ls))}
    result = work.new_zeros((*work.shape[:-2], irreps.dim, irreps.dim))
    start = 0
    for multiplicity, (l, p) in irreps:
        block = by_degree[l] if p == 1 else by_degree[l] * sign
        for _ in range(multiplicity):
            stop = start + 2 * l + 1
            result[..., start:stop, start:stop] = block
            start = stop
    return result.to(R.dtype)


def _check_rotation(R: torch.Tensor) -> None:
    """Refuse what cannot be a batch of rotation matrices."""
    if R.shape[-2:] != (3, 3) or not R.is_floating_point():
        raise DataError(
            f"expected rotations as a floating tensor of shape (..., 3, 3), found shape {tuple(R.shape)} of {R.dtype}; "
            "pass matrices that act on (x, y, z)"
        )


def _multiple_angles(l: int, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos(m angle) and sin(m angle) for m = -l..l, each (..., 2l+1)."""
    phase = angle[..., None] * torch.arange(-l, l + 1, dtype=angle.dtype, device=angle.device)
    return phase.cos(), phase.sin()


def _exchange_matrix(l: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The constant J of degree l: the representation of (x, y, z) -> (x, z, y), symmetric and its own inverse."""
    if l < 0:
        raise DataError(f"expected a degree l of at least 0, found {l}")
    known = _EXCHANGE_MATRICES.get((l, dtype, device))
    if known is None:
        with torch.inference_mode(False):
            known = torch.tensor(exchange_matrix_rows(l), dtype=dtype, device=device)
        if not is_transient(known):
            _EXCHANGE_MATRICES[l, dtype, device] = known
    return known


def exchange_matrix_rows(l: int) -> list[list[float]]:
    """Rows of J, every entry correct to the last bit.

    With S the reflection of y, (x, y, z) -> (x, z, y) is S R_z(-pi/2) R_y(pi/2) R_z(pi/2). The outer factors only
    permute components and change signs, so that an entry of J is one of R_y(pi/2), up to its sign.

    Args:
        l: degree, at least 0.

    Returns:
        2l+1 rows of 2l+1 numbers, components m = -l..l.
    """
    quarter_cos, quarter_sin = (1, 0, -1, 0), (0, 1, 0, -1)
    rows = []
    for m in range(-l, l + 1):
        # row m of S Z(-pi/2): one non-zero entry, in column m when m is even and in column -m when it is odd
        left = quarter_cos[m % 4] if m % 2 == 0 else quarter_sin[m % 4]
        left_column = m if m % 2 == 0 else -m
        reflected = -1 if m < 0 else 1
        row = []
        for n in range(-l, l + 1):
            # column n of Z(pi/2): one non-zero entry, in row n when n is even and in row -n when it is odd
            right = quarter_cos[n % 4] if n % 2 == 0 else quarter_sin[n % 4]
            right_row = n if n % 2 == 0 else -n
            row.append(reflected * left * right * _quarter_turn_about_y(l, left_column, right_row))
        rows.append(row)
    return rows


def _quarter_turn_about_y(l: int, m: int, n: int) -> float:
    r"""Entry (m, n) of D^l of the rotation by pi/2 about y, on real components.

    With d the small Wigner matrix at pi/2 and m, n > 0, the entries are :math:`(-1)^{m+n} d_{mn} \pm (-1)^m d_{m,-n}`,
    + between cosines (m, n) and - between sines (-m, -n); cosines and sines do not mix. d is an integer times the root
    of a ratio of factorials which depends on the moduli of m and n only, so that the integers are added before any
    rounding.
    """
    if (m < 0) != (n < 0):
        return 0.0
    kind = -1 if m < 0 else 1
    m, n = abs(m), abs(n)
    if m == 0 or n == 0:
        integer, doubled = (-1) ** (m + n) * _small_d_integer(l, m, n), m + n > 0
    else:
        integer = (-1) ** (m + n) * _small_d_integer(l, m, n) + kind * (-1) ** m * _small_d_integer(l, m, -n)
        doubled = False
    numerator = integer**2 * factorial(l + m) * factorial(l - m) * (2 if doubled else 1)
    denominator = factorial(l + n) * factorial(l - n) * 4**l
    return _square_root_of_ratio(numerator, denominator) * (-1 if integer < 0 else 1)


def _small_d_integer(l: int, m: int, n: int) -> int:
    """Integer K of d^l_mn(pi/2) = K sqrt((l+m)! (l-m)! / ((l+n)! (l-n)!)) / 2^l (Wigner's sum over k)."""
    return sum(
        (-1) ** (m - n + k) * comb(l + n, k) * comb(l - n, l - m - k)
        for k in range(max(0, n - m), min(l + n, l - m) + 1)
    )


def _square_root_of_ratio(numerator: int, denominator: int) -> float:
    """sqrt(numerator / denominator) of integers, rounded once."""
    bits = 128 + denominator.bit_length()
    return isqrt((numerator << (2 * bits)) // denominator) / (1 << bits)
