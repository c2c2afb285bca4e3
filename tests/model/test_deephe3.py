"""Symmetries of the network: rotations, inversion, order of atoms, gauge of the frames, Hermiticity, locality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.loader import DataLoader

from tracegrad.errors import DataError
from tracegrad.graph import cast_graph, collate, graph_from_pairs
from tracegrad.model import HarmoSE, Induction, NetworkSizes, predict_blocks
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.so3 import random_rotation, wigner_D, wigner_D_irreps

Maker = Callable[..., Any]
SIZES = NetworkSizes("6x0e+4x1o+3x2e+2x3o", 5, 3, 2, 4.0, 8, "none")
OPERATOR = Induction(True, True, "low_rank", 7, trace_width=8)


@pytest.mark.parametrize(
    ("key", "norm", "hermitian"), [("MM", "graph", False), ("BB", "none", True), ("MG", "none", True)]
)
def test_rotated_structures_give_rotated_blocks(
    key: str, norm: str, hermitian: bool, layout: Maker, graph: Maker, network: Maker
) -> None:
    targets = layout(key)
    model = network(targets, sizes=replace(SIZES, norm=norm), induction=OPERATOR, hermitian=hermitian)
    before = model(graph(targets))
    R = random_rotation()
    after = model(graph(targets, rotation=R))
    turned = before["edge_irreps"] @ wigner_D_irreps(targets.irreps, R).T
    scale = float(turned.detach().abs().max())
    assert torch.allclose(after["edge_irreps"], turned, rtol=0, atol=1e-12 * scale)
    assert torch.allclose(after["trace"], before["trace"], rtol=0, atol=1e-11)
    assert not torch.allclose(after["edge_irreps"], before["edge_irreps"], rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("key", ["MM", "BB"])
def test_inverted_structures_give_blocks_of_the_other_parity(
    key: str, layout: Maker, graph: Maker, network: Maker
) -> None:
    targets = layout(key)
    model = network(targets, induction=OPERATOR)
    R = -random_rotation()
    before, after = model(graph(targets))["edge_irreps"], model(graph(targets, rotation=R))["edge_irreps"]
    assert torch.allclose(after, before @ wigner_D_irreps(targets.irreps, R).T, rtol=0, atol=1e-11)
    assert not torch.allclose(after, before @ wigner_D_irreps(targets.irreps, -R).T, rtol=0, atol=1e-3)


@pytest.mark.parametrize("key", ["MM", "BT"])
def test_blocks_are_hermitian_by_construction(key: str, layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout(key)
    structure = graph(targets)
    blocks = predict_blocks(network(targets, induction=OPERATOR), structure)
    assert blocks.completed().hermiticity_defect() < 1e-12
    baseline = predict_blocks(network(targets, hermitian=False), structure)
    assert baseline.hermiticity_defect() > 1e-3


def test_symmetrisation_is_the_mean_over_both_directions(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("BB")
    both, half = network(targets, hermitian=False), network(targets)
    structure = graph(targets)
    t, (index, sign) = both(structure)["edge_irreps"], targets.partner
    expected = 0.5 * (t + t[structure.reverse_edge][:, index] * sign)
    found = half(structure)["edge_irreps"]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(found, t, rtol=0, atol=1e-3)


def test_time_reversal_leaves_no_forbidden_component(layout: Maker, graph: Maker, network: Maker) -> None:
    sigma_y = np.array([[0, -1j], [1j, 0]])
    for time_reversal in (True, False):
        targets = layout("BB", time_reversal)
        blocks = predict_blocks(network(targets), graph(targets))
        defect = 0.0
        for e in range(blocks.n_edges):
            H = blocks.block(e)
            n, m = H.shape[0] // 2, H.shape[1] // 2
            turned = np.kron(sigma_y, np.eye(n)) @ H.conj() @ np.kron(sigma_y, np.eye(m))
            defect = max(defect, float(np.abs(H - turned).max()))
        assert (defect < 1e-12) == time_reversal


def test_order_of_atoms_does_not_matter(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MM")
    model = network(targets, induction=OPERATOR)
    structure = graph(targets, species=(0, 1, 0))
    order = [2, 0, 1]
    shuffled = graph(targets, species=(0, 0, 1), positions=structure.positions.numpy()[order])
    first, second = predict_blocks(model, structure).completed(), predict_blocks(model, shuffled).completed()
    for e in range(second.n_edges):
        *shift, i, j = second.keys()[e].tolist()
        original = first.block(first.index((*shift, order[i], order[j])))
        assert np.allclose(second.block(e), original, rtol=0, atol=1e-12)
    assert not np.allclose(first.block(0), second.block(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm", ["graph", "none"])
def test_gauge_of_the_frames_changes_nothing(norm: str, layout: Maker, graph: Maker, network: Maker) -> None:
    """Each frame may be turned about its edge by any angle."""
    targets = layout("BB")
    model = network(targets, sizes=replace(SIZES, norm=norm), induction=OPERATOR)
    structure = graph(targets)
    expected = model(structure)["edge_irreps"]

    def turned(angles: torch.Tensor) -> torch.Tensor:
        other, N = structure.clone(), structure.num_nodes
        # the frame of a reversed edge is that of the edge turned about y, so it turns the other way about its own pole
        about = torch.cat([torch.zeros(N), angles, -angles]).double()
        other.wigner = [_about_z(l, about) @ D for l, D in enumerate(structure.wigner)]
        return model(other)["edge_irreps"]

    angles = torch.rand(structure.num_pairs) * 6
    assert torch.allclose(turned(angles), expected, rtol=0, atol=1e-11)
    other = structure.clone()  # a turn about another axis is no gauge
    tilt = wigner_D(1, random_rotation())
    other.wigner = [D if l != 1 else tilt @ D for l, D in enumerate(structure.wigner)]
    assert not torch.allclose(model(other)["edge_irreps"], expected, rtol=0, atol=1e-3)


def _about_z(l: int, angle: torch.Tensor) -> torch.Tensor:
    """Wigner matrices of turns about the pole, rows and columns 0, +1, -1, +2, -2, ..."""
    D = torch.zeros(len(angle), 2 * l + 1, 2 * l + 1, dtype=torch.float64)
    D[:, 0, 0] = 1
    for m in range(1, l + 1):
        c, s = (m * angle).cos(), (m * angle).sin()
        D[:, 2 * m - 1, 2 * m - 1], D[:, 2 * m, 2 * m] = c, c
        D[:, 2 * m - 1, 2 * m], D[:, 2 * m, 2 * m - 1] = -s, s
    return D


def test_vertical_edges_are_continuous(layout: Maker, graph: Maker, network: Maker) -> None:
    """At the pole the azimuth jumps; nothing else may."""
    targets = layout("MG")
    model, R = network(targets), random_rotation()
    for tilt in (0.0, 1e-9):
        positions = np.array([[0.0, 0.0, 0.0], [tilt, -tilt, 2.1]])
        upright = model(graph(targets, positions=positions))["edge_irreps"]
        turned = model(graph(targets, positions=positions, rotation=R))["edge_irreps"]
        assert torch.allclose(turned, upright @ wigner_D_irreps(targets.irreps, R).T, rtol=0, atol=1e-12)


def test_far_fragment_changes_nothing_without_the_published_norm(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    here = np.array([[0.0, 0.0, 0.0], [1.2, 0.3, 0.5]])
    there = np.array([[0.0, 0.0, 500.0], [1.5, 0.1, 500.9]])
    box = np.diag([900.0, 900.0, 900.0])
    for norm, local in (("none", True), ("graph", False)):
        model = network(targets, sizes=replace(SIZES, norm=norm), induction=OPERATOR)
        alone = predict_blocks(model, graph(targets, positions=here, cell=box))
        both = predict_blocks(model, graph(targets, positions=np.concatenate([here, there]), cell=box))
        same = all(
            np.allclose(alone.block(e), both.block(both.index(tuple(alone.keys()[e].tolist()))), rtol=0, atol=1e-12)
            for e in range(alone.n_edges)
        )
        assert same == local


def test_float32_follows_float64(layout: Maker, graph: Maker, network: Maker, single: Maker) -> None:
    targets = layout("MM")
    model, structure = network(targets, induction=OPERATOR), graph(targets)
    exact = model(structure)["edge_irreps"]
    rounded = model.float()(single(structure))["edge_irreps"]
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded.double(), exact, rtol=0, atol=2e-5 * float(exact.detach().abs().max()))
    again = model.double()(structure)["edge_irreps"]  # constants are not rounded by the detour
    assert torch.allclose(again, exact, rtol=0, atol=1e-5 * float(exact.detach().abs().max()))


@pytest.mark.parametrize(
    ("operator", "trace"), [(False, False), (False, True), (True, False), (True, True)], ids=["base", "T", "G", "TG"]
)
def test_four_settings(operator: bool, trace: bool, layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    model = network(targets, induction=replace(OPERATOR, operator=operator, trace=trace))
    structure = graph(targets)
    assert ("trace" in model(structure)) == trace == ("trace" in model.irreps_out)
    assert "trace" not in model.eval()(structure)
    assert model.has_invariants == (operator or trace)
    base = network(targets)
    assert len(list(model.parameters())) >= len(list(base.parameters()))


def test_messages_fade_out_before_the_cutoff(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    structure = graph(targets)
    distances = structure.edge_vectors.norm(dim=1)
    r_max = float(distances.max())
    model = network(targets, sizes=replace(SIZES, envelope=2, r_max=r_max))
    weights = model.message_weights(structure)
    assert torch.allclose(weights[distances == 0], weights.new_ones(()))
    assert weights[distances.argmax()] == 0
    order = torch.argsort(distances)
    assert (weights[order].diff() <= 1e-15).all()
    plain = network(targets, sizes=replace(SIZES, r_max=r_max))
    assert plain.message_weights(structure) is None  # DeepH-E3
    plain.load_state_dict(model.state_dict())
    faded, full = model(structure)["edge_irreps"], plain(structure)["edge_irreps"]
    assert not torch.allclose(faded, full, rtol=0, atol=1e-3 * float(full.detach().abs().max()))


def test_messages_may_fade_out_before_the_end_of_the_grid(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    structure = graph(targets)
    distances = structure.edge_vectors.norm(dim=1)
    r_max = float(distances.max())
    end = 0.8 * r_max
    sizes = replace(SIZES, envelope=2, r_max=r_max)
    shorter = network(targets, sizes=replace(sizes, envelope_end=end))
    weights = shorter.message_weights(structure)
    assert torch.equal(weights == 0, distances >= end)
    assert torch.allclose(weights, (1 - (distances / end) ** 2).clamp(min=0) ** 2, rtol=1e-12, atol=0)
    whole, alone = network(targets, sizes=sizes), network(targets, sizes=replace(sizes, r_max=end))
    assert int((whole.message_weights(structure) == 0).sum()) < int((weights == 0).sum())  # control: 0 means r_max
    outputs = [model(structure)["edge_irreps"] for model in (shorter, whole, alone)]
    for other in outputs[1:]:  # neither another envelope nor another grid
        assert not torch.allclose(outputs[0], other, rtol=0, atol=1e-3 * float(other.detach().abs().max()))


def test_a_graph_of_another_dtype_or_in_another_order_is_refused(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    graphs, model = [graph(targets), graph(targets, cutoff=2.0)], network(targets)
    models = [model, HarmoSE(model, 8, 1, 2).double(), E3nnDeepHE3(network(targets))]
    for refusing in models:
        with pytest.raises(
            DataError, match=r"dtype of the weights, torch.float64, found torch.float32; .* dtype=torch"
        ):
            refusing(cast_graph(graphs[0].clone(), torch.float32))
        with pytest.raises(DataError, match=r"found a batch of PyTorch Geometric, .* use tracegrad.graph.collate"):
            refusing(next(iter(DataLoader(graphs, batch_size=2))))
        assert refusing(collate(graphs))["edge_irreps"].isfinite().all()  # control


def test_forces_on_a_vertical_pair_are_those_on_a_tilted_one(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    model = network(targets)

    def forces(R: torch.Tensor) -> torch.Tensor:
        positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=torch.float64) @ R.T
        positions.requires_grad_()
        pair, box = torch.tensor([[0], [1]]), 20 * torch.eye(3, dtype=torch.float64)
        numbers, shift = torch.tensor([6, 6]), torch.zeros(1, 3, dtype=torch.long)
        dimer = graph_from_pairs(numbers, positions, box, pair, shift, targets)
        (gradient,) = torch.autograd.grad(model(dimer)["edge_irreps"].square().sum(), positions)
        return gradient

    R = random_rotation(generator=torch.Generator().manual_seed(4))
    vertical, tilted = forces(torch.eye(3, dtype=torch.float64)), forces(R)
    assert torch.allclose(vertical @ R.T, tilted, rtol=0, atol=1e-10 * float(tilted.abs().max()))
    assert not torch.allclose(vertical, tilted, rtol=0, atol=1e-2 * float(tilted.abs().max()))


@pytest.mark.parametrize("training", [True, False])
def test_a_prediction_that_fails_leaves_the_mode_of_the_network(
    training: bool, layout: Maker, graph: Maker, network: Maker
) -> None:
    targets = layout("MG")
    model, structure = network(targets).train(training), graph(targets)
    predict_blocks(model, structure)
    assert model.training == training
    structure.wigner = structure.wigner[:1]
    with pytest.raises(DataError, match="build the graph with lmax"):
        predict_blocks(model, structure)
    assert model.training == training
