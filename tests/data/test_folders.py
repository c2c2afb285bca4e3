"""Datasets made of folders: the release's split, its hash, twisted structures, and split files that are wrong."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracegrad.data import Structure, folders, load_dataset, write_deeph
from tracegrad.data.convert import open_source
from tracegrad.data.dataset import BUNDLED_FOLDER
from tracegrad.data.folders import read_split, scan_folders, write_split
from tracegrad.data.splits import release_split, split_sha256
from tracegrad.errors import DataError

Maker = Callable[..., Structure]


@pytest.fixture
def folder_of_ten(tmp_path: Path, make_structure: Maker) -> Path:
    """Eight structures, and two twisted ones whose folders have the name of another."""
    root = tmp_path / "set"
    for k in range(8):
        write_deeph(make_structure(seed=k), root / "bulk" / str(k))
    for k in (0, 9):
        write_deeph(make_structure(seed=20 + k), root / "Twisted_test" / str(k))
    return root


def test_the_release_rule_is_numpys_shuffle_with_seed_42() -> None:
    names = [f"s{k:02d}" for k in range(10)]
    # np.random.seed(42); np.random.shuffle(np.arange(10)) gives this order (numpy's documented legacy stream).
    order = [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]
    split = release_split(names, (0.5, 0.2, 0.3), twisted=["t"])
    assert split["train"] == tuple(names[k] for k in order[:5])
    assert split["val"] == tuple(names[k] for k in order[5:7])
    assert split["test"] == tuple(names[k] for k in order[7:])
    assert split["test_twisted"] == ("t",)
    assert release_split(names, (5, 2, 3)) == {**split, "test_twisted": ()}
    assert release_split(names, (5, 2, 3), seed=43)["train"] != split["train"]


@pytest.mark.parametrize(("count", "sizes"), [(450, (0.6, 0.2, 0.2)), (7, (0.6, 0.2, 0.2)), (7, (1, 2, 1))])
def test_subsets_are_disjoint_and_of_the_stated_size(count: int, sizes: tuple[float, float, float]) -> None:
    split = release_split([str(k) for k in range(count)], sizes)
    chosen = [name for names in split.values() for name in names]
    assert len(chosen) == len(set(chosen))
    expected = [int(s * count) if sum(sizes) <= 1 + 1e-9 else int(s) for s in sizes]
    assert [len(split[s]) for s in ("train", "val", "test")] == expected


def test_more_structures_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(DataError, match=r"\[5, 3, 3\] needs 11 structures, found 10"):
        release_split([str(k) for k in range(10)], (5, 3, 3))


SIZES: dict[str, tuple[tuple[object, ...], str]] = {
    "ratios above 1": ((0.6, 0.2, 0.3), "sum to 1.1, expected at most 1"),
    "a negative ratio": ((0.6, -0.2, 0.3), "none of them negative"),
    "a negative count": ((5, -2, 3), "none of them negative"),
    "no number": ((0.6, float("nan"), 0.2), "three ratios"),
    "no finite number": ((float("inf"), 0.0, 0.0), "three ratios"),
    "counts and ratios": ((0.8, 0.2, 0), "three counts .integers. or as three ratios .floats, 0.0 for none."),
    "truth values": ((True, False, False), "three counts"),
    "text": (("5", "2", "3"), "three counts"),
    "two": ((5, 2), "train, val and test"),
}


@pytest.mark.parametrize("fault", SIZES)
def test_sizes_that_are_neither_counts_nor_ratios_are_refused(fault: str) -> None:
    sizes, message = SIZES[fault]
    with pytest.raises(DataError, match=message):
        release_split([str(k) for k in range(10)], sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ((1, 0, 0), [1, 0, 0]),
        ((1.0, 0.0, 0.0), [10, 0, 0]),
        ((0, 0, 0), [0, 0, 0]),
        ((0.6, 0.3, 0.1), [6, 3, 1]),  # they sum to 0.9999999999999999
        ((np.int64(5), np.int32(2), 3), [5, 2, 3]),
        ((np.float64(0.5), np.float32(0.25), 0.25), [5, 2, 2]),
    ],
    ids=str,
)
def test_integers_are_counts_and_floats_are_ratios(sizes: tuple[float, float, float], counts: list[int]) -> None:
    split = release_split([str(k) for k in range(10)], sizes)
    assert [len(split[s]) for s in ("train", "val", "test")] == counts


def test_the_hash_depends_on_the_members_only() -> None:
    text = '{"train":["a","b"],"val":[],"test":["c"],"test_twisted":[]}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert split_sha256({"train": ("b", "a"), "test": ("c",)}) == expected
    assert split_sha256({"train": ("b", "c"), "test": ("a",)}) != expected


def test_twisted_structures_are_only_tested(folder_of_ten: Path) -> None:
    folders = scan_folders(folder_of_ten, "toy")
    assert set(folders.split["test_twisted"]) == {"Twisted_test__0", "9"}
    assert sorted(n for s in ("train", "val", "test") for n in folders.split[s]) == [*"1234567", "bulk__0"]
    assert [len(folders.split[s]) for s in ("train", "val", "test")] == [4, 1, 3]


def test_twisted_structures_of_a_published_set_are_known_by_their_size(tmp_path: Path, make_structure: Maker) -> None:
    small = make_structure()
    cut = np.array([0])
    one = {label: getattr(small, label).select(cut) for label in ("hamiltonian", "overlap")}
    atom = Structure(**{**small.fields(), "numbers": small.numbers[:1], "positions": small.positions[:1], **one})
    for k in range(6):
        write_deeph(make_structure(seed=k), tmp_path / f"bulk{k}")
    for k in range(2):
        write_deeph(atom, tmp_path / f"large{k}")
    assert scan_folders(tmp_path, "BT").split["test_twisted"] == ("large0", "large1")  # BT has two
    assert scan_folders(tmp_path, "BB").split["test_twisted"] == ()  # BB has four: no guess


def test_a_folder_and_its_split_file_give_the_same_dataset(folder_of_ten: Path) -> None:
    direct = load_dataset("toy", folder_of_ten)
    path = write_split(scan_folders(folder_of_ten, "toy"))
    by_file = load_dataset("toy", path)
    assert path.name == "split.json"
    assert by_file.split_sha256 == direct.split_sha256 == json.loads(path.read_text())["sha256"]
    first = direct.test_twisted.names.index("Twisted_test__0")
    assert direct.test_twisted[first].name == "Twisted_test__0"
    assert direct.elements == ("C", "S")
    assert load_dataset("toy", folder_of_ten).split_sha256 == direct.split_sha256


def test_split_files_that_cannot_be_right_are_refused(folder_of_ten: Path) -> None:
    path = write_split(scan_folders(folder_of_ten, "toy"))
    sound = json.loads(path.read_text())
    read_split(path)

    def moved(content: dict[str, dict[str, dict[str, str]]]) -> None:
        name, place = content["subsets"]["train"].popitem()
        content["subsets"]["test"][name] = place

    def outside(content: dict[str, dict[str, dict[str, str]]]) -> None:
        content["subsets"]["train"] = dict.fromkeys(content["subsets"]["train"], "../elsewhere")

    def missing(content: dict[str, dict[str, dict[str, str]]]) -> None:
        content["subsets"]["train"] = dict.fromkeys(content["subsets"]["train"], "bulk/99")

    for change, message in ((moved, "the file says"), (outside, "one inside the folder"), (missing, "is missing")):
        content = json.loads(json.dumps(sound))
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            load_dataset("toy", folder_of_ten)
    path.write_text("{}")
    with pytest.raises(DataError, match="no split file"):
        load_dataset("toy", path)
    path.write_text(json.dumps({"subsets": {}, "sha256": split_sha256({})}))
    with pytest.raises(DataError, match="names no structures; expected at least one"):
        load_dataset("toy", path)
    path.write_text("\ufeff" + json.dumps(sound), encoding="utf-8")  # a byte order mark is no fault
    assert len(load_dataset("toy", path).train) == 4


def test_a_split_file_written_by_hand_needs_its_subsets_only(folder_of_ten: Path) -> None:
    made = json.loads(write_split(scan_folders(folder_of_ten, "toy")).read_text())
    train = dict(sorted(made["subsets"]["train"].items())[:2])
    rest = {name: place for name, place in made["subsets"]["train"].items() if name not in train}
    by_hand = {"format": "tracegrad-split", "subsets": {"train": train, "val": made["subsets"]["val"], "test": rest}}
    (folder_of_ten / "split.json").write_text(json.dumps(by_hand))
    dataset = load_dataset("toy", folder_of_ten)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [
        2,
        len(made["subsets"]["val"]),
        len(rest),
    ]
    assert dataset.split_sha256 != made["sha256"]
    (folder_of_ten / "split.json").write_text(json.dumps({**by_hand, "sha256": made["sha256"]}))
    with pytest.raises(DataError, match="the subsets hash to"):  # control: a hash is held to, where there is one
        load_dataset("toy", folder_of_ten)


def test_only_a_split_file_is_to_be_deleted(folder_of_ten: Path, tmp_path: Path) -> None:
    path = write_split(scan_folders(folder_of_ten, "toy"), folder_of_ten / "mine.json")
    assert load_dataset("toy", path).split_sha256 == load_dataset("toy", folder_of_ten).split_sha256
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "sha256": "0"}))
    with pytest.raises(DataError, match=r"the file says 0; delete the entry sha256 .* or the file to split anew"):
        load_dataset("toy", path)
    weights, record = tmp_path / "final.ckpt", tmp_path / "run.json"
    weights.write_bytes(b"PK\x03\x04\x80 weights of a week")
    record.write_text(json.dumps({**content, "format": "a run"}))
    for other in (weights, record):
        with pytest.raises(DataError, match=r"expected a compact \.h5 file, .* or split\.json, found") as error:
            open_source(other)
        assert "delete" not in str(error.value)


def test_structures_of_two_bases_or_spins_make_no_dataset(tmp_path: Path, make_structure: Maker) -> None:
    write_deeph(make_structure(), tmp_path / "a")
    write_deeph(make_structure(spinful=True), tmp_path / "b")
    with pytest.raises(DataError, match="b is spinful, a is not"):
        load_dataset("toy", tmp_path)
    (tmp_path / "b" / "info.json").unlink()
    (tmp_path / "b" / "orbital_types.dat").write_text("0 1 0\n0 1 2\n0 1 0\n")
    with pytest.raises(DataError, match="one dataset needs one basis"):
        load_dataset("toy", tmp_path)


def test_a_folder_of_several_sets_is_refused(folder_of_ten: Path) -> None:
    write_split(scan_folders(folder_of_ten, "toy"))
    assert len(load_dataset("toy", folder_of_ten).train) > 0
    with pytest.raises(DataError, match=r"expected one set of structures, found those of set, .* give the folder"):
        load_dataset("toy", folder_of_ten.parent)


@pytest.mark.parametrize(
    ("key", "source", "message"),
    [
        ("BG", "MG", "found those of MG, C without spin-orbit coupling"),  # the same element
        ("MM", "MG", "expected data of MM .*Mo, S without"),
        ("BS", "BT", "found those of BT, Bi, Te with spin-orbit coupling"),
    ],
)
def test_data_are_not_taken_for_those_of_another_database(key: str, source: str, message: str) -> None:
    file = BUNDLED_FOLDER / f"{source}.h5"
    with pytest.raises(DataError, match=message):
        load_dataset(key, file)
    assert load_dataset(source, file).key == source
    assert load_dataset("my own name", file).key == "my own name"


def test_sources_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="not found; expected a compact"):
        load_dataset("toy", tmp_path / "nowhere")
    monkeypatch.setenv("TRACEGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match="fetch the published data first: tracegrad data fetch MG"):
        load_dataset("MG", "published")


def test_untwisted_is_no_twist(tmp_path: Path, make_structure: Maker) -> None:
    plain = ("untwisted/a", "non-twisted/b", "nontwisted/c", "bulk/d", "un_twisted/e", "not_twisted/f")
    for name in (*plain, "twisted/x", "runtwist1/y", "xenon_twisted/z"):
        write_deeph(make_structure(), tmp_path / name)
    assert set(scan_folders(tmp_path, "toy").split["test_twisted"]) == {"x", "y", "z"}


def test_no_structure_is_lost_to_a_name_or_a_link(tmp_path: Path, make_structure: Maker) -> None:
    for name in ("a/s", "b/s", "a__s"):
        write_deeph(make_structure(), tmp_path / "same" / name)
    with pytest.raises(DataError, match="would both be named a__s"):
        scan_folders(tmp_path / "same", "toy")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "there").symlink_to(tmp_path / "same" / "a")
    (tmp_path / "linked" / "round").symlink_to(tmp_path / "linked")
    assert list(scan_folders(tmp_path / "linked", "toy").paths.values()) == ["there/s"]
    for k in range(5):
        write_deeph(make_structure(seed=k), tmp_path / "set" / f"run_{k}")
    plain = scan_folders(tmp_path / "set", "toy").split
    (tmp_path / "set" / "latest").symlink_to(tmp_path / "set" / "run_4")  # beside its target
    (tmp_path / "set" / "run_0" / "project").symlink_to(tmp_path)  # upwards
    (tmp_path / "set" / "home").symlink_to(tmp_path)
    assert scan_folders(tmp_path / "set", "toy").split == plain


def test_twenty_thousand_folders_are_named_and_split_in_less_than_three_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / kind / f"structure_{k}" for kind in ("bulk", "twisted") for k in range(10_000)]
    places[-1] = places[-1].with_name("alone")
    monkeypatch.setattr(folders, "find_deeph_folders", lambda _: places)
    start = time.process_time()
    found = scan_folders(tmp_path, "toy")
    assert time.process_time() - start < 3
    assert [len(names) for names in found.split.values()] == [6000, 2000, 2000, 10_000]
    twice = [name for name, path in found.paths.items() if name == path.replace("/", "__")]
    assert set(found.paths) - set(twice) == {"structure_9999", "alone"}  # the one of the bulk has no namesake left
    assert len(twice) == 19_998


def test_spin_of_legacy_folders_that_do_not_tell_it_is_that_of_their_blocks(
    tmp_path: Path, make_structure: Maker
) -> None:
    for k in range(5):
        write_deeph(make_structure(spinful=True, seed=k), tmp_path / str(k))
    (tmp_path / "3" / "info.json").unlink()
    dataset = load_dataset("toy", tmp_path)
    assert dataset.spinful
    for k in range(5):
        (tmp_path / str(k) / "info.json").unlink(missing_ok=True)
    dataset = load_dataset("toy", tmp_path)
    assert dataset.spinful
    assert dataset.train[0].spinful
