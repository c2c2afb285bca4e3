"""A large structure as a folder: written part by part, the same numbers as at once, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from tracegrad.cli import main
from tracegrad.data import Blocks, Structure, load_dataset, read_deeph
from tracegrad.errors import ConfigError, DataError
from tracegrad.prediction import Predictor, predict, predict_to_folder, predictor, write_prediction


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    """Return the atoms of a test structure of the bundled set."""
    structure = load_dataset("MG").test[0]
    return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)


@pytest.fixture
def network(checkpoint: Path) -> Predictor:
    """Return the loaded network."""
    return Predictor.load(checkpoint)


def largest_difference(first: Blocks | None, second: Blocks | None) -> float:
    """Return the largest difference of two sets of blocks with the same keys."""
    assert first is not None
    assert second is not None
    ours, theirs = first.completed().to_dict(), second.completed().to_dict()
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[key] - theirs[key]).max()) for key in theirs)


def test_structure_in_chunks_is_that_at_once(atoms: Atoms, network: Predictor) -> None:
    whole = predict(atoms, network, overlap="none", chunk_edges=0)
    parts = predict(atoms, network, overlap="none", chunk_edges=300)
    assert (whole.metadata["chunk_edges"], parts.metadata["chunk_edges"]) == (None, 300)
    assert largest_difference(parts.hamiltonian, whole.hamiltonian) < 1e-12
    other = predict(atoms, network, overlap="none", chunk_edges=300, r_max=5.0)
    assert other.hamiltonian is not None
    assert parts.hamiltonian is not None
    assert other.hamiltonian.n_edges < parts.hamiltonian.n_edges


@pytest.mark.parametrize("form", ["legacy", "new"])
def test_streamed_folder_is_that_of_the_whole(form: str, atoms: Atoms, network: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF (pip install tracegrad[dft])")
    facts = predict_to_folder(network, atoms, tmp_path / "parts", form, fermi_energy=-1.5, chunk_edges=500)
    write_prediction(predict(atoms, network, fermi_energy=-1.5), tmp_path / "whole", form)
    parts, whole = read_deeph(tmp_path / "parts"), read_deeph(tmp_path / "whole")
    assert largest_difference(parts.hamiltonian, whole.hamiltonian) < 1e-12
    assert largest_difference(parts.overlap, whole.overlap) < 1e-12
    assert parts.metadata["fermi_energy_eV"] == -1.5
    assert json.loads((tmp_path / "parts" / "prediction.json").read_text()) == facts
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_a_given_overlap_is_kept(atoms: Atoms, network: Predictor, tmp_path: Path) -> None:
    overlap = load_dataset("MG").test[0].overlap
    facts = predict_to_folder(network, atoms, tmp_path / "out", overlap=overlap, chunk_edges=500)
    found = read_deeph(tmp_path / "out")
    assert largest_difference(found.overlap, overlap) == 0.0
    assert facts["overlap_source"] == "given"


def test_large_structures_are_cut_and_small_ones_are_not(
    atoms: Atoms, network: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert network.plan(atoms, overlap="none").chunk_edges is None
    monkeypatch.setattr(predictor, "WHOLE_EDGES", 100)
    assert network.plan(atoms, overlap="none").chunk_edges == predictor.CHUNK_EDGES
    assert network.plan(atoms, overlap="none", chunk_edges=0).chunk_edges is None
    mixing = Predictor(network.model, network.setting, network.data, network.cutoff, "norm.ckpt")
    monkeypatch.setattr(mixing.model, "sizes", type("S", (), {"norm": "graph"})())
    assert mixing.plan(atoms, overlap="none").chunk_edges is None
    with pytest.raises(ConfigError, match=r"norm\.ckpt.*norm = none"):
        mixing.plan(atoms, overlap="none", chunk_edges=1000)


class Broken(Exception):
    """Stands for a fault in the middle."""


@pytest.mark.parametrize("fault", ["error", "not a number"])
def test_a_fault_in_a_late_chunk_leaves_nothing_behind(
    fault: str, atoms: Atoms, network: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Predictor.parts

    def parts(self: Predictor, *arguments: Any) -> Iterator[Blocks]:
        for number, part in enumerate(honest(self, *arguments)):
            if number == 2 and fault == "error":
                raise Broken
            yield part.with_values(part.values * np.nan) if number == 2 else part

    monkeypatch.setattr(Predictor, "parts", parts)
    with pytest.raises(Broken if fault == "error" else DataError):
        predict_to_folder(network, atoms, tmp_path / "out", overlap="none", chunk_edges=300)
    assert list(tmp_path.iterdir()) == []


def test_command_writes_in_chunks(
    atoms: Atoms, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "sheet.vasp"
    write(source, atoms)
    command = ["predict", str(checkpoint), str(source), "--overlap", "none", "--json"]
    assert main([*command, "--chunk-edges", "300", "--out", str(tmp_path / "a")]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == ""
    assert facts["chunk_edges"] == 300
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["chunk_edges"], whole["pairs"]) == (None, facts["pairs"])
    ours: Structure = read_deeph(tmp_path / "a")
    assert largest_difference(ours.hamiltonian, read_deeph(tmp_path / "b").hamiltonian) < 1e-12
    assert main([*command, "--chunk-edges", "1", "--out", str(tmp_path / "c")]) == 2
    assert "at least 2 edges" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
