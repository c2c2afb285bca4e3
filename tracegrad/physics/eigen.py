"""The generalised eigenproblem H c = E S c, dense, projected where S is ill-conditioned, or sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from tracegrad.errors import DataError

SMALLEST_OVERLAP = 1e-5  # eigenvectors of S(k) with a smaller eigenvalue are projected out
DENSE_LIMIT = 4000  # rows above which bands are computed near one energy with sparse matrices


class IllConditionedOverlap(UserWarning):
    """S(k) has directions of nearly no norm, or of a negative one; they were projected out."""


@dataclass(frozen=True)
class States:
    """Solutions at one k.

    Args:
        energies: (M,) eV, ascending; M < n where directions were projected out.
        vectors: (n, M) with c† S c = 1, or None where only energies were asked for.
        projected: directions of S that were projected out.
        smallest: smallest eigenvalue of S; a lower estimate where nothing had to be projected out.
    """

    energies: NDArray[np.float64]
    vectors: NDArray[np.complex128] | None
    projected: int
    smallest: float


def solve(
    h: NDArray[np.complex128],
    s: NDArray[np.complex128],
    *,
    vectors: bool = False,
    smallest_overlap: float = SMALLEST_OVERLAP,
) -> States:
    """All solutions of H c = E S c.

    Where S has eigenvalues below ``smallest_overlap``, H is restricted to the span of its other eigenvectors, as in
    canonical orthogonalisation (Löwdin, Rev. Mod. Phys. 39, 259 (1967)): with S = U s U†, X = U s^(-1/2) over the
    kept ones, X† H X y = E y, c = X y.

    Args:
        h: (n, n) Hermitian, eV.
        s: (n, n) Hermitian.
        vectors: whether to compute eigenvectors too.
        smallest_overlap: smallest eigenvalue of S that is kept.

    Raises:
        DataError: a matrix holds NaN, or nothing of S is left.
    """
    if not (np.isfinite(h).all() and np.isfinite(s).all()):
        raise DataError("H(k) or S(k) holds NaN or infinite numbers; check the blocks with `tracegrad data check`")
    bound = inverse_norm_bound(s)
    if bound > smallest_overlap:
        try:
            found = scipy.linalg.eigh(h, s, eigvals_only=not vectors, check_finite=False)
        except np.linalg.LinAlgError:
            found = None
        if found is not None:
            return States(found[0], found[1], 0, bound) if vectors else States(found, None, 0, bound)
    norms, directions = np.linalg.eigh(s)
    kept = norms > smallest_overlap
    if not kept.any():
        raise DataError(
            f"S(k) has no eigenvalue above {smallest_overlap:g} (largest {norms[-1]:.1e}); it is no overlap"
        )
    x = directions[:, kept] / np.sqrt(norms[kept])
    energies, y = np.linalg.eigh(x.conj().T @ h @ x)
    return States(energies, x @ y if vectors else None, int((~kept).sum()), float(norms[0]))


def inverse_norm_bound(s: NDArray[np.complex128]) -> float:
    """1 / |S^-1|_1 by the estimate of LAPACK, at most the smallest eigenvalue of S; 0 where S is not positive."""
    factor, failed = lapack.zpotrf(s, lower=1)
    if failed:
        return 0.0
    norm = float(np.abs(s).sum(axis=0).max(initial=0.0))
    reciprocal, _ = lapack.zpocon(factor, norm, uplo="L")
    return float(reciprocal) * norm


def solve_sparse(
    h: Any, s: Any, *, count: int, energy: float, vectors: bool = False, judge_overlap: bool = False
) -> States:
    """The ``count`` solutions nearest to an energy, by shift-invert Lanczos (ARPACK).

    Args:
        h: (n, n) sparse Hermitian, eV.
        s: (n, n) sparse Hermitian, positive definite.
        count: how many states, below n - 1.
        energy: eV, e.g. the Fermi level.
        vectors: whether to return eigenvectors too.
        judge_overlap: whether to compute the eigenvalue of S nearest to zero too, which costs as much again.

    Raises:
        DataError: the iteration did not converge.
    """
    start = np.random.default_rng(0).normal(size=h.shape[0]).astype(np.complex128)
    try:
        energies, found = scipy.sparse.linalg.eigsh(h, k=count, M=s, sigma=energy, which="LM", v0=start)
    except (scipy.sparse.linalg.ArpackError, RuntimeError) as error:
        raise DataError(
            f"the {count} states near {energy:.3f} eV were not found ({error}); "
            "ask for fewer bands, or check that S is positive"
        ) from error
    order = np.argsort(energies)
    smallest = _nearest_to_zero(s, start) if judge_overlap else float("nan")
    return States(energies[order], found[:, order] if vectors else None, 0, smallest)


def _nearest_to_zero(s: Any, start: NDArray[np.complex128]) -> float:
    """Eigenvalue of S nearest to zero.

    Raises:
        DataError: the iteration did not converge.
    """
    try:
        found = scipy.sparse.linalg.eigsh(s, k=1, sigma=0.0, which="LM", v0=start, return_eigenvectors=False)
    except (scipy.sparse.linalg.ArpackError, RuntimeError) as error:
        raise DataError(f"the smallest eigenvalue of S(k) was not found ({error}); check the overlap") from error
    return float(found[0])
