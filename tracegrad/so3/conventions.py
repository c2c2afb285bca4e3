"""The one authority on the order and the signs of orbitals within a shell, in this package and in other programs.

In memory every matrix is in the order "e3nn": m = -l..l of the real harmonics with all signs positive (p: y, z, x; d:
xy, yz, z2, xz, x2-y2). Readers call `from_convention`, writers `to_convention`. The order of the shells of an atom is
not changed. Sources of the table: `docs/conventions.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tracegrad.errors import ConfigError, DataError, did_you_mean
from tracegrad.so3.irreps import OrbitalBasis

Matrix = TypeVar("Matrix", npt.NDArray[Any], torch.Tensor)
ShellOrder = list[tuple[int, int]]
"""The orbitals of a shell as another program stores them: (m, sign), meaning sign times our real harmonic m."""


def _ascending(l: int) -> ShellOrder:
    """Order m = -l..l, all signs positive."""
    return [(m, 1) for m in range(-l, l + 1)]


def _from_zero(l: int) -> ShellOrder:
    """Order m = 0, 1, -1, 2, -2, ..., all signs positive."""
    return [(0, 1)] + [(sign * m, 1) for m in range(1, l + 1) for sign in (1, -1)]


def _with_phase(order: ShellOrder) -> ShellOrder:
    """The same order with the Condon-Shortley factor (-1)^m."""
    return [(m, sign * (-1) ** abs(m)) for m, sign in order]


def _openmx(l: int) -> ShellOrder:
    """p: x, y, z; d: z2, x2-y2, xy, xz, yz; from f on m = 0, 1, -1, 2, -2, ... (z3, xz2, yz2, ...)."""
    if l == 1:
        return [(1, 1), (-1, 1), (0, 1)]
    if l == 2:
        return [(0, 1), (2, 1), (-2, 1), (1, 1), (-1, 1)]
    return _from_zero(l)


def _pyscf(l: int) -> ShellOrder:
    """p: x, y, z; all others m = -l..l."""
    return [(1, 1), (-1, 1), (0, 1)] if l == 1 else _ascending(l)


_SHELL_ORDERS: dict[str, Callable[[int], ShellOrder]] = {
    "e3nn": _ascending,
    "openmx": _openmx,
    "pyscf": _pyscf,
    "cp2k": _ascending,
    "siesta": lambda l: _with_phase(_ascending(l)),
    "abacus": lambda l: _with_phase(_from_zero(l)),
}

CONVENTIONS = tuple(sorted(_SHELL_ORDERS))
"""Names of the known conventions; "openmx" is also the order of every legacy DeepH folder, whatever program made it."""


def shell_order(l: int, convention: str) -> ShellOrder:
    """The orbitals of a shell in the order of a convention.

    Example::

        shell_order(1, "siesta")   # [(-1, -1), (0, 1), (1, -1)]: -y, z, -x

    Args:
        l: degree of the shell.
        convention: one of `CONVENTIONS`.

    Returns:
        2l+1 pairs (m, sign): the stored orbital is sign times our real harmonic m.

    Raises:
        ConfigError: the convention is unknown.
    """
    if convention not in _SHELL_ORDERS:
        raise ConfigError(f"unknown orbital convention {convention!r}. {did_you_mean(convention, CONVENTIONS)}")
    return _SHELL_ORDERS[convention](l)


def orbital_map(ls: Sequence[int], convention: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index and sign of every stored orbital of an atom: ``stored = sign * ours[index]`` along an orbital axis.

    Args:
        ls: degree l of every shell of the atom, in order.
        convention: one of `CONVENTIONS`.

    Returns:
        (index, sign), each (number of orbitals,). The inverse is ``ours[index] = sign * stored``.

    Raises:
        ConfigError: the convention is unknown.
        DataError: `ls` is not a list of degrees.
    """
    index: list[int] = []
    signs: list[int] = []
    basis = OrbitalBasis(tuple(ls))
    for l, start in zip(basis.ls, basis.offsets, strict=True):
        order = shell_order(l, convention)
        index += [start + l + m for m, _ in order]
        signs += [sign for _, sign in order]
    return np.array(index, dtype=np.int64), np.array(signs, dtype=np.int64)


def to_convention(
    matrix: Matrix, ls_rows: Sequence[int], ls_cols: Sequence[int], convention: str, spinful: bool = False
) -> Matrix:
    """Blocks between two atoms, from our order of orbitals to that of another program.

    Args:
        matrix: (..., n_rows, n_cols) array or tensor, or spin-major (..., 2 n_rows, 2 n_cols) when spinful; any unit.
        ls_rows: degree l of every shell of the atom of the rows.
        ls_cols: degree l of every shell of the atom of the columns.
        convention: one of `CONVENTIONS`.
        spinful: whether both axes carry the two spins, [[uu, ud], [du, dd]].

    Returns:
        as `matrix`, in the order and with the signs of the convention; exact (no rounding).

    Raises:
        ConfigError: the convention is unknown.
        DataError: the shape of the matrix does not fit the shells.
    """
    rows, row_signs = _axis_map(ls_rows, convention, spinful)
    columns, column_signs = _axis_map(ls_cols, convention, spinful)
    return _permute(matrix, rows, columns, np.outer(row_signs, column_signs))


def from_convention(
    matrix: Matrix, ls_rows: Sequence[int], ls_cols: Sequence[int], convention: str, spinful: bool = False
) -> Matrix:
    """Blocks between two atoms, from the order of orbitals of another program to ours; inverse of `to_convention`.

    Args:
        matrix: (..., n_rows, n_cols) array or tensor, or spin-major (..., 2 n_rows, 2 n_cols) when spinful; any unit.
        ls_rows: degree l of every shell of the atom of the rows.
        ls_cols: degree l of every shell of the atom of the columns.
        convention: one of `CONVENTIONS`.
        spinful: whether both axes carry the two spins, [[uu, ud], [du, dd]].

    Returns:
        as `matrix`, in the order "e3nn"; exact (no rounding).

    Raises:
        ConfigError: the convention is unknown.
        DataError: the shape of the matrix does not fit the shells.
    """
    rows, row_signs = _axis_map(ls_rows, convention, spinful)
    columns, column_signs = _axis_map(ls_cols, convention, spinful)
    back_rows, back_columns = np.argsort(rows), np.argsort(columns)
    signs = np.outer(row_signs[back_rows], column_signs[back_columns])
    return _permute(matrix, back_rows, back_columns, signs)


def _axis_map(ls: Sequence[int], convention: str, spinful: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`orbital_map`, repeated for the two spins when spinful."""
    index, signs = orbital_map(ls, convention)
    if not spinful:
        return index, signs
    return np.concatenate([index, index + len(index)]), np.concatenate([signs, signs])


def _permute(
    matrix: Matrix, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], signs: npt.NDArray[np.int64]
) -> Matrix:
    """Entries (rows, columns) of the last two axes, times signs."""
    if tuple(matrix.shape[-2:]) != signs.shape:
        raise DataError(
            f"expected a matrix of shape (..., {signs.shape[0]}, {signs.shape[1]}) for these shells, "
            f"found {tuple(matrix.shape)}; check the list of l of both atoms, and whether the matrix carries spin"
        )
    if isinstance(matrix, torch.Tensor):
        index = [torch.as_tensor(axis, device=matrix.device) for axis in (rows, columns)]
        return matrix[..., index[0][:, None], index[1]] * torch.as_tensor(signs, device=matrix.device)
    picked: npt.NDArray[Any] = matrix[..., rows[:, None], columns] * signs.astype(matrix.real.dtype)
    return picked
