"""The engine itself, where it is installed: recordings are reproduced, and a set is made from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracegrad.data.compact import open_compact
from tracegrad.data.dft import cp2k
from tracegrad.data.dft.calculation import Calculation, Request
from tracegrad.data.dft.generate import generate
from tracegrad.data.dft.systems import SYSTEMS, System
from tracegrad.data.diagnostics import smallest_overlap_eigenvalue

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(
        not any(map(shutil.which, cp2k.PROGRAMS)), reason="needs CP2K on PATH (apt-get install cp2k cp2k-data)"
    ),
]


@dataclass(frozen=True)
class QuickGraphene(Request):
    """Graphene 1x1 on a coarse grid and mesh: seconds instead of half a minute."""

    @property
    def system(self) -> System:
        return replace(SYSTEMS["MG"], cutoff=120.0)

    def k_mesh(self) -> tuple[int, int, int]:
        return 4, 4, 1


def test_engine_reproduces_the_recording(
    tmp_path: Path, recordings: dict[str, Any], read: Callable[..., Calculation]
) -> None:
    recordings["carbon_dimer"].run(tmp_path)
    again, before = read("carbon_dimer", tmp_path), read("carbon_dimer")
    difference = abs(again.hamiltonian.values - before.hamiltonian.values)
    assert difference.max() < 1e-4  # eV; the SCF threshold, on this or another release of the engine
    assert difference.mean() < 1e-5
    np.testing.assert_allclose(again.overlap.values, before.overlap.values, atol=2e-6)


def test_graphene_is_made_from_nothing(tmp_path: Path) -> None:
    request = QuickGraphene("MG", "test", 0, supercell=(1, 1))
    report = generate([request], tmp_path, "compact")
    assert report.names("failed") == []
    structure = open_compact(tmp_path / "MG.h5").read(request.name)
    assert structure.n_atoms == 2
    # The work function of graphene is 4.5 eV; the coarse grid and mesh move it by tenths.
    assert structure.metadata["fermi_energy_eV"] == pytest.approx(-4.5, abs=0.4)
    smallest = smallest_overlap_eigenvalue(structure)
    assert smallest is not None
    assert smallest > 1e-4
