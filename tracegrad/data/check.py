"""Judging data: every structure against what must hold, and the set as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from tracegrad.data.blocks import Blocks, duplicate_keys, match_keys, reverse_keys
from tracegrad.data.convert import open_source
from tracegrad.data.deeph import folder_form
from tracegrad.data.diagnostics import (
    bond_frame_defects,
    mean_onsite_energy,
    missing_pairs,
    shortest_bond,
    smallest_overlap_eigenvalue,
)
from tracegrad.data.spin import scalar_and_spin_orbit
from tracegrad.data.structure import Structure, check_structure, orbital_table
from tracegrad.errors import DataError

TIME_REVERSAL_TOLERANCE = 1e-6  # eV, as for Hermiticity
ORDER_TOLERANCE = 1e-4  # m-mixing over the largest overlap; right orders reach 1e-8, wrong ones 0.1 and more
MISSING_TOLERANCE = 1e-5  # a missing block expected to be larger than this is a fault
BOND_RANGE = (0.6, 1.4)  # shortest distance over the sum of covalent radii; Bohr taken for Å gives 1.5 and more
GAUGE_TOLERANCE = 0.5  # eV between the mean on-site energies of a structure and the median of its set


@dataclass(frozen=True)
class StructureCheck:
    """What was measured on one structure, and what is wrong with it.

    Args:
        name: identifier.
        subset: train, val, test or test_twisted.
        formula: composition, e.g. ``Bi4Te6``.
        atoms: number of atoms.
        pairs: number of stored pairs, both matrices together counted once.
        cutoff: longest stored pair in Å.
        shortest_bond: shortest distance over the sum of the covalent radii; None for lone atoms.
        hermiticity_eV: largest defect of H over the pairs stored both ways, on-site included; None without H.
        overlap_hermiticity: the same for S.
        smallest_eigenvalue: of S(k); None without overlap or for a very large cell.
        order: best fitting orbital convention; None without overlap.
        order_defect: m-mixing in the bond frame under the convention that the reader assumed.
        nan: how many values are not finite.
        duplicates: pairs stored twice.
        missing: pairs within the cutoff without a block.
        overlap_only: keys of S that H lacks.
        hamiltonian_only: keys of H that S lacks.
        time_reversal_eV: largest part that breaks time reversal; None for spinless data.
        onsite_eV: element -> mean on-site energy.
        fermi_energy_eV: as stored.
        faults: what is off, in words; empty if nothing.
    """

    name: str
    subset: str
    formula: str = ""
    atoms: int = 0
    pairs: int = 0
    cutoff: float = 0.0
    shortest_bond: float | None = None
    hermiticity_eV: float | None = None
    overlap_hermiticity: float | None = None
    smallest_eigenvalue: float | None = None
    order: str | None = None
    order_defect: float | None = None
    nan: int = 0
    duplicates: int = 0
    missing: int = 0
    overlap_only: int = 0
    hamiltonian_only: int = 0
    time_reversal_eV: float | None = None
    onsite_eV: dict[str, float] = field(default_factory=dict)
    fermi_energy_eV: float | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataCheck:
    """The result for a set.

    Args:
        source: what was checked.
        structures: one entry per structure.
        orbitals: element -> shells.
        spinful: whether the Hamiltonians carry spin.
        gauge_spread_eV: element -> standard deviation over the set of the mean on-site energy.
    """

    source: str
    structures: tuple[StructureCheck, ...]
    orbitals: dict[str, list[int]]
    spinful: bool
    gauge_spread_eV: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether nothing is off."""
        return bool(self.structures) and not any(item.faults for item in self.structures)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "passed": self.passed, "counts": dict(Counter(s.subset for s in self.structures))}


def check_data(source: str | Path) -> Iterator[StructureCheck | DataCheck]:
    """Check every structure of a key, a compact file, a DeepH folder, a folder of them or a split file.

    Yields:
        one ``StructureCheck`` after the other, as they are done; last the ``DataCheck`` with all of them, in which
        the comparison of the structures with each other (the gauge) is included.

    Raises:
        DataError: if there is nothing to read at ``source``; faults of single structures are reported, not raised.
    """
    items, _ = open_source(source)
    checks: list[StructureCheck] = []
    orbitals: dict[str, list[int]] = {}
    first: Structure | None = None
    for subset, name, read in items:
        try:
            structure = read(False)
        except DataError as error:
            checks.append(StructureCheck(name, subset, faults=(f"unreadable: {error}",)))
        else:
            first = first or structure
            faults = _disagreement(structure, orbitals, first)
            orbitals = {**orbital_table(structure.orbitals), **orbitals}
            found = check_one(structure, subset, _stored_convention(structure))
            checks.append(replace(found, faults=(*found.faults, *faults)))
        yield checks[-1]
    judged, spread = _judge_gauge(checks)
    yield DataCheck(str(source), tuple(judged), orbitals, first is not None and first.spinful, spread)


def _disagreement(structure: Structure, orbitals: Mapping[str, list[int]], first: Structure) -> list[str]:
    """What keeps a structure out of one dataset with those before it."""
    faults = []
    if structure.spinful != first.spinful:
        words = ("not spinful", "spinful")
        faults.append(f"is {words[structure.spinful]}, {first.name} is {words[first.spinful]}; keep them apart")
    for symbol, shells in orbital_table(structure.orbitals).items():
        if orbitals.get(symbol, shells) != shells:
            faults.append(f"{symbol} has shells {shells}, {orbitals[symbol]} in others; one dataset needs one basis")
    return faults


def check_one(structure: Structure, subset: str = "", stored: str = "e3nn") -> StructureCheck:
    """Measure and judge one structure, read with ``validate=False``.

    Args:
        structure: to check.
        subset: its subset, for the report.
        stored: the orbital convention that its reader assumed.
    """
    faults = _validation_fault(structure)
    matrices = [b for b in (structure.hamiltonian, structure.overlap) if b is not None]
    nan = sum(int((~np.isfinite(blocks.values)).sum()) for blocks in matrices)
    duplicates = sum(len(duplicate_keys(blocks.keys())) for blocks in matrices)
    facts: dict[str, Any] = {
        "formula": _formula(structure),
        "atoms": structure.n_atoms,
        "pairs": max((blocks.n_edges for blocks in matrices), default=0),
        "cutoff": max((_longest(structure, blocks) for blocks in matrices), default=0.0),
        "nan": nan,
        "duplicates": duplicates,
        "onsite_eV": {chemical_symbols[z]: e for z, e in mean_onsite_energy(structure).items()},
        "fermi_energy_eV": structure.metadata.get("fermi_energy_eV"),
        "hermiticity_eV": _hermiticity(structure.hamiltonian),
        "overlap_hermiticity": _hermiticity(structure.overlap),
    }
    if not matrices:
        faults.append("no Hamiltonian and no overlap; expected at least one of them")
    elif not nan and not duplicates:
        for part in (_judge_lengths, _judge_pairs, _judge_overlap, _judge_time_reversal):
            try:
                found, wrong = part(structure, stored)
            except DataError as error:
                found, wrong = {}, [str(error)]
            facts.update(found)
            faults.extend(wrong)
    return StructureCheck(structure.name, subset, **facts, faults=tuple(faults))


def _validation_fault(structure: Structure) -> list[str]:
    """What ``check_structure`` would refuse on load, as a list of at most one fault."""
    try:
        check_structure(structure)
    except DataError as error:
        return [str(error)]
    return []


def _judge_lengths(structure: Structure, stored: str) -> tuple[dict[str, Any], list[str]]:
    del stored
    found, (low, high) = shortest_bond(structure), BOND_RANGE
    if found is None or low <= found <= high:
        return {"shortest_bond": found}, []
    wrong = f"shortest distance is {found:.2f} times the sum of the covalent radii, expected {low} to {high}"
    return {"shortest_bond": found}, [f"{wrong}; are positions and cell in Å?"]


def _judge_pairs(structure: Structure, stored: str) -> tuple[dict[str, Any], list[str]]:
    del stored
    hamiltonian, overlap = structure.hamiltonian, structure.overlap
    lacking = [missing_pairs(structure, b) for b in (hamiltonian, overlap) if b is not None]
    count, expected = max(lacking, key=lambda found: found[1])  # many negligible ones must not hide a large one
    facts: dict[str, Any] = {"missing": count}
    faults = []
    if expected > MISSING_TOLERANCE:
        faults.append(f"{count} pairs within the cutoff have no block; by their lengths |block| up to {expected:.1e}")
    for label, blocks in (("H", hamiltonian), ("S", overlap)):
        if blocks is None or blocks.is_half:
            continue
        one_way = int((blocks.reverse_index < 0).sum())
        if one_way and one_way < blocks.n_edges - structure.n_atoms:
            faults.append(f"{one_way} pairs of {label} lack the reversed pair (j, i, -R) while others have it")
    if hamiltonian is not None and overlap is not None:
        facts["overlap_only"] = _lacking(hamiltonian, overlap)
        facts["hamiltonian_only"] = _lacking(overlap, hamiltonian)
    return facts, faults


def _judge_overlap(structure: Structure, stored: str) -> tuple[dict[str, Any], list[str]]:
    faults = []
    smallest = smallest_overlap_eigenvalue(structure)
    if smallest is not None and smallest <= 0:
        faults.append(f"S(k) is not positive definite: smallest eigenvalue {smallest:.2e}; keep longer pairs")
    defects = bond_frame_defects(structure, stored)
    if not defects:
        return {"smallest_eigenvalue": smallest}, faults
    best = min(defects, key=lambda convention: (defects[convention], convention != stored))
    if defects[stored] <= ORDER_TOLERANCE:
        best = stored
    else:
        fit = f"{best} fits ({defects[best]:.1e})" if defects[best] <= ORDER_TOLERANCE else "no known convention fits"
        faults.append(
            f"orbital order is not {stored!r}: different m mix by {defects[stored]:.2f} in the bond frame "
            f"(expected below {ORDER_TOLERANCE:g}); {fit}"
        )
    return {"smallest_eigenvalue": smallest, "order": best, "order_defect": defects[stored]}, faults


def _judge_time_reversal(structure: Structure, stored: str) -> tuple[dict[str, Any], list[str]]:
    del stored
    if structure.hamiltonian is None or not structure.spinful:
        return {}, []
    defect = scalar_and_spin_orbit(structure.hamiltonian)[2]
    wrong = (
        f"time reversal is broken by {defect:.1e} eV; expected below {TIME_REVERSAL_TOLERANCE:g} (non-magnetic data)"
    )
    return {"time_reversal_eV": defect}, [wrong] if defect > TIME_REVERSAL_TOLERANCE else []


def _judge_gauge(checks: list[StructureCheck]) -> tuple[list[StructureCheck], dict[str, float]]:
    """Compare the mean on-site energies of every element over the set."""
    symbols = sorted({symbol for item in checks for symbol in item.onsite_eV})
    values = {s: np.array([item.onsite_eV[s] for item in checks if s in item.onsite_eV]) for s in symbols}
    finite = {s: v[np.isfinite(v)] for s, v in values.items()}
    median = {s: float(np.median(v)) for s, v in finite.items() if len(v)}
    judged = []
    for item in checks:
        distance = {s: energy - median[s] for s, energy in item.onsite_eV.items() if s in median}
        worst = max(distance, key=lambda s: abs(distance[s]), default=None)
        if worst is not None and abs(distance[worst]) > GAUGE_TOLERANCE:
            fault = (
                f"zero of energy: {worst} lies {distance[worst]:+.2f} eV off the median of the set on site (H + μS?)"
            )
            item = StructureCheck(**{**item.__dict__, "faults": (*item.faults, fault)})
        judged.append(item)
    return judged, {s: float(v.std()) for s, v in finite.items() if len(v)}


def _hermiticity(blocks: Blocks | None) -> float | None:
    return None if blocks is None else blocks.hermiticity_defect()


def _lacking(first: Blocks, second: Blocks) -> int:
    """How many pairs of ``second`` are in ``first`` in neither direction."""
    keys = np.concatenate([first.keys(), reverse_keys(first.keys())])
    return int((match_keys(keys, second.keys()) < 0).sum())


def _longest(structure: Structure, blocks: Blocks) -> float:
    inside = ((blocks.edge_index >= 0) & (blocks.edge_index < structure.n_atoms)).all()
    return float(np.linalg.norm(structure.edge_vectors(blocks), axis=1).max(initial=0.0)) if inside else float("nan")


def _formula(structure: Structure) -> str:
    counts = Counter(structure.numbers.tolist())
    return "".join(f"{chemical_symbols[z]}{n}" for z, n in sorted(counts.items()))


def _stored_convention(structure: Structure) -> str:
    """The convention that the file form implies: legacy DeepH folders hold OpenMX order."""
    return "openmx" if folder_form(Path(str(structure.metadata.get("source", "")))) == "legacy" else "e3nn"
