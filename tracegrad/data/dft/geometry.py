"""Idealised sheets, stacked, perturbed, shifted and twisted: a seed determines a structure to the last stored digit.

Draws from ``numpy.random.default_rng(seed)``, in this order: in-plane shift of the upper sheet (two fractions of the
primitive cell; untwisted bilayers only), displacements (uniform in ±0.08 Å, all coordinates), rigid shift (two
fractions of the cell and ±0.5 Å along z). Positions and cells are rounded to 1e-8 Å.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, degrees, gcd, sqrt

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tracegrad.data.dft.systems import System
from tracegrad.errors import DataError

DISPLACEMENT = 0.08
VACUUM = 14.0
SLAB_CENTRE = 0.3
DECIMALS = 8
TWIST_TOLERANCE = 0.01
LARGEST_TWIST_INDEX = 7


@dataclass(frozen=True)
class Twist:
    """Commensurate twist (m, r) of two hexagonal lattices.

    The common cell is spanned by ``(m + r) a_1 + m a_2`` of the lower sheet, ``(m + r) a_1 + r a_2`` of the upper one
    and their images under a rotation by 120 degrees.

    Source: Shallcross et al., Phys. Rev. B 81, 165105 (2010), commensuration of rotated hexagonal lattices.
    """

    m: int
    r: int

    @property
    def lower(self) -> NDArray[np.int64]:
        """(2, 2) cell vectors as multiples of the lower sheet's lattice vectors, as rows."""
        return _hexagonal_rows(self.m + self.r, self.m)

    @property
    def upper(self) -> NDArray[np.int64]:
        """(2, 2) cell vectors as multiples of the upper sheet's lattice vectors, as rows."""
        return _hexagonal_rows(self.m + self.r, self.r)

    @property
    def cells(self) -> int:
        """Primitive cells of one sheet in the common cell."""
        return self.m**2 + self.m * self.r + self.r**2

    @property
    def angle(self) -> float:
        """Twist angle in degrees, from tan(θ / 2) = (m - r) / (√3 (m + r))."""
        return degrees(2 * atan2(self.m - self.r, sqrt(3) * (self.m + self.r)))


def _hexagonal_rows(p: int, q: int) -> NDArray[np.int64]:
    # A turn by 120 degrees takes a_1 to a_2 and a_2 to -a_1 - a_2.
    return np.array([[p, q], [-q, p - q]], dtype=np.int64)


def find_twist(angle: float) -> Twist:
    """Return the smallest commensurate cell whose twist angle is within 0.01 degrees of the one asked for.

    Args:
        angle: Twist angle in degrees.

    Raises:
        DataError: If there is no such cell with m up to 7; the message names the nearest angle there is.
    """
    pairs = [(m, r) for m in range(2, LARGEST_TWIST_INDEX + 1) for r in range(1, m) if gcd(m, r) == 1 and (m - r) % 3]
    twists = sorted((Twist(m, r) for m, r in pairs), key=lambda twist: twist.cells)
    for twist in twists:
        if abs(twist.angle - angle) <= TWIST_TOLERANCE:
            return twist
    nearest = min(twists, key=lambda twist: abs(twist.angle - angle))
    raise DataError(
        f"no commensurate cell for a twist of {angle} degrees; the nearest is {nearest.angle:.4f} degrees "
        f"with {nearest.cells} primitive cells per sheet"
    )


def make_structure(
    system: System, seed: int, supercell: tuple[int, int] | None = None, twist: Twist | None = None
) -> Atoms:
    """Build the structure of a seed.

    Args:
        system: Which system.
        seed: Seed of ``numpy.random.default_rng``; the draws are listed at the top of this module.
        supercell: Repeats along a_1 and a_2; the default of the system if None. Not used for a twisted cell.
        twist: Commensurate twist of the upper sheet, bilayers only.

    Returns:
        Periodic ``ase.Atoms``, positions not folded into the cell (Å); ``info["slab_centre"]`` is the height (Å) of the
        middle of the slab before the displacements.

    Raises:
        DataError: If a monolayer is to be twisted, or a twist is combined with a supercell.
    """
    generator = np.random.default_rng(seed)
    height = cell_height(system)
    if twist is None:
        symbols, positions, plane = _stacked_sheets(system, generator, supercell or (system.supercell,) * 2)
    else:
        if system.gap is None:
            raise DataError(f"{system.key} ({system.title}) has one sheet and cannot be twisted; drop --twist")
        if supercell is not None:
            raise DataError("expected --supercell or --twist, found both; the twist fixes the cell")
        symbols, positions, plane = _twisted_sheets(system, twist)
    cell = np.zeros((3, 3))
    cell[:2, :2] = plane
    cell[2, 2] = height

    positions = positions + generator.uniform(-DISPLACEMENT, DISPLACEMENT, positions.shape)
    shift = generator.uniform(0.0, 1.0, 3)
    positions[:, :2] += shift[:2] @ plane
    centre = SLAB_CENTRE * height + shift[2] - 0.5
    positions[:, 2] += centre - thickness(system) / 2
    cell, positions = cell.round(DECIMALS), positions.round(DECIMALS)
    return Atoms(symbols, positions=positions, cell=cell, pbc=True, info={"slab_centre": float(centre)})


def thickness(system: System) -> float:
    """Return the distance (Å) between the lowest and the highest plane of the unperturbed slab."""
    sheet = max(site.z for site in system.sheet)
    return sheet if system.gap is None else 2 * sheet + system.gap


def cell_height(system: System) -> float:
    """Return the length (Å) of the cell along z, the thickness and 14 Å of vacuum; the same in a whole set."""
    return thickness(system) + VACUUM


def k_mesh(
    system: System, supercell: tuple[int, int] | None = None, twist: Twist | None = None
) -> tuple[int, int, int]:
    """Return the Monkhorst-Pack mesh of equal density for a cell."""
    if twist is not None:
        along = max(1, round(system.k_density / sqrt(twist.cells)))
        return along, along, 1
    first, second = supercell or (system.supercell,) * 2
    return max(1, round(system.k_density / first)), max(1, round(system.k_density / second)), 1


def _lattice(system: System) -> NDArray[np.float64]:
    return system.lattice * np.array([[1.0, 0.0], [-0.5, sqrt(3) / 2]])


def _stacked_sheets(
    system: System, generator: np.random.Generator, supercell: tuple[int, int]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    lattice = _lattice(system)
    points = np.array([(i, j) for i in range(supercell[0]) for j in range(supercell[1])])
    shifts = [(0.0, 0.0, 0.0)]
    if system.gap is not None:
        u, v = generator.uniform(0.0, 1.0, 2)
        shifts.append((float(u), float(v), max(site.z for site in system.sheet) + system.gap))
    symbols, positions = [], []
    for u, v, z in shifts:
        for point in points:
            for site in system.sheet:
                symbols.append(site.symbol)
                positions.append([*((point + np.array([site.u + u, site.v + v])) @ lattice), site.z + z])
    return symbols, np.array(positions), np.diag(supercell) @ lattice


def _twisted_sheets(system: System, twist: Twist) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    plane = twist.lower @ _lattice(system)
    sheet_height = max(site.z for site in system.sheet)
    symbols, positions = [], []
    for rows, z in ((twist.lower, 0.0), (twist.upper, sheet_height + (system.gap or 0.0))):
        points = _lattice_points(rows)
        for site in system.sheet:
            fractions = _fold((points + np.array([site.u, site.v])) @ np.linalg.inv(rows))
            symbols += [site.symbol] * len(points)
            positions += [[*xy, site.z + z] for xy in fractions @ plane]
    return symbols, np.array(positions), plane


def _lattice_points(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One lattice point per coset of the supercell, in the order of first appearance when i, then j, run upwards.

    The range starts at -(number of points + 1): with it the atoms stand in the order of the bundled data.
    """
    determinant = int(rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0])
    adjugate = np.array([[rows[1, 1], -rows[0, 1]], [-rows[1, 0], rows[0, 0]]])
    cosets: dict[tuple[int, int], tuple[int, int]] = {}
    span = range(-determinant - 1, determinant + 2)
    for point in ((i, j) for i in span for j in span):
        u, v = (np.array(point) @ adjugate) % determinant
        cosets.setdefault((int(u), int(v)), point)
        if len(cosets) == determinant:
            break
    return np.array(list(cosets.values()), dtype=np.int64)


def _fold(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    # A fraction that is 1 up to rounding belongs at 0.
    return (fractions + 1e-9) % 1.0 - 1e-9
