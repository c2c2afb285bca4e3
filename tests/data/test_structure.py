"""Every fault of a structure is refused with what was found, and the sound structure is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tracegrad.data import Blocks, Structure, write_deeph
from tracegrad.data.compact import open_compact, write_compact
from tracegrad.data.structure import check_fermi_energy, orbital_table, parse_orbitals
from tracegrad.errors import DataError

Change = Callable[[Structure], dict[str, object]]


def _with_block(blocks: Blocks | None, key: tuple[int, ...], block: np.ndarray | None) -> Blocks:
    assert blocks is not None
    table = blocks.to_dict()
    if block is None:
        del table[key]
    else:
        table[key] = block
    return Blocks.from_dict(table)


def _with_value(blocks: Blocks | None, place: int, value: complex) -> Blocks:
    assert blocks is not None
    values = blocks.values.copy()
    values[place] = value
    return blocks.with_values(values)


def _twice(blocks: Blocks | None) -> Blocks:
    assert blocks is not None
    return blocks.select(np.array([*range(blocks.n_edges), 4]))


def _asymmetric(blocks: Blocks | None) -> Blocks:
    assert blocks is not None
    complete = blocks.completed()
    return _with_value(complete, int(complete.offsets[complete.index((0, 0, 0, 1, 0))]), 7.0)


FAULTS: dict[str, tuple[Change, str]] = {
    "NaN in a block": (
        lambda s: {"hamiltonian": _with_value(s.hamiltonian, -1, np.nan)},
        r"hamiltonian: block \[0, 0, 1, 2, 2\] holds NaN",
    ),
    "infinite overlap": (lambda s: {"overlap": _with_value(s.overlap, 0, np.inf)}, r"overlap: block \[0, 0, 0, 0, 0\]"),
    "wrong block shape": (
        lambda s: {"hamiltonian": _with_block(s.hamiltonian, (0, 0, 0, 0, 1), np.zeros((5, 8)))},
        r"block \[0, 0, 0, 0, 1\] should be \[5, 9\] .* found \[5, 8\]",
    ),
    "orbital list that does not fit": (
        lambda s: {"orbitals": {6: (0, 0, 1), 16: (0, 1, 1)}},
        r"should be \[7, 7\] .* found \[9, 9\]; check the orbital list",
    ),
    "orbitals of an element missing": (lambda s: {"orbitals": {6: (0, 0, 1)}}, "no orbitals for S; .* names C"),
    "shell of no degree": (lambda s: {"orbitals": {**s.orbitals, 6: (0, -1)}}, r"l = 0..6, found 6: \(0, -1\)"),
    "shell of a degree too high": (lambda s: {"orbitals": {**s.orbitals, 7: (9,)}}, r"l = 0..6, found 7: \(9,\)"),
    "shells of no element": (lambda s: {"orbitals": {**s.orbitals, 500: (0,)}}, r"numbers 1..118 .* found 500: \(0,\)"),
    "spin where there is none": (lambda s: {"spinful": True}, r"should be \[10, 10\] .*\(spinful\), found \[5, 5\]"),
    "complex values without spin": (
        lambda s: {"overlap": s.overlap and s.overlap.with_values(s.overlap.values * 1j)},
        "expected real values",
    ),
    "unknown element": (lambda s: {"numbers": np.array([6, 200, 6])}, "atomic number 200; expected 1..118"),
    "singular cell": (lambda s: {"cell": np.ones((3, 3))}, "linearly dependent"),
    "NaN position": (lambda s: {"positions": s.positions * np.nan}, "positions holds NaN"),
    "positions of another count": (lambda s: {"positions": s.positions[:2]}, r"\(3, 3\), found \(2, 3\)"),
    "no atoms": (
        lambda s: {"numbers": np.zeros(0, dtype=int), "positions": np.zeros((0, 3))},
        "holds no atoms",
    ),
    "atom outside the structure": (
        lambda s: {"hamiltonian": _with_block(s.hamiltonian, (0, 0, 0, 0, 3), np.zeros((5, 5)))},
        r"key \[0, 0, 0, 0, 3\] names an atom outside 0..2",
    ),
    "pair stored twice": (lambda s: {"hamiltonian": _twice(s.hamiltonian)}, r"\[-1, 2, 0, 0, 1\] is stored twice"),
    "on-site block missing": (
        lambda s: {"overlap": _with_block(s.overlap, (0, 0, 0, 1, 1), None)},
        "overlap: atom 1 .* no on-site block",
    ),
    "not Hermitian": (
        lambda s: {"hamiltonian": _asymmetric(s.hamiltonian)},
        "not Hermitian, .* expected at most 1e-06",
    ),
    "overlap without Hamiltonian": (
        lambda s: {"hamiltonian": _with_block(s.hamiltonian, (0, 1, 0, 1, 2), None)},
        r"1 overlap pairs have no Hamiltonian block, e.g. \[0, 1, 0, 1, 2\]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_with_what_was_found(fault: str, make_structure: Callable[..., Structure]) -> None:
    change, message = FAULTS[fault]
    sound = make_structure()
    broken = Structure(**{**sound.fields(), **change(sound)})
    with pytest.raises(DataError, match=message) as error:
        broken.validate("some/file.h5")
    assert str(error.value).startswith("some/file.h5, structure 'toy'")


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
@pytest.mark.parametrize("complete", [False, True], ids=["half", "complete"])
def test_a_sound_structure_is_accepted(spinful: bool, complete: bool, make_structure: Callable[..., Structure]) -> None:
    structure = make_structure(spinful=spinful)
    if complete:
        both = {label: getattr(structure, label).completed() for label in ("hamiltonian", "overlap")}
        structure = Structure(**{**structure.fields(), **both})
    assert structure.validate() is structure


def test_a_negligible_overlap_block_may_lack_its_hamiltonian(make_structure: Callable[..., Structure]) -> None:
    sound = make_structure()
    overlap = _with_block(sound.overlap, (0, 1, 0, 1, 2), np.full((9, 5), 1e-7))
    hamiltonian = _with_block(sound.hamiltonian, (0, 1, 0, 1, 2), None)
    Structure(**{**sound.fields(), "overlap": overlap, "hamiltonian": hamiltonian}).validate()


FORMS: dict[str, Change] = {
    "float numbers": lambda s: {"numbers": s.numbers.astype(float)},
    "short numbers": lambda s: {"numbers": s.numbers.astype(np.uint8)},
    "listed numbers": lambda s: {"numbers": s.numbers.tolist()},
    "listed positions": lambda s: {"positions": s.positions.tolist()},
    "big-endian positions": lambda s: {"positions": s.positions.astype(">f8")},
    "columns first": lambda s: {"positions": np.asfortranarray(s.positions)},
    "listed cell": lambda s: {"cell": s.cell.tolist()},
    "listed pbc": lambda s: {"pbc": [True, True, True]},
    "pbc of ones": lambda s: {"pbc": np.ones(3, dtype=int)},
    "listed shells": lambda s: {"orbitals": {z: list(ls) for z, ls in s.orbitals.items()}},
    "shells as arrays": lambda s: {"orbitals": {np.int64(z): np.array(ls) for z, ls in s.orbitals.items()}},
    "shells of numpy": lambda s: {"orbitals": {z: tuple(map(np.int32, ls)) for z, ls in s.orbitals.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_another_form_are_converted(
    form: str, make_structure: Callable[..., Structure], tmp_path: Path
) -> None:
    sound = make_structure(numbers=(6, 6, 16))
    found = Structure(**{**sound.fields(), **FORMS[form](sound)}).validate()
    for name, kind in (("numbers", np.int64), ("positions", np.float64), ("cell", np.float64), ("pbc", np.bool_)):
        assert getattr(found, name).dtype == kind
        assert np.array_equal(getattr(found, name), getattr(sound, name))
    assert found.orbitals == sound.orbitals
    assert json.dumps(orbital_table(found.orbitals)) == json.dumps(orbital_table(sound.orbitals))
    for folder in ("legacy", "new"):
        write_deeph(found, tmp_path / folder, folder)
    write_compact(tmp_path / "a.h5", [("train", found)])
    assert open_compact(tmp_path / "a.h5").read("toy").orbitals == sound.orbitals


def test_what_has_its_type_is_not_copied(make_structure: Callable[..., Structure]) -> None:
    sound = make_structure()
    changed = replace(sound, name="other")
    for name in ("numbers", "positions", "cell", "pbc", "orbitals", "hamiltonian"):
        assert getattr(changed, name) is getattr(sound, name)


NO_NUMBERS: dict[str, tuple[dict[str, object], str]] = {
    "half an element": ({"numbers": [6, 16.5, 6]}, "numbers: expected integers, found 16.5"),
    "NaN as an element": ({"numbers": [6, np.nan, 6]}, "numbers: expected integers, found nan"),
    "an infinite element": ({"numbers": np.array([6, np.inf, 6])}, "numbers: expected integers, found inf"),
    "symbols": ({"numbers": ["C", "S", "C"]}, "numbers: expected integers, found <U1"),
    "rows of unequal length": ({"positions": [[0, 0, 0], [1, 1], [2, 2, 2]]}, "positions: expected real numbers in Å"),
    "complex positions": ({"positions": np.zeros((3, 3), dtype=complex)}, "positions: expected .*, found complex128"),
    "a cell of text": ({"cell": "cubic"}, "cell: expected real numbers"),
    "letters for pbc": ({"pbc": ["T", "T", "F"]}, "pbc: expected three truth values, found <U1"),
    "pbc of two": ({"pbc": [1, 1, 2]}, r"pbc: expected three truth values, found \[1, 1, 2\]"),
    "broken shells": ({"orbitals": {6: (0, 0.5), 16: (0,)}}, "expected orbitals .* with integers l, found .*0.5"),
    "truth as shells": ({"orbitals": {6: (0, True), 16: (0,)}}, ".* with integers l, found .*True"),
    "one shell": ({"orbitals": {6: 0, 16: 1}}, ".* with integers l, found .*6: 0"),
    "shells by symbol": ({"orbitals": {"C": (0, 0, 1)}}, "expected orbitals {atomic number: .*found {'C'"),
    "a list of shells": ({"orbitals": [(0, 0, 1)]}, "expected orbitals"),
}


@pytest.mark.parametrize("fault", NO_NUMBERS)
def test_what_is_no_number_of_its_kind_is_refused(fault: str, make_structure: Callable[..., Structure]) -> None:
    change, message = NO_NUMBERS[fault]
    with pytest.raises(DataError, match=f"structure 'toy': {message}"):
        Structure(**{**make_structure().fields(), **change})


def test_one_number_for_all_atoms_is_refused(make_structure: Callable[..., Structure]) -> None:
    with pytest.raises(DataError, match=r"expected numbers of shape \(1,\), found \(\)"):
        Structure(**{**make_structure().fields(), "numbers": 6}).validate()


@pytest.mark.parametrize("value", [None, -4, -4.25, np.int64(-4), np.float32(-4.25), Fraction(-17, 4)], ids=repr)
def test_a_fermi_level_may_be_any_finite_number(
    value: object, make_structure: Callable[..., Structure], tmp_path: Path
) -> None:
    made = replace(make_structure(), metadata={"fermi_energy_eV": value})
    write_deeph(made.validate(), tmp_path / "a")
    assert json.loads((tmp_path / "a" / "info.json").read_text()).get("fermi_level") == value


@pytest.mark.parametrize("value", [True, np.nan, np.float32(np.inf), 10**400, "-4", 1j, [1]], ids=lambda v: repr(v)[:9])
def test_a_fermi_level_that_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="here: expected the Fermi level as a finite number in eV, found"):
        check_fermi_energy(value, "here")


def test_edge_vectors_point_from_i_to_j_in_cell_r(make_structure: Callable[..., Structure]) -> None:
    structure = make_structure()
    assert structure.hamiltonian is not None
    vectors = structure.edge_vectors(structure.hamiltonian)
    for (x, y, z, i, j), found in zip(structure.hamiltonian.keys().tolist(), vectors, strict=True):
        shift = x * structure.cell[0] + y * structure.cell[1] + z * structure.cell[2]
        np.testing.assert_allclose(found, structure.positions[j] + shift - structure.positions[i], atol=1e-14)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"Xx": [0]}, "unknown element 'Xx'"),
        ({"C": "s2p1"}, "list of l"),
        ({"C": [0, 9]}, "list of l"),
        ({"C": [0.0]}, "list of l"),
        ({"C": [True]}, "list of l"),
    ],
)
def test_orbital_tables_that_cannot_be_right_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_orbitals(table, "info.json")


def test_orbital_tables_survive_the_round_trip() -> None:
    table = {"C": [0, 0, 1], "S": [0, 1, 2]}
    assert orbital_table(parse_orbitals(table, "here")) == table
