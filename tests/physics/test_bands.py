"""Energies from blocks: against analytic tight binding, against the engine's own numbers, with spin, with a poor S."""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string

from tracegrad.data import Blocks, Structure, load_dataset
from tracegrad.errors import DataError
from tracegrad.physics import (
    BlochSum,
    IllConditionedOverlap,
    band_gap,
    band_structure,
    bloch_matrices,
    density_of_states,
    energies_at,
    fermi_level,
    k_mesh,
    k_path,
    mesh_for,
    occupied_bands,
    solve,
    valence_electrons,
)

HEXAGON = np.array([[2.46, 0.0, 0.0], [-1.23, 1.23 * np.sqrt(3.0), 0.0], [0.0, 0.0, 1.0]])
K_POINT = [[1 / 3, 1 / 3, 0.0]]
HOPPING, OVERLAP = -2.7, 0.1


def tight_binding(hoppings: dict[tuple[int, ...], float], overlaps: dict[tuple[int, ...], float], n: int) -> Structure:
    """Return a hexagonal cell of n atoms with one s orbital each."""
    one = {(0, 0, 0, i, i): 0.0 for i in range(n)}
    cell = np.array([[2.46, 0, 0], [-1.23, 2.46 * np.sqrt(3) / 2, 0], [0, 0, 15.0]])
    places = np.array([[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])[:n] @ cell
    blocks = [
        Blocks.from_dict({key: np.array([[value]]) for key, value in table.items()})
        for table in ({**one, **hoppings}, {**dict.fromkeys(one, 1.0), **overlaps})
    ]
    pbc = np.ones(3, dtype=bool)
    return Structure(np.full(n, 1), places, cell, pbc, {1: (0,)}, False, *blocks, name="model").validate()


@pytest.fixture(scope="module")
def chain() -> Structure:
    """Return a chain along the first lattice vector, with an overlap of neighbours."""
    return tight_binding({(1, 0, 0, 0, 0): HOPPING}, {(1, 0, 0, 0, 0): OVERLAP}, 1)


@pytest.fixture(scope="module")
def graphene() -> Structure:
    """Return the two-band model of graphene; atom 1 has its three neighbours in three cells."""
    shifts = [(0, 0, 0), (0, 1, 0), (-1, 0, 0)]
    keys = [(*shift, 0, 1) for shift in shifts]
    return tight_binding(dict.fromkeys(keys, HOPPING), dict.fromkeys(keys, OVERLAP), 2)


def test_chain_has_its_analytic_band(chain: Structure) -> None:
    k = np.linspace(0, 1, 17)
    points = np.stack([k, 0 * k, 0 * k], axis=1)
    cosine = 2 * np.cos(2 * np.pi * k)
    expected = HOPPING * cosine / (1 + OVERLAP * cosine)
    assert np.abs(energies_at(chain, points)[:, 0] - expected).max() < 1e-13
    without_s = HOPPING * cosine
    assert np.abs(energies_at(chain, points)[:, 0] - without_s).max() > 0.1


def test_graphene_has_its_analytic_bands(graphene: Structure) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    phases = 1 + np.exp(2j * np.pi * points[:, 1]) + np.exp(-2j * np.pi * points[:, 0])
    size = np.abs(phases)
    expected = np.sort(
        np.stack([-HOPPING * size / (1 - OVERLAP * size), HOPPING * size / (1 + OVERLAP * size)]), axis=0
    )
    assert np.abs(energies_at(graphene, points) - expected.T).max() < 1e-12
    corner = band_gap(energies_at(graphene, np.concatenate([K_POINT, k_mesh((6, 6, 1), gamma=True)])), 1)
    assert abs(corner["direct"]) < 1e-12


def test_the_bloch_sum_has_the_documented_sign(graphene: Structure) -> None:
    hamiltonian, _ = bloch_matrices(graphene)
    k = np.array([0.11, 0.23, 0.0])
    explicit = np.zeros((2, 2), dtype=complex)
    assert graphene.hamiltonian is not None
    for (x, y, z, i, j), block in graphene.hamiltonian.completed().to_dict().items():
        explicit[i, j] += block[0, 0] * np.exp(2j * np.pi * (k @ [x, y, z]))
    assert np.abs(hamiltonian.dense(k) - explicit).max() < 1e-14
    assert np.abs(hamiltonian.sparse(k).toarray() - explicit).max() < 1e-14
    assert np.abs(hamiltonian.dense(-k) - explicit).max() > 0.1


@pytest.mark.parametrize("key", ["MG", "MM", "BB"])
def test_bloch_sums_of_dft_blocks_are_hermitian_and_s_is_positive(key: str) -> None:
    structure = load_dataset(key).test[0]
    hamiltonian, overlap = bloch_matrices(structure)
    smallest = {"MG": 2.0e-3, "MM": 1.5e-2, "BB": 5.2e-3}[key]  # over all structures, as the data were made
    for k in ([0, 0, 0], [0.5, 0, 0], [1 / 3, 1 / 3, 0], [0.17, 0.29, 0]):
        h, s = hamiltonian.dense(k), overlap.dense(k)
        assert np.abs(h - h.conj().T).max() < 1e-12
        norms = np.linalg.eigvalsh(s)
        assert norms[0] > 0.95 * smallest
        state = solve(h, s, vectors=True)
        assert state.smallest <= norms[0] * 1.01
        assert state.vectors is not None
        assert np.abs(h @ state.vectors - s @ state.vectors * state.energies).max() < 1e-9
        assert np.abs(state.vectors.conj().T @ s @ state.vectors - np.eye(len(h))).max() < 1e-9
    wrong = hamiltonian.dense([0.17, 0.29, 0]) + 1e-3 * np.triu(np.ones_like(h), 1)
    assert np.abs(wrong - wrong.conj().T).max() > 1e-4


@pytest.mark.parametrize(("key", "gap"), [("MG", 0.188), ("MM", 1.520), ("BB", 0.414), ("BG", 0.312)])
def test_smallest_direct_gaps_are_those_recorded_with_the_data(key: str, gap: float) -> None:
    structure = load_dataset(key).test[0]
    energies = energies_at(structure, np.concatenate([k_mesh((6, 6, 1), gamma=True), K_POINT]))
    occupied = occupied_bands(structure, energies)
    assert band_gap(energies, occupied)["direct"] == pytest.approx(gap, abs=6e-4)
    assert band_gap(energies, occupied + 1)["direct"] != pytest.approx(gap, abs=6e-4)


def test_fermi_level_is_that_of_the_engine() -> None:
    structure = load_dataset("MG").test[0]
    energies = energies_at(structure, k_mesh(structure.metadata["kmesh"]))
    electrons = valence_electrons(structure)
    assert electrons == 4 * 18
    assert fermi_level(energies, electrons, False) == pytest.approx(structure.metadata["fermi_energy_eV"], abs=2e-3)
    assert abs(fermi_level(energies, electrons + 2, False) - structure.metadata["fermi_energy_eV"]) > 0.02
    with pytest.raises(DataError, match="electrons"):
        fermi_level(energies, 1e6, False)


def test_kramers_pairs_with_spin_orbit_and_their_loss_without_time_reversal() -> None:
    structure = load_dataset("BB").test[0]
    energies = energies_at(structure, [[0, 0, 0], [0.5, 0, 0]])
    assert np.abs(energies[:, ::2] - energies[:, 1::2]).max() < 1e-8
    assert structure.hamiltonian is not None
    blocks = structure.hamiltonian.to_dict()
    for key, block in blocks.items():
        if key[3] == key[4] and not any(key[:3]):
            n = len(block) // 2
            block[:n, :n] += 0.01 * np.eye(n)  # a magnetic field along z
    magnetic = Structure(**{**structure.fields(), "hamiltonian": Blocks.from_dict(blocks)})
    broken = energies_at(magnetic, [[0, 0, 0]])
    assert np.abs(broken[:, ::2] - broken[:, 1::2]).max() > 1e-4


def test_ill_conditioned_overlap_is_projected_with_a_warning() -> None:
    model = tight_binding({(0, 0, 0, 0, 1): -1.0}, {(0, 0, 0, 0, 1): 1.0 - 1e-9}, 2)
    with pytest.warns(IllConditionedOverlap, match="1 of 2 directions projected out"):
        energies = energies_at(model, [[0.0, 0, 0]])
    assert energies.shape == (1, 1)
    assert energies[0, 0] == pytest.approx(-0.5)  # (φ1 + φ2) / 2 has energy -1 / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = energies_at(tight_binding({(0, 0, 0, 0, 1): -1.0}, {(0, 0, 0, 0, 1): 0.5}, 2), [[0.0, 0, 0]])
    assert good.shape == (1, 2)
    with pytest.raises(DataError, match="no overlap"):
        solve(np.eye(2, dtype=complex), -np.eye(2, dtype=complex))
    with pytest.raises(DataError, match="NaN"):
        solve(np.full((2, 2), np.nan, dtype=complex), np.eye(2, dtype=complex))


@pytest.mark.parametrize("key", ["MM", "BB"])
def test_sparse_solver_finds_the_states_near_the_fermi_level(key: str) -> None:
    structure = load_dataset(key).test[0]
    path = k_path(structure, "GM", 3)
    dense, sparse = band_structure(structure, path), band_structure(structure, path, bands=12)
    assert dense.fermi_energy is not None
    for row, near in zip(dense.energies, sparse.energies, strict=True):
        chosen = np.sort(row[np.argsort(np.abs(row - dense.fermi_energy))[:12]])
        assert np.abs(chosen - near).max() < 1e-7


def test_path_leaves_the_vacuum_out() -> None:
    structure = load_dataset("MG").test[0]
    path = k_path(structure, points=30)
    assert "".join(label for _, label in path.ticks) == "GMKG"
    assert (path.ticks[0][0], path.ticks[-1][0]) == (path.distance[0], path.distance[-1])  # a picture shows both ends
    assert not path.points[:, 2].any()
    assert np.abs(path.points - np.array([1 / 3, 1 / 3, 0])).sum(axis=1).min() < 0.05
    assert mesh_for(structure) == (3, 3, 1)
    with pytest.raises(DataError, match="no k-path"):
        k_path(structure, "GQ")
    with pytest.raises(DataError, match="expected special points such as GMKG, found ''"):
        k_path(structure, "")
    assert len(k_path(structure, "G").points) == 1  # control: one point is a path


@pytest.mark.parametrize("points", [2, 4, 10, 60])
@pytest.mark.parametrize(
    ("cell", "path", "breaks"),
    [
        (np.diag([2.46, 40.0, 20.0]), "GXSYGS", []),  # a ribbon: X to S and Y to G are short
        (HEXAGON * [[1.0], [1.0], [30.5]], "GMKGALHA,LM,KH", ["A,L", "M,K"]),
        (HEXAGON * [[1.0], [1.0], [30.5]], "GAL", []),
    ],
)
def test_every_segment_has_its_length_and_only_a_break_has_none(
    chain: Structure, cell: np.ndarray, path: str, breaks: list[str], points: int
) -> None:
    everywhere = {(*shift, 0, 0): np.zeros((1, 1)) for shift in np.eye(3, dtype=int).tolist()}
    blocks = Blocks.from_dict({(0, 0, 0, 0, 0): np.zeros((1, 1)), **everywhere})
    structure = replace(chain, cell=cell, hamiltonian=blocks, overlap=None)
    found = k_path(structure, path, points)
    assert [label for _, label in found.ticks if "," in label] == breaks
    assert ",".join(label for _, label in found.ticks).replace(",", "") == path.replace(",", "")
    # the length of each segment, from the fractional coordinates of its ends
    special = Cell(cell).bandpath(path).special_points
    inverse = 2 * np.pi * np.linalg.inv(cell).T
    lengths = [
        np.linalg.norm((special[b] - special[a]) @ inverse)
        for section in parse_path_string(path)
        for a, b in itertools.pairwise(section)
    ]
    assert np.diff([place for place, _ in found.ticks]) == pytest.approx(lengths, abs=1e-9)
    assert min(lengths) > 0.05
    assert {place for place, _ in found.ticks} <= set(found.distance.tolist())


def test_density_of_states_counts_the_electrons(graphene: Structure) -> None:
    energies = energies_at(graphene, k_mesh((24, 24, 1)))
    grid = np.linspace(-25, 25, 5001)
    density = density_of_states(energies, grid, 0.05, spinful=False)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(4.0, rel=1e-6)
    assert (density * (grid < 0)).sum() * step == pytest.approx(2.0, rel=1e-2)
    assert density[np.abs(grid) < 0.1].max() < 0.1 * density.max()  # the Dirac point
    one_spin = density_of_states(energies, grid, 0.05, spinful=True)
    assert one_spin.sum() * step == pytest.approx(2.0, rel=1e-6)


def test_missing_matrices_are_named(graphene: Structure) -> None:
    bare = Structure(**{**graphene.fields(), "overlap": None})
    with pytest.raises(DataError, match="expected overlap blocks"):
        energies_at(bare, [[0, 0, 0]])
    with pytest.raises(DataError, match="Fermi level"):
        band_structure(graphene, "GM", points=3, dense_limit=1)


def test_bands_cost_what_their_eigenvalues_cost() -> None:
    small = load_dataset("BG").test[0]
    structure = repeated(small, 2)  # 64 atoms, 832 orbitals: 20 s for 60 points on a free core
    path = k_path(structure, points=6)
    start = time.process_time()
    bands = band_structure(structure, path)
    seconds = time.process_time() - start
    assert bands.energies.shape == (6, 832)
    hermitian = np.random.default_rng(0).normal(size=(832, 832)) + 0j
    start = time.process_time()
    scipy.linalg.eigh(hermitian + hermitian.T.conj(), np.eye(832) + 0j)
    assert seconds < 4 * 6 * (time.process_time() - start)  # both on the same busy core
    folded = energies_at(small, [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0]])
    assert np.abs(bands.energies[0] - np.sort(folded.reshape(-1))).max() < 1e-8


def repeated(structure: Structure, n: int) -> Structure:
    """Return n x n cells as one."""
    cells = [(a, b) for a in range(n) for b in range(n)]
    place = {cell: k for k, cell in enumerate(cells)}
    count = structure.n_atoms
    matrices = {}
    for label in ("hamiltonian", "overlap"):
        blocks = {}
        for (x, y, z, i, j), block in getattr(structure, label).completed().to_dict().items():
            for a, b in cells:
                key = ((a + x) // n, (b + y) // n, z)
                other = place[(a + x) % n, (b + y) % n]
                blocks[(*key, place[a, b] * count + i, other * count + j)] = block
        matrices[label] = Blocks.from_dict(blocks)
    shifts = np.array([(a, b, 0) for a, b in cells]) @ structure.cell
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    cell = structure.cell * np.array([[n], [n], [1]])
    changed = {"numbers": np.tile(structure.numbers, n * n), "positions": positions, "cell": cell, **matrices}
    return Structure(**{**structure.fields(), **changed})


def test_bloch_sum_of_one_atom_without_neighbours() -> None:
    block = np.diag([1.0, 2.0])
    single = BlochSum.from_blocks(Blocks.from_dict({(0, 0, 0, 0, 0): block}), np.array([2]))
    assert np.array_equal(single.dense([0.3, 0.1, 0.2]), block.astype(complex))


def test_small_eigenvalues_of_the_overlap_are_named_where_nothing_is_projected_out() -> None:
    structure = load_dataset("MM").test[0]
    path = k_path(structure, "GM", 3)
    with pytest.warns(IllConditionedOverlap, match="no direction is projected out"):
        band_structure(structure, path, bands=4, smallest_overlap=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = band_structure(structure, path, bands=4)
    _, overlap = bloch_matrices(structure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unmarked = band_structure(structure, replace(path, ticks=()), bands=4)  # no special point to judge S at
    assert np.isnan(unmarked.smallest_overlap)
    exact = min(float(np.linalg.eigvalsh(overlap.dense(k))[0]) for k in (path.points[0], path.points[-1]))
    assert found.smallest_overlap == pytest.approx(exact, rel=1e-6)
