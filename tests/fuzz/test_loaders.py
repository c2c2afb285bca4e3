"""Loaders meet files that no program would write: each is read, or refused with a TracegradError, in bounded time."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracegrad.config import load_config
from tracegrad.data import Blocks, Structure, load_dataset, read_deeph, write_deeph
from tracegrad.data.check import check_one
from tracegrad.data.compact import open_compact, write_compact
from tracegrad.data.deeph import parse_key
from tracegrad.data.folders import read_split
from tracegrad.data.hdf5 import open_hdf5
from tracegrad.errors import DataError, TracegradError

SECONDS, MEGABYTES = 10, 300  # of one file of a few kB
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = st.lists(st.integers(-(2**70), 2**70) | st.floats() | st.none() | st.text(max_size=3), max_size=7).map(
    json.dumps
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.lists(st.lists(st.floats(width=32) | st.integers(-200, 200), max_size=5), max_size=5).map(
    lambda rows: "\n".join(" ".join(map(str, row)) for row in rows)
)


@contextmanager
def bounded() -> Iterator[None]:
    """Allow refusal by our own error only, within the time and the memory stated."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    length = 1
    RESET.write_text("5")  # the peak is that of now
    before = peak()
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except TracegradError as error:
        length = len(str(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert 0 < length < 5000
    assert peak() - before < MEGABYTES * 1024, "too much memory"


def peak() -> int:
    """Largest memory of this process since the last reset, kB."""
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0])


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Return a dimer with both matrices."""
    random = np.random.default_rng(0)
    one = {
        key: random.normal(size=(4, 4)) for key in ((0, 0, 0, 0, 0), (0, 0, 0, 1, 1), (0, 0, 0, 0, 1), (1, 0, 0, 0, 1))
    }
    blocks = Blocks.from_dict({k: (b + b.T) / 2 if k[3] == k[4] else b for k, b in one.items()})
    positions, pbc = np.array([[0.0, 0, 0], [1.2, 0.1, 0]]), np.ones(3, dtype=bool)
    fields = (np.array([6, 6]), positions, 5 * np.eye(3), pbc, {6: (0, 1)}, False, blocks, blocks)
    return Structure(*fields, name="dimer").validate()


@pytest.fixture(scope="module")
def originals(structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one structure in each form."""
    folder = tmp_path_factory.mktemp("originals")
    write_deeph(structure, folder / "legacy")
    write_deeph(structure, folder / "new", "new")
    write_compact(
        folder / "MG.h5", [("train", structure), ("test", structure.__class__(**{**structure.fields(), "name": "b"}))]
    )
    return folder


@pytest.fixture
def damaged(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of fresh copies of a file or folder."""

    def copy(name: str) -> Path:
        target = tmp_path / name
        shutil.rmtree(target, ignore_errors=True)
        if (originals / name).is_dir():
            shutil.copytree(originals / name, target)
        else:
            shutil.copy(originals / name, target)
        return target

    return copy


def test_the_originals_are_read_and_a_crash_would_be_seen(originals: Path) -> None:
    assert read_deeph(originals / "legacy").n_atoms == read_deeph(originals / "new").n_atoms == 2
    assert open_compact(originals / "MG.h5").read("dimer").n_atoms == 2
    with pytest.raises(KeyError), bounded():
        raise KeyError("a crash")
    with bounded():
        raise TracegradError("a refusal")
    for _ in range(2):  # the second time the memory has been that large before
        with pytest.raises(AssertionError, match="too much memory"), bounded():
            np.ones((MEGABYTES + 20) * 2**17)


@EXAMPLES
@given(st.text(max_size=30) | KEYS)
def test_keys(text: str) -> None:
    with bounded():
        key = parse_key(text, 3, Path("h.h5"))
        assert len(key) == 5
        assert all(isinstance(part, int) for part in key)
        assert 0 <= min(key[3:]) <= max(key[3:]) < 3


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "__import__('os')", "[1, 0, 0, 1, 1" + "0" * 5000 + "]", "[0,0,0,NaN,1]"]
)
def test_keys_made_to_hurt(text: str) -> None:
    with pytest.raises(TracegradError):
        parse_key(text, 3, Path("h.h5"))


@EXAMPLES
@given(name=st.text(st.characters(exclude_characters="\x00/."), min_size=1, max_size=12) | KEYS, data=st.data())
def test_datasets_of_any_key_shape_and_type(name: str, data: st.DataObject, damaged: Callable[[str], Path]) -> None:
    folder = damaged("legacy")
    kinds = st.sampled_from(["f4", "f8", "c16", "i4", "S3", "u1"])
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    with h5py.File(folder / "hamiltonians.h5", "a") as handle:
        try:
            handle.create_dataset(name, shape=shape, dtype=data.draw(kinds))
        except (ValueError, UnicodeEncodeError):
            return  # not a name of HDF5
    with bounded():
        read_deeph(folder)


@pytest.mark.parametrize("form", ["legacy", "new"])
@EXAMPLES
@given(content=JSON.map(json.dumps) | st.text(max_size=40) | st.binary(max_size=40))
def test_info(form: str, content: str | bytes, damaged: Callable[[str], Path]) -> None:
    folder = damaged(form)
    (folder / "info.json").write_bytes(
        content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    )
    with bounded():
        read_deeph(folder)


@pytest.mark.parametrize("form", ["legacy", "new"])
@EXAMPLES
@given(
    key=st.sampled_from(
        ["isspinful", "fermi_level", "fermi_energy_eV", "spinful", "elements_orbital_map", "atoms_quantity"]
    ),
    value=JSON,
)
def test_values_in_info(form: str, key: str, value: Any, damaged: Callable[[str], Path]) -> None:
    folder = damaged(form)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, key: value}))
    with bounded():
        assert isinstance(check_one(read_deeph(folder, validate=False)).fermi_energy_eV, float | int | None)
        shutil.rmtree(folder.parent / "again", ignore_errors=True)
        write_deeph(read_deeph(folder), folder.parent / "again")


@pytest.mark.parametrize("value", ["-4.2 eV", [1], float("nan"), True, 10**400, None, -4.2], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize(("form", "key"), [("legacy", "fermi_level"), ("new", "fermi_energy_eV")])
def test_a_fermi_level_is_a_finite_number_or_none(
    form: str, key: str, value: Any, damaged: Callable[[str], Path]
) -> None:
    folder = damaged(form)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, key: value}))
    sound = value in (None, -4.2)
    with nullcontext() if sound else pytest.raises(DataError, match=r"info\.json: expected the Fermi level as a "):
        assert read_deeph(folder, validate=False).metadata["fermi_energy_eV"] == value


@pytest.mark.parametrize("file", ["element.dat", "lat.dat", "site_positions.dat", "orbital_types.dat"])
@EXAMPLES
@given(content=NUMBERS | st.text(max_size=40) | st.binary(max_size=40))
def test_tables(file: str, content: str | bytes, damaged: Callable[[str], Path]) -> None:
    folder = damaged("legacy")
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    with bounded():
        read_deeph(folder)


@EXAMPLES
@given(lines=st.lists(NUMBERS | st.text(max_size=20), max_size=9))
def test_poscar(lines: list[str], damaged: Callable[[str], Path]) -> None:
    folder = damaged("new")
    (folder / "POSCAR").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with bounded():
        read_deeph(folder)


@pytest.mark.parametrize("file", ["legacy/hamiltonians.h5", "new/hamiltonian.h5", "MG.h5"])
@EXAMPLES
@given(data=st.data())
def test_flipped_and_lost_bytes(file: str, data: st.DataObject, damaged: Callable[[str], Path]) -> None:
    top = damaged(file.split("/")[0])
    path = top / file.split("/")[1] if "/" in file else top
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with bounded():
        if "/" in file:
            read_deeph(top)
        else:
            for subset in load_dataset("MG", source=path).subsets.values():
                list(subset)


@pytest.mark.parametrize("index", [0, 1], ids=["free space", "an object"])
def test_a_heap_that_the_library_would_walk_forever(index: int, damaged: Callable[[str], Path]) -> None:
    path = damaged("MG.h5")
    content = bytearray(path.read_bytes())
    place = content.find(b"GCOL") + 16  # the first object of the global heap, in which the manifest lies
    size = 0 if index == 0 else 2**64 - 16
    content[place : place + 16] = struct.pack("<HHIQ", index, 0, 0, size)
    path.write_bytes(content)
    with bounded(), pytest.raises(DataError, match="global heap"):
        open_compact(path)


TEXT = "x" * 2000


@pytest.mark.parametrize("formats", ["earliest", ("v110", "v110")], ids=["old headers", "new headers"])
@pytest.mark.parametrize(
    ("field", "damage"),
    [
        ("length", b""),
        ("length", b"\xff\xff\0"),
        ("length", b"\xff\xff\xff\xff"),
        ("reserved", b"\1\xff\xff\0"),
        ("kind", b"\x26"),
    ],
    ids=["none", "longer than its file", "gigabytes long", "that behind a reserved byte", "of no kind"],
)
def test_damaged_texts_are_refused_before_the_library_meets_them(
    formats: str | tuple[str, str], field: str, damage: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "text.h5"
    with h5py.File(path, "w", libver=formats) as handle:
        handle.attrs["manifest"] = TEXT
    content = bytearray(path.read_bytes())
    length = content.find(struct.pack("<IQ", len(TEXT), content.find(b"GCOL")))  # then where its heap lies
    start = content.rfind(b"\x19\x01", 0, length)  # of the type: its class, the kind
    place = {"length": length, "reserved": length - 1, "kind": start + 1}[field]
    content[place : place + len(damage)] = damage
    path.write_bytes(content)
    refused = pytest.raises(DataError, match=f"attribute at byte {start} is") if damage else nullcontext()
    with bounded(), refused, open_hdf5(path) as handle:
        assert handle.attrs["manifest"] == TEXT


def test_a_number_type_that_numpy_lacks(damaged: Callable[[str], Path]) -> None:
    folder = damaged("legacy")
    with h5py.File(folder / "hamiltonians.h5", "a") as handle:
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_ebias(20_000)
        del handle["[0, 0, 0, 1, 2]"]
        h5py.h5d.create(handle.id, b"[0, 0, 0, 1, 2]", kind, h5py.h5s.create_simple((4, 4)))
    with bounded(), pytest.raises(DataError, match="readable HDF5"):
        read_deeph(folder)


@EXAMPLES
@given(content=JSON.map(json.dumps) | st.text(max_size=40))
def test_split_files(content: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(content, encoding="utf-8", errors="replace")
    with bounded():
        read_split(path)


@EXAMPLES
@given(content=JSON.map(json.dumps) | st.text(max_size=60) | st.binary(max_size=60))
def test_yaml(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    with bounded():
        load_config(path)


@EXAMPLES
@given(section=st.sampled_from(["data", "model", "training"]), data=st.data())
def test_values_in_yaml(section: str, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    known = ["hidden_irreps", "r_max", "epochs", "loggers", "dataset", "seed", "hermitian", "setting"]
    content = data.draw(st.dictionaries(st.sampled_from(known) | st.text(max_size=6), JSON, max_size=3))
    path.write_text(json.dumps({section: content}))
    with bounded():
        load_config(path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        "[" * 20_000,
        "!!python/object/apply:os.system ['exit 1']",
        "? " * 3000,
        "data: *none",
        "training: {seed: 0x" + "f" * 5000 + "}",
        "training: {loggers: [0x" + "f" * 5000 + "]}",
        "training: {0x" + "f" * 5000 + ": 1}",
        "recipe: 0x" + "f" * 5000,
        "settings: {0x" + "f" * 5000 + ": 1}",
    ],
    ids=["bomb", "deep", "code", "keys", "alias", "number", "list", "key", "recipe", "setting"],
)
def test_yaml_made_to_hurt(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with bounded(), pytest.raises(TracegradError):
        load_config(path)
