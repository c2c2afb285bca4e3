r"""Spin one half: its representation of rotations, and 2x2 spin matrices as a scalar and a vector.

The vector part is ordered (y, z, x), the component order of a real l = 1 irrep (`docs/conventions.md`).
"""

from __future__ import annotations

from math import sqrt

import torch

from tracegrad.errors import DataError
from tracegrad.so3.rotations import euler_angles

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def pauli_matrices(dtype: torch.dtype = torch.complex128, device: torch.device | str = "cpu") -> torch.Tensor:
    """Unit matrix and Pauli matrices, in the order (1, sigma_y, sigma_z, sigma_x).

    Args:
        dtype: complex dtype.
        device: device of the result.

    Returns:
        (4, 2, 2).
    """
    rows = [[[1, 0], [0, 1]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]], [[0, 1], [1, 0]]]
    return torch.tensor(rows, dtype=dtype, device=device)


def spin_half_D(R: torch.Tensor) -> torch.Tensor:
    r"""Spin-1/2 representation of rotations, determined up to its sign.

    .. math:: U = e^{-i \alpha \sigma_z / 2} e^{-i \beta \sigma_y / 2} e^{-i \gamma \sigma_z / 2}, \qquad
              U (v \cdot \sigma) U^\dagger = (R v) \cdot \sigma

    Spin is even under inversion: an improper R is represented by U(-R).

    Args:
        R: (..., 3, 3) orthogonal matrices acting on (x, y, z), float32 or float64.

    Returns:
        (..., 2, 2) unitary matrices of determinant 1, rows and columns (up, down), complex64 or complex128. The
        product of two of them is that of the product of the rotations or its negative (double cover); every bilinear
        use is free of the sign.

    Raises:
        DataError: R is not of shape (..., 3, 3), or of another dtype.
    """
    if R.dtype not in _COMPLEX:
        raise DataError(f"expected rotations in float32 or float64, found {R.dtype}; convert them first")
    if R.shape[-2:] != (3, 3):
        raise DataError(f"expected rotations of shape (..., 3, 3), found {tuple(R.shape)}")
    alpha, beta, gamma = euler_angles(R * torch.linalg.det(R).sign()[..., None, None])
    half_sum, half_difference = (alpha + gamma) / 2, (alpha - gamma) / 2
    cos, sin = (beta / 2).cos(), (beta / 2).sin()
    up_up = torch.complex(cos * half_sum.cos(), -cos * half_sum.sin())
    down_up = torch.complex(sin * half_difference.cos(), sin * half_difference.sin())
    entries = torch.stack([up_up, -down_up.conj(), down_up, up_up.conj()], dim=-1)
    return entries.reshape(*R.shape[:-2], 2, 2)


def spin_to_components(matrix: torch.Tensor, dim: int = -2) -> torch.Tensor:
    r"""Scalar and vector part of spin matrices; a unitary map.

    .. math:: h_a = \tfrac{1}{\sqrt 2} \sum_{s s'} (\sigma_a)_{s' s} H_{s s'}, \qquad a = 0, y, z, x

    Args:
        matrix: complex, with axes `dim` and `dim` + 1 of length 2: (row spin, column spin), in the order up, down.
        dim: the axis of the row spin, counted from the end (negative).

    Returns:
        as `matrix`, with one axis of length 4, (h_0, h_y, h_z, h_x), in place of the two.

    Raises:
        DataError: the axes are not of length 2, or `dim` is not negative.
    """
    _check_axes(matrix, dim, (2, 2))
    up_up, up_down, down_up, down_down = matrix.flatten(dim, dim + 1).unbind(dim + 1)
    parts = [up_up + down_down, 1j * (up_down - down_up), up_up - down_down, up_down + down_up]
    return torch.stack(parts, dim=dim + 1) / sqrt(2)


def components_to_spin(components: torch.Tensor, dim: int = -1) -> torch.Tensor:
    r"""Spin matrices of a scalar and a vector part; inverse of `spin_to_components`.

    .. math:: H_{s s'} = \tfrac{1}{\sqrt 2} (h_0 1 + h_y \sigma_y + h_z \sigma_z + h_x \sigma_x)_{s s'}

    Args:
        components: complex, with axis `dim` of length 4: (h_0, h_y, h_z, h_x).
        dim: that axis, counted from the end (negative).

    Returns:
        as `components`, with two axes of length 2, (row spin, column spin), in place of the one.

    Raises:
        DataError: the axis is not of length 4, or `dim` is not negative.
    """
    _check_axes(components, dim, (4,))
    h_0, h_y, h_z, h_x = components.unbind(dim)
    entries = [h_0 + h_z, h_x - 1j * h_y, h_x + 1j * h_y, h_0 - h_z]
    stacked = torch.stack(entries, dim=dim) / sqrt(2)
    return stacked.reshape(*stacked.shape[:dim], 2, 2, *stacked.shape[components.ndim + dim + 1 :])


def _check_axes(tensor: torch.Tensor, dim: int, lengths: tuple[int, ...]) -> None:
    """Refuse a tensor whose axes from `dim` on do not have the lengths."""
    found = tuple(tensor.shape[dim : dim + len(lengths) or None]) if dim < 0 else ()
    if found != lengths:
        raise DataError(
            f"expected axes of lengths {lengths} from axis {dim} (negative) on, found shape {tuple(tensor.shape)}"
        )
