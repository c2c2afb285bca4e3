r"""Convention oracles: does the representation turn the Hamiltonian of a structure into that of the turned structure?

Blocks come from `verify.oracles`, which computes them from the positions of the atoms alone. A representation with a
transposed D, another m-order or another phase passes every check that uses it on both sides; it fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .group import Elements, haar
from .oracles import GaussianOracle, random_oracle, slater_koster_block
from .result import CheckResult, Verdict, worst
from .tolerances import verdict_of
from .wigner import Array, spin_half, wigner_D

LIMIT = 1e-12

OrbitalMatrix = Callable[[int, Array], Tensor]
"""``D(l, R)``: rotation matrix (3, 3) -> (2l+1, 2l+1), orbitals m = -l..l with z polar."""

SpinMatrix = Callable[[Array], Tensor]
"""``U(R)``: rotation matrix (3, 3) -> (2, 2) complex."""

BlockIrreps = Callable[[Tensor, int, int, bool], Tensor]
"""``to_irreps(block, l1, l2, spinful)``: (2l1+1, 2l2+1) or (2, 2, 2l1+1, 2l2+1) -> (dim,)."""


@dataclass(frozen=True)
class _Pair:
    """Blocks of one pair of shells before and after the rotation of the structure."""

    l1: int
    l2: int
    spinful: bool
    before: Tensor
    after: Tensor
    reverse: Tensor
    R: Array
    quaternion: Array


def _gaussian_pairs(lmax: int, seed: int, spins: tuple[bool, ...] = (False, True)) -> Iterator[_Pair]:
    """All pairs of degrees of a random molecule, each with its own rotation."""
    oracle, positions = random_oracle(lmax, seed)
    quaternions = haar((lmax + 1) ** 2, np.random.default_rng(seed))
    rotations = Elements.of(quaternions).rotation
    for index in range((lmax + 1) ** 2):
        a, b = divmod(index, lmax + 1)
        R = rotations[index]
        for spinful in spins:
            blocks = _blocks(oracle, positions, R, a, lmax + 1 + b, spinful)
            yield _Pair(a, b, spinful, *blocks, R, quaternions[index])


def _blocks(
    oracle: GaussianOracle, positions: Array, R: Array, a: int, b: int, spinful: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Block, block of the turned structure, block of the reverse pair."""
    before = oracle.block(positions, a, b, spinful)
    after = oracle.block(positions @ R.T, a, b, spinful)
    reverse = oracle.block(positions, b, a, spinful)
    return torch.from_numpy(before), torch.from_numpy(after), torch.from_numpy(reverse)


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the RMS of what is expected."""
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().square().mean().sqrt()
    error = float((found - expected).abs().max() / scale)
    return error if error == error else float("inf")


def _result(name: str, errors: dict[str, float], message: str, trials: int) -> CheckResult:
    """Check from its named errors, one limit for all."""
    verdict = worst(verdict_of(error, LIMIT, torch.float64) for error in errors.values())
    where = max(errors, key=lambda key: errors[key])
    text = message if verdict is Verdict.PASS else f"fails for {where}"
    return CheckResult(name, verdict, errors[where], LIMIT, text, trials, details={"errors": errors})


def check_orbital_convention(
    D: OrbitalMatrix, spin: SpinMatrix | None = None, *, lmax: int = 4, seed: int = 0, name: str = "orbital_convention"
) -> CheckResult:
    r"""Rotated structures, Hamiltonians recomputed, against :math:`D^{l_1} H D^{l_2 \dagger}`; with spin, D^{1/2} too.

    Args:
        D: the representation to test.
        spin: the spin-1/2 representation to test; None leaves spinful blocks out.
        lmax: largest degree of the Gaussian orbitals; Slater-Koster blocks go to 2.
        seed: seed of structures and rotations.
        name: name of the result.

    Returns:
        Largest error over the RMS of the block, per kind of oracle.
    """
    errors: dict[str, float] = {}
    count = 0
    for pair in _gaussian_pairs(lmax, seed, (False, True) if spin else (False,)):
        left, right = D(pair.l1, pair.R), D(pair.l2, pair.R)
        moved = left.to(pair.before.dtype) @ pair.before @ right.to(pair.before.dtype).mH
        if pair.spinful and spin is not None:
            U = spin(pair.R)
            moved = torch.einsum("st,tumn,vu->svmn", U, moved, U.conj())
        kind = "Gaussian orbitals with spin" if pair.spinful else "Gaussian orbitals"
        errors[kind] = max(errors.get(kind, 0.0), _relative(moved, pair.after))
        count += 1
    draw = np.random.default_rng(seed)
    for l1 in range(3):
        for l2 in range(3):
            error = _slater_koster_error(D, l1, l2, draw)
            errors["Slater-Koster"] = max(errors.get("Slater-Koster", 0.0), error)
            count += 1
    return _result(name, errors, "recomputed Hamiltonians of rotated structures equal D H D^dagger", count)


def _slater_koster_error(D: OrbitalMatrix, l1: int, l2: int, draw: np.random.Generator) -> float:
    """One random bond, one random rotation."""
    direction = draw.normal(size=3)
    direction /= np.linalg.norm(direction)
    bonds = draw.uniform(0.5, 1.5, size=3)
    R = Elements.of(haar(1, draw)).rotation[0]
    before = torch.from_numpy(slater_koster_block(l1, l2, direction, bonds))
    after = torch.from_numpy(slater_koster_block(l1, l2, R @ direction, bonds))
    return _relative(D(l1, R) @ before @ D(l2, R).mT, after)


def check_block_irreps(
    to_irreps: BlockIrreps,
    irreps_of: Callable[[int, int, bool], list[tuple[int, int]]],
    *,
    lmax: int = 3,
    seed: int = 0,
    name: str = "block_irreps",
) -> CheckResult:
    """Irreps of the recomputed block against the rotated irreps of the old one, and the conserved sum of squares.

    Args:
        to_irreps: map from blocks to irreps vectors.
        irreps_of: ``(l1, l2, spinful) -> [(multiplicity, l), ...]`` in the order of the vector.
        lmax: largest degree.
        seed: seed of structures and rotations.
        name: name of the result.

    Returns:
        Errors "rotation" and "sum of squares", spinless and spinful.
    """
    errors: dict[str, float] = {}
    count = 0
    for pair in _gaussian_pairs(lmax, seed):
        before, after = (to_irreps(block, pair.l1, pair.l2, pair.spinful) for block in (pair.before, pair.after))
        layout = irreps_of(pair.l1, pair.l2, pair.spinful)
        table = wigner_D([l for _, l in layout], pair.quaternion[None], "z-polar")
        D = torch.block_diag(*[torch.from_numpy(table[l][0].copy()) for mul, l in layout for _ in range(mul)])
        kind = "spinful" if pair.spinful else "spinless"
        norm, expected = before.square().sum(), pair.before.abs().square().sum()
        found = {
            f"{kind} rotation": _relative(D @ before, after),
            f"{kind} sum of squares": float((norm / expected - 1).abs()),
        }
        for key, error in found.items():
            errors[key] = max(errors.get(key, 0.0), error)
        count += 1
    return _result(name, errors, "irreps of recomputed blocks turn with D and keep the sum of squares", count)


def check_hermitian_signs(
    signs: Callable[[int, int, bool], Tensor],
    to_irreps: BlockIrreps,
    *,
    lmax: int = 3,
    seed: int = 0,
    name: str = "hermitian_partner",
) -> CheckResult:
    r"""Irreps of the reverse block, computed on its own, against the signed irreps of the forward block.

    .. math:: H(j, i, -R) = H(i, j, R)^\dagger \iff t^{(l_2, l_1)}(j, i) = s\, t^{(l_1, l_2)}(i, j)

    Args:
        signs: ``(l1, l2, spinful) -> (dim,)`` of +-1.
        to_irreps: map from blocks to irreps vectors.
        lmax: largest degree.
        seed: seed of the structure.
        name: name of the result.

    Returns:
        Errors of spinless and spinful blocks.
    """
    errors: dict[str, float] = {}
    count = 0
    for pair in _gaussian_pairs(lmax, seed):
        forward = to_irreps(pair.before, pair.l1, pair.l2, pair.spinful)
        backward = to_irreps(pair.reverse, pair.l2, pair.l1, pair.spinful)
        kind = "spinful" if pair.spinful else "spinless"
        error = _relative(signs(pair.l1, pair.l2, pair.spinful) * forward, backward)
        errors[kind] = max(errors.get(kind, 0.0), error)
        count += 1
    return _result(name, errors, "the block of the reverse edge is the signed block of the edge", count)


def own_orbital_matrix(l: int, R: Array) -> Tensor:
    """The verifier's own D of a rotation matrix, z polar."""
    return torch.from_numpy(wigner_D([l], quaternion_of(R)[None], "z-polar")[l][0].copy())


def own_spin_matrix(R: Array) -> Tensor:
    """The verifier's own spin-1/2 matrix of a rotation matrix."""
    return torch.from_numpy(spin_half(quaternion_of(R)[None])[0].copy())


def quaternion_of(R: Array) -> Array:
    """Unit quaternion (4,) of a rotation matrix: the column of largest norm of 4 q q^T, no inverse cosine.

    Args:
        R: (3, 3) proper rotation.

    Returns:
        (w, x, y, z), of either sign.
    """
    t = np.trace(R)
    table = np.empty((4, 4))
    table[0, 0] = 1 + t
    axial = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    table[0, 1:] = table[1:, 0] = axial
    table[1:, 1:] = R + R.T + (1 - t) * np.eye(3)
    column = table[:, int(np.argmax(np.diag(table)))]
    result: Array = column / np.linalg.norm(column)
    return result
