"""Order of the data: a function of the seed and the step, the same in every process and for every setting."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from tracegrad.data import Dataset, StructureSequence
from tracegrad.errors import DataError
from tracegrad.graph import TargetLayout
from tracegrad.model.output import OutputTransform
from tracegrad.training.data import BatchOrder, BatchStream, build_graphs, label_residual, step_rotation


def test_every_structure_is_used_once_per_epoch() -> None:
    order = BatchOrder(num_graphs=7, batch_size=3, seed=1)
    assert order.steps_per_epoch == 3
    for epoch in range(3):
        used = [k for step in range(3) for k in order.indices(3 * epoch + step)]
        assert sorted(used) == list(range(7))


def test_order_depends_on_seed_and_epoch_only() -> None:
    first, again, other = BatchOrder(20, 1, 1), BatchOrder(20, 1, 1), BatchOrder(20, 1, 2)
    torch.manual_seed(5)
    epochs = [[order.indices(step) for step in range(40)] for order in (first, again, other)]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert epochs[0][:20] != epochs[0][20:]


def test_processes_share_the_structures_of_a_step() -> None:
    whole = BatchOrder(12, 4, seed=3)
    ranks = [BatchOrder(12, 2, seed=3, rank=rank, world_size=2) for rank in range(2)]
    assert {order.steps_per_epoch for order in ranks} == {3}
    for step in range(6):
        parts = [order.indices(step) for order in ranks]
        assert sorted(parts[0] + parts[1]) == sorted(whole.indices(step))
        assert not set(parts[0]) & set(parts[1])


def test_no_process_is_left_without_a_structure() -> None:
    orders = [BatchOrder(5, 1, seed=3, rank=rank, world_size=4) for rank in range(4)]
    counts = Counter(len(order.indices(step)) for order in orders for step in range(4))
    assert counts == {1: 16}


def test_a_stream_can_start_anywhere(dataset: Dataset) -> None:
    layout = TargetLayout.from_dataset(dataset)
    graphs = build_graphs(dataset.train, layout, dtype=torch.float64)
    order = BatchOrder(len(graphs), 2, seed=0)
    whole, late = iter(BatchStream(graphs, order)), iter(BatchStream(graphs, order, start=3))
    names = [next(whole).names for _ in range(6)]
    assert [next(late).names for _ in range(3)] == names[3:]


def test_rotations_differ_from_step_to_step_and_are_repeated_by_the_seed() -> None:
    assert torch.equal(step_rotation(1, 2), step_rotation(1, 2))
    others = [step_rotation(1, 3), step_rotation(2, 2)]
    assert not any(torch.allclose(step_rotation(1, 2), other) for other in others)


def test_labels_of_the_residual_are_its_squared_norms(dataset: Dataset) -> None:
    layout = TargetLayout.from_dataset(dataset)
    graphs = build_graphs(dataset.train, layout, dtype=torch.float64)
    plain = [graph.target_trace.clone() for graph in graphs]
    output = OutputTransform(layout, reference=True).double()
    label_residual(graphs, output)  # a reference of zero changes nothing
    assert all(torch.allclose(graph.target_trace, T) for graph, T in zip(graphs, plain, strict=True))
    output.fit(graphs)
    label_residual(graphs, output)
    for graph, before in zip(graphs, plain, strict=True):
        residual = graph.target_frame - output(torch.zeros_like(graph.target_frame), graph)
        torch.testing.assert_close(graph.target_trace.sum(1), residual.square().sum(1))
        assert float(graph.target_trace.sum()) < 0.1 * float(before.sum())


def test_what_cannot_be_trained_on_is_refused(dataset: Dataset) -> None:
    layout = TargetLayout.from_dataset(dataset)
    with pytest.raises(DataError, match="at least one structure"):
        build_graphs(dataset.train[:0], layout, dtype=torch.float64)
    structure = dataset.train[0]
    bare = replace(structure, hamiltonian=None, overlap=structure.hamiltonian)
    with pytest.raises(DataError, match="expected a Hamiltonian to learn from"):
        build_graphs(StructureSequence(("bare",), lambda name: bare), layout, dtype=torch.float64)
