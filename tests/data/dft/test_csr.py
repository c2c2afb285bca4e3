"""Real-space matrices against PySCF and against the engine's Fermi level; every trap has its control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracegrad.data.dft import calculation, cp2k, csr
from tracegrad.data.dft.calculation import Calculation
from tracegrad.data.dft.fermi import fermi_level
from tracegrad.data.dft.systems import BOHR_IN_ANGSTROM, ELEMENTS
from tracegrad.errors import DataError

Read = Callable[..., Calculation]
Unpack = Callable[[str], Path]

# The recordings drop elements below these.
THRESHOLDS = {"carbon_dimer": 1e-6, "bismuth_dimer": 1e-5}


def pyscf_overlap(symbol: str, vector: np.ndarray) -> np.ndarray:
    """Overlap of an atom at the origin with one at the end of a vector (Å), orbitals m = -l..l."""
    gto = pytest.importorskip("pyscf.gto", reason="needs PySCF (pip install tracegrad[dft])")
    basis = {symbol: gto.basis.load("gth-dzvp-molopt-sr", symbol)}
    here, there = (
        gto.M(atom=[(symbol, tuple(place))], basis=basis, unit="B", spin=None, verbose=0)
        for place in (np.zeros(3), vector / BOHR_IN_ANGSTROM)
    )
    order = [0, 1, 3, 4, 2, 6, 7, 5, 8, 9, 10, 11, 12]
    return gto.intor_cross("int1e_ovlp", here, there)[np.ix_(order, order)]


def test_overlaps_equal_pyscf_at_the_true_pair_vectors(recorded: str, read: Read) -> None:
    structure = read(recorded).scalar_structure()
    vectors = structure.edge_vectors(structure.overlap)
    symbol = structure.elements[0]
    worst = max(abs(structure.overlap.block(e) - pyscf_overlap(symbol, vectors[e])).max() for e in range(len(vectors)))
    assert worst < THRESHOLDS[recorded]
    # Control: the reversed vector, which is what a wrong sign of R or of the pair gives.
    edge = structure.overlap.index((0, 0, 0, 0, 1))
    assert abs(structure.overlap.block(edge) - pyscf_overlap(symbol, -vectors[edge])).max() > 0.05


def test_hermitian_half_holds_each_pair_once_and_every_pair_within_reach(recorded: str, read: Read) -> None:
    result = read(recorded)
    keys = {tuple(key) for key in result.hamiltonian.keys().tolist()}
    atoms, r_cut = result.atoms, result.request.system.r_cut
    expected = set()
    for i in range(2):
        for j in range(2):
            for shift in np.ndindex(9, 9, 5):
                x, y, z = (int(s) - n for s, n in zip(shift, (4, 4, 2), strict=True))
                vector = atoms.positions[j] + np.array([x, y, z]) @ atoms.cell.array - atoms.positions[i]
                if np.linalg.norm(vector) <= r_cut and (i < j or (i == j and (x, y, z) >= (0, 0, 0))):
                    expected.add((x, y, z, i, j))
    assert keys == expected
    assert result.hamiltonian.is_half
    assert len(keys) == result.hamiltonian.n_edges


def test_fermi_level_of_the_blocks_is_the_engines(read: Read) -> None:
    result = read("carbon_dimer")
    structure = result.scalar_structure()
    found = fermi_level(structure, None, 8, result.request.k_mesh())
    assert found == pytest.approx(result.facts["fermi_energy_eV"], abs=2e-5)
    # Control: R counted between the wrong images of the atoms.
    wrong = structure.hamiltonian.cell_shift.copy()
    wrong[structure.hamiltonian.edge_index[0] != structure.hamiltonian.edge_index[1], 0] += 1
    moved = replace(structure.hamiltonian, cell_shift=wrong)
    shifted = replace(structure, hamiltonian=moved)
    assert abs(fermi_level(shifted, None, 8, result.request.k_mesh()) - found) > 1e-2


def test_alignment_moves_h_by_the_overlap_and_nothing_else(recorded: str, read: Read, unpack: Unpack) -> None:
    result = read(recorded)
    folder = unpack(recorded)
    output = cp2k.parse_output((folder / cp2k.OUTPUT_NAME).read_text(encoding="utf-8"))
    sizes = np.array([ELEMENTS[s].n_orbitals for s in result.atoms.symbols])
    geometry = csr.Geometry(result.atoms.positions, result.atoms.cell.array, sizes)
    pairs = csr.half_pairs(geometry, result.request.system.r_cut)
    raw, _ = csr.assemble(folder, calculation.KS_PREFIX, output.images, geometry, pairs)
    difference = calculation.HARTREE_EV * raw.values - result.hamiltonian.values
    np.testing.assert_allclose(difference, result.facts["vacuum_level_eV"] * result.overlap.values, atol=1e-10)
    assert abs(result.facts["vacuum_level_eV"]) > 0.1


def test_wrong_sign_of_the_fold_is_rejected(recorded: str, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    right = csr.folding_offsets
    monkeypatch.setattr(csr, "folding_offsets", lambda geometry: -right(geometry))
    with pytest.raises(DataError, match=r"neither it nor its partner|different m"):
        read(recorded)


def test_fold_left_out_is_rejected(recorded: str, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr, "folding_offsets", lambda geometry: np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(DataError, match=r"neither it nor its partner|different m"):
        read(recorded)


def test_wrong_order_of_the_atoms_is_rejected(recorded: str, read: Read, recordings: dict[str, Any]) -> None:
    atoms = recordings[recorded].atoms()[[1, 0]]
    with pytest.raises(DataError, match=r"neither it nor its partner|different m"):
        read(recorded, atoms=atoms)


def test_reversed_images_are_rejected(recorded: str, read: Read, unpack: Unpack) -> None:
    folder = unpack(recorded)
    output = cp2k.parse_output((folder / cp2k.OUTPUT_NAME).read_text(encoding="utf-8"))
    turned = {number: (-x, -y, -z) for number, (x, y, z) in output.images.items()}
    with pytest.raises(DataError, match=r"neither it nor its partner|different m"):
        read(recorded, folder, output=replace(output, images=turned))


def test_wrong_orbital_order_is_rejected(recorded: str, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_p_as_xyz(path: Path, n_orbitals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.array([0, 1, 4, 2, 3, 7, 5, 6, 8, 9, 10, 11, 12])
        full = np.concatenate([order, order + 13])
        rows, columns, values = right(path, n_orbitals)
        return full[rows], full[columns], values

    right = csr.read_records
    monkeypatch.setattr(csr, "read_records", with_p_as_xyz)
    with pytest.raises(DataError, match="different m"):
        read(recorded)


def first_image(output: cp2k.Cp2kOutput, folder: Path, prefix: str = "ks-KS_SPIN_1") -> Path:
    """Return the file of an image other than R = 0 that holds elements."""
    for number in sorted(output.images)[1:]:
        path = folder / f"{prefix}_R_{number}-1_0.csr"
        if path.stat().st_size:
            return path
    raise AssertionError


def parsed(folder: Path) -> cp2k.Cp2kOutput:
    return cp2k.parse_output((folder / cp2k.OUTPUT_NAME).read_text(encoding="utf-8"))


def test_missing_image_is_rejected(recorded: str, read: Read, unpack: Unpack) -> None:
    folder = unpack(recorded)
    first_image(parsed(folder), folder).unlink()
    with pytest.raises(DataError, match="found no such file"):
        read(recorded, folder)


def test_pair_without_a_partner_in_either_image_is_rejected(recorded: str, read: Read, unpack: Unpack) -> None:
    folder = unpack(recorded)
    records = np.fromfile(folder / "ks-KS_SPIN_1_R_1-1_0.csr", dtype=csr.RECORD)
    same_atom = (records["row"] <= 13) == (records["column"] <= 13)
    assert not same_atom.all()
    records[same_atom].tofile(folder / "ks-KS_SPIN_1_R_1-1_0.csr")
    with pytest.raises(DataError, match="neither it nor its partner"):
        read(recorded, folder)


def test_one_direction_of_a_pair_is_enough(recorded: str, read: Read, unpack: Unpack) -> None:
    """CP2K writes one of (i, j, R) and (j, i, -R); where it writes both, either may be left out."""
    whole = read(recorded)
    folder = unpack(recorded)
    path = folder / "ks-KS_SPIN_1_R_1-1_0.csr"
    records = np.fromfile(path, dtype=csr.RECORD)
    lower = records["row"] >= records["column"]
    assert 0 < lower.sum() < len(records)
    records[lower].tofile(path)
    again = read(recorded, folder)
    np.testing.assert_allclose(again.hamiltonian.values, whole.hamiltonian.values, atol=1e-9)


def test_disagreeing_directions_are_rejected(recorded: str, read: Read, unpack: Unpack) -> None:
    folder = unpack(recorded)
    path = folder / "ks-KS_SPIN_1_R_1-1_0.csr"
    records = np.fromfile(path, dtype=csr.RECORD)
    upper = np.flatnonzero(records["row"] < records["column"])[0]
    records["value"][upper] += 1e-6
    records.tofile(path)
    with pytest.raises(DataError, match="differ by"):
        read(recorded, folder)


def test_cut_file_is_rejected(recorded: str, read: Read, unpack: Unpack) -> None:
    folder = unpack(recorded)
    path = first_image(parsed(folder), folder)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="it is cut"):
        read(recorded, folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("head", 8, "markers"), ("tail", 0, "markers"), ("row", 27, "outside"), ("value", np.nan, "finite")],
)
def test_damaged_record_is_rejected(read: Read, unpack: Unpack, field: str, value: float, message: str) -> None:
    folder = unpack("carbon_dimer")
    path = first_image(parsed(folder), folder)
    records = np.fromfile(path, dtype=csr.RECORD)
    records[field][0] = value
    records.tofile(path)
    with pytest.raises(DataError, match=message):
        read("carbon_dimer", folder)


def test_offsets_fold_into_the_symmetric_cell() -> None:
    cell = np.diag([2.0, 3.0, 10.0])
    positions = np.array([[0.9, -1.4, 1.0], [1.1, 1.6, 5.1], [-1.2, 7.4, -5.2]])
    geometry = csr.Geometry(positions, cell, np.array([1, 1, 1]))
    offsets = csr.folding_offsets(geometry)
    np.testing.assert_array_equal(offsets, [[0, 0, 0], [-1, -1, -1], [1, -2, 1]])
    folded = positions @ np.linalg.inv(cell) + offsets
    assert folded.min() >= -0.5
    assert folded.max() < 0.5


def test_atom_on_a_face_is_refused() -> None:
    geometry = csr.Geometry(np.array([[0.0, 0.0, 5.0]]), np.eye(3) * 10.0, np.array([1]))
    with pytest.raises(DataError, match="face of the cell"):
        csr.folding_offsets(geometry)
