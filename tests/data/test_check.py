"""``data check``: sound data pass, and every fault put into them is found; the orbital order is told from others."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.units import Bohr

from tracegrad.data import Blocks, Structure, diagnostics, load_dataset, write_deeph
from tracegrad.data.check import DataCheck, StructureCheck, check_data, check_one
from tracegrad.data.deeph import reorder_orbitals
from tracegrad.data.diagnostics import bloch_sum, missing_pairs, rotations_to_z, shortest_bond
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.so3.conventions import CONVENTIONS, to_convention

SAME = {"e3nn": "cp2k", "cp2k": "e3nn"}  # two names of one convention
Maker = Callable[..., Structure]


def checked(source: Path | str) -> DataCheck:
    """Result of checking everything at a source."""
    *_, result = check_data(source)
    assert isinstance(result, DataCheck)
    return result


def changed(structure: Structure, label: str, change: Callable[[Blocks], Blocks]) -> Structure:
    """The structure with one matrix changed."""
    blocks = getattr(structure, label)
    return Structure(**{**structure.fields(), label: change(blocks)})


@pytest.fixture(scope="module")
def molybdenite() -> Structure:
    """A bundled MoS2 structure."""
    return load_dataset("MM").test[0]


@pytest.fixture(scope="module")
def telluride() -> Structure:
    """A bundled Bi2Te3 structure, spinful."""
    return load_dataset("BT").test[0]


@pytest.mark.parametrize("material", ["molybdenite", "telluride"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_orbital_order_is_recognised(material: str, convention: str, request: pytest.FixtureRequest) -> None:
    sound = request.getfixturevalue(material)
    result = check_one(reorder_orbitals(sound, convention, to_convention))  # a file in this order, read as if e3nn
    right = convention in ("e3nn", "cp2k")
    assert result.order in (convention, SAME.get(convention))
    assert (result.order_defect < 1e-7) is right
    assert any("orbital order" in fault for fault in result.faults) is not right


@pytest.mark.parametrize("material", ["molybdenite", "telluride"])
def test_a_legacy_folder_in_the_wrong_order_is_found(
    material: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sound = request.getfixturevalue(material)
    sound = Structure(**{**sound.fields(), "hamiltonian": None})  # the overlap alone tells the order
    write_deeph(sound, tmp_path / "right")
    # Its writer turns e3nn into OpenMX order; fed with data already turned back once, it writes e3nn order.
    write_deeph(reorder_orbitals(sound, "openmx", _inverse), tmp_path / "wrong")
    assert checked(tmp_path / "right").passed
    result = checked(tmp_path / "wrong").structures[0]
    assert result.order in ("e3nn", "cp2k")
    assert any("orbital order is not 'openmx'" in fault and "fits" in fault for fault in result.faults)


def _inverse(*arguments: object, **options: object) -> object:
    from tracegrad.so3.conventions import from_convention

    return from_convention(*arguments, **options)  # type: ignore[arg-type, type-var]


def _scaled(label: str, place: int, factor: float) -> Callable[[Structure], Structure]:
    def scale(blocks: Blocks) -> Blocks:
        values = blocks.values.copy()
        values[blocks.offsets[place] : blocks.offsets[place + 1]] *= factor
        return blocks.with_values(values)

    return lambda s: changed(s, label, scale)


def _shift_zero(structure: Structure) -> Structure:
    """H + 1.0·S: another zero of energy."""
    assert structure.overlap is not None
    assert structure.hamiltonian is not None
    overlap = structure.overlap.values
    return changed(structure, "hamiltonian", lambda h: h.with_values(h.values + 1.0 * overlap))


def _one_way(structure: Structure) -> Structure:
    """All pairs both ways but one."""
    return changed(structure, "hamiltonian", lambda h: h.completed().select(np.arange(2 * h.n_edges - 20)))


def _stretched(structure: Structure, factor: float) -> Structure:
    lengths = {name: factor * getattr(structure, name) for name in ("positions", "cell")}
    return Structure(**{**structure.fields(), **lengths})


FAULTS: dict[str, tuple[Callable[[Structure], Structure], str]] = {
    "NaN": (_scaled("hamiltonian", 7, np.nan), "NaN"),
    "a pair twice": (
        lambda s: changed(s, "overlap", lambda o: o.select(np.array([*range(o.n_edges), 3]))),
        "stored twice",
    ),
    "near pairs missing": (
        lambda s: changed(changed(s, "hamiltonian", _without_near), "overlap", _without_near),
        "pairs within the cutoff have no block",
    ),
    "one direction missing": (_one_way, "lack the reversed pair"),
    "overlap keys without Hamiltonian": (lambda s: changed(s, "hamiltonian", _without_near), "no Hamiltonian block"),
    "overlap not positive": (_scaled("overlap", 0, -1.0), "not positive definite"),
    "on-site block not Hermitian": (
        lambda s: changed(s, "hamiltonian", lambda h: h.with_values(h.values + (np.arange(len(h.values)) == 1))),
        "not Hermitian",
    ),
    "lengths in Bohr": (lambda s: _stretched(s, 1 / Bohr), "times the sum of the covalent radii"),
    "lengths in Å turned into Å once more": (lambda s: _stretched(s, Bohr), "times the sum of the covalent radii"),
    "cell of another structure": (
        lambda s: Structure(**{**s.fields(), "cell": s.cell * [[-1], [1], [1]]}),
        "no known convention fits",
    ),
}


def _without_near(blocks: Blocks) -> Blocks:
    """Drop the shortest pairs between two atoms (the bundled pairs are sorted by shape, then by length)."""
    off_site = np.flatnonzero(blocks.edge_index[0] != blocks.edge_index[1])
    return blocks.select(np.setdiff1d(np.arange(blocks.n_edges), off_site[:3]))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, molybdenite: Structure) -> None:
    change, message = FAULTS[fault]
    assert check_one(molybdenite).faults == ()
    faults = " | ".join(check_one(change(molybdenite)).faults)
    assert message in faults


def test_the_shortest_distance_is_compared_with_the_radii_of_atoms_that_bind() -> None:
    def crystal(symbol: str, length: float) -> Structure:
        atoms = bulk(symbol, "fcc", a=length)
        fields = atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, dtype=bool)
        return Structure(*fields, {int(atoms.numbers[0]): (0,)}, False)

    assert shortest_bond(crystal("Cu", 3.6)) == pytest.approx(3.6 / np.sqrt(2) / 2.64)
    assert shortest_bond(crystal("Ar", 5.3)) is None  # a noble gas
    assert shortest_bond(crystal("Cu", 20.0)) is None  # a lone atom


def test_broken_time_reversal_is_found(telluride: Structure) -> None:
    assert check_one(telluride).time_reversal_eV == 0.0

    def magnetise(blocks: Blocks) -> Blocks:
        result = blocks.with_values(blocks.values.copy())
        result.block(0)[0, 0] += 1e-3  # on site, spin up only
        return result

    result = check_one(changed(telluride, "hamiltonian", magnetise))
    assert result.time_reversal_eV == pytest.approx(5e-4)
    assert any("time reversal is broken" in fault for fault in result.faults)


def test_another_zero_of_energy_is_found_in_the_set(tmp_path: Path, molybdenite: Structure) -> None:
    dataset = load_dataset("MM")
    for k, structure in enumerate((molybdenite, dataset.test[1], dataset.test[2])):
        write_deeph(_shift_zero(structure) if k == 0 else structure, tmp_path / str(k), "new")
    result = checked(tmp_path)
    faulty = [s.name for s in result.structures if s.faults]
    assert faulty == ["0"]
    assert result.gauge_spread_eV["Mo"] > 0.3
    (tmp_path / "0").rename(tmp_path / ".hidden")
    assert checked(tmp_path).passed


def test_an_unreadable_structure_is_reported_and_the_others_are_checked(tmp_path: Path, molybdenite: Structure) -> None:
    for name in ("a", "b"):
        write_deeph(molybdenite, tmp_path / name, "new")
    with h5py.File(tmp_path / "a" / "overlap.h5", "a") as handle:
        del handle["entries"]
    result = checked(tmp_path)
    assert not result.passed
    assert {s.name: bool(s.faults) for s in result.structures} == {"a": True, "b": False}
    assert any(s.faults and s.faults[0].startswith("unreadable") for s in result.structures)


@pytest.mark.parametrize("key", ["BB", "MM"])
def test_a_bundled_set_passes(key: str) -> None:
    result = checked(key)
    assert result.passed
    assert all(isinstance(s, StructureCheck) and s.missing == s.nan == s.duplicates == 0 for s in result.structures)
    assert min(s.smallest_eigenvalue for s in result.structures if s.smallest_eigenvalue is not None) > 1e-3


def test_bond_frames_turn_the_bond_to_the_pole() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    vectors[0], vectors[1] = (0, 0, 2), (0, 0, -2)
    rotations = rotations_to_z(vectors).numpy()
    turned = np.einsum("eij,ej->ei", rotations, vectors)
    np.testing.assert_allclose(turned[:, 2], np.linalg.norm(vectors, axis=1))
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_positivity_is_tested_away_from_gamma() -> None:
    chain = {(0, 0, 0, 0, 0): np.array([[1.0]]), (1, 0, 0, 0, 0): np.array([[0.6]])}  # S(k) = 1 + 1.2 cos(2 pi k)
    blocks = Blocks.from_dict(chain)
    atom = np.array([1]), np.zeros((1, 3)), np.diag([2.0, 9, 9]), np.ones(3, dtype=bool), {1: (0,)}
    result = check_one(Structure(*atom, overlap=blocks))
    assert result.smallest_eigenvalue == pytest.approx(-0.2)
    assert any("not positive definite" in fault for fault in result.faults)


def test_bloch_sums_equal_explicit_ones(make_structure: Maker) -> None:
    structure = make_structure()
    assert structure.overlap is not None
    k = (0.1, -0.3, 0.7)
    starts = [0, 5, 14, 19]
    expected = np.zeros((19, 19), dtype=complex)
    for (x, y, z, i, j), block in structure.overlap.completed().to_dict().items():
        phase = np.exp(2j * np.pi * (k[0] * x + k[1] * y + k[2] * z))
        expected[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] += block * phase
    found = bloch_sum(structure, structure.overlap.completed(), k)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_allclose(found, found.conj().T, atol=1e-14)


def test_a_large_block_that_lacks_is_seen_beside_many_negligible_ones(molybdenite: Structure) -> None:
    assert molybdenite.hamiltonian is not None
    assert molybdenite.overlap is not None

    hamiltonian, overlap = molybdenite.hamiltonian, molybdenite.overlap
    lengths = np.linalg.norm(molybdenite.edge_vectors(overlap), axis=1)
    scale = np.where(lengths > 5.0, 1e-7, 1.0)
    negligible = overlap.with_values(overlap.values * np.repeat(scale, overlap.sizes))
    thinned = negligible.select((lengths < 6.5) | (np.arange(len(lengths)) % 2 == 0))
    sound = check_one(Structure(**{**molybdenite.fields(), "overlap": thinned}), "test")
    assert sound.missing > 1
    assert not any("no block" in fault for fault in sound.faults)
    lost = int(np.argmin(np.where(lengths > 0.1, lengths, np.inf)))
    both = {"hamiltonian": hamiltonian.select(np.arange(hamiltonian.n_edges) != lost), "overlap": thinned}
    found = check_one(Structure(**{**molybdenite.fields(), **both}), "test")
    assert any("no block" in fault for fault in found.faults)


def test_structures_that_make_no_dataset_are_faults_of_the_set(tmp_path: Path) -> None:
    bismuth = load_dataset("BB").test[0]
    write_deeph(bismuth, tmp_path / "a")
    assert checked(tmp_path).passed
    assert bismuth.hamiltonian is not None
    half = {key: block[:13, :13].real for key, block in bismuth.hamiltonian.to_dict().items()}
    plain = {"hamiltonian": Blocks.from_dict(half), "spinful": False}
    write_deeph(Structure(**{**bismuth.fields(), **plain}), tmp_path / "b")
    faults = [fault for item in checked(tmp_path).structures for fault in item.faults]
    assert any("keep them apart" in fault for fault in faults)


def with_gaps(positions: np.ndarray, r_max: float, kept: float, rng: np.random.Generator) -> tuple[Structure, Blocks]:
    """Atoms of three elements in a cube of 6 Å per nine atoms, and 1 x 1 blocks for a part of their pairs."""
    n_atoms = len(positions)
    cell, pbc = 6 * (n_atoms / 9) ** (1 / 3) * np.eye(3), np.ones(3, dtype=bool)
    i, j, shift = neighbor_pairs(positions, cell, pbc, r_max)
    chosen = rng.random(len(i)) < kept
    i, j, shift = i[chosen], j[chosen], shift[chosen]
    turned = rng.random(len(i)) < 0.5
    ends = np.concatenate([np.tile(np.arange(n_atoms), (2, 1)), np.where(turned, [j, i], [i, j])], axis=1)
    shift = np.concatenate([np.zeros((n_atoms, 3), dtype=int), np.where(turned[:, None], -shift, shift)])
    values = rng.normal(size=ends.shape[1])
    values[-1] = np.nan
    orbitals: dict[int, tuple[int, ...]] = {6: (0,), 16: (0,), 42: (0,)}
    structure = Structure(rng.choice([6, 16, 42], n_atoms, p=[0.6, 0.3, 0.1]), positions, cell, pbc, orbitals)
    return structure, Blocks(ends, shift, np.ones((len(shift), 2), dtype=int), values)


def missing_plainly(structure: Structure, blocks: Blocks) -> tuple[int, float]:
    """Pairs without a block and the size to be expected of the largest, pair by pair over all neighbouring cells."""

    def measured(x: int, y: int, z: int, i: int, j: int) -> tuple[float, list[int]]:
        vector = structure.positions[j] + (x, y, z) @ structure.cell - structure.positions[i]
        return float(np.sqrt((vector**2).sum())), sorted(structure.numbers[[i, j]].tolist())

    stored = [(*measured(*key), abs(block.item())) for key, block in blocks.to_dict().items()]
    keys = {key for x, y, z, i, j in blocks.keys().tolist() for key in ((x, y, z, i, j), (-x, -y, -z, j, i))}
    count, expected, atoms = 0, 0.0, range(structure.n_atoms)
    for key in product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1), atoms, atoms):
        if key in keys:
            continue
        keys |= {key, (-key[0], -key[1], -key[2], key[4], key[3])}
        length, elements = measured(*key)
        same = [
            (abs(l - length), n, size, l) for n, (l, kind, size) in enumerate(stored) if kind == elements and l > 0.1
        ]
        if same and length <= max(entry[3] for entry in same) - 1e-6:
            count, expected = count + 1, max(expected, float(np.median([entry[2] for entry in sorted(same)[:5]])))
    return count, expected


@pytest.mark.parametrize("kept", [0.02, 0.1, 0.6])
@pytest.mark.parametrize("places", ["anywhere", "on a lattice"])  # of equally near pairs the first ones stored count
def test_missing_pairs_are_those_of_the_plain_definition(
    places: str, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected, control = [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        lattice = np.stack(np.unravel_index(rng.choice(216, 9, replace=False), (6, 6, 6)), axis=1).astype(float)
        positions = rng.uniform(0, 6, (9, 3)) if places == "anywhere" else lattice
        made = with_gaps(positions, 5.0, kept, rng)
        found.append(missing_pairs(*made))
        expected.append(missing_plainly(*made))
        with monkeypatch.context() as other:
            other.setattr(diagnostics, "MISSING_NEIGHBOURS", 1)
            control.append(missing_pairs(*made))
    assert found == expected
    assert control != expected


def test_twenty_thousand_missing_pairs_take_less_than_five_seconds() -> None:
    rng = np.random.default_rng(0)
    structure, blocks = with_gaps(rng.uniform(0, 6 * (300 / 9) ** (1 / 3), (300, 3)), 12.0, 0.5, rng)
    start = time.process_time()
    count, _ = missing_pairs(structure, blocks)
    assert time.process_time() - start < 5
    assert min(count, blocks.n_edges) > 20_000
