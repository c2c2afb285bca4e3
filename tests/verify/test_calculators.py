"""verify_model on ASE calculators: energy and forces of a structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones

from tracegrad.errors import VerificationError
from verify import Report, Verdict, verify_model


def _atoms() -> Atoms:
    return Atoms("Ar4", positions=[[0, 0, 0], [1.2, 0.1, 0.3], [0.2, 1.1, 0.5], [0.9, 0.8, 1.3]])


class Tilted(LennardJones):
    """Lennard-Jones in a field along z, with forces that lack it."""

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        super().calculate(*arguments, **keywords)
        self.results["energy"] += 0.1 * float(np.sum(self.atoms.positions[:, 2] ** 2))


class Scaled(LennardJones):
    """Lennard-Jones whose forces are five per cent too small: still equivariant."""

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        super().calculate(*arguments, **keywords)
        self.results["forces"] = 0.95 * self.results["forces"]


def _calculate(calculator: Calculator, atoms: Atoms | None = None) -> Report:
    return verify_model(calculator, atoms if atoms is not None else _atoms(), trials=8, search=0, diagnose=False)


def test_lennard_jones_passes() -> None:
    report = _calculate(LennardJones(rc=10.0, smooth=True))
    assert report.passed, report.to_text()
    assert {"rotation", "translation", "node_permutation", "force_consistency"} <= {c.name for c in report.checks}


def test_periodic_lennard_jones_repeats_in_a_supercell() -> None:
    atoms = Atoms(
        "Ar2", positions=[[0, 0, 0], [0.8, 0.9, 0.7]], cell=[[2.1, 0, 0], [0.2, 2.2, 0], [0, 0.1, 2.3]], pbc=True
    )
    report = _calculate(LennardJones(rc=3.0, smooth=True), atoms)
    assert report.check("supercell").passed, report.to_text()
    assert report.check("cell_choice").passed, report.to_text()
    assert report.check("rotation").passed


class Single(LennardJones):
    """Lennard-Jones with results rounded to float32, as of a network in single precision; broken: in a field."""

    broken = False

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        super().calculate(*arguments, **keywords)
        energy = self.results["energy"] + (float(np.sum(self.atoms.positions[:, 2] ** 2)) if self.broken else 0.0)
        self.results = {"energy": float(np.float32(energy)), "forces": self.results["forces"].astype(np.float32)}


def test_calculator_in_single_precision_passes_with_the_budget_of_float32() -> None:
    checks = ["rotation", "translation", "dtype_leak"]
    options: dict[str, Any] = {"dtype": torch.float32, "trials": 4, "search": 0, "checks": checks, "diagnose": False}
    report = verify_model(Single(rc=10.0, smooth=True), _atoms(), **options)
    assert report.passed, report.to_text()
    broken = Single(rc=10.0, smooth=True)
    broken.broken = True
    assert [c.name for c in verify_model(broken, _atoms(), **options).failures] == ["rotation", "translation"]


@pytest.mark.parametrize("constant", [5.3, 5.26])
def test_forces_that_vanish_by_symmetry_are_nothing_to_judge(constant: float) -> None:
    calculator = LennardJones(rc=4.0, sigma=2.0)
    atoms = bulk("Ar", "fcc", a=constant)
    assert _calculate(calculator, atoms).verdict is Verdict.VACUOUS
    report = verify_model(calculator, atoms, trials=8, search=0, diagnose=False, allow_zero=["1o"])
    assert report.passed, report.to_text()


def test_magnetic_moments_that_no_rotation_reaches_are_refused() -> None:
    atoms = _atoms()
    atoms.set_initial_magnetic_moments([0.0, 1.0, 0.5, 0.2])
    assert _calculate(LennardJones(rc=10.0, smooth=True), atoms).passed
    atoms = _atoms()
    atoms.set_initial_magnetic_moments(np.ones((4, 3)))
    with pytest.raises(VerificationError, match="vectors as magnetic moments"):
        _calculate(LennardJones(rc=10.0, smooth=True), atoms)


def test_external_field_breaks_rotation_and_translation() -> None:
    failures = {c.name for c in _calculate(Tilted(rc=10.0, smooth=True)).failures}
    assert {"rotation", "translation", "force_consistency"} <= failures


def test_forces_that_are_symmetric_but_not_the_gradient_are_found_by_their_check_alone() -> None:
    report = _calculate(Scaled(rc=10.0, smooth=True))
    assert [c.name for c in report.failures] == ["force_consistency"]
    assert report.check("force_consistency").error == pytest.approx(0.05, rel=0.2)


def test_structure_without_atoms_raises() -> None:
    with pytest.raises(VerificationError, match="no atoms"):
        _calculate(LennardJones(), Atoms())
