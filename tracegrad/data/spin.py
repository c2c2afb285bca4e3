"""Assembly of spinful blocks from a scalar Hamiltonian and a spin-orbit operator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks


def spinful_blocks(scalar: Blocks, spin_orbit: NDArray[np.float64]) -> Blocks:
    """H_full = 1 ⊗ H + i Σ_a σ_a ⊗ W_a, spin-major [[uu, ud], [du, dd]].

    Args:
        scalar: real blocks H in eV.
        spin_orbit: (3, V) the real matrices W_x, W_y, W_z in eV, laid out like ``scalar.values``.

    Returns:
        Complex blocks of twice the size on the same pairs; W(j, i, -R) = -W(i, j, R)^T makes them Hermitian.
    """
    shapes = 2 * scalar.shapes
    full = Blocks(scalar.edge_index, scalar.cell_shift, shapes, np.zeros(4 * len(scalar.values), dtype=np.complex128))
    for (rows, columns), edges, positions in scalar.grouped():
        h, (wx, wy, wz) = scalar.values[positions], spin_orbit[:, positions]
        block = np.empty((len(edges), 2, rows, 2, columns), dtype=np.complex128)
        block[:, 0, :, 0] = h + 1j * wz
        block[:, 0, :, 1] = 1j * wx + wy
        block[:, 1, :, 0] = 1j * wx - wy
        block[:, 1, :, 1] = h - 1j * wz
        target = full.offsets[edges][:, None] + np.arange(4 * rows * columns)
        full.values[target] = block.reshape(len(edges), -1)
    return full


def scalar_and_spin_orbit(full: Blocks) -> tuple[Blocks, NDArray[np.float64], float]:
    """Split time-reversal symmetric spinful blocks into H and W, the inverse of ``spinful_blocks``.

    Args:
        full: complex spin-major blocks in eV.

    Returns:
        scalar: real blocks H in eV.
        spin_orbit: (3, V) W_x, W_y, W_z in eV.
        defect: largest part in eV that breaks time reversal and is lost (zero for non-magnetic data).
    """
    shapes = full.shapes // 2
    scalar = Blocks(full.edge_index, full.cell_shift, shapes, np.zeros(len(full.values) // 4))
    spin_orbit = np.zeros((3, len(full.values) // 4))
    defect = 0.0
    for (rows, columns), edges, positions in scalar.grouped():
        source = full.offsets[edges][:, None] + np.arange(4 * rows * columns)
        block = full.values[source].reshape(len(edges), 2, rows, 2, columns)
        uu, ud, du, dd = block[:, 0, :, 0], block[:, 0, :, 1], block[:, 1, :, 0], block[:, 1, :, 1]
        parts = (uu + dd, -1j * (ud + du), ud - du, -1j * (uu - dd))  # 2H, 2W_x, 2W_y, 2W_z
        defect = max(defect, *(float(np.abs(part.imag).max(initial=0.0)) / 2 for part in parts))
        scalar.values[positions] = parts[0].real / 2
        for a in range(3):
            spin_orbit[a][positions] = parts[a + 1].real / 2
    return scalar, spin_orbit, defect
