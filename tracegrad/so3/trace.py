r"""The SO(3)-invariant label of the trace branch: T = tr(Q Q^dagger), the squared Frobenius norm of a block.

TraceGrad, Theorem 1: with Q -> D^{l1} Q D^{l2, dagger}, T does not change. For spinful blocks T sums over both spins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tracegrad.errors import DataError


def trace_label(block: torch.Tensor) -> torch.Tensor:
    r"""Spin-summed trace label of blocks (TraceGrad, Theorem 1).

    .. math:: T = \mathrm{tr}(Q Q^\dagger) = \sum_{s s'} \sum_{m_1 m_2} |H_{s m_1, s' m_2}|^2

    Args:
        block: (..., 2l1+1, 2l2+1) real, or spinful (..., 2, 2, 2l1+1, 2l2+1) complex, in eV.

    Returns:
        (...) real, in eV^2.

    Raises:
        DataError: complex blocks without the two spin axes, or fewer than two axes.
    """
    axes = 4 if block.is_complex() else 2
    if block.ndim < axes or (block.is_complex() and tuple(block.shape[-4:-2]) != (2, 2)):
        raise DataError(
            "expected real blocks (..., 2l1+1, 2l2+1) or complex spinful blocks (..., 2, 2, 2l1+1, 2l2+1), "
            f"found shape {tuple(block.shape)} of {block.dtype}"
        )
    squares = block.real.square() + block.imag.square() if block.is_complex() else block.square()
    return squares.flatten(-axes).sum(-1)


def trace_labels_of_irreps(irreps_vector: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    r"""Trace labels of several blocks from the vector of their orthonormal irreps.

    .. math:: T_b = \sum_{c \in b} t_c^2

    Args:
        irreps_vector: (..., sum of dims) real, in eV: the outputs of `block_to_irreps` one after another.
        dims: number of components of every block.

    Returns:
        (..., number of blocks) real, in eV^2.

    Raises:
        DataError: the last axis is not of length sum(dims).
    """
    if irreps_vector.ndim == 0 or irreps_vector.shape[-1] != sum(dims):
        raise DataError(
            f"expected {sum(dims)} components ({len(dims)} blocks) on the last axis, "
            f"found shape {tuple(irreps_vector.shape)}"
        )
    segments = torch.repeat_interleave(torch.arange(len(dims)), torch.tensor(dims, dtype=torch.int64))
    labels = irreps_vector.new_zeros((*irreps_vector.shape[:-1], len(dims)))
    return labels.index_add(-1, segments.to(irreps_vector.device), irreps_vector.square())
