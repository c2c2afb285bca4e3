"""The compact form: exact up to the stated quantum, whole or not at all, and refused when damaged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracegrad.data import DATABASES, Blocks, Structure
from tracegrad.data.bundle import bundle, verify_bundle
from tracegrad.data.bundle import main as pack_files
from tracegrad.data.codec import pack
from tracegrad.data.compact import (
    HAMILTONIAN_QUANTUM,
    HARTREE_EV,
    OVERLAP_QUANTUM,
    CompactSet,
    open_compact,
    write_compact,
)
from tracegrad.errors import DataError

BOOLEAN = b"\x18\x02\x00\x00\x01\x00\x00\x00"  # head of the datatype message of an enumeration of two in one byte
Maker = Callable[..., Structure]
SameBlocks = Callable[[Blocks | None, Blocks | None], bool]


def largest_difference(first: Blocks | None, second: Blocks | None) -> float:
    """Largest difference of two sets of blocks on the same pairs."""
    assert first is not None
    assert second is not None
    ours, theirs = first.to_dict(), second.to_dict()
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours)


def newest_versions(path: Path) -> tuple[int, int]:
    """Newest versions in a file: of the superblock, and of the datatype messages of its arrays."""
    found = []
    with h5py.File(path) as handle:
        handle.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        messages = [item.id.get_type().encode() for item in found]
    return path.read_bytes()[8], max(message[2] >> 4 for message in messages)


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
def test_the_error_is_half_a_quantum_and_vanishes_the_second_time(
    spinful: bool, tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks
) -> None:
    made = make_structure(spinful=spinful)
    write_compact(tmp_path / "a.h5", [("train", made)], {"key": "toy"})
    found = open_compact(tmp_path / "a.h5").read("toy")
    half = HAMILTONIAN_QUANTUM * HARTREE_EV / 2
    # A spinful element holds H and W, or two W, in its real and imaginary part.
    error = largest_difference(found.hamiltonian, made.hamiltonian)
    assert 0.5 * half < error <= half * (np.sqrt(2) if spinful else 1) * (1 + 1e-6)
    assert largest_difference(found.overlap, made.overlap) <= OVERLAP_QUANTUM / 2 * (1 + 1e-6)
    write_compact(tmp_path / "b.h5", [("train", found)], {"key": "toy"})
    again = open_compact(tmp_path / "b.h5").read("toy")
    assert same_blocks(again.hamiltonian, found.hamiltonian)
    assert same_blocks(again.overlap, found.overlap)
    assert np.array_equal(again.positions, made.positions)
    assert again.metadata["fermi_energy_eV"] == -1.25


def test_a_complete_structure_is_stored_as_its_half(
    tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks
) -> None:
    made = make_structure()
    assert made.hamiltonian is not None
    complete = Structure(**{**made.fields(), "hamiltonian": made.hamiltonian.completed(), "name": "complete"})
    write_compact(tmp_path / "a.h5", [("test", made), ("val", complete)])
    contents = open_compact(tmp_path / "a.h5")
    assert contents.subsets == {"train": (), "val": ("complete",), "test": ("toy",), "test_twisted": ()}
    assert same_blocks(contents.read("complete").hamiltonian, contents.read("toy").hamiltonian)


def test_an_overlap_on_other_pairs_or_alone_is_kept(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure()
    assert made.overlap is not None
    fewer = Structure(**{**made.fields(), "overlap": made.overlap.select(np.arange(6)), "name": "fewer"})
    alone = Structure(**{**made.fields(), "hamiltonian": None, "name": "alone"})
    write_compact(tmp_path / "a.h5", [("test", fewer), ("test", alone)])
    contents = open_compact(tmp_path / "a.h5")
    assert largest_difference(contents.read("fewer").overlap, fewer.overlap) <= OVERLAP_QUANTUM
    assert contents.read("alone").hamiltonian is None
    assert largest_difference(contents.read("alone").overlap, made.overlap) <= OVERLAP_QUANTUM


def test_the_plain_layout_is_read(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure(spinful=False)
    assert made.hamiltonian is not None
    with h5py.File(tmp_path / "plain.h5", "w") as handle:
        handle.attrs.update(orbitals='{"C": [0, 0, 1], "S": [0, 1, 2]}', spin_orbit=False, key="toy")
        group = handle.create_group("structures/one")
        group.attrs.update(split="val", fermi_energy_eV=-3.0)
        for name in ("numbers", "positions", "cell"):
            group[name] = getattr(made, name)
        group["pairs"] = made.hamiltonian.keys().astype(np.int32)
        group["hamiltonian"] = np.rint(made.hamiltonian.values / (1e-6 * HARTREE_EV)).astype(np.int32)
    contents = open_compact(tmp_path / "plain.h5")
    found = contents.read("one")
    assert (contents.layout, contents.subsets["val"], found.metadata["fermi_energy_eV"]) == (1, ("one",), -3.0)
    assert largest_difference(found.hamiltonian, made.hamiltonian) <= 0.5e-6 * HARTREE_EV * (1 + 1e-6)


def test_a_file_has_the_format_of_hdf5_1_10(tmp_path: Path, make_structure: Maker) -> None:
    write_compact(tmp_path / "a.h5", [("train", make_structure())])
    for path in (tmp_path / "a.h5", *(path for entry in DATABASES.values() for path in entry.bundled_paths)):
        assert newest_versions(path) <= (3, 3), path
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as handle:  # h5py 3.15 and older cannot open its pbc
        handle["pbc"] = np.ones(3, dtype=bool)
    assert h5py.version.hdf5_version_tuple < (2,) or newest_versions(tmp_path / "new.h5") == (3, 5)


def test_an_array_that_cannot_be_opened_is_not_called_missing(tmp_path: Path, make_structure: Maker) -> None:
    path = tmp_path / "a.h5"
    write_compact(path, [("train", make_structure())])
    content = path.read_bytes()
    assert content.count(BOOLEAN) == 1
    path.write_bytes(content.replace(BOOLEAN, b"\xf8" + BOOLEAN[1:]))  # version 15 of the datatype message
    with pytest.raises(DataError, match=r"structure 'toy': 'pbc' is there and cannot be opened \(.*version number"):
        open_compact(path).read("toy")


def test_structures_that_do_not_go_together_are_refused(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure()
    other = Structure(**{**made.fields(), "orbitals": {**made.orbitals, 6: (0, 1, 0)}, "name": "other"})
    magnetic = make_structure(spinful=True)
    assert magnetic.hamiltonian is not None
    values = magnetic.hamiltonian.values.copy()
    values[magnetic.hamiltonian.offsets[3]] += 0.5
    magnetic = Structure(**{**magnetic.fields(), "hamiltonian": magnetic.hamiltonian.with_values(values)})
    cases = {
        "write them to two files": [("train", made), ("train", other)],
        "spinful and spinless": [("train", made), ("train", make_structure(spinful=True, name="spin"))],
        "expected a new one": [("train", made), ("val", made)],
        "unknown subset 'tests'": [("tests", made)],
        "breaks time reversal": [("train", magnetic)],
    }
    for message, structures in cases.items():
        with pytest.raises(DataError, match=message):
            write_compact(tmp_path / "a.h5", structures)
        assert list(tmp_path.iterdir()) == []


def _with(structure: Structure, change: Callable[[Blocks], Blocks]) -> Structure:
    assert structure.hamiltonian is not None
    return Structure(**{**structure.fields(), "hamiltonian": change(structure.hamiltonian)})


def _partners_apart(blocks: Blocks) -> Blocks:
    complete = blocks.completed()
    values = complete.values.copy()
    values[complete.offsets[complete.index((0, 0, 0, 1, 0))]] += 1.0
    return complete.with_values(values)


def _not_finite(blocks: Blocks) -> Blocks:
    return blocks.with_values(np.full_like(blocks.values, np.nan))


def test_a_structure_that_cannot_be_right_is_not_written(tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure()
    write_compact(tmp_path / "a.h5", [("train", make_structure(name="before"))])
    cases: dict[str, Callable[[Blocks], Blocks]] = {
        r"'toy', hamiltonian: not Hermitian, .* differ by 1\.0": _partners_apart,
        "is stored twice": lambda blocks: blocks.select(np.array([*range(blocks.n_edges), 4])),
        "holds NaN": _not_finite,
        "no on-site block": lambda blocks: blocks.select(np.arange(1, blocks.n_edges)),
    }
    for message, change in cases.items():
        with pytest.raises(DataError, match=message):
            write_compact(tmp_path / "a.h5", [("train", make_structure(name="first")), ("train", _with(made, change))])
    assert open_compact(tmp_path / "a.h5").subsets["train"] == ("before",)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    write_compact(
        tmp_path / "a.h5", [("train", make_structure(name="first")), ("train", _with(made, Blocks.completed))]
    )
    assert open_compact(tmp_path / "a.h5").subsets["train"] == ("first", "toy")


def test_a_set_without_structures_is_not_written(tmp_path: Path, make_structure: Maker) -> None:
    with pytest.raises(DataError, match=r"a\.h5: no structures to write; expected at least one"):
        write_compact(tmp_path / "a.h5", iter([]))
    assert list(tmp_path.iterdir()) == []
    write_compact(tmp_path / "a.h5", iter([("test", make_structure())]))
    assert (tmp_path / "a.h5").is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"], ids=repr)
def test_a_name_that_the_file_cannot_hold_is_refused(name: str, tmp_path: Path, make_structure: Maker) -> None:
    with pytest.raises(DataError, match=r"expected a new one, neither '\.' nor '\.\.', without '/'"):
        write_compact(tmp_path / "a.h5", [("train", make_structure(name=name))])
    write_compact(tmp_path / "a.h5", [("train", make_structure(name="grä phen.1"))])
    assert open_compact(tmp_path / "a.h5").read("grä phen.1").n_atoms == 3


def test_an_asymmetry_within_the_tolerance_is_not_enlarged_by_rounding(tmp_path: Path, make_structure: Maker) -> None:
    made, quantum = make_structure(), HAMILTONIAN_QUANTUM * HARTREE_EV

    def apart(difference: float) -> Structure:
        def change(blocks: Blocks) -> Blocks:
            changed = blocks.with_values(blocks.values.copy())
            block = changed.block(changed.index((0, 0, 0, 0, 0)))  # two elements on either side of half a quantum
            block[0, 1], block[1, 0] = 1.5 * quantum - difference / 2, 1.5 * quantum + difference / 2
            return changed

        return _with(made, change)

    write_compact(tmp_path / "a.h5", [("train", apart(4e-7))])
    found = open_compact(tmp_path / "a.h5").read("toy").hamiltonian
    assert found is not None
    assert found.hermiticity_defect() == 0
    with pytest.raises(DataError, match="not Hermitian"):
        write_compact(tmp_path / "a.h5", [("train", apart(4e-6))])


@pytest.mark.parametrize("value", [Path("x"), {"deep": [1, {2, 3}]}, 1j, b"\xff", object()], ids=lambda v: repr(v)[:12])
def test_facts_that_json_cannot_hold_are_named(value: object, tmp_path: Path, make_structure: Maker) -> None:
    made = make_structure()
    facts = {"plain": np.arange(3), "odd": value}
    told = Structure(**{**made.fields(), "metadata": facts})
    with pytest.raises(DataError, match="structure 'toy', metadata: 'odd' holds what JSON cannot"):
        write_compact(tmp_path / "a.h5", [("train", told)])
    with pytest.raises(DataError, match=r"a\.h5, manifest: 'odd' holds what JSON cannot"):
        write_compact(tmp_path / "a.h5", [("train", made)], facts)
    assert list(tmp_path.iterdir()) == []
    facts["odd"] = (np.float32(0.5), b"text", {"deep": None})
    told = Structure(**{**made.fields(), "metadata": facts})
    write_compact(tmp_path / "a.h5", [("train", told)], facts)
    contents = open_compact(tmp_path / "a.h5")
    for found in (contents.manifest, contents.read("toy").metadata):
        assert (found["plain"], found["odd"]) == ([0, 1, 2], [0.5, "text", {"deep": None}])


def _replace(name: str, content: object) -> Callable[[h5py.File], None]:
    def change(handle: h5py.File) -> None:
        group = handle["structures/toy"]
        del group[name]
        if content is not None:
            group[name] = content

    return change


def _manifest(**changes: object) -> Callable[[h5py.File], None]:
    def change(handle: h5py.File) -> None:
        handle.attrs["manifest"] = json.dumps({**json.loads(handle.attrs["manifest"]), **changes})

    return change


def _no_manifest(handle: h5py.File) -> None:
    handle.attrs["orbitals"] = json.dumps(json.loads(handle.attrs["manifest"])["orbitals"])
    del handle.attrs["manifest"]


FAULTS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "unknown subset": (lambda f: f["structures/toy"].attrs.update(split="extra"), "split 'extra' is none of"),
    "unknown layout": (lambda f: f.attrs.update(layout=9), "layout 9 is unknown"),
    "layout in words": (lambda f: f.attrs.update(layout="two"), "layout two is unknown, expected 1 or 2"),
    "two layouts": (lambda f: f.attrs.update(layout=[2, 2]), r"layout \[2, 2\] is unknown"),
    "half a layout": (lambda f: f.attrs.update(layout=2.5), r"layout 2\.5 is unknown"),
    "no manifest": (_no_manifest, "no attribute 'manifest', which layout 2 needs"),
    "spin in words": (_manifest(spinful="no"), "expected 'spinful' as true or false, found 'no'"),
    "quantum in words": (_manifest(hamiltonian_quantum="a"), "'hamiltonian_quantum' of the manifest .*, found 'a'"),
    "no quantum": (_manifest(overlap_quantum=None), "'overlap_quantum' of the manifest .*, found 'None'"),
    "quantum of nothing": (_manifest(overlap_quantum=0), "'overlap_quantum' .* above 0 and at most 1, found '0'"),
    "endless quantum": (_manifest(hamiltonian_quantum=10**400), "'hamiltonian_quantum' .* at most 1, found '1000"),
    "count in words": (lambda f: f["structures/toy"].attrs.update(n_pairs="x"), "x pairs for 3 .*attribute 'n_pairs'"),
    "no count": (lambda f: f["structures/toy"].attrs.__delitem__("n_pairs"), "None pairs for 3 atoms"),
    "half an element": (_replace("numbers", np.array([6, 16, 6.5])), "expected integers in 'numbers', found float64"),
    "complex elements": (
        _replace("numbers", np.array([6, 16, 6j])),
        "expected integers in 'numbers', found complex128",
    ),
    "complex positions": (
        _replace("positions", np.zeros((3, 3), dtype=complex)),
        "expected integers or real numbers in 'positions', found complex128",
    ),
    "pbc between": (_replace("pbc", np.full(3, 0.5)), "expected truth values or integers in 'pbc', found float64"),
    "manifest that is no JSON": (lambda f: f.attrs.update(manifest="{"), "expected JSON text"),
    "element without orbitals": (_replace("numbers", np.array([6, 8, 6])), "no orbitals for atomic number 8"),
    "another number of atoms": (_replace("numbers", np.array([6, 16])), r"'positions' of shape \(2, 3\)"),
    "matrix missing": (
        _replace("overlap", np.zeros(0, dtype=np.uint8)),
        "overlap: expected .* packed numbers|damaged",
    ),
    "matrix not packed": (_replace("overlap", np.zeros(9)), "expected integers in 'overlap', found float64"),
    "stream of another length": (_replace("hamiltonian", pack(np.zeros(5, dtype=np.int32))), "packed numbers"),
    "stream of text": (
        _replace("hamiltonian", np.frombuffer(b"some text", dtype=np.uint8)),
        "packed numbers|damaged compressed",
    ),
    "pairs missing": (_replace("pairs", None), "no numeric array 'pairs'"),
    "count beyond reason": (lambda f: f["structures/toy"].attrs.update(n_pairs=10**12), "1000000000000 pairs for 3"),
    "pairs of unknown atoms": (_replace("pairs", pack(np.full(45, 7, dtype=np.int32))), "names an atom outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_file_is_refused(fault: str, tmp_path: Path, make_structure: Maker) -> None:
    change, message = FAULTS[fault]
    path = tmp_path / "a.h5"
    write_compact(path, [("train", make_structure())])
    open_compact(path).read("toy")
    with h5py.File(path, "a") as handle:
        change(handle)
    with pytest.raises(DataError, match=message) as error:
        open_compact(path).read("toy")
    assert str(path) in str(error.value)


def test_missing_truncated_and_foreign_files_are_refused(
    tmp_path: Path, make_structure: Maker, truncate: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(DataError, match="file not found"):
        open_compact(path)
    write_compact(path, [("train", make_structure())])
    with pytest.raises(DataError, match="structure 'else': not in this file"):
        open_compact(path).read("else")
    truncate(path)
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        open_compact(path)
    with h5py.File(path, "w") as handle:
        handle["x"] = 1
    with pytest.raises(DataError, match="no compact file"):
        open_compact(path)


def test_parts_of_a_set_are_read_as_one(tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks) -> None:
    made, more = make_structure(name="b"), make_structure(seed=3, name="a")
    write_compact(tmp_path / "a.h5", [("train", made)])
    write_compact(tmp_path / "b.h5", [("train", more), ("test_twisted", make_structure(name="c"))])
    first, second = (open_compact(tmp_path / name) for name in ("a.h5", "b.h5"))
    both = CompactSet((first, second))
    assert both.subsets == {"train": ("a", "b"), "val": (), "test": (), "test_twisted": ("c",)}
    assert same_blocks(both.read("a").hamiltonian, second.read("a").hamiltonian)
    assert same_blocks(both.read("b").hamiltonian, first.read("b").hamiltonian)
    with pytest.raises(DataError, match="structure 'z': not in this file"):
        both.read("z")
    with pytest.raises(DataError, match="'b' is in more than one part"):
        CompactSet((first, first))
    write_compact(tmp_path / "c.h5", [("train", make_structure(spinful=True, name="spin"))])
    with pytest.raises(DataError, match="not of one system"):
        CompactSet((first, open_compact(tmp_path / "c.h5")))


def test_thirty_thousand_names_take_less_than_two_seconds(tmp_path: Path, make_structure: Maker) -> None:
    write_compact(tmp_path / "a.h5", [("train", make_structure())])
    names = [f"structure_{k}" for k in range(30_000)]
    parts = [names[:20_000], names[20_000:], names[19_999:]]
    files = [replace(open_compact(tmp_path / "a.h5"), subsets={"train": tuple(part)}) for part in parts]
    start = time.process_time()
    CompactSet((files[0], files[1]))
    with pytest.raises(DataError, match="'structure_19999' is in more than one part"):  # control
        CompactSet((files[0], files[2]))
    assert time.process_time() - start < 2


def test_bundling_merges_files_and_seals_them(tmp_path: Path, make_structure: Maker) -> None:
    facts = {"key": "toy", "engine": "none", "licence": "CC0-1.0"}
    write_compact(tmp_path / "a.h5", [("train", make_structure())], facts)
    write_compact(tmp_path / "b.h5", [("test_twisted", make_structure(name="more"))], facts)
    (tmp_path / "out").mkdir()
    path = bundle([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "out")
    manifest = verify_bundle(path)
    assert manifest["counts"] == {"train": 1, "val": 0, "test": 0, "test_twisted": 1}
    assert "NOT the published database" in manifest["note"]
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(DataError, match=r"checksum .* differs"):
        verify_bundle(path)
    path.with_suffix(".json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="differs from the manifest's None"):
        verify_bundle(path)
    assert bundle([tmp_path / "b.h5"], tmp_path / "out", "toy_more").name == "toy_more.h5"
    with pytest.raises(DataError, match="toy or toy_something, not 'more'"):
        bundle([tmp_path / "b.h5"], tmp_path / "out", "more")
    write_compact(tmp_path / "c.h5", [("test", make_structure(name="c"))], {"key": "another"})
    with pytest.raises(DataError, match="not of one system"):
        bundle([tmp_path / "a.h5", tmp_path / "c.h5"], tmp_path / "out")


def test_the_packing_tool_ends_wrong_input_with_a_message(
    tmp_path: Path, make_structure: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = str(tmp_path / "a.h5")
    write_compact(sound, [("train", make_structure())], {"key": "toy"})
    for words, message in (
        (["missing.h5", "--out", str(tmp_path)], "missing.h5: file not found"),
        ([sound, "--out", str(tmp_path / "nowhere")], "nowhere does not exist; create it first"),
    ):
        assert pack_files(words) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("tracegrad.data.bundle: error: ")
        assert message in captured.err
        assert captured.out == ""
    assert pack_files([sound, "--out", str(tmp_path)]) == 0
    assert "toy.h5" in capsys.readouterr().out
