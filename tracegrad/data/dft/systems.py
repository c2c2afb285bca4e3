"""The six systems of the bundled data: sheet geometry, CP2K settings, range of the stored blocks.

All lengths in Å unless a name says otherwise, plane-wave cutoffs in Ry, in-plane coordinates as fractions of the
hexagonal cell. The sheets are idealised and unrelaxed; the data are not those of the published databases.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracegrad.errors import DataError

BOHR_IN_ANGSTROM = 0.529177210903


@dataclass(frozen=True)
class Site:
    """One atom of the primitive sheet: element, in-plane fractional coordinates, height (Å) above the lowest atom."""

    symbol: str
    u: float
    v: float
    z: float


@dataclass(frozen=True)
class Element:
    """Orbitals of one element: valence charge of the GTH-PBE potential and the l of each shell of its basis."""

    valence: int
    shells: tuple[int, ...]
    basis: str = "DZVP-MOLOPT-SR-GTH"

    @property
    def potential(self) -> str:
        """Name of the potential in CP2K's GTH_POTENTIALS."""
        return f"GTH-PBE-q{self.valence}"

    @property
    def n_orbitals(self) -> int:
        """Number of orbitals, the sum of 2l + 1 over the shells."""
        return sum(2 * l + 1 for l in self.shells)


ELEMENTS = {
    "C": Element(4, (0, 0, 1, 1, 2)),
    "S": Element(6, (0, 0, 1, 1, 2)),
    "Se": Element(6, (0, 0, 1, 1, 2)),
    "Te": Element(6, (0, 0, 1, 1, 2)),
    "Bi": Element(5, (0, 0, 1, 1, 2)),
    "Mo": Element(14, (0, 0, 0, 1, 1, 2, 2), basis="DZVP-MOLOPT-SR-GTH-PRUNED"),
}


@dataclass(frozen=True)
class System:
    """Everything that tells one set from another.

    Args:
        key: Database key, MG, MM, BG, BB, BT or BS.
        title: System in words.
        lattice: Hexagonal lattice constant, Å.
        sheet: Atoms of the primitive sheet.
        gap: Distance between the facing planes of the two sheets, Å; None for a monolayer.
        supercell: Default repeats of the primitive cell in the plane.
        k_density: k-points along one in-plane axis of the primitive cell; a cell of n primitive cells takes
            round(k_density / sqrt(n)) of them.
        cutoff: Plane-wave cutoff, Ry.
        rel_cutoff: Cutoff of the Gaussian mapping, Ry.
        r_cut: Distance (Å) beyond which H and S are dropped.
        seed_base: First random seed of the set.
        spin_orbit: Whether the spin-orbit operator is added.
    """

    key: str
    title: str
    lattice: float
    sheet: tuple[Site, ...]
    gap: float | None
    supercell: int
    k_density: int
    cutoff: float
    rel_cutoff: float
    r_cut: float
    seed_base: int
    spin_orbit: bool = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """Elements of the system, in order of first appearance."""
        return tuple(dict.fromkeys(site.symbol for site in self.sheet))


def _quintuple_layer(outer: str, inner: str, heights: tuple[float, ...]) -> tuple[Site, ...]:
    in_plane = ((0.0, 0.0), (1 / 3, 2 / 3), (2 / 3, 1 / 3), (0.0, 0.0), (1 / 3, 2 / 3))
    symbols = (outer, inner, outer, inner, outer)
    return tuple(Site(s, *uv, z) for s, uv, z in zip(symbols, in_plane, heights, strict=True))


_GRAPHENE = (Site("C", 1 / 3, 2 / 3, 0.0), Site("C", 2 / 3, 1 / 3, 0.0))
_MOS2 = (Site("S", 2 / 3, 1 / 3, 0.0), Site("Mo", 1 / 3, 2 / 3, 1.565), Site("S", 2 / 3, 1 / 3, 3.13))
_BISMUTHENE = (Site("Bi", 0.0, 0.0, 0.0), Site("Bi", 1 / 3, 2 / 3, 1.65))
_BI2TE3 = _quintuple_layer("Te", "Bi", (0.0, 1.74, 3.78, 5.82, 7.56))
_BI2SE3 = _quintuple_layer("Se", "Bi", (0.0, 1.59, 3.53, 5.47, 7.06))

SYSTEMS = {
    system.key: system
    for system in (
        System("MG", "monolayer graphene", 2.46, _GRAPHENE, None, 3, 9, 400.0, 40.0, 7.5, 110000),
        System("MM", "monolayer MoS2", 3.18, _MOS2, None, 2, 6, 300.0, 40.0, 8.0, 120000),
        System("BG", "bilayer graphene", 2.46, _GRAPHENE, 3.35, 2, 8, 400.0, 40.0, 7.5, 130000),
        System("BB", "bismuthene bilayer", 4.45, _BISMUTHENE, 3.2, 1, 4, 120.0, 60.0, 10.0, 140000, True),
        System("BT", "two quintuple layers of Bi2Te3", 4.386, _BI2TE3, 3.1, 1, 4, 120.0, 60.0, 10.0, 150000, True),
        System("BS", "two quintuple layers of Bi2Se3", 4.143, _BI2SE3, 2.9, 1, 4, 200.0, 50.0, 10.0, 160000, True),
    )
}

SPLIT_OFFSETS = {"train": 0, "val": 1000, "test": 2000, "train_large": 3000, "test_twisted": 4000}


def get_system(key: str) -> System:
    """Return the system of a database key.

    Raises:
        DataError: If there is no such system.
    """
    if key not in SYSTEMS:
        raise DataError(f"unknown system {key!r}; expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[key]


def structure_seed(system: System, split: str, index: int) -> int:
    """Return the random seed of a structure: base of the set + offset of the split + index.

    Raises:
        DataError: If the split is unknown or the index leaves the thousand seeds of a split.
    """
    if split not in SPLIT_OFFSETS:
        raise DataError(f"unknown split {split!r}; expected one of {', '.join(SPLIT_OFFSETS)}")
    if not 0 <= index < 1000:
        raise DataError(f"expected an index in 0..999 (seeds of {split}), found {index}; lower --seed or --count")
    return system.seed_base + SPLIT_OFFSETS[split] + index
