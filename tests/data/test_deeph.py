"""DeepH folders: layout against files written by hand, exact round trips, and every fault with its message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracegrad.data import Blocks, Structure, read_deeph, write_deeph
from tracegrad.data.deeph import find_deeph_folders
from tracegrad.errors import DataError

# Position in the file of the orbitals m = -l..l: p is stored as x, y, z; d as z2, x2-y2, xy, xz, yz.
OPENMX = {0: [0], 1: [1, 2, 0], 2: [2, 4, 0, 3, 1]}
Maker = Callable[..., Structure]
SameBlocks = Callable[[Blocks | None, Blocks | None], bool]


def stored_place(shells: tuple[int, ...], spin: int = 1) -> np.ndarray:
    """Place in the file of every orbital in our order."""
    places: list[int] = []
    for l in shells:
        places += [len(places) + p for p in OPENMX[l]]
    return np.concatenate([np.array(places) + s * len(places) for s in range(spin)])


def write_by_hand(structure: Structure, folder: Path) -> None:
    """Write the legacy form with nothing but text, h5py and the table above."""
    folder.mkdir()
    (folder / "element.dat").write_text("".join(f"{z}.0\n" for z in structure.numbers))
    for name, table in (("lat.dat", structure.cell.T), ("site_positions.dat", structure.positions.T)):
        (folder / name).write_text("\n".join(" ".join(f"{x:.18e}" for x in row) for row in table))
    shells = [structure.orbitals[int(z)] for z in structure.numbers]
    (folder / "orbital_types.dat").write_text("\n".join("\t".join(map(str, ls)) for ls in shells) + "\n")
    (folder / "info.json").write_text(json.dumps({"isspinful": structure.spinful, "fermi_level": -1.25}))
    files = {"hamiltonians.h5": (structure.hamiltonian, 1 + structure.spinful), "overlaps.h5": (structure.overlap, 1)}
    for name, (blocks, spin) in files.items():
        assert blocks is not None
        with h5py.File(folder / name, "w") as handle:
            for (x, y, z, i, j), block in blocks.completed().to_dict().items():
                stored = np.empty_like(block)
                stored[np.ix_(stored_place(shells[i], spin), stored_place(shells[j], spin))] = block
                handle[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"] = stored


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
def test_a_legacy_folder_written_by_hand_is_read_exactly(
    spinful: bool, tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks
) -> None:
    made = make_structure(spinful=spinful)
    assert made.hamiltonian is not None
    write_by_hand(made, tmp_path / "a")
    found = read_deeph(tmp_path / "a")
    assert same_blocks(found.hamiltonian, made.hamiltonian.completed())
    assert same_blocks(found.overlap, made.overlap and made.overlap.completed())
    assert not same_blocks(found.hamiltonian, made.hamiltonian.with_values(made.hamiltonian.values[::-1]).completed())
    assert np.array_equal(found.positions, made.positions)
    assert np.array_equal(found.cell, made.cell)
    assert (found.name, found.spinful, found.metadata["fermi_energy_eV"]) == ("a", spinful, -1.25)


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
@pytest.mark.parametrize("form", ["legacy", "new"])
def test_folders_survive_the_round_trip_bit_for_bit(
    form: str, spinful: bool, tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks
) -> None:
    made = make_structure(spinful=spinful, numbers=(6, 6, 16))  # grouped by element, as the new form wants
    found = read_deeph(write_deeph(made, tmp_path / "a", form))
    assert found.hamiltonian is not None
    assert found.overlap is not None
    assert found.hamiltonian.is_complete
    assert same_blocks(found.hamiltonian.hermitian_half(), made.hamiltonian)
    assert same_blocks(found.overlap.hermitian_half(), made.overlap)
    assert np.array_equal(found.positions, made.positions)
    assert np.array_equal(found.cell, made.cell)
    assert found.metadata["fermi_energy_eV"] == -1.25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]  # no temporary folder is left


@pytest.mark.parametrize("form", ["legacy", "new"])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)], ids=str)
def test_periodic_directions_survive_the_round_trip(
    form: str, pbc: tuple[bool, bool, bool], tmp_path: Path, make_structure: Maker
) -> None:
    made = Structure(**{**make_structure().fields(), "pbc": np.array(pbc)})
    found = read_deeph(write_deeph(made, tmp_path / "a", form))
    assert tuple(found.pbc.tolist()) == pbc
    assert "pbc" not in found.metadata
    info = json.loads((tmp_path / "a" / "info.json").read_text())
    assert info.get("pbc") == (None if all(pbc) else list(pbc))  # periodic folders are those of other programs


@pytest.mark.parametrize("value", ["T T F", [True, True], [1, 1, 0], None], ids=str)
@pytest.mark.parametrize("form", ["legacy", "new"])
def test_periodic_directions_are_three_truth_values(
    form: str, value: object, tmp_path: Path, make_structure: Maker
) -> None:
    path = write_deeph(make_structure(), tmp_path / "a", form) / "info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "pbc": value}))
    with pytest.raises(DataError, match=r"info\.json: pbc must be three of true and false, found"):
        read_deeph(tmp_path / "a")
    path.write_text(json.dumps({**info, "pbc": [True, False, True]}))
    assert read_deeph(tmp_path / "a").pbc.tolist() == [True, False, True]


@pytest.mark.parametrize("form", ["legacy", "new"])
def test_a_byte_order_mark_is_no_fault(form: str, tmp_path: Path, make_structure: Maker) -> None:
    path = write_deeph(make_structure(), tmp_path / "a", form) / "info.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_deeph(tmp_path / "a").metadata["fermi_energy_eV"] == -1.25
    path.write_text("\ufeff{", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        read_deeph(tmp_path / "a")


@pytest.mark.parametrize(
    ("form", "name", "other"),
    [
        ("legacy", "hamiltonians.h5", "hamiltonian.h5"),
        ("legacy", "overlaps.h5", "overlap.h5"),
        ("new", "hamiltonian.h5", "hamiltonians.h5"),
        ("new", "overlap.h5", "overlaps.h5"),
    ],
)
def test_a_matrix_that_is_there_is_not_passed_over(
    form: str, name: str, other: str, tmp_path: Path, make_structure: Maker
) -> None:
    folder = write_deeph(make_structure(), tmp_path / "a", form)
    content = (folder / name).read_bytes()
    (folder / name).rename(folder / other)
    with pytest.raises(DataError, match=f"{other} has its name from the other DeepH form .*; expected {name} here"):
        read_deeph(folder)
    (folder / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: expected an HDF5 file, found a folder"):
        read_deeph(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"{name}: expected an HDF5 file, found a link to nothing"):
        read_deeph(folder)
    (folder / name).unlink()
    (folder / name).write_bytes(content)  # its own file counts, whatever lies beside it
    assert None not in (read_deeph(folder).hamiltonian, read_deeph(folder).overlap)


def test_a_name_of_several_lines_leaves_a_poscar(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure(name="a\nb  c", numbers=(6, 6, 16))
    found = read_deeph(write_deeph(made, tmp_path / "a", "new"))
    assert found.positions.tolist() == made.positions.tolist()
    assert (tmp_path / "a" / "POSCAR").read_text().splitlines()[0] == "a b c"


def test_the_new_form_groups_atoms_by_element_and_moves_their_blocks(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure(numbers=(6, 16, 6))
    found = read_deeph(write_deeph(made, tmp_path / "a", "new"))
    assert found.numbers.tolist() == [6, 6, 16]
    moved = {0: 0, 1: 2, 2: 1}
    assert made.hamiltonian is not None
    assert found.hamiltonian is not None
    for (x, y, z, i, j), block in made.hamiltonian.to_dict().items():
        assert np.array_equal(found.hamiltonian.block(found.hamiltonian.index((x, y, z, moved[i], moved[j]))), block)
    assert np.array_equal(found.positions[[0, 2, 1]], made.positions)


def test_folders_with_an_overlap_only_or_without_matrices_are_read(tmp_path: Path, make_structure: Maker) -> None:
    write_deeph(make_structure(), tmp_path / "a")
    (tmp_path / "a" / "hamiltonians.h5").unlink()
    found = read_deeph(tmp_path / "a")
    assert found.hamiltonian is None
    assert found.overlap is not None
    (tmp_path / "a" / "overlaps.h5").unlink()
    assert read_deeph(tmp_path / "a").overlap is None


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
def test_spin_is_inferred_where_info_is_absent(spinful: bool, tmp_path: Path, make_structure: Maker) -> None:
    write_deeph(make_structure(spinful=spinful), tmp_path / "a")
    (tmp_path / "a" / "info.json").unlink()
    assert read_deeph(tmp_path / "a").spinful is spinful


def test_a_structure_of_one_atom_is_read(tmp_path: Path) -> None:
    block = {(0, 0, 0, 0, 0): np.eye(1)}
    atom = Structure(
        np.array([1]), np.ones((1, 3)), np.eye(3) * 9, np.ones(3, dtype=bool), {1: (0,)}, False, Blocks.from_dict(block)
    )
    assert read_deeph(write_deeph(atom, tmp_path / "a")).positions.tolist() == [[1.0, 1.0, 1.0]]


def _text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def _dataset(name: str, key: str, content: np.ndarray | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / name, "a") as handle:
            if key in handle:
                del handle[key]
            if content is not None:
                handle[key] = content

    return change


LEGACY_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing positions": (lambda f: (f / "site_positions.dat").unlink(), "site_positions.dat is missing"),
    "text instead of numbers": (_text("lat.dat", "a b c"), "lat.dat: expected rows of numbers"),
    "two lattice vectors": (_text("lat.dat", "1 0 0\n0 1 0\n"), r"lat.dat: expected 3 rows of 3 numbers, .*\(2, 3\)"),
    "NaN in the cell": (_text("lat.dat", "1 0 0\n0 1 0\n0 0 nan\n"), "lat.dat: expected finite numbers"),
    "unknown element": (_text("element.dat", "6\n155\n6\n"), "element.dat: expected atomic numbers"),
    "half an element": (_text("element.dat", "6\n16.5\n6\n"), "element.dat: expected atomic numbers"),
    "too few orbital lines": (_text("orbital_types.dat", "0 0 1\n"), "expected 3 lines, one per atom, found 1"),
    "orbitals that are no l": (_text("orbital_types.dat", "0 0 s\n0 1 2\n0 0 s\n"), "must be a list of l"),
    "two bases for one element": (_text("orbital_types.dat", "0 0 1\n0 1 2\n0 1 1\n"), "line 3: C has shells"),
    "orbitals that do not fit": (
        _text("orbital_types.dat", "0 1 1\n0 1 2\n0 1 1\n"),
        r"of shape \(7, .*check orbital_types",
    ),
    "info that is no JSON": (_text("info.json", "{isspinful"), "info.json: not JSON"),
    "info that is a list": (_text("info.json", "[1]"), "info.json: expected a JSON object"),
    "spin that is no flag": (_text("info.json", '{"isspinful": 1}'), "isspinful must be true or false, found 1"),
    "spin that is not there": (_text("info.json", '{"isspinful": true}'), "check .* isspinful"),
    "key of four integers": (_dataset("hamiltonians.h5", "[0, 0, 0, 1]", np.eye(5)), "is not five integers"),
    "key of six integers": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, 1, 1]", np.eye(5)), "is not five integers"),
    "key with a float": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, 1.0]", np.eye(5)), "is not five integers"),
    "key with a truth value": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, true]", np.eye(5)), "is not five integers"),
    "key that is code": (
        _dataset("overlaps.h5", "__import__('os')", np.eye(5)),
        "overlaps.h5: key .* not five integers",
    ),
    "key of an atom too many": (_dataset("overlaps.h5", "[0, 0, 0, 1, 4]", np.eye(5)), "outside 1..3"),
    "0-based key": (_dataset("overlaps.h5", "[0, 0, 0, 0, 1]", np.eye(5)), "outside 1..3"),
    "wrong block shape": (
        _dataset("hamiltonians.h5", "[0, 0, 0, 1, 2]", np.zeros((5, 8))),
        r"\(5, 9\).*found \(5, 8\)",
    ),
    "huge block": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, 2]", np.zeros(5000)), r"\(5, 9\).*found \(5000,\)"),
    "NaN in a block": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, 1]", np.full((5, 5), np.nan)), "holds NaN"),
    "not Hermitian": (_dataset("hamiltonians.h5", "[0, 0, 0, 1, 2]", np.ones((5, 9))), "not Hermitian"),
    "on-site block missing": (_dataset("hamiltonians.h5", "[0, 0, 0, 2, 2]", None), "atom 1 .* no on-site block"),
}


@pytest.mark.parametrize("fault", LEGACY_FAULTS)
def test_a_fault_of_a_legacy_folder_is_refused(fault: str, tmp_path: Path, make_structure: Maker) -> None:
    damage, message = LEGACY_FAULTS[fault]
    folder = write_deeph(make_structure(), tmp_path / "a")
    read_deeph(folder)  # sound before
    damage(folder)
    with pytest.raises(DataError, match=message) as error:
        read_deeph(folder)
    assert str(folder) in str(error.value)


def _array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with h5py.File(folder / "hamiltonian.h5", "a") as handle:
            content = change(handle[name][()])
            del handle[name]
            if content is not None:
                handle[name] = content

    return damage


NEW_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no orbital map": (_text("info.json", '{"spinful": false}'), "elements_orbital_map"),
    "unknown element": (_text("info.json", '{"elements_orbital_map": {"Qq": [0]}}'), "unknown element 'Qq'"),
    "another number of atoms": (
        _text("info.json", '{"atoms_quantity": 7, "elements_orbital_map": {"C": [0, 0, 1], "S": [0, 1, 2]}}'),
        "info.json says 7 atoms, POSCAR holds 3",
    ),
    "POSCAR of nothing": (_text("POSCAR", "nothing\n"), "not a readable POSCAR"),
    "float keys": (_array("atom_pairs", lambda a: a.astype(float)), "expected integers in 'atom_pairs', found float64"),
    "float shapes": (_array("chunk_shapes", lambda a: a + 0.4), "expected integers in 'chunk_shapes', found float64"),
    "float boundaries": (
        _array("chunk_boundaries", lambda a: a.astype(np.float32)),
        "expected integers in 'chunk_boundaries', found float32",
    ),
    "entries of truth values": (
        _array("entries", lambda a: a > 0),
        "expected real numbers or complex numbers in 'entries', found bool",
    ),
    "keys of four": (_array("atom_pairs", lambda a: a[:, :4]), r"'atom_pairs' of shape \(None, 5\)"),
    "1-based keys": (_array("atom_pairs", lambda a: a + np.array([0, 0, 0, 1, 1])), r"outside 0..2 \(0-based\)"),
    "shapes that do not fit": (_array("chunk_shapes", lambda a: a + 1), r"should be \[5, 5\]"),
    "boundaries that do not fit": (_array("chunk_boundaries", lambda a: a * 2), "chunk_boundaries do not fit"),
    "entries cut short": (_array("entries", lambda a: a[:-1]), r"expected 'entries' of shape \(.*\), found"),
    "entries missing": (_array("entries", lambda a: None), "no numeric array 'entries'"),
}


@pytest.mark.parametrize("fault", NEW_FAULTS)
def test_a_fault_of_a_new_folder_is_refused(fault: str, tmp_path: Path, make_structure: Maker) -> None:
    damage, message = NEW_FAULTS[fault]
    folder = write_deeph(make_structure(numbers=(6, 6, 16)), tmp_path / "a", "new")
    read_deeph(folder)
    damage(folder)
    with pytest.raises(DataError, match=message) as error:
        read_deeph(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("atom_pairs", ">i4"), ("chunk_shapes", "u1"), ("chunk_boundaries", "u8"), ("entries", ">f8"), ("entries", "f4")],
)
def test_numbers_of_every_width_are_read(name: str, kind: str, tmp_path: Path, make_structure: Maker) -> None:
    folder = write_deeph(make_structure(numbers=(6, 6, 16)), tmp_path / "a", "new")
    before = read_deeph(folder).hamiltonian
    assert before is not None
    _array(name, lambda a: a.astype(kind))(folder)
    after = read_deeph(folder).hamiltonian
    assert after is not None
    assert (after.keys() == before.keys()).all()
    np.testing.assert_allclose(after.values, before.values, rtol=1e-7 if kind == "f4" else 0)
    assert after.values.dtype == np.float64


@pytest.mark.parametrize(("form", "name"), [("legacy", "hamiltonians.h5"), ("new", "overlap.h5")])
def test_a_truncated_file_is_refused(
    form: str, name: str, tmp_path: Path, make_structure: Maker, truncate: Callable[[Path], None]
) -> None:
    folder = write_deeph(make_structure(), tmp_path / "a", form)
    truncate(folder / name)
    with pytest.raises(DataError, match=f"{name}: not a readable HDF5 file"):
        read_deeph(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_deeph(tmp_path / "a")
    with pytest.raises(DataError, match="no DeepH structure"):
        read_deeph(tmp_path)
    with pytest.raises(DataError, match="no DeepH structure in it or below"):
        find_deeph_folders(tmp_path)


def test_nothing_half_written_is_left_behind(
    tmp_path: Path, make_structure: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py, "File", full)
    with pytest.raises(OSError, match="No space left"):
        write_deeph(make_structure(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path, make_structure: Maker) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="already there and not empty"):
        write_deeph(make_structure(), tmp_path)
    with pytest.raises(DataError, match="unknown DeepH form 'newest'"):
        write_deeph(make_structure(), tmp_path / "a", "newest")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_cell_without_volume_is_refused_in_both_forms(tmp_path: Path, make_structure: Maker) -> None:
    molecule = Structure(**{**make_structure().fields(), "cell": np.zeros((3, 3)), "pbc": np.zeros(3, dtype=bool)})
    for form in ("legacy", "new"):
        with pytest.raises(DataError, match="span a volume"):
            write_deeph(molecule, tmp_path / form, form)
    assert not list(tmp_path.iterdir())
