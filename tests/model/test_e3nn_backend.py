"""The fast core and the e3nn formulation are one function: outputs to 1e-12, gradients of all parameters to 1e-11."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tracegrad.graph import collate
from tracegrad.model import Induction, NetworkSizes
from tracegrad.model.e3nn_backend import E3nnDeepHE3

Maker = Callable[..., Any]
TINY = NetworkSizes("4x0e+3x1o+2x2e", 4, 2, 2, 4.0, 6, "none")
GRAPH_NORM = replace(TINY, norm="graph")
PACKED = Induction(True, True, "packed", 7, trace_width=8)
LOW_RANK = Induction(True, False, "low_rank", 7, rank=3, gain=0.3, gain_learned=True)

CASES = {
    "MG packed operator": ("MG", GRAPH_NORM, PACKED, True, True),
    "MG two directions": ("MG", TINY, LOW_RANK, False, True),
    "MM graph norm": ("MM", GRAPH_NORM, LOW_RANK, True, True),
    "BG higher degrees": (
        "BG",
        replace(TINY, hidden_irreps="3x0e+2x0o+2x1o+2x1e+2x2e+1x3o", lmax_sh=3),
        PACKED,
        True,
        True,
    ),
    "MG envelope": ("MG", replace(TINY, envelope=2), LOW_RANK, True, True),
    "MG shorter envelope": ("MG", replace(TINY, envelope=2, envelope_end=2.0), LOW_RANK, True, True),
    "BB published": ("BB", GRAPH_NORM, None, False, False),
    "BT time reversal": ("BT", TINY, PACKED, True, True),
    "BS mean of neighbours": (
        "BS",
        replace(GRAPH_NORM, num_neighbors=9.0),
        Induction(False, True, width=7, trace_width=8),
        True,
        False,
    ),
}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference over the largest value."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("case", CASES)
def test_both_forms_agree(case: str, layout: Maker, graph: Maker, network: Maker, gradients: Maker) -> None:
    key, sizes, induction, hermitian, time_reversal = CASES[case]
    targets = layout(key, time_reversal)
    fast = network(targets, sizes=sizes, induction=induction, hermitian=hermitian)
    slow, structure = E3nnDeepHE3(fast), graph(targets)
    ours, oracle = fast.in_frame(structure), slow.in_frame(structure)
    assert ours.keys() == oracle.keys()
    for name, value in ours.items():
        assert relative(value, oracle[name]) < 1e-12, name
    mine, theirs = gradients(fast, structure), gradients(slow, structure)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value.abs().max() > 0 or "sc.weight" in name or "trace" in name, (
            f"{name} has no gradient: nothing tested"
        )
        assert relative(mine[name], value) < 1e-11, name


@pytest.mark.parametrize("induction", [PACKED, LOW_RANK], ids=["packed", "low rank"])
def test_gradients_agree_outside_training_too(
    induction: Induction, layout: Maker, graph: Maker, network: Maker, gradients: Maker
) -> None:
    fast = network(layout("MG"), sizes=TINY, induction=induction).eval()
    slow, structure = E3nnDeepHE3(fast).eval(), graph(layout("MG"))
    mine, theirs = gradients(fast, structure), gradients(slow, structure)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert relative(mine[name], value) < 1e-11, name


@pytest.fixture
def pair(layout: Maker, network: Maker) -> tuple[Any, Any]:
    fast = network(layout("MG"), sizes=replace(GRAPH_NORM, num_blocks=1), induction=LOW_RANK)
    return fast, E3nnDeepHE3(fast)


def test_a_changed_weight_of_one_form_changes_the_other(pair: tuple[Any, Any], layout: Maker, graph: Maker) -> None:
    fast, slow = pair
    structure = graph(layout("MG"))
    before = slow.in_frame(structure)["frame"]
    with torch.no_grad():
        fast.edge_updates[0].conv.tp.weight[3] += 1.0
    after = slow.in_frame(structure)["frame"]
    assert relative(after, before) > 1e-4
    assert relative(after, fast.in_frame(structure)["frame"]) < 1e-12


def test_a_copy_has_parameters_of_its_own(pair: tuple[Any, Any], layout: Maker, graph: Maker) -> None:
    _, slow = pair
    structure = graph(layout("MG"))
    before, other = slow.in_frame(structure)["frame"], copy.deepcopy(slow)
    with torch.no_grad():
        slow.edge_updates[0].conv.tp.weight[3] += 1.0
    assert relative(other.in_frame(structure)["frame"], before) == 0.0
    assert relative(slow.in_frame(structure)["frame"], before) > 1e-4


def test_the_two_forms_have_one_state(pair: tuple[Any, Any]) -> None:
    fast, slow = pair
    assert list(fast.state_dict()) == list(slow.state_dict())
    assert [id(p) for p in fast.parameters()] == [id(p) for p in slow.parameters()]


@pytest.mark.parametrize("norm", ["graph", "none"])
def test_a_batch_gives_what_each_structure_gives_alone(norm: str, layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MM")
    model = network(targets, sizes=replace(TINY, norm=norm), induction=PACKED)
    first = graph(targets)
    second = graph(targets, positions=first.positions.numpy()[:2] * 1.1, species=(1, 1))
    batch = collate([first, second])
    together = model(batch)["edge_irreps"]
    for number, alone in enumerate((first, second)):
        rows = batch.batch[batch.edge_index[0]] == number
        assert relative(together[rows], model(alone)["edge_irreps"]) < 1e-12
    wrong = batch.clone()
    wrong.batch = torch.zeros_like(batch.batch)
    changed = relative(model(wrong)["edge_irreps"], together)
    assert (changed > 1e-6) == (norm == "graph")  # only the published norm looks at the structure as a whole


def test_inference_gives_the_numbers_of_training(layout: Maker, graph: Maker, network: Maker) -> None:
    targets = layout("MG")
    for induction in (PACKED, LOW_RANK):
        fast = network(targets, sizes=TINY, induction=induction)
        slow, structure = E3nnDeepHE3(fast), graph(targets)
        expected = fast.in_frame(structure)["frame"].detach()
        for model in (fast.eval(), slow.eval()):
            with torch.inference_mode():
                assert relative(model.in_frame(structure)["frame"], expected) < 1e-12
