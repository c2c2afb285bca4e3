"""``tracegrad data check`` ends with code 1 on files damaged in every way that it looks for, in each form they have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracegrad.cli import main
from tracegrad.data import Structure, load_dataset, write_deeph
from tracegrad.data.compact import write_compact
from tracegrad.data.deeph import reorder_orbitals
from tracegrad.so3.conventions import to_convention

H, S = "hamiltonians.h5", "overlaps.h5"
ON_SITE, PAIR = "[0, 0, 0, 1, 1]", "[0, 0, 0, 1, 2]"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with MoS2 and Bi2Te3 in the legacy form, MoS2 in the new one and as a compact file."""
    folder = tmp_path_factory.mktemp("sound")
    sound = {key: load_dataset(key).test[0] for key in ("MM", "BT")}
    for key, structure in sound.items():
        write_deeph(structure, folder / key)
    write_deeph(sound["MM"], folder / "new", "new")
    write_compact(folder / "compact.h5", [("test", sound["MM"])])
    return folder


def edit(file: str, change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    """Make a damage of one HDF5 file of a folder."""

    def damage(folder: Path) -> None:
        with h5py.File(folder / file, "a") as handle:
            change(handle)

    return damage


def change_block(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """Make a change of one block."""

    def write(handle: h5py.File) -> None:
        handle[name][...] = change(handle[name][()])

    return write


def first(array: np.ndarray, value: complex) -> np.ndarray:
    """The block with another first element."""
    array[0, 0] = value
    return array


def drop_near_pairs(folder: Path) -> None:
    """Remove the shortest bonds of the first atom from both matrices, in both directions."""
    with h5py.File(folder / S, "a") as overlap, h5py.File(folder / H, "a") as hamiltonian:
        largest = sorted(
            (key for key in overlap if json.loads(key)[3] == 1 and key != ON_SITE),
            key=lambda key: -np.abs(overlap[key][()]).max(),
        )
        for key in largest[:2]:
            x, y, z, i, j = json.loads(key)
            for name in (key, json.dumps([-x, -y, -z, j, i])):
                del overlap[name], hamiltonian[name]


def store_twice(handle: h5py.File) -> None:
    """Store the first pair of the new form once more."""
    size = int(handle["chunk_boundaries"][1])
    for name, extra in (
        ("atom_pairs", handle["atom_pairs"][:1]),
        ("chunk_shapes", handle["chunk_shapes"][:1]),
        ("entries", handle["entries"][:size]),
        ("chunk_boundaries", handle["chunk_boundaries"][-1:] + size),
    ):
        whole = np.concatenate([handle[name][()], extra])
        del handle[name]
        handle[name] = whole


def rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """Make a damage of a text file."""
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))  # type: ignore[func-returns-value]


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "an atom less": ("MM", rewrite("element.dat", lambda t: "\n".join(t.split()[:-1])), "unreadable"),
    "species exchanged": (
        "MM",
        rewrite("element.dat", lambda t: "\n".join([*t.split()[1:], t.split()[0]])),
        "unreadable",
    ),
    "other shells": ("MM", rewrite("orbital_types.dat", lambda t: t.replace("2", "1")), "unreadable"),
    "shells in another order": ("MM", rewrite("orbital_types.dat", lambda t: t.replace("0  0  1", "0  1  0")), ""),
    "a lattice vector reversed": ("MM", rewrite("lat.dat", lambda t: t.replace("-", "")), "no known convention"),
    "not Hermitian": ("MM", edit(H, change_block(PAIR, lambda b: first(b, b[0, 0] + 1e-3))), "not Hermitian"),
    "overlap not positive": ("MM", edit(S, change_block(ON_SITE, lambda b: 0 * b)), "not positive definite"),
    "a NaN": ("MM", edit(H, change_block(PAIR, lambda b: first(b, np.nan))), "NaN"),
    "an infinity": ("BT", edit(H, change_block(PAIR, lambda b: first(b, np.inf))), "NaN"),
    "a block of another shape": ("MM", edit(H, lambda h: _replace(h, PAIR, np.zeros((2, 3)))), "shape"),
    "a pair twice": ("new", edit("hamiltonian.h5", store_twice), "twice"),
    "bonds missing": ("MM", drop_near_pairs, "within the cutoff have no block"),
    "one direction missing": ("MM", edit(H, lambda h: h.__delitem__(PAIR)), "reversed"),
    "on-site block missing": ("MM", edit(H, lambda h: h.__delitem__(ON_SITE)), "on-site"),
    "S without H": ("MM", edit(H, lambda h: _remove_both(h, PAIR)), "no Hamiltonian block"),
    "time reversal broken": ("BT", edit(H, change_block(ON_SITE, lambda b: first(b, b[0, 0] + 1e-3))), "time reversal"),
    "half of the file": ("MM", lambda folder: _halve(folder / H), "unreadable"),
    "half of the overlap": ("new", lambda folder: _halve(folder / "overlap.h5"), "unreadable"),
}


def _replace(handle: h5py.File, name: str, value: np.ndarray) -> None:
    del handle[name]
    handle[name] = value


def _remove_both(handle: h5py.File, name: str) -> None:
    x, y, z, i, j = json.loads(name)
    del handle[name], handle[json.dumps([-x, -y, -z, j, i])]


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def faults(source: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Check by the command; return all faults as one text."""
    assert main(["data", "check", str(source), "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is (code == 0)
    return " | ".join(fault for structure in report["structures"] for fault in structure["faults"])


@pytest.mark.parametrize("form", ["MM", "BT", "new", "compact.h5"])
def test_sound_files_end_with_code_0(form: str, originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(originals / form, capsys, 0) == ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_ends_with_code_1(
    damage: str, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, change, message = DAMAGES[damage]
    shutil.copytree(originals / form, tmp_path / form)
    change(tmp_path / form)
    assert message in faults(tmp_path / form, capsys, 1)


def test_damaged_compact_files_end_with_code_1(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.h5"
    shutil.copy(originals / "compact.h5", path)
    with h5py.File(path, "a") as handle:
        packed = handle["structures/MM_test_000/hamiltonian"]
        packed[...] = packed[()][::-1]
    assert "unreadable" in faults(path, capsys, 1)
    for key, name in (("MM", "MoS2"), ("BT", "Bi2Te3")):
        sound = load_dataset(key).test[0]
        assert sound.overlap is not None
        for n, wrong in enumerate(
            (
                reorder_orbitals(sound, "openmx", to_convention),
                Structure(**{**sound.fields(), "overlap": sound.overlap.with_values(-sound.overlap.values)}),
            )
        ):
            path = tmp_path / f"{name}_{n}.h5"
            write_compact(path, [("test", wrong)])
            assert ("openmx fits", "not positive definite")[n] in faults(path, capsys, 1)


def test_another_zero_of_energy_ends_with_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = load_dataset("MG").test
    for k in range(3):
        structure = test[k]
        hamiltonian, overlap = structure.hamiltonian, structure.overlap
        assert hamiltonian is not None
        assert overlap is not None
        moved = hamiltonian.with_values(hamiltonian.values + (1.0 if k == 1 else 0.0) * overlap.values)
        write_deeph(Structure(**{**structure.fields(), "hamiltonian": moved}), tmp_path / str(k))
    assert "zero of energy" in faults(tmp_path, capsys, 1)
