"""Predicted against DFT blocks: errors with and without the μ gauge, energies, states and gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracegrad.data import Blocks, Structure
from tracegrad.data.blocks import match_keys
from tracegrad.data.diagnostics import K_POINTS
from tracegrad.errors import DataError
from tracegrad.physics.bands import band_gap, k_mesh, mesh_for, occupation_is_known, occupied_bands
from tracegrad.physics.bloch import bloch_matrices, with_spin
from tracegrad.physics.eigen import DENSE_LIMIT, SMALLEST_OVERLAP, solve

DEGENERATE = 1e-3  # eV; DFT states closer than this are compared as one subspace
ONE_POINT_LIMIT = 1000  # orbitals, with spin; above this the metrics of a record are those of Γ alone


def mu_shift(predicted: Blocks, structure: Structure) -> float:
    r"""Rigid shift between two Hamiltonians, :math:`\mu = \langle H' - H, S\rangle / \langle S, S\rangle` in eV.

    H and H + μS have the same states, with energies moved by μ: the zero of energy is a gauge.

    Args:
        predicted: H'.
        structure: with H and S.

    Raises:
        DataError: there is no S, or a pair of H is missing in H'.
    """
    if structure.overlap is None:
        raise DataError(f"{structure.name}: expected an overlap for the μ gauge, found none")
    difference = _difference(predicted, structure)
    metric = _values_at(_metric(structure), difference)
    return float(np.vdot(metric, difference.values).real / np.vdot(metric, metric).real)


def gauge_errors(predicted: Blocks, structure: Structure) -> dict[str, float]:
    """MAE over all elements of all directed pairs, raw and with the rigid shift μ removed, in meV.

    Returns:
        ``mae_raw``; with an overlap also ``mae_aligned`` and ``mu``.
    """
    difference = _difference(predicted, structure)
    errors = {"mae_raw": 1e3 * float(np.abs(difference.values).mean())}
    if structure.overlap is not None:
        mu = mu_shift(predicted, structure)
        aligned = difference.values - mu * _values_at(_metric(structure), difference)
        errors |= {"mae_aligned": 1e3 * float(np.abs(aligned).mean()), "mu": 1e3 * mu}
    return errors


def compare_hamiltonians(
    predicted: Blocks,
    structure: Structure,
    *,
    points: NDArray[np.float64] | None = None,
    smallest_overlap: float = SMALLEST_OVERLAP,
) -> dict[str, Any]:
    """What a prediction does to the physics: occupied energies, states, gap, beside the error of the elements.

    Both Hamiltonians are diagonalised with the overlap of the structure.

    Args:
        predicted: H'; of a network that predicts both directions of a pair on its own, the Hermitian part counts.
        structure: with H and S.
        points: (K, 3) fractional k-points, by default a mesh of the density of the bundled calculations.
        smallest_overlap: see :func:`tracegrad.physics.eigen.solve`.

    Returns:
        meV: ``mae_raw``, ``mae_aligned``, ``mu``, ``occupied_energy_mae``, ``occupied_energy_mae_aligned`` (μ removed);
        in 0..1: ``state_similarity`` (state by state), ``occupied_similarity`` (of the occupied space); eV:
        ``gap_dft``, ``gap_predicted`` (direct, smallest on the mesh); and ``occupied``, ``k_points``. Only the gauge
        errors and ``occupied`` where no band lies below the Fermi level, as one of another zero of energy.

    Raises:
        DataError: S is missing, or pairs of H in the prediction.
    """
    result: dict[str, Any] = dict(gauge_errors(predicted, structure))
    ks = k_mesh(mesh_for(structure)) if points is None else np.asarray(points, dtype=np.float64)
    hamiltonian, overlap = bloch_matrices(structure)
    other, _ = bloch_matrices(Structure(**{**structure.fields(), "hamiltonian": predicted.hermitian_part()}))
    rows: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
    for k in ks:
        s = overlap.dense(k)
        dft, ours = (
            solve(m.dense(k), s, vectors=True, smallest_overlap=smallest_overlap) for m in (hamiltonian, other)
        )
        rows.append((dft.energies, ours.energies, _squares(dft.vectors, ours.vectors, s)))
    count = min(len(first) for first, _, _ in rows)
    energies = [np.array([pair[n][:count] for *pair, _ in rows]) for n in (0, 1)]
    occupied = min(occupied_bands(structure, energies[0]), count)
    if occupied == 0:
        return {**result, "occupied": 0, "k_points": len(ks)}
    errors = energies[1][:, :occupied] - energies[0][:, :occupied]
    single, space = np.mean([_similarities(dft, squares, occupied) for dft, _, squares in rows], axis=0)
    result |= {
        "occupied_energy_mae": 1e3 * float(np.abs(errors).mean()),
        "occupied_energy_mae_aligned": 1e3 * float(np.abs(errors - result["mu"] / 1e3).mean()),
        "state_similarity": float(single),
        "occupied_similarity": float(space),
        "occupied": occupied,
        "k_points": len(ks),
    }
    if occupied < count:
        for name, values in zip(("gap_dft", "gap_predicted"), energies, strict=True):
            result[name] = band_gap(values, occupied)["direct"]
    return result


def physics_metrics(predicted: Blocks, structure: Structure) -> dict[str, Any]:
    """Errors of one structure as they stand in a run record: ``compare_hamiltonians`` at four k-points.

    The points are Γ, M, K and a general one, Γ alone above 1000 orbitals (half a minute at 1800).

    Args:
        predicted: H'.
        structure: with H.

    Returns:
        ``structure``, its name, and what could be measured: nothing else without an overlap, and only the gauge errors
        above 4000 orbitals or where it is not known how many bands are occupied.
    """
    if structure.overlap is None:
        return {"structure": structure.name}
    size = int(structure.n_orbitals.sum()) * (2 if structure.spinful else 1)
    if size > DENSE_LIMIT or not occupation_is_known(structure):
        return {"structure": structure.name, **gauge_errors(predicted, structure)}
    points = np.array(list(K_POINTS.values()))[: 1 if size > ONE_POINT_LIMIT else None]
    return {"structure": structure.name, **compare_hamiltonians(predicted, structure, points=points)}


def state_similarity(
    energies: NDArray[np.float64], dft: NDArray[np.complex128], ours: NDArray[np.complex128], s: NDArray[np.complex128]
) -> float:
    r"""Mean of :math:`|\psi'^\dagger S\, \psi|` over states; degenerate DFT states are compared as one space.

    For a group of g states it is :math:`\sqrt{\sum_{ab} |\psi'^\dagger_a S \psi_b|^2 / g}`, which no choice of basis
    within the group changes.

    Args:
        energies: (M,) of the DFT states, eV.
        dft: (n, M) their coefficients.
        ours: (n, M) predicted coefficients.
        s: (n, n) overlap.
    """
    return _state_similarity(energies, _squares(dft, ours, s))


def _squares(dft: Any, ours: Any, s: NDArray[np.complex128]) -> NDArray[np.float64]:
    """|C'† S C|², (predicted, DFT) states."""
    squares: NDArray[np.float64] = np.abs(ours.conj().T @ s @ dft) ** 2
    return squares


def _state_similarity(energies: NDArray[np.float64], squares: NDArray[np.float64]) -> float:
    edges = np.flatnonzero(np.diff(energies) > DEGENERATE) + 1
    total = 0.0
    for group in np.split(np.arange(len(energies)), edges):
        total += len(group) * float(np.sqrt(min(1.0, squares[np.ix_(group, group)].sum() / len(group))))
    return total / len(energies)


def _similarities(energies: NDArray[np.float64], squares: NDArray[np.float64], occupied: int) -> tuple[float, float]:
    """State by state, and of the whole occupied space, |C'† S C|² / number of states."""
    filled = squares[:occupied, :occupied]
    return _state_similarity(energies[:occupied], filled), float(filled.sum() / occupied)


def _metric(structure: Structure) -> Blocks:
    assert structure.overlap is not None
    return (with_spin(structure.overlap) if structure.spinful else structure.overlap).completed()


def _difference(predicted: Blocks, structure: Structure) -> Blocks:
    """H' - H on all directed pairs of H."""
    if structure.hamiltonian is None:
        raise DataError(f"{structure.name}: expected a Hamiltonian to compare with, found none")
    reference = structure.hamiltonian.completed()
    ours = predicted.completed()
    position = match_keys(ours.keys(), reference.keys())
    missing = np.flatnonzero(position < 0)
    if len(missing):
        raise DataError(
            f"{structure.name}: expected a predicted block for every DFT block, found none for "
            f"{reference.keys()[missing[0]].tolist()} and {len(missing) - 1} more; use the cutoff of the data"
        )
    chosen = ours.select(position)
    if not np.array_equal(chosen.shapes, reference.shapes):
        raise DataError(f"{structure.name}: the predicted blocks have other shapes than those of DFT; other orbitals?")
    return reference.with_values(chosen.values - reference.values)


def _values_at(blocks: Blocks, pairs: Blocks) -> NDArray[Any]:
    """Values of ``blocks`` laid out like ``pairs``; zero where a pair is not stored."""
    position = match_keys(blocks.keys(), pairs.keys())
    values = np.zeros(len(pairs.values), dtype=blocks.values.dtype)
    stored = np.flatnonzero(position >= 0)
    chosen = blocks.select(position[stored])
    sizes = pairs.sizes[stored]
    start = np.repeat(pairs.offsets[:-1][stored] - (np.cumsum(sizes) - sizes), sizes)
    values[start + np.arange(int(sizes.sum()))] = chosen.values
    return values
