"""The zero of energy in pictures and band files is a Fermi level that is known or computed, or there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tracegrad.data import Structure, load_dataset
from tracegrad.physics import band_structure, draw_bands, write_bands

FERMI_LABEL = "E \N{MINUS SIGN} E_F (eV)"


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Return a structure that does not tell its Fermi level."""
    return replace(load_dataset("MG").test[0], metadata={})


def foreign(structure: Structure) -> Structure:
    """Return the same with an element whose basis is not known, so that nothing tells the number of electrons."""
    orbitals = {99: structure.orbitals[6]}
    return replace(structure, numbers=np.full_like(structure.numbers, 99), orbitals=orbitals)


def test_the_fermi_level_of_bands_is_computed_where_it_is_not_given(structure: Structure) -> None:
    known = load_dataset("MG").test[0]
    stored = known.metadata["fermi_energy_eV"]
    assert band_structure(known, "GM", points=2).fermi_energy == stored
    assert band_structure(structure, "GM", points=2).fermi_energy == pytest.approx(stored, abs=5e-3)
    assert band_structure(foreign(structure), "GM", points=2).fermi_energy is None


def test_a_fermi_level_that_nobody_knows_is_neither_written_nor_drawn(structure: Structure, tmp_path: Path) -> None:
    cases = {"computed": (structure, FERMI_LABEL), "unknown": (foreign(structure), "E (eV)")}
    for name, (each, label) in cases.items():
        bands = band_structure(each, "GM", points=3)
        write_bands(tmp_path / f"{name}.json", "x", "y", None, {"net": bands}, {})
        assert json.loads((tmp_path / f"{name}.json").read_text())["fermi_energy_eV"] == bands.fermi_energy
        draw_bands(tmp_path / f"{name}.svg", name, None, {"net": bands})
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert [shown for shown in (FERMI_LABEL, "E (eV)") if f"<!-- {shown} -->" in text] == [label]
