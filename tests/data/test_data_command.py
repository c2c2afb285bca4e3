"""The command ``tracegrad data``: exit codes, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracegrad.cli import main
from tracegrad.data import DATABASES, Structure, load_dataset, write_deeph
from tracegrad.data.compact import write_compact


def test_the_list_names_all_six(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert all(entry.key in text and entry.system in text for entry in DATABASES.values())
    assert "270/90/90/0" in text
    assert main(["data", "list", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["BB"]["preset"]["learning_rate"] == 0.005
    assert table["MG"]["counts_bundled"] == [23, 6, 7, 0]


def test_a_check_passes_or_fails_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_deeph(load_dataset("BB").test[0], tmp_path / "a")
    assert main(["data", "check", str(folder)]) == 0
    assert "all good" in capsys.readouterr().out
    (folder / "orbital_types.dat").write_text("0 1 0 1 2\n" * 4)  # another order of the shells, of equal size
    assert main(["data", "check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["counts"] == {"test": 1}
    assert any("orbital order" in fault for fault in report["structures"][0]["faults"])
    (folder / "orbital_types.dat").write_text("0 0 1 1 2\n" * 4)
    with h5py.File(folder / "overlaps.h5", "a") as handle:
        handle["[0, 0, 0, 1, 1]"][0, 0] = np.inf
    assert main(["data", "check", str(folder), "--json"]) == 1
    text = capsys.readouterr().out  # Infinity and NaN are no JSON
    measured = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the output"))["structures"][0]
    assert (measured["nan"], measured["overlap_hermiticity"]) == (1, None)
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert "not found; expected MG, MM" in capsys.readouterr().err


def test_a_set_without_structures_is_not_called_good(
    tmp_path: Path, make_structure: Callable[..., Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.h5"
    write_compact(path, [("test", make_structure())])
    with h5py.File(path, "a") as handle:
        del handle["structures/toy"]
    assert main(["data", "check", str(path)]) == 1
    text = capsys.readouterr().out
    assert "no structures; expected at least one" in text
    assert "all good" not in text
    assert main(["data", "check", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_names_that_look_like_markup_are_printed_as_they_are(
    tmp_path: Path, make_structure: Callable[..., Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["MoS2[110]", "[bold]a", ":smile:"]
    path = tmp_path / "[red]" / "[" / "red].h5"  # its text holds the end of a style that has no beginning
    path.parent.mkdir(parents=True)
    write_compact(path, [("test", make_structure(name=name)) for name in names])
    main(["data", "check", str(path)])
    text = capsys.readouterr().out
    assert f"{path}: - means" in text
    assert all(f"│ {name} " in text for name in names)
    assert "│ a " not in text  # control


def test_conversion_and_fetch_report_what_they_cannot_do(
    tmp_path: Path, make_structure: Callable[..., Structure], capsys: pytest.CaptureFixture[str]
) -> None:
    write_deeph(make_structure(), tmp_path / "a")
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "b.h5"), "--to", "compact"]) == 0
    assert "1 structures in the form compact" in capsys.readouterr().out
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "b.h5"), "--to", "compact"]) == 2
    assert "already there" in capsys.readouterr().err
    assert main(["data", "fetch", "XX", "--out", str(tmp_path / "x")]) == 2
    assert main(["data", "fetch", "MG", "--out", str(tmp_path / "x"), "--sha256", "12"]) == 2
    assert "expected 64 hexadecimal digits" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
