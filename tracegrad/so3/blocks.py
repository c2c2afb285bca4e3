r"""Hamiltonian blocks between two shells as vectors of irreps, and back.

With w the 3j symbols of the real basis (norm 1 per triple),

.. math:: t_{lm} = \sqrt{2l+1} \sum_{m_1 m_2} w^{l_1 l_2 l}_{m_1 m_2 m} H_{m_1 m_2}, \qquad
          u_{LM} = \sqrt{2L+1} \sum_{m a} w^{l 1 L}_{m a M}\, t^a_{lm}, \quad a = y, z, x,

an orthonormal map: the sum of t^2 is the sum of |H|^2. A rotation of the geometry, H -> D H D^T, acts as t ->
D(irreps) t. The map is one real matrix per pair of degrees, cached; its inverse is its transpose.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import torch
from e3nn import o3

from tracegrad.errors import DataError
from tracegrad.so3.irreps import channel_parts, expand_channels
from tracegrad.so3.spin import spin_to_components


def block_change_of_basis(l1: int, l2: int, spinful: bool = False, time_reversal: bool = False) -> torch.Tensor:
    """The matrix C with irreps = C vec(block), of orthonormal rows.

    vec(block) is the block flattened in row-major order; for a spinful block (2, 2, 2l1+1, 2l2+1) its real parts, then
    its imaginary parts. C is square and orthogonal, except that with time reversal it keeps the half of the rows whose
    channels do not vanish: then C^T C is the projector on the blocks which obey time reversal.

    Args:
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: see `block_irreps`.
        time_reversal: see `block_irreps`.

    Returns:
        (dim of `block_irreps`, (2l1+1)(2l2+1) or 8 times that), float64.

    Raises:
        DataError: a degree is negative.
    """
    return _change_of_basis(l1, l2, spinful, spinful and time_reversal, torch.float64, torch.device("cpu")).clone()


def block_to_irreps(
    block: torch.Tensor, l1: int, l2: int, spinful: bool = False, time_reversal: bool = False
) -> torch.Tensor:
    """Irreps of blocks between a shell of degree l1 and one of degree l2, in the order of `block_irreps`.

    Args:
        block: (..., 2l1+1, 2l2+1) real, or spinful (..., 2, 2, 2l1+1, 2l2+1) complex with axes (row spin, column spin,
            row orbital, column orbital); any unit, eV for a Hamiltonian; orbitals m = -l..l.
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: whether the blocks carry spin.
        time_reversal: for spinful blocks, whether to drop the channels which vanish under time reversal (what a block
            that does not obey it has there is lost).

    Returns:
        (..., dim of the irreps) real, in the unit of the block, with the same sum of squares.

    Raises:
        DataError: the shape of the blocks, or real against complex, does not fit, or they are integers.
    """
    _check_block(block, l1, l2, spinful)
    if spinful:
        flat = block.flatten(-4)
        flat = torch.cat([flat.real, flat.imag], dim=-1)
    else:
        flat = block.flatten(-2)
    return flat @ _change_of_basis(l1, l2, spinful, spinful and time_reversal, flat.dtype, flat.device).mT


def irreps_to_block(
    irreps_vector: torch.Tensor, l1: int, l2: int, spinful: bool = False, time_reversal: bool = False
) -> torch.Tensor:
    """Blocks of a vector of irreps; inverse of `block_to_irreps`.

    Args:
        irreps_vector: (..., dim of `block_irreps`) real.
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: whether the blocks carry spin.
        time_reversal: for spinful blocks, whether the vector holds only the channels which do not vanish under time
            reversal.

    Returns:
        (..., 2l1+1, 2l2+1) real, or spinful (..., 2, 2, 2l1+1, 2l2+1) complex.

    Raises:
        DataError: the last axis has another length, or the vector is complex or of integers.
    """
    if not irreps_vector.is_floating_point():
        raise DataError(f"expected a vector of real floating-point numbers, found {irreps_vector.dtype}; convert it")
    matrix = _change_of_basis(l1, l2, spinful, spinful and time_reversal, irreps_vector.dtype, irreps_vector.device)
    if irreps_vector.shape[-1:] != matrix.shape[:1]:
        raise DataError(
            f"expected a real vector of {matrix.shape[0]} components for l1 = {l1}, l2 = {l2}, spinful = {spinful}, "
            f"time_reversal = {time_reversal}, found shape {tuple(irreps_vector.shape)}"
        )
    flat = irreps_vector @ matrix
    if not spinful:
        return flat.reshape(*flat.shape[:-1], 2 * l1 + 1, 2 * l2 + 1)
    real, imaginary = flat.chunk(2, dim=-1)
    return torch.complex(real, imaginary).reshape(*flat.shape[:-1], 2, 2, 2 * l1 + 1, 2 * l2 + 1)


def hermitian_signs(l1: int, l2: int, spinful: bool = False, time_reversal: bool = False) -> torch.Tensor:
    r"""Signs that turn the irreps of a block into those of its Hermitian partner, block (l2, l1) of the reverse edge.

    .. math:: H(j, i, -R) = H(i, j, R)^\dagger \iff t^{(l_2, l_1)}_{lm}(j, i, -R) = s_l\, t^{(l_1, l_2)}_{lm}(i, j, R),
              \quad s_l = (-1)^{l_1 + l_2 + l}

    for real parts, -s_l for imaginary parts; triplet channels have the s_l of the orbital degree l behind them. The
    order of channels is the same for (l1, l2) and (l2, l1).

    Args:
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: see `block_irreps`.
        time_reversal: see `block_irreps`.

    Returns:
        (dim of `block_irreps`,) of +1 and -1, float64.

    Raises:
        DataError: a degree is negative.
    """
    signs: list[int] = []
    for part in channel_parts(l1, l2, spinful, time_reversal):
        imaginary = -1 if part.imaginary else 1
        signs += expand_channels([imaginary * (-1) ** (l1 + l2 + l) for l in part.orbital_degrees], part.degrees)
    return torch.tensor(signs, dtype=torch.float64)


def time_reversal_signs(l1: int, l2: int) -> torch.Tensor:
    r"""Signs by which time reversal acts on the irreps of a spinful block, in the full layout.

    .. math:: \Theta = i \sigma_y K: \quad \Theta H \Theta^{-1} = \sigma_y H^* \sigma_y, \quad h_0 \to h_0^*, \quad
              h_{x,y,z} \to -h_{x,y,z}^*

    Args:
        l1: degree of the row shell.
        l2: degree of the column shell.

    Returns:
        (8 (2l1+1)(2l2+1),) float64: +1 for the real part of h_0 and the imaginary part of the triplet, -1 for the
        others.

    Raises:
        DataError: a degree is negative.
    """
    signs: list[int] = []
    for part in channel_parts(l1, l2, spinful=True):
        sign = 1 if part.triplet == part.imaginary else -1
        signs += expand_channels([sign] * len(part.degrees), part.degrees)
    return torch.tensor(signs, dtype=torch.float64)


def _check_block(block: torch.Tensor, l1: int, l2: int, spinful: bool) -> None:
    """Refuse blocks of another shape or kind than (l1, l2, spinful) asks for."""
    expected = ((2, 2) if spinful else ()) + (2 * l1 + 1, 2 * l2 + 1)
    fits = block.is_complex() if spinful else block.is_floating_point()
    if tuple(block.shape[-len(expected) :]) != expected or not fits:
        kind = "complex" if spinful else "real floating-point"
        raise DataError(
            f"expected {kind} blocks of shape (..., {', '.join(map(str, expected))}) for l1 = {l1}, l2 = {l2}, "
            f"spinful = {spinful}, found shape {tuple(block.shape)} of {block.dtype}"
        )


@cache
def _change_of_basis(
    l1: int, l2: int, spinful: bool, time_reversal: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`block_change_of_basis` for one dtype and device, built outside inference mode: others may need gradients."""
    with torch.inference_mode(False), torch.no_grad():
        if (dtype, device) != (torch.float64, torch.device("cpu")):
            master = _change_of_basis(l1, l2, spinful, time_reversal, torch.float64, torch.device("cpu"))
            return master.to(dtype=dtype, device=device)
        orbital = torch.cat([_coupling(l1, l2, l).flatten(1) for l in range(abs(l1 - l2), l1 + l2 + 1)])
        return _with_spin(orbital, l1, l2, time_reversal) if spinful else orbital


def _with_spin(orbital: torch.Tensor, l1: int, l2: int, time_reversal: bool) -> torch.Tensor:
    """Real matrix of a spinful block, from the matrix of its orbital part."""
    n = orbital.shape[0]
    starts = {l: l**2 - (l1 - l2) ** 2 for l in range(abs(l1 - l2), l1 + l2 + 1)}
    triplet = []
    for l, start in starts.items():
        rows = orbital[start : start + 2 * l + 1]
        triplet += [torch.einsum("uma,mh->uah", _coupling(l, 1, L), rows).flatten(1) for L in range(abs(l - 1), l + 2)]
    by_component = torch.zeros(4 * n, 4 * n, dtype=torch.complex128)
    by_component[:n, :n] = orbital
    by_component[n:, n:] = torch.cat(triplet)
    # map from the four spin entries (uu, ud, du, dd) to (h_0, h_y, h_z, h_x)
    spin = spin_to_components(torch.eye(4, dtype=torch.complex128).reshape(4, 2, 2)).mT.contiguous()
    complex_map = by_component @ torch.kron(spin, torch.eye(n, dtype=torch.complex128))
    real_parts = torch.cat([complex_map.real, -complex_map.imag], dim=1)
    imaginary_parts = torch.cat([complex_map.imag, complex_map.real], dim=1)
    if time_reversal:
        return torch.cat([real_parts[:n], imaginary_parts[n:]])
    return torch.cat([real_parts, imaginary_parts])


def _coupling(l1: int, l2: int, l: int) -> torch.Tensor:
    """Orthonormal coupling coefficients (2l+1, 2l1+1, 2l2+1) in float64."""
    symbols: torch.Tensor = o3.wigner_3j(l1, l2, l, dtype=torch.float64, device=torch.device("cpu"))
    return symbols.permute(2, 0, 1) * sqrt(2 * l + 1)
