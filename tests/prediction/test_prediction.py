"""From atoms to a DeepH folder: the same blocks as for a structure of the data, Hermitian, with their sources."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from matplotlib.image import imread as read_image

from tracegrad.cli import main
from tracegrad.data import Blocks, Structure, load_dataset, read_deeph, write_deeph
from tracegrad.errors import CheckpointError, DataError
from tracegrad.physics import energies_at
from tracegrad.prediction import (
    Predictor,
    predict,
    predict_like,
    predict_to_folder,
    read_atoms,
    structure_from_atoms,
    write_prediction,
)


def as_atoms(structure: Structure) -> Atoms:
    """Return the atoms of a structure."""
    return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)


@pytest.fixture(scope="module")
def graphene() -> Structure:
    """Return a test structure of the bundled set."""
    return load_dataset("MG").test[0]


def largest_difference(first: Blocks, second: Blocks) -> float:
    """Return the largest difference of the blocks that both hold."""
    ours, theirs = first.completed().to_dict(), second.completed().to_dict()
    return max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours.keys() & theirs.keys())


def test_atoms_are_predicted_as_the_structure_they_came_from(checkpoint: Path, graphene: Structure) -> None:
    found = predict(as_atoms(graphene), checkpoint, overlap="none")
    setting, expected = predict_like(graphene, checkpoint)
    assert found.hamiltonian is not None
    assert (setting, found.hamiltonian.n_edges) == ("DeepHE3+TraceGrad", expected.n_edges)
    assert largest_difference(found.hamiltonian, expected) < 1e-9
    assert found.metadata["cutoff_A"] == 7.5
    moved = as_atoms(graphene)
    moved.positions[0] += 0.05
    other = predict(moved, checkpoint, overlap="none").hamiltonian
    assert other is not None
    assert largest_difference(other, expected) > 1e-3


def test_prediction_is_hermitian_and_carries_its_sources(checkpoint: Path, graphene: Structure) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF (pip install tracegrad[dft])")
    found = predict(as_atoms(graphene), checkpoint)
    assert found.hamiltonian is not None
    assert found.overlap is not None
    assert graphene.overlap is not None
    assert found.hamiltonian.completed().hermiticity_defect() < 1e-12
    assert largest_difference(found.overlap, graphene.overlap) < 1e-7
    assert found.metadata["overlap_source"].startswith("PySCF")
    assert "72 electrons, 3x3x1 k-points" in found.metadata["fermi_source"]
    energies = energies_at(found, [[0.0, 0, 0]])[0]
    assert energies[30] < found.metadata["fermi_energy_eV"] < energies[41]


def test_spinful_prediction_has_kramers_pairs(spinful: Path) -> None:
    structure = load_dataset("BB").test[0]
    found = predict(as_atoms(structure), spinful, overlap=structure.overlap)
    assert found.hamiltonian is not None
    assert found.hamiltonian.is_complex
    assert found.hamiltonian.completed().hermiticity_defect() < 1e-12
    energies = energies_at(found, [[0.0, 0, 0], [0.5, 0, 0]])
    assert np.abs(energies[:, ::2] - energies[:, 1::2]).max() < 1e-6


def test_the_pairs_of_a_given_overlap_are_predicted(foreign: Path, graphene: Structure, tmp_path: Path) -> None:
    bare = Structure(**{**graphene.fields(), "hamiltonian": None})
    folder = write_deeph(bare, tmp_path / "s")
    setting, expected = predict_like(graphene, foreign)
    for overlap in (folder, folder / "overlaps.h5", graphene.overlap):
        found = predict(as_atoms(graphene), foreign, overlap=overlap, fermi_energy=-4.5)
        assert found.hamiltonian is not None
        assert found.overlap is not None
        assert graphene.overlap is not None
        assert largest_difference(found.hamiltonian, expected) < 1e-9
        assert largest_difference(found.overlap, graphene.overlap) == 0.0
        assert found.metadata["fermi_source"] == "given"
    assert setting
    without = predict(as_atoms(graphene), foreign)
    assert without.overlap is None
    assert without.metadata["fermi_energy_eV"] is None
    assert "another basis" in without.metadata["overlap_source"]
    shorter = predict(as_atoms(graphene), foreign, overlap=folder, r_max=3.0, fermi_energy=0.0)
    assert shorter.hamiltonian is not None
    assert shorter.hamiltonian.n_edges < expected.n_edges / 3


def test_a_shorter_cutoff_leaves_blocks_out_and_changes_none(
    checkpoint: Path, foreign: Path, graphene: Structure
) -> None:
    atoms, cutoff = as_atoms(graphene), 3.0
    for predictor, overlap in ((Predictor.load(checkpoint), "none"), (Predictor.load(foreign), graphene.overlap)):
        whole = predictor(atoms, overlap=overlap, fermi_energy=0.0).hamiltonian
        plan = predictor.plan(atoms, overlap=overlap, r_max=cutoff)
        found = predictor.complete(plan, fermi_energy=0.0)
        parts = predictor(atoms, overlap=overlap, r_max=cutoff, fermi_energy=0.0, chunk_edges=300).hamiltonian
        assert whole is not None
        assert found.hamiltonian is not None
        lengths = np.linalg.norm(found.edge_vectors(whole), axis=1)
        assert found.hamiltonian.n_edges == (lengths <= cutoff).sum() == found.metadata["pairs"] < whole.n_edges / 3
        assert found.metadata["cutoff_A"] == cutoff
        assert largest_difference(found.hamiltonian, whole) < 1e-12
        assert largest_difference(parts, whole) < 1e-9
        if found.overlap is not None:
            assert found.overlap.completed().n_edges == found.hamiltonian.completed().n_edges
    bare = Predictor(predictor.model, predictor.setting, predictor.data, None, "x.ckpt")  # control: fewer neighbours
    other = bare(atoms, overlap="none", r_max=cutoff).hamiltonian
    assert other is not None
    assert largest_difference(other, whole) > 1e-3


def test_a_cutoff_beyond_that_of_the_training_is_refused(checkpoint: Path, graphene: Structure) -> None:
    predictor = Predictor.load(checkpoint)
    with pytest.raises(DataError, match=r"expected a cutoff r_max up to 7\.500 Å, .* found 10; leave it out"):
        predictor.plan(as_atoms(graphene), overlap="none", r_max=10.0)
    assert predictor.plan(as_atoms(graphene), overlap="none", r_max=7.5).cutoff == 7.5


def test_elements_that_reach_less_far_get_no_longer_pairs(foreign: Path, graphene: Structure) -> None:
    predictor, atoms = Predictor.load(foreign), as_atoms(graphene)
    whole = predictor.plan(atoms, overlap="none")
    short = replace(predictor, data=replace(predictor.data, pair_cutoffs={(6, 6): 5.0}))
    plan = short.plan(atoms, overlap="none")
    found, pairs = short.complete(plan, fermi_energy=0.0).hamiltonian, len(plan.pairs[0])
    assert found is not None
    assert 0 < pairs < len(whole.pairs[0])
    assert found.n_edges == graphene.n_atoms + pairs
    assert np.linalg.norm(graphene.edge_vectors(found), axis=1).max() <= 5.0
    with pytest.raises(DataError, match=r"has C-C pairs of 7\.\d+ Å, the training went up to 5\.000 Å; give --r-max"):
        short.plan(atoms, overlap=graphene.overlap)
    assert len(short.plan(atoms, overlap=graphene.overlap, r_max=7.0).pairs[0]) == pairs
    strange = replace(predictor, data=replace(predictor.data, pair_cutoffs={(14, 14): 5.0}))  # control
    assert len(strange.plan(atoms, overlap="none").pairs[0]) == len(whole.pairs[0])


def test_neighbours_that_an_overlap_lacks_are_counted(
    foreign: Path, graphene: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlap, atoms = graphene.overlap, as_atoms(graphene)
    assert overlap is not None
    predictor = Predictor.load(foreign)
    assert predictor.plan(atoms, overlap=overlap).missing == 0
    lengths = np.linalg.norm(graphene.edge_vectors(overlap), axis=1)
    short = overlap.select(np.flatnonzero(lengths < 5.0))
    lacking = len(predictor.plan(atoms, overlap=overlap).pairs[0]) - len(predictor.plan(atoms, overlap=short).pairs[0])
    assert predictor.plan(atoms, overlap=short).missing == lacking > 0
    folder = write_deeph(Structure(**{**graphene.fields(), "hamiltonian": None, "overlap": short}), tmp_path / "s")
    write(tmp_path / "sheet.vasp", atoms)
    command = ["predict", str(foreign), str(tmp_path / "sheet.vasp"), "--overlap", str(folder), "--fermi", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert f"{lacking} pairs within the cutoff of the training data are not in the overlap" in capsys.readouterr().err


def test_an_overlap_of_other_atoms_or_of_longer_pairs_is_refused(
    foreign: Path, graphene: Structure, tmp_path: Path
) -> None:
    folder = write_deeph(Structure(**{**graphene.fields(), "hamiltonian": None}), tmp_path / "s")
    fewer = as_atoms(graphene)[:-1]
    for overlap in (folder, folder / "overlaps.h5"):
        with pytest.raises(DataError):
            predict(fewer, foreign, overlap=overlap)
    stretched = as_atoms(graphene)
    stretched.set_cell(1.1 * graphene.cell, scale_atoms=True)
    with pytest.raises(DataError, match="--r-max"):
        predict(stretched, foreign, overlap=folder / "overlaps.h5")
    with pytest.raises(DataError, match="its cell differs"):
        predict(stretched, foreign, overlap=folder)
    moved = as_atoms(graphene)
    moved.positions[4] += graphene.cell[0]
    with pytest.raises(DataError, match=r"atom 4 lies .* in the same cell"):
        predict(moved, foreign, overlap=folder)
    slab = as_atoms(graphene)
    slab.set_cell(np.diag([1.0, 1.0, 0.0]) @ graphene.cell)  # another vacuum, in which no pair reaches another cell
    slab.pbc = [True, True, False]
    assert predict(slab, foreign, overlap=folder, fermi_energy=0.0).hamiltonian is not None
    with pytest.raises(DataError, match="not found"):
        predict(fewer, foreign, overlap=tmp_path / "none.h5")


def test_overlap_blocks_that_are_not_of_the_structure_are_refused(foreign: Path, graphene: Structure) -> None:
    atoms, whole = as_atoms(graphene), graphene.overlap
    assert whole is not None
    predictor = Predictor.load(foreign)
    assert predictor.plan(atoms, overlap=whole).structure.overlap is whole
    spoilt = whole.values.copy()
    spoilt[-1] = np.nan
    cases = [
        (atoms[:-1], whole, "names an atom outside"),
        (atoms, whole.select(np.arange(5)), "atom 5 .* has no on-site block"),
        (atoms, whole.with_values(spoilt), "NaN"),
        (atoms, load_dataset("BB").test[0].overlap, "has no on-site block"),
    ]
    for atoms_of, overlap, message in cases:
        with pytest.raises(DataError, match=f"the given overlap, .*{message}"):
            predictor.plan(atoms_of, overlap=overlap)


def test_molecules_get_a_vacuum_and_no_neighbour_from_it(checkpoint: Path) -> None:
    atoms = molecule("C6H6")[:6]
    structure = structure_from_atoms(atoms, {6: (0, 0, 1, 1, 2)}, False)
    assert not structure.pbc.any()
    assert np.diag(structure.cell).min() >= 30.0
    found = predict(atoms, checkpoint, overlap="none")
    assert found.hamiltonian is not None
    assert found.hamiltonian.n_edges == 6 + 15
    assert not found.hamiltonian.cell_shift.any()


def test_what_cannot_be_predicted_is_refused(checkpoint: Path, graphene: Structure, tmp_path: Path) -> None:
    atoms = as_atoms(graphene)
    atoms.numbers[0] = 7
    with pytest.raises(DataError, match="no orbitals for N; the orbital table names C"):
        predict(atoms, checkpoint)
    with pytest.raises(DataError, match="no atoms"):
        predict(Atoms(), checkpoint)
    atoms = as_atoms(graphene)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        predict(atoms, checkpoint)
    twice = as_atoms(graphene) + as_atoms(graphene)[3:4]
    twice.positions[-1] += graphene.cell[1]
    with pytest.raises(DataError, match=f"atoms 3 and {len(twice) - 1} are nearer"):
        predict(twice, checkpoint)
    with pytest.raises(DataError, match="r_max"):
        predict(as_atoms(graphene), checkpoint, r_max=-1.0)
    unknown = Predictor.load(checkpoint)
    unknown = Predictor(unknown.model, unknown.setting, unknown.data, None, "x.ckpt")
    with pytest.raises(CheckpointError, match="--r-max"):
        unknown(as_atoms(graphene), overlap="none")
    pure = Atoms("Si2", [[0, 0, 0], [2, 1, 1]], cell=[6, 6, 6], pbc=True)
    with pytest.raises(DataError, match="no orbitals for Si; the orbital table names C"):  # of the network
        predict(pure, checkpoint)
    for name, content in (("a.cif", "data_\nloop_\n"), ("b.xyz", "3\n\nC 0 0"), ("c.strange", "\x00")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            read_atoms(tmp_path / name)


PARTLY = """data_x
_cell_length_a 2.46
_cell_length_b 2.46
_cell_length_c 15
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
C1 C 0.3333 0.6667 0.5 {first}
{second}C2 C 0.6667 0.3333 0.5 1.0
"""


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [(1.0, "", None), (0.5, "", "C 0.5"), (0.6, "B1 B 0.3333 0.6667 0.5 0.4\n", "C 0.6, B 0.4")],
)
def test_a_site_that_is_partly_occupied_is_refused(
    first: float, second: str, found: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.cif"
    path.write_text(PARTLY.format(first=first, second=second))
    if found is None:
        assert len(read_atoms(path)) == 2
    else:
        with pytest.raises(DataError, match=rf"fully occupied by one element, found site \d with {found}; make"):
            read_atoms(path)


@pytest.mark.parametrize("form", ["legacy", "new"])
def test_the_atoms_of_a_deeph_folder_are_read(form: str, graphene: Structure, tmp_path: Path) -> None:
    write_deeph(graphene, tmp_path / "a", form)
    found = read_atoms(tmp_path / "a")
    assert np.allclose(found.positions, graphene.positions, rtol=0, atol=1e-9)
    assert np.allclose(found.cell.array, graphene.cell, rtol=0, atol=1e-9)
    assert found.numbers.tolist() == graphene.numbers.tolist()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b: no DeepH structure; expected"):
        read_atoms(tmp_path / "b")


def test_hermitian_part_is_a_projection() -> None:
    random = np.random.default_rng(0)
    keys = [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (-1, 0, 0, 0, 0)]
    blocks = Blocks.from_dict({key: random.normal(size=(3, 3)) for key in keys})
    assert blocks.hermiticity_defect() > 0.1
    once = blocks.hermitian_part()
    assert once.is_half
    assert once.completed().hermiticity_defect() < 1e-15
    assert largest_difference(once.hermitian_part(), once) == 0.0


@pytest.mark.parametrize("suffix", ["cif", "vasp", "xyz"])
@pytest.mark.parametrize("form", ["legacy", "new"])
def test_command_writes_a_folder_that_reads_back(
    suffix: str, form: str, checkpoint: Path, graphene: Structure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / f"sheet.{suffix}"
    write(source, as_atoms(graphene), format="extxyz" if suffix == "xyz" else suffix)
    command = ["predict", str(checkpoint), str(source), "--overlap", "none", "--form", form, "--json"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["atoms"], facts["form"], facts["cutoff_A"]) == (18, form, 7.5)
    stored = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert stored["fermi_source"] == facts["fermi_source"]
    found = read_deeph(tmp_path / "out")
    _, expected = predict_like(graphene, checkpoint)
    assert found.hamiltonian is not None
    assert found.hamiltonian.n_edges == 2 * expected.n_edges - 18
    if suffix != "cif":  # a cif file may turn the lattice
        assert largest_difference(found.hamiltonian, expected) < 1e-4
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err


def test_faults_end_with_a_message_and_leave_nothing_behind(
    checkpoint: Path, graphene: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = tmp_path / "sheet.vasp"
    write(source, as_atoms(graphene))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["predict", str(checkpoint), str(source), "--overlap", "none", "--out", str(tmp_path / "out")]
    for words, message in (
        (["--device", "cuda"], "expected a CUDA GPU, found none"),
        (["--fermi", "nan"], "finite number in eV, found 'nan'"),
        (["--fermi=-inf", "--chunk-edges", "100"], "finite number in eV, found '-inf'"),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err
    short = tmp_path / "short.ckpt"
    short.write_bytes(checkpoint.read_bytes()[:-2000])
    for network, message in ((short, "truncated"), (tmp_path / "none.ckpt", "not found"), (source, "not a checkpoint")):
        assert main(["predict", str(network), str(source), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["predict", str(checkpoint), str(source), "--overlap", "none", "--out", str(blocked / "out")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "sheet.vasp", "short.ckpt"]


def test_a_place_that_cannot_be_had_is_refused_before_the_network_runs(
    checkpoint: Path, graphene: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(checkpoint)
    monkeypatch.setattr(type(predictor), "complete", lambda *_: pytest.fail("the network has run"))
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("")
    for place in ("file", "file/sub", "full"):
        with pytest.raises(DataError, match=r"cannot be written|not empty"):
            predict_to_folder(predictor, as_atoms(graphene), tmp_path / place, overlap="none")
    with pytest.raises(pytest.fail.Exception, match="has run"):  # control: a place that can
        predict_to_folder(predictor, as_atoms(graphene), tmp_path / "free", overlap="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize("place", ["link", "."])
@pytest.mark.parametrize("chunk", [None, 100])
def test_an_empty_folder_that_is_there_is_filled_and_stays_the_same_folder(
    checkpoint: Path, graphene: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str,
    chunk: int | None,
) -> None:  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "link").symlink_to(scratch)
    monkeypatch.chdir(scratch if place == "." else tmp_path)
    before = scratch.stat().st_ino
    predictor = Predictor.load(checkpoint)
    predict_to_folder(predictor, as_atoms(graphene), place, overlap="none", chunk_edges=chunk)
    assert (tmp_path / "link").is_symlink()
    assert scratch.stat().st_ino == before
    assert read_deeph(scratch).n_atoms == len(graphene.numbers)
    assert (scratch / "prediction.json").is_file()
    assert not [path for path in scratch.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_named(checkpoint: Path, graphene: Structure, tmp_path: Path) -> None:
    found = predict(as_atoms(graphene), checkpoint, overlap="none")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            write_prediction(found, tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_leaves_nothing_behind(
    checkpoint: Path, graphene: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predict(as_atoms(graphene), checkpoint, overlap="none")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracegrad.data.deeph_write.DeephWriter._open", full)
    with pytest.raises(DataError, match="No space left"):
        write_prediction(found, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bands_command_draws_dft_and_prediction(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bands", "MG/MG_test_000", "--checkpoint", str(checkpoint), "--points", "16", "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    content = json.loads((tmp_path / "bands_MG_test_000.json").read_text())
    assert (tmp_path / "bands_MG_test_000.png").read_bytes().startswith(b"\x89PNG")
    assert content["metrics"] == facts["metrics"]
    assert np.shape(content["dft"]) == (16, 234)
    assert np.shape(content["predicted"]["DeepHE3+TraceGrad"]) == (16, 234)
    assert [label for _, label in content["ticks"]] == ["G", "M", "K", "G"]
    assert content["metrics"]["gap_dft"] == pytest.approx(0.188, abs=1e-3)  # the gap lies at Γ of the 3x3 mesh
    assert main(["bands", "MG/MG_tset_000", "--out", str(tmp_path)]) == 2
    assert "MG_test_000" in capsys.readouterr().err


def test_bands_of_a_folder_with_its_density_of_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_deeph(load_dataset("BB").test[0], tmp_path / "bismuth")
    assert main(["bands", str(folder), "--points", "5", "--path", "GM", "--dos", "--out", str(tmp_path / "b")]) == 0
    assert "5 k-points along G-M, 104 bands" in capsys.readouterr().out
    content = json.loads((tmp_path / "b" / "bands_bismuth.json").read_text())
    energy, density = np.array(content["dos"]["energy_eV"]), np.array(content["dos"]["density"]["dft"])
    assert density.shape == energy.shape
    assert density.max() > 1.0
    wide = read_image(tmp_path / "b" / "bands_bismuth.png").shape[1]
    assert main(["bands", str(folder), "--points", "5", "--path", "GM", "--out", str(tmp_path / "plain")]) == 0
    assert wide > read_image(tmp_path / "plain" / "bands_bismuth.png").shape[1]  # the densities stand beside the bands
    capsys.readouterr()
    assert main(["bands", str(folder), "--path", "GQ", "--out", str(tmp_path / "b")]) == 2
    assert main(["bands", str(tmp_path), "--out", str(tmp_path / "b")]) == 2
    assert main(["bands", str(folder), "--predicted", str(tmp_path / "none"), "--out", str(tmp_path / "b")]) == 2


def test_prediction_in_another_order_of_the_atoms_is_laid_onto_those_of_dft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure = load_dataset("MM").test[0]
    turned = np.roll(np.arange(structure.n_atoms), 1)  # atom k of the folder is atom turned[k]
    place = np.argsort(turned)
    blocks = {
        label: replace(matrix, edge_index=place[matrix.edge_index])
        for label, matrix in (("hamiltonian", structure.hamiltonian), ("overlap", structure.overlap))
        if matrix is not None
    }
    fields = {"numbers": structure.numbers[turned], "positions": structure.positions[turned], **blocks}
    mixed = write_deeph(replace(structure, **fields), tmp_path / "mixed")
    grouped = write_deeph(read_deeph(mixed), tmp_path / "grouped", "new")
    command = ["bands", str(mixed), "--points", "3", "--path", "GM", "--out", str(tmp_path / "b"), "--json"]
    assert main([*command, "--predicted", str(grouped)]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["mae_raw"] < 1e-9
    assert metrics["state_similarity"] == pytest.approx(1.0)
    back = ["bands", str(grouped), "--points", "3", "--path", "GM", "--out", str(tmp_path / "b"), "--json"]
    assert main([*back, "--predicted", str(mixed)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["mae_raw"] < 1e-9
    other = write_deeph(replace(read_deeph(mixed), positions=mixed_positions(mixed)), tmp_path / "other")
    assert main([*command, "--predicted", str(other)]) == 2
    assert "of another element" in capsys.readouterr().err


def mixed_positions(folder: Path) -> np.ndarray:
    """Return the positions of a folder with the last two atoms, of two elements, exchanged."""
    positions = read_deeph(folder).positions
    return np.concatenate([positions[:-2], positions[:-3:-1]])


def test_bands_without_a_fermi_level_are_compared_by_their_elements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load_dataset("BB").test[0]
    unknown = {z: shells[:-1] for z, shells in whole.orbitals.items()}  # a basis whose electrons nobody knows
    structure = _without_last_shell(whole, unknown)
    folder = write_deeph(structure, tmp_path / "a")
    command = ["bands", str(folder), "--points", "3", "--path", "GM", "--json", "--out", str(tmp_path / "b")]
    assert main([*command, "--predicted", str(folder)]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["mae_raw"] == 0
    assert "occupied" not in metrics


def _without_last_shell(structure: Structure, orbitals: dict[int, tuple[int, ...]]) -> Structure:
    """Return a structure without the last shell of every atom and without its Fermi level."""
    kept = sum(2 * l + 1 for l in next(iter(orbitals.values())))
    changed = {}
    for label, spins in (("hamiltonian", 2), ("overlap", 1)):
        blocks = getattr(structure, label).to_dict()
        whole = next(iter(blocks.values())).shape[0] // spins
        rows = np.concatenate([np.arange(kept) + spin * whole for spin in range(spins)])
        changed[label] = Blocks.from_dict({key: block[np.ix_(rows, rows)] for key, block in blocks.items()})
    return replace(structure, orbitals=orbitals, metadata={}, **changed)


def test_densities_and_bands_leave_out_the_same_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_deeph(load_dataset("BB").test[0], tmp_path / "bismuth")
    command = ["bands", str(folder), "--points", "2", "--path", "GM", "--dos", "--json", "--out", str(tmp_path / "b")]
    states = []
    for smallest in ("1e-5", "0.2"):
        assert main([*command, "--smallest-overlap", smallest]) == 0
        found = json.loads(capsys.readouterr().out)["dos"]
        states.append(np.trapezoid(found["density"]["dft"], found["energy_eV"]))
    assert states[1] < states[0] - 0.5
