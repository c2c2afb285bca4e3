"""Geometries: a seed gives the bundled structure, twisted cells are commensurate, wrong requests are refused."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from tracegrad.data.dataset import load_dataset
from tracegrad.data.dft.calculation import Request
from tracegrad.data.dft.geometry import Twist, find_twist, make_structure
from tracegrad.data.dft.systems import ELEMENTS, SYSTEMS, get_system, structure_seed
from tracegrad.data.structure import Structure
from tracegrad.errors import DataError

TWIST = 21.7868


def request_of(structure: Structure) -> Request:
    """Return the request that the name and the label of a bundled structure stand for."""
    key, split, index = structure.name[:2], structure.name[3:-4], int(structure.name[-3:])
    label = str(structure.metadata["label"])
    if label.startswith("twisted"):
        return Request(key, split, index, twist=TWIST)
    repeats = int(label.split("x")[0])
    return Request(key, split, index, supercell=(repeats, repeats))


@pytest.mark.parametrize("key", SYSTEMS)
def test_seeds_reproduce_the_bundled_structures(key: str) -> None:
    dataset = load_dataset(key)
    for subset in (dataset.train, dataset.val, dataset.test, dataset.test_twisted):
        # A few of each subset; all of the small ones.
        for structure in [subset[n] for n in range(0, len(subset), 5)]:
            request = request_of(structure)
            atoms = request.atoms()
            assert request.seed == structure.metadata["seed"]
            assert list(request.k_mesh()) == list(structure.metadata["kmesh"])
            assert request.label() == structure.metadata["label"]
            np.testing.assert_array_equal(atoms.numbers, structure.numbers)
            np.testing.assert_allclose(atoms.positions, structure.positions, rtol=0, atol=1e-12)
            np.testing.assert_allclose(atoms.cell.array, structure.cell, rtol=0, atol=1e-12)


def test_another_seed_gives_another_structure() -> None:
    structure = load_dataset("MG").test[0]
    request = request_of(structure)
    other = make_structure(request.system, request.seed + 1, request.supercell)
    assert abs(other.positions - structure.positions).max() > 0.05


@pytest.mark.parametrize("key", SYSTEMS)
def test_shells_are_those_of_the_bundled_data(key: str) -> None:
    orbitals = load_dataset(key).orbitals
    assert {atomic_numbers[symbol]: ELEMENTS[symbol].shells for symbol in SYSTEMS[key].symbols} == orbitals


@pytest.mark.parametrize(("m", "r", "angle", "cells"), [(2, 1, 21.7868, 7), (3, 2, 13.1736, 19), (4, 3, 9.4300, 37)])
def test_twist_has_the_known_angle_and_size(m: int, r: int, angle: float, cells: int) -> None:
    twist = Twist(m, r)
    assert twist.angle == pytest.approx(angle, abs=5e-5)
    assert twist.cells == cells
    assert find_twist(round(angle, 2)) == twist


def test_both_sheets_share_the_twisted_cell() -> None:
    lattice = np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]])
    for twist in (Twist(2, 1), Twist(3, 2), Twist(5, 3)):
        cos, sin = np.cos(np.deg2rad(twist.angle)), np.sin(np.deg2rad(twist.angle))
        turned = lattice @ np.array([[cos, sin], [-sin, cos]])
        np.testing.assert_allclose(twist.upper @ turned, twist.lower @ lattice, atol=1e-12)
        assert np.linalg.det(twist.lower) == pytest.approx(twist.cells)


@pytest.mark.parametrize("key", ["BG", "BB", "BT", "BS"])
def test_twisted_sheets_keep_their_bonds(key: str) -> None:
    """The shortest distance of the flat bilayer survives the twist but for the displacements."""
    atoms = Request(key, "test_twisted", 0, twist=TWIST).atoms()
    flat = make_structure(get_system(key), 1, (3, 3))
    assert len(atoms) == 7 * 2 * len(get_system(key).sheet)
    distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    reference = flat.get_all_distances(mic=True)[np.triu_indices(len(flat), 1)]
    assert distances.min() > reference.min() - 0.3
    density = len(atoms) / atoms.cell.volume
    assert density == pytest.approx(len(flat) / flat.cell.volume, rel=1e-6)


@pytest.mark.parametrize("twist", [0.0, 20.0, 45.0])
def test_angle_without_a_commensurate_cell_is_refused(twist: float) -> None:
    with pytest.raises(DataError, match="the nearest is"):
        find_twist(twist)


def test_twisted_monolayer_is_refused() -> None:
    with pytest.raises(DataError, match="one sheet"):
        Request("MG", "test_twisted", 0, twist=TWIST).atoms()


def test_twist_with_supercell_is_refused() -> None:
    with pytest.raises(DataError, match="found both"):
        Request("BG", "test_twisted", 0, supercell=(2, 2), twist=TWIST).atoms()


def test_unknown_system_split_and_index_are_refused() -> None:
    with pytest.raises(DataError, match="expected one of MG"):
        get_system("XX")
    with pytest.raises(DataError, match="unknown split"):
        structure_seed(get_system("MG"), "tset", 0)
    with pytest.raises(DataError, match=r"0\.\.999"):
        structure_seed(get_system("MG"), "test", 1000)
