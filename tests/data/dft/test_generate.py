"""Sets of structures: finished ones are kept, failed ones are reported and never stored.

The engine is played by a script that unpacks a recorded run, or that leaves an output without convergence.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracegrad.cli import generate as command
from tracegrad.data import load_dataset
from tracegrad.data.compact import open_compact
from tracegrad.data.deeph import read_deeph
from tracegrad.data.dft import generate as generation
from tracegrad.data.dft.calculation import Request
from tracegrad.data.dft.generate import RECORD_NAME, Outcome, Report, generate, make_one, make_requests
from tracegrad.data.folders import scan_folders, write_split
from tracegrad.data.structure import Structure
from tracegrad.errors import DataError

RECORDED = Path(__file__).parent / "recorded"
TO_COMPACT_EV = 0.51 * 1e-6 * 27.2114

# Reads the input first and appends to an output that is there, as the engine does; every run leaves one line in
# calls.txt.
ENGINE = """#!{python}
import pathlib, shutil, sys
text = pathlib.Path("run.inp").read_text()
with open({calls!r}, "a") as calls:
    calls.write([line.split()[1] for line in text.splitlines() if "METHOD" in line and "MIXING" in line][0] + "\\n")
kept, earlier = text, pathlib.Path("run.out").read_text() if pathlib.Path("run.out").exists() else ""
{body}
pathlib.Path("run.out").write_text(earlier + pathlib.Path("run.out").read_text())
"""
CONVERGES = 'shutil.unpack_archive({archive!r}, ".", filter="data"); pathlib.Path("run.inp").write_text(kept)'
FAILS = 'pathlib.Path("run.out").write_text("  *** WARNING: SCF run NOT converged ***")'
ABORTS = 'pathlib.Path("run.out").write_text(" * [ABORT]   *\\n * The basis set was not found   *")'
PULAY_CONVERGES = 'if "PULAY" in text:\n    ' + CONVERGES + "\nelse:\n    " + FAILS


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], list[str]]]:
    """Return a function that puts an engine on the path and returns the mixings of its runs so far."""

    def install(body: str, archive: str = "carbon_dimer") -> Callable[[], list[str]]:
        program, calls = tmp_path / "bin" / "cp2k.psmp", tmp_path / "calls.txt"
        program.parent.mkdir(exist_ok=True)
        filled = body.replace("{archive!r}", repr(str(RECORDED / f"{archive}.tar.xz")))
        program.write_text(ENGINE.format(python=sys.executable, calls=str(calls), body=filled), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return lambda: calls.read_text(encoding="utf-8").split() if calls.exists() else []

    return install


def read_back(out: Path, name: str, form: str) -> Structure:
    if form == "deeph":
        return read_deeph(out / name)
    return open_compact(out / "MG.h5").read(name)


@pytest.mark.parametrize("form", ["deeph", "compact"])
def test_a_stored_structure_is_the_computed_one(
    form: str, tmp_path: Path, engine: Any, recordings: dict[str, Any], read: Callable[..., Any]
) -> None:
    engine(CONVERGES)
    request = recordings["carbon_dimer"]
    report = generate([request], tmp_path / "out", form)
    assert report.names("done") == [request.name]
    stored, expected = read_back(tmp_path / "out", request.name, form), read("carbon_dimer").structure()
    assert stored.metadata["fermi_energy_eV"] == pytest.approx(expected.metadata["fermi_energy_eV"])
    for label, tolerance in (("hamiltonian", TO_COMPACT_EV), ("overlap", 1e-8)):
        mine, theirs = (getattr(s, label).completed().to_dict() for s in (stored, expected))
        assert mine.keys() == theirs.keys()
        worst = max(abs(mine[key] - theirs[key]).max() for key in mine)
        assert worst <= (tolerance if form == "compact" else 1e-12)
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize("form", ["deeph", "compact"])
def test_finished_structures_are_kept_and_missing_ones_computed(
    form: str, tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    calls = engine(CONVERGES)
    first, second = (replace(recordings["carbon_dimer"], index=n) for n in range(2))
    generate([first], tmp_path / "out", form)
    assert len(calls()) == 1
    report = generate([first, second], tmp_path / "out", form)
    assert (report.names("kept"), report.names("done")) == ([first.name], [second.name])
    assert len(calls()) == 2


def test_structures_of_several_splits_are_loaded_as_they_were_generated(
    tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    engine(CONVERGES)
    dimer, out = recordings["carbon_dimer"], tmp_path / "out"
    generate([replace(dimer, split="train", index=n) for n in range(3)], out)
    assert not (out / "split.json").exists()  # of one split: the rule of the release applies
    requests = [replace(dimer, split=split, index=7) for split in ("val", "test", "train_large")]
    generate(requests, out)
    loaded = load_dataset("carbon", out)
    names = {subset: set(structures.names) for subset, structures in loaded.subsets.items()}
    assert names == {
        "train": {"MG_train_000", "MG_train_001", "MG_train_002", "MG_train_large_007"},
        "val": {"MG_val_007"},
        "test": {"MG_test_007"},
        "test_twisted": set(),
    }
    generate([replace(dimer, split="val", index=8)], out)
    assert set(load_dataset("carbon", out).val.names) == {"MG_val_007", "MG_val_008"}
    shutil.rmtree(out / "MG_val_007")
    generate([replace(dimer, split="val", index=9)], out)
    assert set(load_dataset("carbon", out).val.names) == {"MG_val_008", "MG_val_009"}


def test_a_split_file_of_ones_own_is_left_alone(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    engine(CONVERGES)
    dimer, out = recordings["carbon_dimer"], tmp_path / "out"
    generate([replace(dimer, split="train", index=n) for n in range(2)], out)
    for number, own in enumerate((write_split(scan_folders(out, "carbon")).read_bytes(), b"damaged", b"[]")):
        (out / "split.json").write_bytes(own)
        generate([replace(dimer, split="val", index=number)], out)
        assert (out / "split.json").read_bytes() == own


@pytest.mark.parametrize("damage", ["", "{}", '{"request": {"key": "MG"}}', "[1]"])
def test_a_damaged_record_of_a_structure_is_named(
    damage: str, tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    engine(CONVERGES)
    request = recordings["carbon_dimer"]
    generate([request], tmp_path / "out")
    record = tmp_path / "out" / request.name / RECORD_NAME
    generate([request], tmp_path / "out")  # control
    record.write_text(damage, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{RECORD_NAME}: expected the request of a generated structure, found none"):
        generate([request], tmp_path / "out")


@pytest.mark.parametrize(
    ("split", "twist", "right"),
    [
        ("test_twisted", None, False),
        ("train", 21.79, False),
        ("test", 21.79, False),
        ("test_twisted", 21.79, True),
        (None, 21.79, True),
        ("train", None, True),
    ],
)
def test_twisted_structures_are_twisted_and_only_tested(split: str | None, twist: float | None, right: bool) -> None:
    if right:
        (request,) = make_requests("BG", 1, 0, split, None, twist)
        assert (request.subset == "test_twisted") == (twist is not None)
    else:
        with pytest.raises(DataError, match=r"expected --split test_twisted with --twist and with nothing else"):
            make_requests("BG", 1, 0, split, None, twist)


def test_a_folder_that_others_made_is_left_alone(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    calls = engine(CONVERGES)
    request = recordings["carbon_dimer"]
    theirs = tmp_path / "out" / request.name / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="not made by this command"):
        generate([request], tmp_path / "out")
    assert theirs.read_text(encoding="utf-8") == "mine"
    assert calls() == []


def test_another_structure_of_the_same_name_is_not_taken_for_it(
    tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    engine(CONVERGES)
    request = recordings["carbon_dimer"]
    generate([request], tmp_path / "out")
    with pytest.raises(DataError, match="give another --out"):
        generate([replace(request, supercell=(2, 2))], tmp_path / "out")


def test_a_second_system_in_one_compact_set_is_refused_before_any_work(
    tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    calls = engine(CONVERGES)
    generate([recordings["carbon_dimer"]], tmp_path / "out", "compact")
    with pytest.raises(DataError, match=r"expected a structure of BB, found one of MG; give another --out"):
        generate(make_requests("BB", 1), tmp_path / "out", "compact")
    assert len(calls()) == 1
    assert [path.stem for path in (tmp_path / "out").glob("*.h5")] == ["MG"]


@pytest.mark.parametrize("form", ["deeph", "compact"])
def test_a_failed_scf_is_reported_and_never_stored(
    form: str, tmp_path: Path, engine: Any, recordings: dict[str, Any]
) -> None:
    calls = engine(FAILS)
    request = recordings["carbon_dimer"]
    out = tmp_path / "out"
    report = generate([request], out, form)
    assert [(o.status, "did not converge" in o.message) for o in report.outcomes] == [("failed", True)]
    assert calls() == ["BROYDEN_MIXING", "PULAY_MIXING", "BROYDEN_MIXING"]
    assert [path.name for path in out.rglob("*") if path.is_file()] == [f"{request.name}.out"]
    # Once the engine converges, the same command computes it.
    engine(CONVERGES)
    assert generate([request], out, form).names("done") == [request.name]


def test_the_next_mixing_is_tried_and_recorded(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    calls = engine(PULAY_CONVERGES)
    request = recordings["carbon_dimer"]
    assert generate([request], tmp_path / "out").names("done") == [request.name]
    assert calls() == ["BROYDEN_MIXING", "PULAY_MIXING"]
    record = json.loads((tmp_path / "out" / request.name / RECORD_NAME).read_text(encoding="utf-8"))
    assert record["facts"]["mixing"]["method"] == "PULAY_MIXING"


def test_an_aborted_run_is_not_tried_again(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    calls = engine(ABORTS)
    report = generate([recordings["carbon_dimer"]], tmp_path / "out")
    assert len(calls()) == 1
    assert report.names("failed")


def test_an_output_of_another_structure_is_not_stored(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    """The right sizes, but atoms elsewhere: the overlaps do not fit the pair vectors."""
    engine(CONVERGES)
    moved = replace(recordings["carbon_dimer"], positions=((1.6, 0.4, 2.2), (2.75, -0.95, 2.9)))
    report = generate([moved], tmp_path / "out")
    assert report.names("failed") == [moved.name]
    assert not (tmp_path / "out" / moved.name).exists()


def test_structures_run_side_by_side(tmp_path: Path, engine: Any) -> None:
    calls = engine(FAILS)
    requests = make_requests("MG", 2, supercell=(1, 1))
    report = generate(requests, tmp_path / "out", jobs=2)
    assert sorted(report.names("failed")) == ["MG_train_000", "MG_train_001"]
    assert len(calls()) == 6


def test_requests_follow_the_rule_of_the_seeds() -> None:
    assert [r.seed for r in make_requests("BB", 2, 5)] == [140005, 140006]
    assert [r.seed for r in make_requests("BT", 1, twist=21.79)] == [154000]
    assert make_requests("BB", 1, split="train_large", supercell=(2, 2))[0].subset == "train"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "MG", "count": 0}, "count"),
        ({"key": "MG", "count": 1, "supercell": (0, 1)}, "supercell"),
        ({"key": "MG", "count": 1, "twist": 21.79}, "one sheet"),
        ({"key": "BG", "count": 1, "first": -1}, "index"),
        ({"key": "XX", "count": 1}, "expected one of"),
    ],
)
def test_impossible_requests_are_refused_before_any_run(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_requests(**arguments)


@pytest.mark.parametrize(("form", "jobs"), [("zip", 1), ("deeph", 0)])
def test_impossible_forms_and_jobs_are_refused(form: str, jobs: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"form|jobs"):
        generate([Request("MG", "test", 0)], tmp_path, form, jobs)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    return parser.parse_args(["generate", *words])


def test_command_prints_progress_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def pretend(requests: Any, out: Path, form: str, jobs: int, on_outcome: Any) -> Report:
        seen.update(requests=requests, form=form, jobs=jobs)
        outcomes = [Outcome(r.name, s, m) for r, (s, m) in zip(requests, states, strict=True)]
        for outcome in outcomes:
            on_outcome(outcome)
        return Report(outcomes)

    states = [("done", "12 SCF cycles, 3 s"), ("failed", "the SCF did not converge")]
    monkeypatch.setattr(generation, "generate", pretend)
    words = ["--system", "BG", "--count", "2", "--seed", "3", "--supercell", "1", "1", "1", "--jobs", "2"]
    options = parse(*words, "--out", str(tmp_path))
    assert options.run(options) == 1
    assert [(r.seed, r.supercell) for r in seen["requests"]] == [(130003, (1, 1)), (130004, (1, 1))]
    assert (seen["form"], seen["jobs"]) == ("deeph", 2)
    printed = capsys.readouterr()
    assert "BG_train_003: done (12 SCF cycles, 3 s)" in printed.err
    assert "BG_train_004: failed (the SCF did not converge)" in printed.err
    assert re.search(r"1 computed, 0 kept, 1 failed; not stored: BG_train_004", printed.out)
    states[1] = ("kept", "")
    assert options.run(options) == 0
    capsys.readouterr()
    options = parse(*words, "--out", str(tmp_path), "--json")
    options.run(options)
    printed = capsys.readouterr()
    assert [outcome["status"] for outcome in json.loads(printed.out)["outcomes"]] == ["done", "kept"]
    assert printed.err == ""


@pytest.mark.parametrize("cells", [["3"], ["3", "3", "2"]])
def test_command_refuses_other_supercells(cells: list[str], tmp_path: Path) -> None:
    options = parse("--system", "MG", "--out", str(tmp_path), "--supercell", *cells)
    with pytest.raises(DataError, match="--supercell"):
        options.run(options)


def test_one_structure_leaves_nothing_behind_when_interrupted(
    tmp_path: Path, engine: Any, recordings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(CONVERGES)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_one(recordings["carbon_dimer"], tmp_path, "deeph", str(tmp_path / "bin" / "cp2k.psmp"))
    assert [path for path in tmp_path.rglob("*MG_test*") if path.is_file()] == []


def test_stored_hamiltonian_is_finite_and_hermitian(tmp_path: Path, engine: Any, recordings: dict[str, Any]) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF (pip install tracegrad[dft])")
    engine(CONVERGES, "bismuth_dimer")
    request = recordings["bismuth_dimer"]
    generate([request], tmp_path / "out", "compact")
    structure = open_compact(tmp_path / "out" / "BB.h5").read(request.name)
    assert structure.spinful
    assert np.isfinite(structure.hamiltonian.values).all()
    assert structure.hamiltonian.completed().hermiticity_defect() == 0.0
