"""Graphs: order of the edges, targets and masks, batches, rotated graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tracegrad.data import Blocks, Structure
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.errors import DataError
from tracegrad.graph import (
    Channel,
    TargetLayout,
    blocks_to_irreps,
    build_graph,
    cast_graph,
    collate,
    graph_from_pairs,
    half_keys,
    irreps_to_blocks,
    rotate_graph,
)
from tracegrad.graph.fields import EDGE_FIELDS, HALF_FIELDS, NODE_FIELDS
from tracegrad.so3 import random_rotation, trace_label, wigner_D_irreps
from tracegrad.so3.frames import frame_matrix

ORBITALS = {16: (0, 1), 42: (0, 0, 1, 2)}


def structure_of(seed: int = 0, spinful: bool = False, numbers: tuple[int, ...] = (42, 16, 16)) -> Structure:
    """Return atoms with a random Hermitian Hamiltonian."""
    random = np.random.default_rng(seed)
    positions = np.array([[0.0, 0, 0], [1.4, 0.3, 0.2], [0.1, 1.6, 1.9]])[: len(numbers)]
    cell, pbc = np.diag([3.0, 9.0, 9.0]), np.array([True, False, False])
    i, j, shift = neighbor_pairs(positions, cell, pbc, 3.2)
    spins = 2 if spinful else 1
    dims = [spins * sum(2 * l + 1 for l in ORBITALS[Z]) for Z in numbers]

    def block(a: int, b: int) -> np.ndarray:
        values = random.normal(size=(dims[a], dims[b]))
        return values + 1j * random.normal(size=values.shape) if spinful else values

    blocks = {}
    for k in range(len(numbers)):
        H = block(k, k)
        blocks[(0, 0, 0, k, k)] = 0.5 * (H + H.conj().T)
    for a, b, R in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True):
        blocks[(*R, a, b)] = block(a, b)
    return Structure(
        np.array(numbers), positions, cell, pbc, dict(ORBITALS), spinful, Blocks.from_dict(blocks), name="s"
    )


@pytest.fixture(params=[False, True], ids=["spinless", "spinful"])
def spinful(request: pytest.FixtureRequest) -> bool:
    """Run the test with and without spin."""
    return request.param


def test_edges_are_loops_then_pairs_then_their_reverses() -> None:
    graph = build_graph(structure_of(), TargetLayout(ORBITALS, False))
    N, P = graph.num_nodes, graph.num_pairs
    assert graph.edge_index.shape[1] == N + 2 * P
    assert torch.equal(graph.edge_index[:, :N], torch.arange(N).expand(2, -1))
    forward, backward = slice(N, N + P), slice(N + P, None)
    assert torch.equal(graph.edge_index[:, backward], graph.edge_index[:, forward].flip(0))
    assert torch.equal(graph.cell_shift[backward], -graph.cell_shift[forward])
    assert torch.allclose(graph.edge_vectors[graph.reverse_edge], -graph.edge_vectors, rtol=0, atol=1e-14)
    assert torch.equal(graph.reverse_edge[graph.reverse_edge], torch.arange(N + 2 * P))
    centre, neighbour = graph.edge_index
    expected = graph.positions[neighbour] + graph.cell_shift.double() @ graph.cell[0] - graph.positions[centre]
    assert torch.allclose(graph.edge_vectors, expected, rtol=0, atol=1e-14)
    assert not torch.allclose(graph.edge_vectors, -expected, rtol=0, atol=1e-3)


def test_targets_keep_every_number(spinful: bool) -> None:
    layout, structure = TargetLayout(ORBITALS, spinful, time_reversal=False), structure_of(spinful=spinful)
    graph = build_graph(structure, layout)
    rows = len(graph.target_frame)
    irreps = layout.frame.from_frame(graph.target_frame, [D[:rows] for D in graph.wigner])
    back = irreps_to_blocks(irreps, half_keys(graph), graph.edge_type[:rows], layout)
    exact = structure.hamiltonian
    for e in range(back.n_edges):
        assert np.allclose(back.block(e), exact.block(exact.index(tuple(back.keys()[e].tolist()))), rtol=0, atol=1e-12)
    damaged = irreps_to_blocks(graph.target_frame, half_keys(graph), graph.edge_type[:rows], layout)
    assert not np.allclose(damaged.values, back.values, rtol=0, atol=1e-3)


def test_squares_of_the_targets_are_squares_of_the_blocks(spinful: bool) -> None:
    layout, structure = TargetLayout(ORBITALS, spinful, time_reversal=False), structure_of(spinful=spinful)
    graph = build_graph(structure, layout)
    half = structure.hamiltonian.hermitian_half()
    assert float(graph.target_frame.square().sum()) == pytest.approx(float((np.abs(half.values) ** 2).sum()))
    assert torch.allclose(graph.target_trace.sum(1), graph.target_frame.square().sum(1), rtol=0, atol=1e-11)
    channel = layout.channels.index(Channel((1, 1), (1, 1)))
    H = torch.from_numpy(structure.hamiltonian.block(structure.hamiltonian.index((0, 0, 0, 1, 1))))
    piece = H.view(2, 4, 2, 4).permute(0, 2, 1, 3)[..., 1:, 1:] if spinful else H[1:, 1:]
    expected = trace_label(piece[None]) if spinful else piece.square().sum()[None]
    assert float(graph.target_trace[1, channel]) == pytest.approx(float(expected[0]))


def test_masks_are_the_blocks_that_the_elements_have() -> None:
    layout = TargetLayout(ORBITALS, False)
    graph = build_graph(structure_of(), layout)
    N, P = graph.num_nodes, graph.num_pairs
    counts = {Z: len(shells) for Z, shells in ORBITALS.items()}
    for row in range(N + P):
        a, b = (int(graph.numbers[k]) for k in graph.edge_index[:, row])
        assert int(graph.trace_mask[row].sum()) == counts[a] * counts[b]
        size = [sum(2 * l + 1 for l in ORBITALS[Z]) for Z in (a, b)]
        assert int(graph.target_elements[row]) == size[0] * size[1] == int(graph.target_mask[row].sum())
    assert torch.equal(graph.target_frame * graph.target_mask, graph.target_frame)
    assert (graph.target_mask == 0).any()  # else nothing would be tested
    assert torch.equal(graph.target_weight, torch.cat([torch.ones(N), torch.full((P,), 2.0)]).double())


def test_partner_is_the_hermitian_conjugate(spinful: bool) -> None:
    for time_reversal in (False, True):
        layout = TargetLayout(ORBITALS, spinful, time_reversal)
        structure = structure_of(spinful=spinful)
        graph = build_graph(Structure(**{**structure.fields(), "hamiltonian": None}), layout, r_max=3.2)
        keys = np.concatenate([graph.cell_shift.numpy(), graph.edge_index.T.numpy()], axis=1)
        t = blocks_to_irreps(structure.hamiltonian.completed(), keys, graph.edge_type, layout)
        index, sign = layout.partner
        assert torch.allclose(t[graph.reverse_edge], t[:, index] * sign, rtol=0, atol=1e-12)
        assert not torch.allclose(t[graph.reverse_edge], t[:, index], rtol=0, atol=1e-3)
        flat = layout.frame.to_frame(t, graph.wigner)
        index, sign = layout.frame_partner
        pairs = slice(graph.num_nodes, None)
        assert torch.allclose(flat[graph.reverse_edge][pairs], (flat[:, index] * sign)[pairs], rtol=0, atol=1e-12)


def test_rotated_graph_is_that_of_the_rotated_structure() -> None:
    layout, structure, R = TargetLayout(ORBITALS, False), structure_of(), random_rotation()
    graph = build_graph(structure, layout)
    turned = rotate_graph(graph, R)
    rows = len(graph.target_frame)
    before = layout.frame.from_frame(graph.target_frame, [D[:rows] for D in graph.wigner])
    after = layout.frame.from_frame(turned.target_frame, [D[:rows] for D in turned.wigner])
    assert torch.allclose(after, before @ wigner_D_irreps(layout.irreps, R).T, rtol=0, atol=1e-12)
    assert torch.allclose(turned.edge_vectors, graph.edge_vectors @ R.T)
    assert torch.allclose(turned.cell[0], graph.cell[0] @ R.T)
    assert torch.equal(graph.positions, torch.from_numpy(np.array(structure.positions)))  # the old graph is left alone
    assert not torch.allclose(after, before, rtol=0, atol=1e-3)
    moved = replace(structure, positions=structure.positions @ R.numpy().T, cell=structure.cell @ R.numpy().T)
    fresh = build_graph(moved, layout)
    for l, (D, own) in enumerate(zip(turned.wigner, fresh.wigner, strict=True)):
        pairs = slice(graph.num_nodes, None)  # the pole components do not depend on the turn about the edge
        assert torch.allclose(D[pairs, 0], own[pairs, 0], rtol=0, atol=1e-12), f"degree {l}"
    assert not torch.allclose(turned.wigner[1], fresh.wigner[1], rtol=0, atol=1e-3)  # frames that turn along are others


def test_frames_of_a_rotated_graph_are_rounded_once() -> None:
    layout, R = TargetLayout(ORBITALS, False), random_rotation()
    single = build_graph(structure_of(), layout, dtype=torch.float32)
    exact = [D.double() @ frame_matrix(l, R).T for l, D in enumerate(single.wigner)]
    in_float32 = [D @ frame_matrix(l, R.float()).T for l, D in enumerate(single.wigner)]  # the control
    ours, wrong = (
        max(float((D.double() - E).abs().max()) for D, E in zip(found, exact, strict=True))
        for found in (rotate_graph(single, R).wigner, in_float32)
    )
    assert ours < 2e-7
    assert wrong > 2 * ours


def test_batch_holds_the_edges_of_every_structure() -> None:
    layout = TargetLayout(ORBITALS, False)
    graphs = [build_graph(structure_of(1), layout), build_graph(structure_of(2, numbers=(16, 42)), layout)]
    batch = collate(graphs)
    which = batch.batch[batch.edge_index[0]]
    offset = 0
    for number, graph in enumerate(graphs):
        rows = which == number
        assert torch.equal(batch.edge_index[:, rows] - offset, graph.edge_index)
        for field in EDGE_FIELDS:
            assert torch.equal(batch[field][rows], graph[field])
        for field in NODE_FIELDS:
            assert torch.equal(batch[field][batch.batch == number], graph[field])
        half = rows[: batch.num_nodes + batch.num_pairs]
        for field in HALF_FIELDS:
            assert torch.equal(batch[field][half], graph[field])
        assert all(torch.equal(D[rows], own) for D, own in zip(batch.wigner, graph.wigner, strict=True))
        offset += graph.num_nodes
    assert torch.allclose(batch.edge_vectors[batch.reverse_edge], -batch.edge_vectors)
    assert torch.equal(batch.edge_index[:, batch.reverse_edge], batch.edge_index.flip(0))
    assert collate(graphs[:1]) is graphs[0]


def test_cutoff_defines_the_edges_without_targets() -> None:
    layout = TargetLayout(ORBITALS, False)
    bare = Structure(**{**structure_of().fields(), "hamiltonian": None})
    graph = build_graph(bare, layout, r_max=3.2)
    known = build_graph(structure_of(), layout)
    assert graph.num_pairs == known.num_pairs
    assert "target_frame" not in graph
    assert float(graph.edge_vectors.norm(dim=1).max()) <= 3.2
    assert build_graph(bare, layout, r_max=2.0).num_pairs < graph.num_pairs


def test_dtype_of_every_field() -> None:
    graph = build_graph(structure_of(), TargetLayout(ORBITALS, False), dtype=torch.float32)
    floating = [v for v in graph.to_dict().values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    assert {v.dtype for v in [*floating, *graph.wigner]} == {torch.float32}
    assert {v.dtype for v in cast_graph(graph, torch.float64).wigner} == {torch.float64}


def test_wrong_structures_are_refused() -> None:
    structure = structure_of()
    with pytest.raises(DataError, match="cutoff"):
        build_graph(Structure(**{**structure.fields(), "hamiltonian": None}), TargetLayout(ORBITALS, False))
    with pytest.raises(DataError, match="elements"):
        build_graph(structure, TargetLayout({16: (0, 1)}, False))
    with pytest.raises(DataError, match="shells"):
        build_graph(structure, TargetLayout({**ORBITALS, 16: (0, 0, 1)}, False))
    with pytest.raises(DataError, match="spinful"):
        build_graph(structure, TargetLayout(ORBITALS, True))
    layout = TargetLayout(ORBITALS, False)
    graph, few = build_graph(structure, layout), structure.hamiltonian.select(np.arange(3))
    with pytest.raises(DataError, match="block for every edge"):
        blocks_to_irreps(few, half_keys(graph), graph.edge_type[: len(half_keys(graph))], layout)


def test_layout_survives_plain_data(spinful: bool) -> None:
    layout = TargetLayout(ORBITALS, spinful, time_reversal=spinful)
    again = TargetLayout.from_dict(layout.to_dict())
    assert (again.irreps, again.names, again.elements) == (layout.irreps, layout.names, layout.elements)
    assert layout.names[0] == "s1-s1"
    assert TargetLayout(ORBITALS, not spinful).irreps != layout.irreps


def test_numbers_of_any_precision_make_a_graph() -> None:
    structure, layout = structure_of(), TargetLayout(ORBITALS, spinful=False)
    assert structure.hamiltonian is not None
    narrow = structure.hamiltonian.with_values(structure.hamiltonian.values.astype(np.float32))
    single = {"positions": structure.positions.astype(np.float32), "cell": structure.cell.astype(np.float32)}
    graph = build_graph(Structure(**{**structure.fields(), **single, "hamiltonian": narrow}), layout)
    exact = build_graph(structure, layout)
    assert torch.allclose(graph.positions, exact.positions, atol=1e-5)
    assert torch.allclose(graph.target_frame, exact.target_frame, atol=1e-4)


def test_graph_is_made_on_the_device_of_the_positions() -> None:
    targets = TargetLayout(ORBITALS, False)
    graph = build_graph(structure_of(), targets)
    pairs, shift = graph.edge_index[:, graph.num_nodes :][:, : graph.num_pairs], graph.cell_shift[graph.num_nodes :]
    made = (graph.positions, graph.cell[0], pairs, shift[: graph.num_pairs])
    positions, cell, pair_index, pair_shift = (part.to("meta") for part in made)
    found = graph_from_pairs(graph.numbers, positions, cell, pair_index, pair_shift, targets)
    tensors = [value for value in found.to_dict().values() if isinstance(value, torch.Tensor)] + list(found.wigner)
    assert len(tensors) > 8
    assert {value.device.type for value in tensors if value is not graph.numbers} == {"meta"}


def test_pairs_stored_from_their_other_end_make_the_same_graph(spinful: bool) -> None:
    structure, layout = structure_of(spinful=spinful), TargetLayout(ORBITALS, spinful, time_reversal=False)
    turned = Structure(**{**structure.fields(), "hamiltonian": structure.hamiltonian.adjoint()})
    assert not np.array_equal(turned.hamiltonian.keys(), structure.hamiltonian.keys())
    found, expected = build_graph(turned, layout), build_graph(structure, layout)
    assert torch.equal(found.edge_index, expected.edge_index)
    assert torch.equal(found.target_frame, expected.target_frame)
    wrong = replace(structure, hamiltonian=structure.hamiltonian.with_values(turned.hamiltonian.values))
    assert not torch.allclose(build_graph(wrong, layout).target_frame, expected.target_frame, atol=1e-3)  # control


def test_two_atoms_at_one_place_are_refused() -> None:
    structure, layout = structure_of(), TargetLayout(ORBITALS, False)
    positions = structure.positions.copy()
    positions[2] = positions[1] + 1e-3
    with pytest.raises(DataError, match="atoms 1 and 2 are nearer than"):
        build_graph(replace(structure, positions=positions), layout)
    positions[2] += 0.5
    assert build_graph(replace(structure, positions=positions), layout).num_pairs  # control


def test_magnetic_data_are_refused_where_half_of_the_components_is_kept() -> None:
    magnetic = structure_of(spinful=True)
    with pytest.raises(DataError, match=r"break it; learn all spin components with --set model\.time_reversal=false"):
        build_graph(magnetic, TargetLayout(ORBITALS, True))
    assert "target_frame" in build_graph(magnetic, TargetLayout(ORBITALS, True, time_reversal=False))
    blocks = structure_of().hamiltonian
    scalar = {key: np.kron(np.eye(2), block).astype(complex) for key, block in blocks.to_dict().items()}
    without = replace(magnetic, hamiltonian=Blocks.from_dict(scalar))
    layout = TargetLayout(ORBITALS, True)
    assert float(build_graph(without, layout).target_frame.square().sum()) == pytest.approx(
        2 * float((blocks.values**2).sum())
    )
