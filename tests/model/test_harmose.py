"""HarmoSE: an equivariant first stage, and a correction that is Hermitian, starts at zero and is not equivariant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tracegrad.graph import graph_from_pairs, rotate_graph
from tracegrad.model import HarmoSE, Induction, predict_blocks
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.so3 import random_rotation, wigner_D_irreps

Maker = Callable[..., Any]
TRACEGRAD = Induction(True, True, "low_rank", 7, trace_width=8)


@pytest.fixture(params=["MM", "BB"])
def harmose(request: pytest.FixtureRequest, layout: Maker, network: Maker) -> HarmoSE:
    """Return both stages with random weights."""
    model = HarmoSE(network(layout(request.param), induction=TRACEGRAD), width=8, num_blocks=2, heads=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def test_outputs_have_the_shapes_of_the_first_stage(harmose: HarmoSE, graph: Maker) -> None:
    structure = graph(harmose.targets)
    ours, first = harmose(structure), harmose.first(structure)
    assert {name: x.shape for name, x in ours.items()} == {name: x.shape for name, x in first.items()}
    assert harmose.irreps_out == harmose.first.irreps_out


def test_correction_starts_at_zero(layout: Maker, network: Maker, graph: Maker) -> None:
    first = network(layout("MG"))
    model, structure = HarmoSE(first, 8, 1, 2).double(), graph(layout("MG"))
    assert torch.equal(model(structure)["edge_irreps"], first(structure)["edge_irreps"])
    with torch.no_grad():
        model.correction.bias += 1.0
    assert not torch.allclose(model(structure)["edge_irreps"], first(structure)["edge_irreps"])


def test_blocks_are_hermitian(harmose: HarmoSE, graph: Maker) -> None:
    structure = graph(harmose.targets)
    assert predict_blocks(harmose, structure).completed().hermiticity_defect() < 1e-12
    raw = harmose.correction(torch.randn(structure.edge_index.shape[1], 8, dtype=torch.float64))
    index, sign = harmose.targets.partner
    assert not torch.allclose(raw[structure.reverse_edge][:, index] * sign, raw)


def test_naming_a_pair_from_its_other_end_gives_the_partner(harmose: HarmoSE, graph: Maker) -> None:
    structure, targets = graph(harmose.targets), harmose.targets
    chosen = slice(structure.num_nodes, structure.num_nodes + structure.num_pairs)
    place = structure.numbers, structure.positions, structure.cell[0]
    flipped = graph_from_pairs(*place, structure.edge_index[:, chosen].flip(0), -structure.cell_shift[chosen], targets)

    def difference() -> float:
        plain, other = harmose(structure)["edge_irreps"], harmose(flipped)["edge_irreps"]
        return float((plain - other[structure.reverse_edge]).detach().abs().max())

    assert difference() < 1e-12
    rows = structure.num_nodes + structure.num_pairs
    with patch.object(HarmoSE, "_symmetrise", lambda _self, correction, _graph: correction[:rows]):  # control
        assert difference() > 1e-4


def test_equivariance_is_not_claimed(harmose: HarmoSE, graph: Maker) -> None:
    R = random_rotation()
    D = wigner_D_irreps(harmose.targets.irreps, R)
    before, after = graph(harmose.targets), graph(harmose.targets, rotation=R)
    first = harmose.first
    assert torch.allclose(first(after)["edge_irreps"], first(before)["edge_irreps"] @ D.T, rtol=0, atol=1e-11)
    broken = harmose(after)["edge_irreps"] - harmose(before)["edge_irreps"] @ D.T
    assert broken.abs().max() > 1e-4
    assert harmose.approximate


def test_rotated_graph_is_the_graph_of_the_rotated_structure(harmose: HarmoSE, graph: Maker) -> None:
    R = random_rotation()
    made, turned = graph(harmose.targets, rotation=R), rotate_graph(graph(harmose.targets), R)
    assert torch.allclose(harmose(turned)["edge_irreps"], harmose(made)["edge_irreps"], rtol=0, atol=1e-11)
    assert not torch.allclose(harmose(graph(harmose.targets))["edge_irreps"], harmose(made)["edge_irreps"], atol=1e-4)


def test_e3nn_stage_gives_the_same_numbers(layout: Maker, network: Maker, graph: Maker) -> None:
    first, structure = network(layout("MG")), graph(layout("MG"))
    fast = HarmoSE(first, 8, 1, 2).double()
    with torch.no_grad():
        fast.correction.weight.normal_()
    slow = HarmoSE(E3nnDeepHE3(first), 8, 1, 2).double()
    slow.load_state_dict(fast.state_dict())
    assert torch.allclose(slow(structure)["edge_irreps"], fast(structure)["edge_irreps"], rtol=0, atol=1e-11)


def test_unsymmetrised_first_stage_raises(layout: Maker, network: Maker) -> None:
    with pytest.raises(ValueError, match="hermitian"):
        HarmoSE(network(layout("MG"), hermitian=False))
