"""Hamiltonian blocks of a structure <-> irreps vectors of its edges, one product per block and pair of elements."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tracegrad.data import Blocks
from tracegrad.data.blocks import match_keys
from tracegrad.errors import DataError
from tracegrad.graph.layout import TargetLayout
from tracegrad.so3.blocks import block_to_irreps, irreps_to_block


def blocks_to_irreps(blocks: Blocks, keys: np.ndarray, edge_type: Tensor, layout: TargetLayout) -> Tensor:
    """Orthonormal irreps of the blocks of some edges, in the global frame.

    Args:
        blocks: Hamiltonian, eV; the half or complete.
        keys: ``(rows, 5)`` the edges ``(Rx, Ry, Rz, i, j)``.
        edge_type: ``(rows,)`` pair of species ``a * S + b``.
        layout: which blocks there are.

    Returns:
        ``(rows, D)`` float64; zero where a pair of elements lacks a block.

    Raises:
        DataError: an edge has no block.
    """
    position = _positions(blocks, keys)
    irreps = torch.zeros(len(keys), layout.irreps.dim, dtype=torch.float64)
    for pair in edge_type.unique().tolist():
        rows = (edge_type == pair).nonzero().squeeze(1)
        matrices = _gather(blocks, position[rows.numpy()])
        a, b = layout.elements[pair // layout.num_species], layout.elements[pair % layout.num_species]
        for channel, piece in zip(layout.channels, layout.channel_slices, strict=True):
            place = layout.block_position(channel, a, b)
            if place is not None:
                block = _spin_blocks(matrices, layout.spinful)[..., place[0], place[1]]
                irreps[rows, piece] = block_to_irreps(
                    block, channel.row[0], channel.column[0], spinful=layout.spinful, time_reversal=layout.time_reversal
                )
    return irreps


def irreps_to_blocks(irreps: Tensor, keys: np.ndarray, edge_type: Tensor, layout: TargetLayout) -> Blocks:
    """Inverse of :func:`blocks_to_irreps`.

    Args:
        irreps: ``(rows, D)`` orthonormal irreps in the global frame, eV.
        keys: ``(rows, 5)`` the edges.
        edge_type: ``(rows,)`` pair of species.
        layout: which blocks there are.
    """
    spins = 2 if layout.spinful else 1
    dims = torch.tensor([sum(2 * l + 1 for l in layout.orbitals[Z]) for Z in layout.elements])
    shapes = spins * torch.stack([dims[edge_type // layout.num_species], dims[edge_type % layout.num_species]], dim=1)
    offsets = np.concatenate([[0], shapes.prod(1).cumsum(0).numpy()])
    values = np.zeros(offsets[-1], dtype=np.complex128 if layout.spinful else np.float64)
    for pair in edge_type.unique().tolist():
        rows = (edge_type == pair).nonzero().squeeze(1)
        a, b = layout.elements[pair // layout.num_species], layout.elements[pair % layout.num_species]
        matrices = _assemble(irreps[rows].double(), a, b, layout)
        size = matrices[0].numel()
        index = offsets[rows.numpy()][:, None] + np.arange(size)
        values[index] = matrices.reshape(len(rows), size).numpy()
    return Blocks(
        edge_index=np.ascontiguousarray(keys[:, 3:].T),
        cell_shift=np.ascontiguousarray(keys[:, :3]),
        shapes=shapes.numpy(),
        values=values,
    )


def _assemble(irreps: Tensor, a: int, b: int, layout: TargetLayout) -> Tensor:
    """Matrices of the pairs of the elements ``a`` and ``b``, spin-major where there is spin."""
    dims = [sum(2 * l + 1 for l in layout.orbitals[Z]) for Z in (a, b)]
    shape = (2, 2, *dims) if layout.spinful else tuple(dims)
    matrices = torch.zeros(len(irreps), *shape, dtype=torch.complex128 if layout.spinful else torch.float64)
    for channel, piece in zip(layout.channels, layout.channel_slices, strict=True):
        place = layout.block_position(channel, a, b)
        if place is not None:
            matrices[..., place[0], place[1]] = irreps_to_block(
                irreps[:, piece],
                channel.row[0],
                channel.column[0],
                spinful=layout.spinful,
                time_reversal=layout.time_reversal,
            )
    if not layout.spinful:
        return matrices
    return matrices.permute(0, 1, 3, 2, 4).reshape(len(irreps), 2 * dims[0], 2 * dims[1])


def _spin_blocks(matrices: Tensor, spinful: bool) -> Tensor:
    """Spin-major matrices ``(n, 2 n_i, 2 n_j)`` as ``(n, 2, 2, n_i, n_j)``; spinless ones unchanged."""
    if not spinful:
        return matrices
    n, rows, columns = matrices.shape
    return matrices.reshape(n, 2, rows // 2, 2, columns // 2).permute(0, 1, 3, 2, 4)


def _positions(blocks: Blocks, keys: np.ndarray) -> np.ndarray:
    position = match_keys(blocks.keys(), np.asarray(keys, dtype=np.int64))
    missing = np.flatnonzero(position < 0)
    if len(missing):
        raise DataError(
            f"expected a Hamiltonian block for every edge, found none for {keys[missing[0]].tolist()} "
            f"and {len(missing) - 1} more. Check the keys of the file with `tracegrad data check`."
        )
    return position


def _gather(blocks: Blocks, position: np.ndarray) -> Tensor:
    """Stack blocks of one shape, ``(n, rows, columns)``."""
    rows, columns = blocks.shapes[position[0]]
    index = blocks.offsets[position][:, None] + np.arange(rows * columns)
    wide = np.complex128 if blocks.is_complex else np.float64
    return torch.from_numpy(blocks.values[index].astype(wide, copy=False).reshape(-1, rows, columns))
