"""The loss against sums over the matrix elements of complete matrices, written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.data import Blocks, Structure
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.graph import TargetLayout, build_graph, collate, irreps_to_blocks
from tracegrad.graph.build import half_keys
from tracegrad.loss import ReversedFrame, TraceGradLoss, hamiltonian_loss, standardized, trace_label_loss, trace_weight

ORBITALS = {6: (0, 0, 1), 14: (0, 1)}  # the second element lacks the block s2, so that masks matter


def make_structure(spinful: bool, seed: int = 0, r_cut: float = 3.7) -> Structure:
    """Return three atoms of two elements in a cell, with a random Hermitian Hamiltonian, time-reversal symmetric."""
    random = np.random.default_rng(seed)
    numbers = np.array([6, 14, 6])
    positions = np.array([[0.1, 0.0, 0.2], [1.9, 0.3, 0.1], [0.4, 2.1, 1.2]]) + 0.1 * random.normal(size=(3, 3))
    cell, pbc = np.diag([3.6, 4.0, 9.0]), np.array([True, True, False])
    i, j, shift = neighbor_pairs(positions, cell, pbc, r_cut)
    loops = np.arange(3)
    edge_index = np.stack([np.concatenate([loops, i]), np.concatenate([loops, j])])
    cell_shift = np.concatenate([np.zeros((3, 3), dtype=np.int64), shift])
    sizes = {z: sum(2 * l + 1 for l in shells) for z, shells in ORBITALS.items()}
    blocks = {}
    for (a, b), R in zip(edge_index.T.tolist(), cell_shift.tolist(), strict=True):
        rows, columns = sizes[int(numbers[a])], sizes[int(numbers[b])]
        block = random.normal(size=(4, rows, columns))
        if a == b and R == [0, 0, 0]:
            block = 0.5 * (block + np.concatenate([block[:1], -block[1:]]).transpose(0, 2, 1))
        blocks[(*R, a, b)] = spinor(block) if spinful else block[0]
    hamiltonian = Blocks.from_dict(blocks)
    return Structure(numbers, positions, cell, pbc, ORBITALS, spinful, hamiltonian, name=f"random_{seed}").validate()


def spinor(parts: np.ndarray) -> np.ndarray:
    """Return h_0 + i (h_x σ_x + h_y σ_y + h_z σ_z), spin-major."""
    sigma = np.array([[[1, 0], [0, 1]], [[0, 1j], [1j, 0]], [[0, 1], [-1, 0]], [[1j, 0], [0, -1j]]])
    return np.einsum("sab,sij->aibj", sigma, parts).reshape(2 * parts.shape[1], 2 * parts.shape[2])


@pytest.fixture(params=[False, True], ids=["spinless", "spinful"])
def case(request: pytest.FixtureRequest) -> tuple[Structure, TargetLayout, Data]:
    """Return a structure, its layout and its graph in float64."""
    structure = make_structure(request.param)
    layout = TargetLayout(ORBITALS, request.param)
    return structure, layout, build_graph(structure, layout)


def as_blocks(flat: Tensor, graph: Data, layout: TargetLayout) -> Blocks:
    """Return the blocks of frame vectors of the Hermitian half."""
    rows = graph.num_nodes + graph.num_pairs
    irreps = layout.frame.from_frame(flat, [D[:rows] for D in graph.wigner])
    return irreps_to_blocks(irreps, half_keys(graph), graph.edge_type[:rows], layout)


def noisy(graph: Data, scale: float = 0.3) -> Tensor:
    """Return the targets with noise, also where the pair of elements has no block."""
    return graph.target_frame + scale * torch.randn_like(graph.target_frame)


def mean_square(predicted: Blocks, structure: Structure) -> float:
    """Return mean |ΔH|² over all elements of all directed pairs, as blocks."""
    target = structure.hamiltonian
    assert target is not None
    wanted, found = target.completed().to_dict(), predicted.completed().to_dict()
    errors = np.concatenate([np.abs(found[key] - block).reshape(-1) for key, block in wanted.items()])
    return float((errors**2).mean())


def hermitian_on_site(flat: Tensor, graph: Data, layout: TargetLayout) -> Tensor:
    """Return the prediction with Hermitian on-site blocks, as a Hermitian network makes them."""
    reverse = ReversedFrame.of(layout)
    irreps = layout.frame.unpermute(flat[: graph.num_nodes])
    index, sign = layout.partner
    symmetric = 0.5 * (irreps + irreps[:, index] * sign)
    assert len(reverse.index) == flat.shape[1]
    return torch.cat([layout.frame.permute(symmetric), flat[graph.num_nodes :]])


def test_hamiltonian_loss_is_the_mean_over_all_directed_matrix_elements(
    case: tuple[Structure, TargetLayout, Data],
) -> None:
    structure, layout, graph = case
    predicted = hermitian_on_site(noisy(graph), graph, layout)
    loss = float(hamiltonian_loss(predicted, graph))
    expected = mean_square(as_blocks(predicted, graph, layout), structure)
    assert loss == pytest.approx(expected, rel=1e-12)
    graph.target_weight = torch.ones_like(graph.target_weight)
    assert float(hamiltonian_loss(predicted, graph)) != pytest.approx(expected, rel=1e-3)


def test_masked_components_do_not_count(case: tuple[Structure, TargetLayout, Data]) -> None:
    _, _, graph = case
    predicted = noisy(graph)
    elsewhere = predicted + 5.0 * (1.0 - graph.target_mask)
    assert bool((graph.target_mask == 0).any())
    assert float(hamiltonian_loss(elsewhere, graph)) == float(hamiltonian_loss(predicted, graph))
    inside = predicted + 5.0 * graph.target_mask
    assert float(hamiltonian_loss(inside, graph)) > float(hamiltonian_loss(predicted, graph)) + 1.0


def test_batch_pools_the_elements_of_its_structures(case: tuple[Structure, TargetLayout, Data]) -> None:
    structure, layout, first = case
    second = build_graph(make_structure(structure.spinful, seed=7, r_cut=4.1), layout)
    counts = [float((g.target_weight * g.target_elements).sum()) for g in (first, second)]
    zero = [float(hamiltonian_loss(torch.zeros_like(g.target_frame), g)) for g in (first, second)]
    batch = collate([first, second])
    pooled = float(hamiltonian_loss(torch.zeros_like(batch.target_frame), batch))
    assert pooled == pytest.approx(float(np.average(zero, weights=counts)), rel=1e-12)
    assert pooled != pytest.approx(sum(zero) / 2, rel=1e-6)


def test_both_directions_are_compared_when_both_are_predicted(case: tuple[Structure, TargetLayout, Data]) -> None:
    structure, layout, graph = case
    reverse, half = ReversedFrame.of(layout), hermitian_on_site(noisy(graph), graph, layout)
    pairs = half[graph.num_nodes :]
    both = torch.cat([half, pairs[:, reverse.index] * reverse.sign])
    expected = float(hamiltonian_loss(half, graph))
    assert float(hamiltonian_loss(both, graph, reverse)) == pytest.approx(expected, rel=1e-12)
    irreps = layout.frame.from_frame(both, graph.wigner)
    keys = np.concatenate([graph.cell_shift.numpy(), graph.edge_index.T.numpy()], axis=1)
    blocks = irreps_to_blocks(irreps, keys, graph.edge_type, layout)
    assert mean_square(blocks, structure) == pytest.approx(expected, rel=1e-12)
    wrong_sign = ReversedFrame(reverse.index, -reverse.sign)
    assert float(hamiltonian_loss(both, graph, wrong_sign)) != pytest.approx(expected, rel=1e-2)
    wrong_order = ReversedFrame(torch.arange(len(reverse.index)), reverse.sign)
    assert float(hamiltonian_loss(both, graph, wrong_order)) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_trace_loss_is_the_mean_over_blocks_of_directed_edges(
    case: tuple[Structure, TargetLayout, Data], kind: str
) -> None:
    _, layout, graph = case
    predicted = torch.rand_like(graph.target_trace) * graph.trace_mask
    power = 2 if kind == "mse" else 1
    total, count = 0.0, 0
    for row in range(len(predicted)):
        for block in range(layout.num_channels):
            if graph.trace_mask[row, block]:
                weight = 1 if row < graph.num_nodes else 2
                total += weight * abs(float(predicted[row, block] - graph.target_trace[row, block])) ** power
                count += weight
    assert float(trace_label_loss(predicted, graph, kind)) == pytest.approx(total / count, rel=1e-12)
    outside = predicted + 3.0 * (1 - graph.trace_mask)
    assert float(trace_label_loss(outside, graph, kind)) == pytest.approx(total / count, rel=1e-12)
    other = "l1" if kind == "mse" else "mse"
    assert float(trace_label_loss(predicted, graph, other)) != pytest.approx(total / count, rel=1e-3)


def test_trace_target_is_the_squared_norm_of_the_blocks(case: tuple[Structure, TargetLayout, Data]) -> None:
    structure, _, graph = case
    assert structure.hamiltonian is not None
    expected = [float((np.abs(block) ** 2).sum()) for block in structure.hamiltonian.to_dict().values()]
    found = (graph.target_trace * graph.trace_mask).sum(1)
    assert sorted(found.tolist()) == pytest.approx(sorted(expected), rel=1e-12)


def test_standardized_labels_have_mean_zero_and_variance_one(case: tuple[Structure, TargetLayout, Data]) -> None:
    _, _, graph = case
    label, mask = standardized(graph.target_trace, graph.trace_mask), graph.trace_mask.bool()
    for row in range(len(label)):
        values = label[row, mask[row]]
        assert float(values.mean()) == pytest.approx(0.0, abs=1e-12)
        assert float(values.square().mean()) == pytest.approx(1.0, rel=1e-12)
    assert float((label * ~mask).abs().max()) == 0.0
    constant = standardized(torch.full_like(label, 2.0), graph.trace_mask)
    assert bool(torch.isfinite(constant).all())


def test_gradient_is_that_of_the_paper(case: tuple[Structure, TargetLayout, Data]) -> None:
    _, _, graph = case
    frame = noisy(graph).requires_grad_()
    trace = (graph.target_trace + torch.rand_like(graph.target_trace)).requires_grad_()
    terms = TraceGradLoss(lambda_trace=0.3)({"frame": frame, "trace": trace}, graph)
    assert terms.trace is not None
    assert float(terms.total.detach()) == pytest.approx(1.3 * float(terms.hamiltonian.detach()), rel=1e-12)
    terms.total.backward()
    (by_frame,) = torch.autograd.grad(hamiltonian_loss(frame, graph), frame)
    (by_trace,) = torch.autograd.grad(trace_label_loss(trace, graph), trace)
    ratio = 0.3 * float(terms.hamiltonian.detach()) / float(terms.trace.detach())
    assert frame.grad is not None
    assert trace.grad is not None
    torch.testing.assert_close(frame.grad, by_frame, rtol=1e-12, atol=0)
    torch.testing.assert_close(trace.grad, ratio * by_trace, rtol=1e-12, atol=1e-18)
    # without the stop-gradient the Hamiltonian would be pulled 1.3 times as much
    assert not torch.allclose(frame.grad, 1.3 * by_frame)


def test_without_a_trace_the_loss_is_that_of_the_hamiltonian(case: tuple[Structure, TargetLayout, Data]) -> None:
    _, _, graph = case
    terms = TraceGradLoss()({"frame": noisy(graph)}, graph)
    assert terms.trace is None
    assert float(terms.total) == float(terms.hamiltonian)


def test_exact_labels_give_a_finite_loss(case: tuple[Structure, TargetLayout, Data]) -> None:
    _, _, graph = case
    outputs = {"frame": noisy(graph), "trace": graph.target_trace.clone().requires_grad_()}
    terms = TraceGradLoss()(outputs, graph)
    terms.total.backward()
    assert math.isfinite(float(terms.total.detach()))
    assert bool(torch.isfinite(outputs["trace"].grad).all())


def test_lambda_is_constant_or_annealed_to_zero_in_the_second_half() -> None:
    assert [trace_weight(0.3, "constant", p) for p in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    annealed = [trace_weight(0.3, "annealed", p) for p in (0.0, 0.5, 0.75, 1.0, 2.0)]
    assert annealed == pytest.approx([0.3, 0.3, 0.15, 0.0, 0.0], abs=1e-15)
