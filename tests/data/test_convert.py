"""Conversions keep values, subsets and names; targets that hold something are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tracegrad.data import DATABASES, Blocks, Structure, load_dataset, read_deeph, write_deeph
from tracegrad.data.compact import open_compact, write_compact
from tracegrad.data.convert import convert, open_source
from tracegrad.errors import DataError

Maker = Callable[..., Structure]
SameBlocks = Callable[[Blocks | None, Blocks | None], bool]


def test_a_path_is_never_taken_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MG").mkdir()
    assert len(open_source("MG")[0]) == 36  # control: the bundled set
    with pytest.raises(DataError, match="MG: no DeepH structure in it or below"):
        open_source(Path("./MG"))


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
def test_a_circle_through_all_forms_is_exact(
    spinful: bool, tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks
) -> None:
    made = [
        (subset, make_structure(spinful=spinful, seed=seed, numbers=(6, 6, 16), name=f"toy_{seed}"))
        for seed, subset in enumerate(("train", "train", "val", "test", "test_twisted"))
    ]
    write_compact(tmp_path / "a.h5", made)
    assert convert(tmp_path / "a.h5", tmp_path / "b", "deeph") == 5
    assert convert(tmp_path / "b", tmp_path / "c", "deeph-new") == 5
    assert convert(tmp_path / "c" / "split.json", tmp_path / "d.h5", "compact") == 5
    first, last = (load_dataset("toy", tmp_path / name) for name in ("a.h5", "d.h5"))
    assert first.split_sha256 == last.split_sha256 == load_dataset("toy", tmp_path / "b").split_sha256
    for subset, structures in first.subsets.items():
        for ours, theirs in zip(structures, last.subsets[subset], strict=True):
            assert same_blocks(ours.hamiltonian, theirs.hamiltonian)
            assert same_blocks(ours.overlap, theirs.overlap)
            assert ours.positions.tolist() == theirs.positions.tolist()
    assert not same_blocks(first.train[0].hamiltonian, first.train[1].hamiltonian)


def test_one_folder_becomes_one_folder(tmp_path: Path, make_structure: Maker, same_blocks: SameBlocks) -> None:
    made = make_structure(numbers=(6, 6, 16))
    write_deeph(made, tmp_path / "a")
    assert convert(tmp_path / "a", tmp_path / "b", "deeph-new") == 1
    found = read_deeph(tmp_path / "b").hamiltonian
    assert found is not None
    assert same_blocks(found.hermitian_half(), made.hamiltonian)


@pytest.mark.parametrize("form", ["deeph", "deeph-new"])
@pytest.mark.parametrize("cause", [KeyboardInterrupt, DataError])
def test_a_conversion_that_stops_in_the_middle_leaves_nothing(
    form: str, cause: type[BaseException], tmp_path: Path, make_structure: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    subsets = ("train", "val", "test")
    write_compact(tmp_path / "a.h5", [(s, make_structure(seed=k, name=f"toy_{k}")) for k, s in enumerate(subsets)])
    written: list[Path] = []

    def stops_at_the_third(structure: Structure, folder: Path, form: str) -> Path:
        if len(written) == 2:
            raise cause
        written.append(write_deeph(structure, folder, form))
        return folder

    monkeypatch.setattr("tracegrad.data.convert.write_deeph", stops_at_the_third)
    with pytest.raises(cause):
        convert(tmp_path / "a.h5", tmp_path / "b", form)
    assert len(written) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    monkeypatch.undo()
    assert convert(tmp_path / "a.h5", tmp_path / "b", form) == 3
    assert load_dataset("toy", tmp_path / "b").val.names == ("toy_1",)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_a_compact_file_tells_what_is_in_it_and_not_where_it_was_made(tmp_path: Path, make_structure: Maker) -> None:
    write_deeph(make_structure(), tmp_path / "hidden" / "a")
    convert(tmp_path / "hidden", tmp_path / "a.h5", "compact")
    assert b"hidden" not in (tmp_path / "a.h5").read_bytes()
    assert str(open_compact(tmp_path / "a.h5").read("a").metadata["source"]) == str(tmp_path / "a.h5")
    assert convert("BT", tmp_path / "BT.h5", "compact") == sum(DATABASES["BT"].counts_bundled)
    manifest = open_compact(tmp_path / "BT.h5").manifest
    assert tuple(manifest["counts"].values()) == DATABASES["BT"].counts_bundled
    assert manifest["engine"] == DATABASES["BT"].manifests[0]["engine"]
    assert not {"seeds", "kmeshes"} & manifest.keys()  # those of the first part would be wrong for the whole


def test_targets_and_forms_that_do_not_fit_are_refused(tmp_path: Path, make_structure: Maker) -> None:
    write_deeph(make_structure(), tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    for target, form, message in (
        ("full", "deeph", "already there"),
        ("b", "compact", "ending in .h5"),
        ("b", "csv", "unknown form 'csv'"),
    ):
        with pytest.raises(DataError, match=message):
            convert(tmp_path / "a", tmp_path / target, form)
    with pytest.raises(DataError, match="nowhere: not found"):
        convert(tmp_path / "nowhere", tmp_path / "b", "deeph")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]


def test_a_key_is_converted_whole_where_a_structure_folder_has_its_name(
    tmp_path: Path, make_structure: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_deeph(make_structure(), tmp_path / "MG")
    assert convert("MG", tmp_path / "all", "deeph") == 36
    assert convert("./MG", tmp_path / "one", "deeph") == 1
