"""What a prediction leaves behind can be trained with: nothing that is kept was made in inference mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch_geometric.data import Data

from tracegrad.data import load_dataset
from tracegrad.graph import TargetLayout, build_graph
from tracegrad.model import DeepHE3, GradientInduction, HarmoSE, Induction, predict_blocks
from tracegrad.so3.frames import FrameLayout

INDUCTION = Induction(operator=True, trace=True, form="low_rank", width=4, trace_width=4)


def two_elements(targets: TargetLayout) -> Data:
    """Return the graph of a structure with its targets."""
    return build_graph(load_dataset("MM").train[0], targets)


def one_element(targets: TargetLayout) -> Data:
    """Return the graph of a structure by a cutoff."""
    return build_graph(load_dataset("MG").train[0], targets, r_max=2.0)


CASES = {"MM": two_elements, "MG": one_element}


@pytest.mark.parametrize(
    "wrap", [lambda first: first, lambda first: HarmoSE(first, 8, 1, 2).double()], ids=["E3", "HarmoSE"]
)
@pytest.mark.parametrize("key", CASES)
def test_a_network_that_has_predicted_has_the_gradients_of_one_that_has_not(
    key: str, wrap: Callable[[DeepHE3], torch.nn.Module], network: Callable[..., DeepHE3]
) -> None:
    found = []
    for predicts in (False, True):
        dataset = load_dataset(key)
        model = wrap(network(TargetLayout.from_dataset(dataset), induction=INDUCTION))
        graph = CASES[key](model.targets)  # type: ignore[arg-type]
        if predicts:
            predict_blocks(model, graph)
            with torch.inference_mode():
                model(graph)
        model.train()
        total = sum(output.square().sum() for output in model(graph).values())
        weights = [p for p in model.parameters() if p.requires_grad]
        found.append(torch.autograd.grad(total, weights, allow_unused=True))
    plain, after = ([gradient for gradient in each if gradient is not None] for each in found)
    assert plain
    assert all(torch.equal(a, b) for a, b in zip(after, plain, strict=True))


def test_an_operator_that_has_been_evaluated_can_be_trained() -> None:
    operator = GradientInduction("3x0e+2x1o+2x1e", 4, 3).double()
    features = torch.randn(5, operator.irreps_in.dim, dtype=torch.float64)
    with torch.inference_mode():
        z, v = operator(features)
    features.requires_grad_()
    again = operator(features)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(again, (z, v), strict=True))
    (again[0].sum() + again[1].sum()).backward()
    assert features.grad is not None


def test_tensors_made_in_inference_mode_cannot_be_trained_with() -> None:
    layout = FrameLayout("2x0e+1x1e")
    with torch.inference_mode():
        layout.component_index = tuple(tensor.clone() for tensor in layout.component_index)  # what is kept, spoilt
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        layout.permute(torch.ones(1, 5, requires_grad=True))
