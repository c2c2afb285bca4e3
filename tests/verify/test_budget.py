"""The budget in meV counts matrix elements: no label in another unit, no block that a pair of elements lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tracegrad.graph import TargetLayout, graph_from_pairs, rotate_graph
from tracegrad.model import DeepHE3, HarmoSE, Induction, NetworkSizes, predict_blocks
from tracegrad.so3 import wigner_D_irreps
from verify import verify_model
from verify.adapter_tracegrad import TraceGradAdapter
from verify.checks.budget import symmetry_error_mev
from verify.context import Context
from verify.graph_subject import GraphSubject
from verify.group import haar, rotation_matrix

ORBITALS = {6: (0, 0, 1), 8: (0, 1)}
SIZES = NetworkSizes("6x0e+3x1o+3x2e", 6, 2, 2, 4.0, 8, "none")


def _graph(numbers: tuple[int, ...], layout: TargetLayout) -> Any:
    places = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.3, 0.2], [0.2, 1.4, 1.0]], dtype=torch.float64)
    pairs, shift = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.zeros(3, 3, dtype=torch.long)
    no_cell = torch.zeros(3, 3, dtype=torch.float64)
    return graph_from_pairs(torch.tensor(numbers), places, no_cell, pairs, shift, layout)


def _network(layout: TargetLayout, channel: str | None) -> HarmoSE:
    """Second stage that corrects one block, or all of them."""
    torch.manual_seed(0)
    model = HarmoSE(DeepHE3(layout, SIZES, Induction(trace=True, trace_width=8)), 16, 1, 2).double()
    rows = slice(None) if channel is None else layout.channel_slices[list(layout.names).index(channel)]
    with torch.no_grad():
        model.correction.weight[rows] = torch.randn_like(model.correction.weight[rows])
    return model.eval()


def _measured(model: HarmoSE, graph: Any) -> float:
    options: dict[str, Any] = {"checks": ["budget"], "trials": 8, "diagnose": False, "budget_mev": 1.0}
    return verify_model(model, graph, **options).check("budget").error


@pytest.mark.parametrize(("numbers", "counted"), [((8, 8, 8), False), ((6, 8, 6), True)], ids=["absent", "present"])
def test_block_that_no_pair_of_these_atoms_has_counts_nothing(numbers: tuple[int, ...], counted: bool) -> None:
    layout = TargetLayout(ORBITALS, False)
    graph, model = _graph(numbers, layout), _network(layout, "s2-p1")  # oxygen has one s shell
    change = predict_blocks(model, graph).values - predict_blocks(model.first, graph).values
    assert bool(np.abs(change).max() > 1e-3) is counted
    assert (_measured(model, graph) > 1.0) is counted
    assert (_measured(model, graph) < 1e-9) is not counted


def test_labels_of_training_mode_do_not_change_the_budget() -> None:
    layout = TargetLayout(ORBITALS, False)
    graph, model = _graph((6, 8, 6), layout), _network(layout, None)
    before = _measured(model, graph)
    assert "trace" in model.train()(graph)
    assert _measured(model, graph) == pytest.approx(before, rel=1e-9)
    assert before > 1.0


def test_budget_is_the_error_of_the_matrix_elements() -> None:
    """One rotation, blocks of all edges, compared as matrices."""
    layout = TargetLayout(ORBITALS, False)
    graph, model = _graph((6, 8, 6), layout), _network(layout, None)
    context = Context(GraphSubject(model, graph, TraceGradAdapter(layout), torch.float64), trials=1)
    rotation = torch.from_numpy(rotation_matrix(haar(1, context.rng("budget")))[0])
    gaps = []
    plain, turned = (predict_blocks(model, g).completed() for g in (graph, rotate_graph(graph, rotation)))
    D = {
        Z: wigner_D_irreps("+".join(f"1x{l}{'eo'[l % 2]}" for l in ls), rotation).numpy() for Z, ls in ORBITALS.items()
    }
    index = {tuple(key): e for e, key in enumerate(turned.keys().tolist())}
    for e, key in enumerate(plain.keys().tolist()):
        a, b = (D[int(graph.numbers[atom])] for atom in key[3:])
        gaps.append((turned.block(index[tuple(key)]) - a @ plain.block(e) @ b.T).ravel())
    expected = 1000 * float(np.sqrt(np.mean(np.square(np.concatenate(gaps)))))
    assert symmetry_error_mev(context)[0] == pytest.approx(expected, rel=1e-6)
    assert expected > 1.0
