"""Conversions keep values, subsets and names; targets that hold something are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tracegrad.data import Blocks, Structure, load_dataset, read_deeph, write_deeph
from tracegrad.data.compact import write_compact
from tracegrad.data.convert import convert
from tracegrad.errors import DataError

Maker = Callable[..., Structure]
SameBlocks = Callable[[Blocks | None, Blocks | None], bool]


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
