"""Bands along a path, energies on a mesh, Fermi level, gap and density of states, from the blocks of a structure."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import BandPath, parse_path_string
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from tracegrad.data import Structure
from tracegrad.errors import DataError
from tracegrad.physics.bloch import bloch_matrices, periodic_directions
from tracegrad.physics.eigen import DENSE_LIMIT, SMALLEST_OVERLAP, IllConditionedOverlap, States, solve, solve_sparse
from tracegrad.physics.overlap import valence_electrons

BOLTZMANN_EV = 8.617333262e-5
SPARSE_BANDS = 40  # bands computed near the Fermi level where the matrices are large
FERMI_LIMIT = 1500  # orbitals (times two with spin) above which the Fermi level is not computed
MESH_LENGTH = 22.0  # Å; number of k-points times lattice constant, as in the calculations of the bundled data


@dataclass(frozen=True)
class KPath:
    """Points along a path through the Brillouin zone.

    Args:
        points: (K, 3) fractional coordinates.
        distance: (K,) length of the path in 1/Å.
        ticks: (distance, label) of the special points.
    """

    points: NDArray[np.float64]
    distance: NDArray[np.float64]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Bands:
    """Energies along a path.

    Args:
        path: where.
        energies: (K, bands) eV, ascending.
        fermi_energy: eV, or None where it is not known.
        projected: most directions of S projected out at one k.
        smallest_overlap: smallest eigenvalue of S(k) met (a lower estimate where nothing was projected out).
    """

    path: KPath
    energies: NDArray[np.float64]
    fermi_energy: float | None
    projected: int
    smallest_overlap: float


def k_path(structure: Structure, path: str | None = None, points: int = 60) -> KPath:
    """ASE's path of the lattice; directions without hopping (vacuum) are left out.

    Args:
        structure: with blocks.
        path: special points such as ``GMKG``; by default ASE's for the lattice.
        points: number of k-points.

    Raises:
        DataError: ASE knows no such path for this cell, or it has no points.
    """
    periodic = periodic_directions(structure)
    if not periodic.any():
        return KPath(np.zeros((1, 3)), np.zeros(1), ((0.0, "G"),))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE's remarks on cells in an unusual setting
            found = Cell(structure.cell).bandpath(path, npoints=points, pbc=periodic.tolist())
    except Exception as error:  # what ASE raises depends on the lattice
        raise DataError(f"no k-path {path or ''} for this cell ({type(error).__name__}: {error})") from error
    if not len(found.kpts):
        raise DataError(f"k-path: expected special points such as GMKG, found {path!r}; leave it out for the usual one")
    return KPath(np.asarray(found.kpts), *_axis(found))


def _axis(found: BandPath) -> tuple[NDArray[np.float64], tuple[tuple[float, str], ...]]:
    """Distance along a path in 1/Å, and where its special points are; a break of the path has no length, two labels.

    ASE's own axis takes every segment of one step for a break.
    """
    steps = np.linalg.norm(np.diff(found.cartesian_kpts(), axis=0, prepend=found.cartesian_kpts()[:1]), axis=1)
    marks: list[tuple[int, str]] = []
    k = 0
    for section in parse_path_string(found.path):
        for place, label in enumerate(section):
            while not np.allclose(found.kpts[k], found.special_points[label], rtol=0, atol=1e-9):
                k += 1
            if place == 0:
                steps[k] = 0.0
            marks.append((k, label))
            k += 1
    distance = 2 * np.pi * np.cumsum(steps)
    ticks: list[tuple[float, str]] = []
    for k, label in marks:
        if ticks and ticks[-1][0] == distance[k]:
            ticks[-1] = (ticks[-1][0], f"{ticks[-1][1]},{label}")
        else:
            ticks.append((float(distance[k]), label))
    return distance, tuple(ticks)


def k_mesh(divisions: Sequence[int], gamma: bool = False) -> NDArray[np.float64]:
    """(K, 3) regular mesh of fractional coordinates.

    Args:
        divisions: points along each reciprocal vector.
        gamma: r / n; otherwise (2 r - n - 1) / 2 n, r = 1..n, which leaves Γ out for even n (Monkhorst, Pack, Phys.
            Rev. B 13, 5188 (1976), Eq. (3)).
    """
    axes = [np.arange(n) / n if gamma else (2 * np.arange(1, n + 1) - n - 1) / (2 * n) for n in divisions]
    return np.array(list(product(*axes)))


def mesh_for(structure: Structure, length: float = MESH_LENGTH) -> tuple[int, int, int]:
    """Divisions of a mesh with n |a| >= ``length`` (Å) along every direction in which blocks reach other cells."""
    lengths, periodic = np.linalg.norm(structure.cell, axis=1), periodic_directions(structure)
    a, b, c = (int(np.ceil(length / x - 1e-9)) if p else 1 for x, p in zip(lengths, periodic, strict=True))
    return a, b, c


def energies_at(
    structure: Structure, points: ArrayLike, *, smallest_overlap: float = SMALLEST_OVERLAP
) -> NDArray[np.float64]:
    """All energies at some k-points.

    Args:
        structure: with Hamiltonian and overlap.
        points: (K, 3) fractional coordinates.
        smallest_overlap: see :func:`tracegrad.physics.eigen.solve`.

    Returns:
        (K, bands) eV; as many bands as there are at every k.
    """
    hamiltonian, overlap = bloch_matrices(structure)
    ks = np.asarray(points, dtype=np.float64)
    states = [solve(hamiltonian.dense(k), overlap.dense(k), smallest_overlap=smallest_overlap) for k in ks]
    return _joined(states)


def band_structure(
    structure: Structure,
    path: KPath | str | None = None,
    *,
    points: int = 60,
    bands: int | None = None,
    smallest_overlap: float = SMALLEST_OVERLAP,
    dense_limit: int = DENSE_LIMIT,
) -> Bands:
    """Energies along a path.

    Args:
        structure: with Hamiltonian and overlap; its metadata may hold ``fermi_energy_eV``, else the level is computed
            where :func:`computed_fermi_level` can.
        path: a path, names of special points, or None for ASE's path.
        points: k-points, where the path is not given.
        bands: compute only so many near the Fermi level, with sparse matrices; above ``dense_limit`` orbitals 40.
        smallest_overlap: smallest eigenvalue of S(k) that is kept; with sparse matrices nothing is projected out, and a
            smaller one at a special point of the path is warned of.
        dense_limit: largest matrix that is diagonalised completely.

    Raises:
        DataError: a matrix is missing, or the states near an unknown Fermi level are asked for.
    """
    route = path if isinstance(path, KPath) else k_path(structure, path, points)
    hamiltonian, overlap = bloch_matrices(structure)
    fermi = structure.metadata.get("fermi_energy_eV")
    if fermi is None:
        fermi, _ = computed_fermi_level(structure, smallest_overlap=smallest_overlap)
    count = bands if bands is not None else SPARSE_BANDS if hamiltonian.size > dense_limit else None
    if count is not None and fermi is None:
        raise DataError("expected a Fermi level to compute the bands near it, found none; give fermi_energy_eV")
    if count is not None and not 0 < count < hamiltonian.size - 1:
        raise DataError(f"expected 1..{hamiltonian.size - 2} bands, found {count}")
    states: list[States] = []
    special = np.isin(route.distance, [distance for distance, _ in route.ticks])
    for k, judged in zip(route.points, special.tolist(), strict=True):
        if count is None:
            states.append(solve(hamiltonian.dense(k), overlap.dense(k), smallest_overlap=smallest_overlap))
        else:
            pair = hamiltonian.sparse(k), overlap.sparse(k)
            states.append(solve_sparse(*pair, count=count, energy=float(fermi or 0.0), judge_overlap=judged))
    smallest = min((state.smallest for state in states if np.isfinite(state.smallest)), default=float("nan"))
    if count is not None and smallest < smallest_overlap:
        warnings.warn(
            f"ill-conditioned overlap: smallest eigenvalue of S(k) {smallest:.2e}; with sparse matrices no direction "
            "is projected out, so bands near the Fermi level may be of these directions: compare with all bands",
            IllConditionedOverlap,
            stacklevel=2,
        )
    projected = max(state.projected for state in states)
    return Bands(route, _joined(states), None if fermi is None else float(fermi), projected, smallest)


def _joined(states: Sequence[States]) -> NDArray[np.float64]:
    """(K, bands) energies, with one warning for all k where S had to be projected."""
    projected = [state.projected for state in states]
    if any(projected):
        smallest = min(state.smallest for state in states)
        warnings.warn(
            f"ill-conditioned overlap at {np.count_nonzero(projected)} of {len(states)} k-points: up to "
            f"{max(projected)} of {len(states[0].energies) + projected[0]} directions projected out, smallest "
            f"eigenvalue of S(k) {smallest:.2e}; blocks cut at a larger distance would avoid it",
            IllConditionedOverlap,
            stacklevel=3,
        )
    count = min(len(state.energies) for state in states)
    return np.array([state.energies[:count] for state in states])


def occupation_is_known(structure: Structure) -> bool:
    """Whether :func:`occupied_bands` can count: the valence electrons or a Fermi level are known."""
    return valence_electrons(structure) is not None or structure.metadata.get("fermi_energy_eV") is not None


def occupied_bands(structure: Structure, energies: NDArray[np.float64]) -> int:
    """Number of occupied bands: from the valence electrons of the basis, else from the Fermi level.

    Args:
        structure: gives the atoms, the spin and perhaps the Fermi level.
        energies: (K, bands) eV on a mesh.

    Raises:
        DataError: neither is known.
    """
    electrons = valence_electrons(structure)
    if electrons is not None:
        return electrons if structure.spinful else electrons // 2
    fermi = structure.metadata.get("fermi_energy_eV")
    if fermi is None:
        raise DataError(
            f"{structure.name or 'structure'}: expected a basis with known valence electrons or a Fermi level, "
            "found neither; give the Fermi level"
        )
    return int(np.rint((energies < float(fermi)).sum(axis=1).mean()))


def band_gap(energies: NDArray[np.float64], occupied: int) -> dict[str, float]:
    """Gap between the band ``occupied`` and the next one.

    Args:
        energies: (K, bands) eV.
        occupied: number of occupied bands.

    Returns:
        eV: ``direct`` (smallest at one k), ``indirect`` (negative where bands overlap), ``valence_max`` and
        ``conduction_min``.

    Raises:
        DataError: there is no band above or below.
    """
    if not 0 < occupied < energies.shape[1]:
        raise DataError(f"expected 1..{energies.shape[1] - 1} occupied bands of {energies.shape[1]}, found {occupied}")
    below, above = energies[:, occupied - 1], energies[:, occupied]
    return {
        "direct": float((above - below).min()),
        "indirect": float(above.min() - below.max()),
        "valence_max": float(below.max()),
        "conduction_min": float(above.min()),
    }


def fermi_level(energies: NDArray[np.float64], electrons: float, spinful: bool, temperature: float = 300.0) -> float:
    """Level (eV) at which the Fermi-Dirac occupation holds all electrons.

    Args:
        energies: (K, bands) eV on a regular mesh.
        electrons: of the cell.
        spinful: one electron per band; otherwise two.
        temperature: K.

    Raises:
        DataError: the bands cannot hold so many electrons.
    """
    weight = (1 if spinful else 2) / len(energies)
    if not 0 < electrons < weight * energies.size:
        raise DataError(f"expected electrons that {energies.shape[1]} bands can hold, found {electrons}")

    def excess(mu: float) -> float:
        return float(weight * expit((mu - energies) / (BOLTZMANN_EV * temperature)).sum()) - electrons

    return float(brentq(excess, energies.min() - 5.0, energies.max() + 5.0, xtol=1e-10))


def computed_fermi_level(
    structure: Structure, *, smallest_overlap: float = SMALLEST_OVERLAP
) -> tuple[float | None, str]:
    """Fermi level of a structure from its blocks and the valence electrons of its basis.

    Args:
        structure: with Hamiltonian.
        smallest_overlap: see :func:`tracegrad.physics.eigen.solve`.

    Returns:
        eV, or None where it cannot be computed, and in words how it was computed or why not.
    """
    if structure.overlap is None:
        return None, "not known: there is no overlap"
    electrons = valence_electrons(structure)
    if electrons is None:
        return None, "not known: the basis does not tell the number of electrons"
    size = int(structure.n_orbitals.sum()) * (2 if structure.spinful else 1)
    if size > FERMI_LIMIT:
        return None, f"not known: {size} orbitals are more than {FERMI_LIMIT}, which would take long"
    mesh = mesh_for(structure)
    energies = energies_at(structure, k_mesh(mesh), smallest_overlap=smallest_overlap)
    level = fermi_level(energies, electrons, structure.spinful)
    points = "x".join(map(str, mesh))
    return level, f"computed from H and S, {electrons} electrons, {points} k-points, 300 K"


def density_of_states(
    energies: NDArray[np.float64], grid: NDArray[np.float64], width: float, spinful: bool
) -> NDArray[np.float64]:
    """States per eV and cell, each a Gaussian.

    Args:
        energies: (K, bands) eV on a regular mesh.
        grid: (G,) eV.
        width: standard deviation of the Gaussians, eV.
        spinful: a band holds one electron; otherwise two.

    Returns:
        (G,); its integral is the number of states of the cell.
    """
    total = np.zeros(len(grid))
    for row in energies:  # one k at a time bounds the memory
        total += np.exp(-0.5 * ((grid[:, None] - row) / width) ** 2).sum(axis=1)
    density: NDArray[np.float64] = total * ((1 if spinful else 2) / (len(energies) * width * np.sqrt(2 * np.pi)))
    return density
