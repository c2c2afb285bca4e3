"""The layer norm has finite gradients where an irrep vanishes by symmetry, and the same values as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tracegrad.model import NetworkSizes
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.model.layers.norm import root

SIZES = NetworkSizes("6x0e+2x0o+4x1o+2x1e", 5, 3, 2, 4.0, 8, "graph")


@pytest.mark.parametrize("backend", [lambda model: model, E3nnDeepHE3], ids=["fast", "e3nn"])
@pytest.mark.parametrize(("key", "alone"), [("BB", True), ("MM", False)], ids=["isolated spinful atom", "0o"])
def test_gradients_are_finite_where_scalars_vanish(
    key: str,
    alone: bool,
    backend: Callable[..., torch.nn.Module],
    layout: Callable[..., object],
    graph: Callable[..., object],
    network: Callable[..., torch.nn.Module],
    gradients: Callable[..., dict[str, torch.Tensor]],
) -> None:
    targets = layout(key)
    structure = graph(targets, positions=np.zeros((1, 3)), cutoff=1.0) if alone else graph(targets)
    for sizes in (SIZES, replace(SIZES, num_blocks=1)):
        model = backend(network(targets, sizes=sizes))
        found = gradients(model.train(), structure)
        assert all(bool(gradient.isfinite().all()) for gradient in found.values())
        assert any(bool(gradient.abs().max() > 0) for gradient in found.values())


def test_root_is_that_of_torch_but_for_its_derivative_at_zero(dtype: torch.dtype) -> None:
    squares = torch.cat([torch.zeros(2, dtype=dtype), torch.rand(50, dtype=dtype) ** 9, torch.tensor([torch.nan])])
    squares = squares.to(dtype).requires_grad_()
    values = {"ours": root(squares), "torch": squares.sqrt()}
    assert torch.equal(values["ours"].nan_to_num(-1.0), values["torch"].nan_to_num(-1.0))
    ours, plain = (torch.autograd.grad(value.sum(), squares)[0] for value in values.values())
    assert torch.equal(ours[2:-1], plain[2:-1])
    assert ours[:2].tolist() == [0.0, 0.0]
    assert bool(plain[:2].isinf().all())  # the control: an infinity that meets a zero is not a number
