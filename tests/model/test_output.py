"""The two-centre reference: exact where it can be, covariant, Hermitian, fitted to training data alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from tracegrad.data import Blocks, Structure, load_dataset
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError
from tracegrad.graph import TargetLayout, build_graph, graph_from_pairs
from tracegrad.model import predict_blocks
from tracegrad.model.output import SMOOTHNESS, OutputTransform
from tracegrad.so3 import random_rotation, wigner_D, wigner_D_irreps

Maker = Callable[..., Any]
CUTOFF = 3.2
ORBITALS = {6: (0, 1), 14: (0, 0, 1, 2)}
SIGMA = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


def slater_koster(Z: tuple[int, int], vector: np.ndarray, cutoff: float) -> np.ndarray:
    """Two-centre block between the shells of two elements, vanishing with two derivatives at the cutoff."""
    r = float(np.linalg.norm(vector))
    polar, azimuth = np.arctan2(np.hypot(vector[0], vector[1]), vector[2]), np.arctan2(vector[1], vector[0])
    cz, sz, cy, sy = np.cos(azimuth), np.sin(azimuth), np.cos(polar), np.sin(polar)
    Q = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rows = []
    for a, l1 in enumerate(ORBITALS[Z[0]]):
        row = []
        for b, l2 in enumerate(ORBITALS[Z[1]]):
            V = np.zeros((2 * l1 + 1, 2 * l2 + 1))
            for m in range(-min(l1, l2), min(l1, l2) + 1):
                swapped = (Z[0], a) > (Z[1], b)
                first, second = ((Z[1], b), (Z[0], a)) if swapped else ((Z[0], a), (Z[1], b))
                integral = np.sin(1.0 + 3 * sum(first) + 5 * sum(second) + 7 * abs(m)) * (cutoff - r) ** 3
                V[l1 + m, l2 + m] = integral * ((-1) ** (l1 + l2) if swapped else 1)
            D1, D2 = (wigner_D(l, torch.from_numpy(Q)).numpy() for l in (l1, l2))
            row.append(D1 @ V @ D2.T)
        rows.append(row)
    return np.block(rows)


def on_site(Z: int, spinful: bool) -> np.ndarray:
    """Energies of the shells, and with spin the spin-orbit coupling L.S of the p shell."""
    shells = ORBITALS[Z]
    energies = np.concatenate([np.full(2 * l + 1, -5.0 - k - Z / 10) for k, l in enumerate(shells)])
    block = np.diag(energies)
    if not spinful:
        return block
    block = np.kron(np.eye(2), block).astype(complex)
    start = sum(2 * l + 1 for l in shells[: shells.index(1)])
    n = len(energies)
    L = np.zeros((3, 3, 3), dtype=complex)  # L_a of p_x, p_y, p_z: -i eps_abc, then in the order y, z, x
    for a, b, c, sign in ((0, 1, 2, 1), (1, 2, 0, 1), (2, 0, 1, 1), (0, 2, 1, -1), (2, 1, 0, -1), (1, 0, 2, -1)):
        L[a, b, c] = -1j * sign
    order = [1, 2, 0]
    index = np.concatenate([start + np.arange(3), n + start + np.arange(3)])
    coupling = sum(np.kron(SIGMA[a], L[a][np.ix_(order, order)]) for a in range(3))
    block[np.ix_(index, index)] += 0.3 * coupling
    return block


def structure_of(seed: int, spinful: bool = False, noise: float = 0.0) -> Structure:
    """Return random atoms with a two-centre Hamiltonian."""
    random = np.random.default_rng(seed)
    numbers = np.array([6, 14, 6, 14])
    positions = np.array([[0.0, 0, 0], [1.4, 0.3, 0.2], [0.2, 1.6, 0.9], [0.0, 0.0, 2.0]]) + random.uniform(
        -0.2, 0.2, (4, 3)
    )
    cell, pbc = np.diag([3.0, 9.0, 9.0]), np.array([True, False, False])
    i, j, shift = neighbor_pairs(positions, cell, pbc, CUTOFF)
    blocks = {(0, 0, 0, k, k): on_site(int(Z), spinful) for k, Z in enumerate(numbers)}
    for a, b, R in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True):
        vector = positions[b] + np.array(R) @ cell - positions[a]
        block = slater_koster((int(numbers[a]), int(numbers[b])), vector, CUTOFF)
        block = block + noise * random.normal(size=block.shape)
        blocks[(*R, a, b)] = np.kron(np.eye(2), block).astype(complex) if spinful else block
    orbitals = dict(ORBITALS)
    return Structure(numbers, positions, cell, pbc, orbitals, spinful, Blocks.from_dict(blocks), name=f"s{seed}")


def zero_network(network: Maker, targets: TargetLayout, hermitian: bool = True) -> Any:
    """Return a network whose own output is zero and whose reference is free to be fitted."""
    model = network(targets, hermitian=hermitian)
    model.output = OutputTransform(targets, reference=True, scaling=True).double()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("spinful", [False, True])
def test_two_centre_data_are_reproduced(spinful: bool, network: Maker) -> None:
    targets = TargetLayout(ORBITALS, spinful)
    model = zero_network(network, targets)
    model.calibrate([build_graph(structure_of(seed, spinful), targets) for seed in range(24)])
    unseen = structure_of(99, spinful)
    predicted, exact = predict_blocks(model, build_graph(unseen, targets)), unseen.hamiltonian.hermitian_half()
    largest = np.abs(exact.values).max()
    worst = max(
        float(np.abs(predicted.block(predicted.index(tuple(k))) - exact.block(exact.index(tuple(k)))).max())
        for k in exact.keys().tolist()
    )
    assert worst < 2e-3 * largest
    other = structure_of(99, spinful, noise=0.1 * largest).hamiltonian.hermitian_half()  # what is not two-centre stays
    assert np.abs(other.values - exact.values).max() > 10 * worst


def test_reference_alone_is_what_a_network_of_zeros_gives(network: Maker) -> None:
    targets = TargetLayout(ORBITALS, False)
    zero, graph = zero_network(network, targets), build_graph(structure_of(1), targets)
    alone = network(targets)
    alone.output = OutputTransform(targets, reference=True, scaling=True, reference_only=True).double()
    for model in (zero, alone):
        model.calibrate([graph])
    assert torch.equal(alone.in_frame(graph)["frame"], zero.in_frame(graph)["frame"])
    alone.output.reference_only = False
    assert not torch.allclose(alone.in_frame(graph)["frame"], zero.in_frame(graph)["frame"])


@pytest.mark.parametrize(("smoothness", "within"), [(0.0, 1e-6), (SMOOTHNESS, 3e-4)])
def test_reference_passes_through_the_targets_of_the_training_distances(
    smoothness: float, within: float, network: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracegrad.model.output.SMOOTHNESS", smoothness)
    targets = TargetLayout(ORBITALS, False)
    model = zero_network(network, targets)
    graph = build_graph(structure_of(1), targets)
    model.calibrate([graph])
    inner = torch.cat([torch.zeros(4), graph.edge_vectors[4 : len(graph.target_frame)].norm(dim=1)]) < 0.9 * CUTOFF
    error = (model.in_frame(graph)["frame"] - graph.target_frame)[inner].abs().max()
    assert error < within * graph.target_frame.abs().max()


def pairs_along(distances: torch.Tensor, pair_type: int) -> Data:
    """Return a graph of nothing but pairs of the same two elements, at the distances given."""
    vectors = torch.nn.functional.pad(distances[:, None], (0, 2))
    types, none = torch.full((len(distances),), pair_type), torch.zeros(0, dtype=torch.long)
    return Data(edge_vectors=vectors, edge_type=types, species=none, num_nodes=0)


@pytest.fixture(scope="module")
def molybdenum_disulphide() -> tuple[TargetLayout, list[Data]]:
    """Graphs of layers whose neighbours stand in shells, far apart beside their width."""
    dataset = load_dataset("MM")
    targets = TargetLayout.from_dataset(dataset)
    return targets, [build_graph(structure, targets) for structure in dataset.train[:4]]


def fitted(targets: TargetLayout, graphs: list[Data]) -> OutputTransform:
    """Return a reference that has been fitted."""
    transform = OutputTransform(targets, reference=True).double()
    transform.fit(graphs)
    return transform


def excess(transform: OutputTransform, graphs: list[Data]) -> float:
    """Largest reference at any distance between the bounds over the largest target, of the worst pair of elements."""
    distances = torch.linspace(*transform.bounds.tolist(), 2000, dtype=torch.float64)
    worst = 0.0
    for pair_type in range(len(transform.pair_splines)):
        largest = max(
            float(graph.target_frame[graph.num_nodes :][types == pair_type].abs().max())
            for graph in graphs
            for types in [graph.edge_type[graph.num_nodes : len(graph.target_frame)]]
            if (types == pair_type).any()
        )
        reference = transform.reference_pole(pairs_along(distances, pair_type), len(distances))
        worst = max(worst, float(reference.abs().max()) / largest)
    return worst


def test_reference_between_the_training_distances_is_no_larger_than_the_targets(
    molybdenum_disulphide: tuple[TargetLayout, list[Data]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert excess(fitted(*molybdenum_disulphide), molybdenum_disulphide[1]) < 1.2
    monkeypatch.setattr("tracegrad.model.output.SMOOTHNESS", 0.0)  # control
    assert excess(fitted(*molybdenum_disulphide), molybdenum_disulphide[1]) > 3.0


def test_reference_below_the_lengths_of_its_elements_stays_that_of_the_shortest(
    molybdenum_disulphide: tuple[TargetLayout, list[Data]],
) -> None:
    transform = fitted(*molybdenum_disulphide)
    low, shortest = transform.bounds[0], transform.pair_bounds[0, 0]  # of any pair, of two Mo
    assert shortest > low + 0.3
    below = pairs_along(torch.stack([shortest, shortest - 0.1, shortest - 0.3, low]), 0)
    values = transform.reference_pole(below, 4)
    assert torch.equal(values, values[:1].expand_as(values))
    assert values.abs().max() > 1.0
    transform.pair_bounds[:, 0] = 0.0  # control: as in weights of before
    assert not torch.allclose(transform.reference_pole(below, 4), values, atol=0.1)


def test_reference_vanishes_smoothly_at_the_cutoff(network: Maker) -> None:
    targets = TargetLayout(ORBITALS, False)
    model = zero_network(network, targets)
    model.calibrate([build_graph(structure_of(seed), targets) for seed in range(3)])
    high = model.output.bounds[1]
    steps = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64) * 1e-2
    values = model.output._splines(high - steps).abs().sum(1)
    assert torch.allclose(values[:-1] / values[1:], torch.full((2,), 8.0, dtype=torch.float64), rtol=1e-3)  # cubic
    assert model.output._splines(high + steps).abs().max() == 0
    assert model.output._splines(high / 2 + steps).abs().max() > 0.1


@pytest.mark.parametrize("spinful", [False, True])
def test_reference_is_covariant_and_hermitian(spinful: bool, graph: Maker, network: Maker) -> None:
    targets = TargetLayout(ORBITALS, spinful)
    model = zero_network(network, targets)
    model.calibrate([build_graph(structure_of(seed, spinful, noise=0.2), targets) for seed in range(3)])
    R = random_rotation()
    before, after = model(graph(targets))["edge_irreps"], model(graph(targets, rotation=R))["edge_irreps"]
    assert before.abs().max() > 0.1
    assert torch.allclose(after, before @ wigner_D_irreps(targets.irreps, R).T, rtol=0, atol=1e-11)
    # predicted for both directions apart, the reference obeys the Hermitian law by itself
    both = network(targets, hermitian=False)
    both.output = model.output
    with torch.no_grad():
        for parameter in both.decoder.parameters():
            parameter.zero_()
    assert predict_blocks(both, graph(targets)).hermiticity_defect() < 1e-8


@pytest.mark.parametrize("spinful", [False, True])
def test_naming_a_pair_from_its_other_end_changes_nothing(spinful: bool, network: Maker) -> None:
    targets = TargetLayout(ORBITALS, spinful)
    structure = structure_of(1, spinful, noise=0.3)
    model, graph = network(targets), build_graph(structure, targets)
    model.output = OutputTransform(targets, reference=True, scaling=True).double()
    model.calibrate([graph])
    pairs, shift = graph.edge_index[:, graph.num_nodes :][:, : graph.num_pairs], graph.cell_shift[graph.num_nodes :]
    place = torch.from_numpy(structure.numbers), graph.positions, graph.cell[0]
    flipped = graph_from_pairs(*place, pairs.flip(0), -shift[: graph.num_pairs], targets)

    def difference() -> float:
        plain, other = model(graph)["edge_irreps"], model(flipped)["edge_irreps"]
        return float((plain - other[graph.reverse_edge]).detach().abs().max())

    assert difference() < 1e-12
    partner = targets.frame_partner[0][: targets.frame.num_channels]
    channel = int((partner != torch.arange(len(partner))).nonzero()[0])
    model.output.pair_shapes[:, 0, channel] += 0.01  # control: the scale of one channel without its partner's
    assert difference() > 1e-6


@pytest.mark.parametrize("spinful", [False, True])
def test_on_site_blocks_are_hermitian_though_the_targets_are_so_to_a_few_digits(spinful: bool, network: Maker) -> None:
    targets = TargetLayout(ORBITALS, spinful)
    model, graph = network(targets), build_graph(structure_of(1, spinful, noise=0.3), targets)
    graph.target_frame[: graph.num_nodes] += 1e-4 * torch.randn_like(graph.target_frame[: graph.num_nodes])
    model.output = OutputTransform(targets, reference=True, scaling=True).double()
    model.calibrate([graph])
    assert predict_blocks(model, graph).hermiticity_defect() < 1e-12
    partner = targets.frame_partner[0][: targets.frame.num_channels]
    channel = int((partner != torch.arange(len(partner))).nonzero()[0])
    model.output.loop_scale[:, channel] *= 2  # control: the scale of one channel without its partner's
    assert predict_blocks(model, graph).hermiticity_defect() > 1e-9


def test_structures_without_a_pair_cannot_be_fitted_to() -> None:
    targets = TargetLayout(ORBITALS, False)
    structure = structure_of(1)
    assert structure.hamiltonian is not None
    half = structure.hamiltonian.hermitian_half()
    on_site = (half.edge_index[0] == half.edge_index[1]) & (half.cell_shift == 0).all(axis=1)
    alone = build_graph(replace(structure, hamiltonian=half.select(np.flatnonzero(on_site))), targets)
    for graphs in ([alone], []):
        with pytest.raises(DataError, match=r"expected pairs of atoms .* set model.reference to false"):
            OutputTransform(targets, reference=True).double().fit(graphs)
        OutputTransform(targets).fit(graphs)
    OutputTransform(targets, reference=True).double().fit([alone, build_graph(structure, targets)])


def test_fit_sees_the_training_graphs_only(network: Maker) -> None:
    targets = TargetLayout(ORBITALS, False)
    train, test = (build_graph(structure_of(seed, noise=0.1), targets) for seed in (1, 2))
    first, second = OutputTransform(targets, True, True), OutputTransform(targets, True, True)
    first.fit([train])
    second.fit([train, test])
    assert not torch.equal(first.pair_splines, second.pair_splines)
    again = OutputTransform(targets, True, True)
    again.fit(iter([train]))
    assert torch.equal(first.pair_splines, again.pair_splines)


def test_first_outputs_have_the_size_of_the_targets(network: Maker) -> None:
    targets = TargetLayout(ORBITALS, False)
    graph = build_graph(structure_of(1, noise=0.3), targets)
    scaled, plain = OutputTransform(targets, True, True).double(), OutputTransform(targets).double()
    scaled.fit([graph])
    unit = torch.randn(len(graph.target_frame), targets.irreps.dim, dtype=torch.float64)
    residual = (graph.target_frame - scaled(torch.zeros_like(unit), graph)) * graph.target_mask
    own = (scaled(unit, graph) - scaled(torch.zeros_like(unit), graph)) * graph.target_mask
    ratio = float(own.square().mean().sqrt() / residual.square().mean().sqrt())
    assert 0.5 < ratio < 2.0
    assert torch.equal(plain(unit, graph), unit)


def test_scale_is_the_same_for_all_components_of_an_irrep(graph: Maker) -> None:
    targets = TargetLayout(ORBITALS, False)
    output = OutputTransform(targets, True, True).double()
    output.fit([build_graph(structure_of(1, noise=0.3), targets)])
    structure = graph(targets)
    ones = torch.ones(structure.num_nodes + structure.num_pairs, targets.irreps.dim, dtype=torch.float64)
    scale = output(ones, structure) - output(torch.zeros_like(ones), structure)
    channel = targets.frame.component_channel
    first = scale[:, torch.tensor([int((channel == k).nonzero()[0]) for k in range(targets.frame.num_channels)])]
    assert torch.allclose(scale, first[:, channel], rtol=1e-9, atol=0)
    assert scale.std() > 1e-3


def test_scale_beyond_the_lengths_of_its_elements_stays_that_of_the_longest() -> None:
    """A pair of elements with short pairs only in training: a polynomial would leave all bounds."""
    targets = TargetLayout(ORBITALS, False)
    structure = structure_of(1, noise=0.3)
    blocks, numbers = structure.hamiltonian, structure.numbers
    assert blocks is not None
    lengths = np.linalg.norm(structure.edge_vectors(blocks), axis=1)
    unlike = numbers[blocks.edge_index[0]] != numbers[blocks.edge_index[1]]
    short = replace(structure, hamiltonian=blocks.select(np.flatnonzero(~unlike | (lengths < 2.2))))
    output = OutputTransform(targets, True, True).double()
    output.fit([build_graph(short, targets)])
    graph = build_graph(structure, targets)
    rows = slice(graph.num_nodes, graph.num_nodes + graph.num_pairs)
    types, r = graph.edge_type[rows], graph.edge_vectors[rows].norm(dim=1)
    bounded, high = output.scales(graph, rows.stop)[rows], output.pair_bounds[types, 1]
    beyond = r > high
    assert beyond.any()
    for pair_type in types[beyond].unique().tolist():
        same = bounded[beyond & (types == pair_type)]
        assert torch.equal(same, same[:1].expand_as(same))
    assert bounded.max() < 10 * output.scales(build_graph(short, targets), rows.stop)[graph.num_nodes :].max()
    output.pair_bounds[:] = torch.tensor([0.0, torch.inf])  # control: as in weights of before
    free = output.scales(graph, rows.stop)[rows]
    assert torch.equal(free[~beyond], bounded[~beyond])
    assert float((free / bounded).log().abs()[beyond].max()) > 1.0


def test_weights_of_before_there_were_bounds_are_read() -> None:
    targets = TargetLayout(ORBITALS, False)
    output = OutputTransform(targets, True, True).double()
    output.fit([build_graph(structure_of(1, noise=0.3), targets)])
    state = output.state_dict()
    del state["pair_bounds"]
    older = OutputTransform(targets, True, True).double()
    older.load_state_dict(state)
    graph = build_graph(structure_of(1, noise=0.3), targets)
    ones = torch.ones_like(graph.target_frame)
    assert torch.equal(older(ones, graph), output(ones, graph))  # on the lengths that it was fitted to
    del state["pair_shapes"]
    with pytest.raises(RuntimeError, match="pair_shapes"):
        older.load_state_dict(state)  # control
