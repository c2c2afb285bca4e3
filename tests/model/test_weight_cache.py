"""Matrices that are kept between calls without gradients follow every change of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tracegrad.model.layers import weight_map
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.model.layers.weight_map import WeightMap
from tracegrad.so3.frames import FrameLayout

LAYOUT = FrameLayout("3x0e+2x1o")


def _write_through_data(layer: nn.Module) -> None:
    layer.weight.data[0] += 1.0  # leaves the version of the parameter as it is


def _copy_through_data(layer: nn.Module) -> None:
    layer.weight.data.copy_(torch.randn_like(layer.weight))


def _in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.mul_(1.5)


def _load(layer: nn.Module) -> None:
    layer.load_state_dict({name: torch.randn_like(value) for name, value in layer.state_dict().items()})


def _step(layer: nn.Module) -> None:
    layer.weight.grad = torch.ones_like(layer.weight)
    torch.optim.Adam([layer.weight], lr=0.1, fused=True).step()


def _replace(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


CHANGES = (_write_through_data, _copy_through_data, _in_place, _load, _step, _replace)


def made(layer: EquivariantLinear) -> list[torch.Tensor]:
    """Return the matrices of the present weights, made afresh."""
    return [matrix.detach() for matrix in layer.map._matrices(layer.weight)]


def kept(layer: EquivariantLinear) -> list[torch.Tensor]:
    """Return the matrices that inference uses."""
    with torch.inference_mode():
        return layer.matrices()


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Return whether all matrices agree bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weights_is_seen(change: Callable[[nn.Module], None]) -> None:
    layer = EquivariantLinear(LAYOUT, LAYOUT)
    before = kept(layer)
    assert equal(before, made(layer))
    change(layer)
    assert equal(kept(layer), made(layer))
    assert not equal(kept(layer), before)


def test_without_the_comparison_the_old_matrices_would_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = EquivariantLinear(LAYOUT, LAYOUT)
    kept(layer)
    monkeypatch.setattr(weight_map, "_same", lambda a, b: True)
    _write_through_data(layer)
    assert not equal(kept(layer), made(layer))


def test_equal_weights_are_not_mapped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = EquivariantLinear(LAYOUT, LAYOUT)
    kept(layer)
    calls: list[int] = []
    honest = WeightMap._matrices

    def counting(self: WeightMap, weight: torch.Tensor) -> list[torch.Tensor]:
        calls.append(1)
        return honest(self, weight)

    monkeypatch.setattr(WeightMap, "_matrices", counting)
    kept(layer)
    assert calls == []
    _in_place(layer)
    kept(layer)
    assert calls == [1]


def test_gradients_never_use_what_is_kept() -> None:
    layer = EquivariantLinear(LAYOUT, LAYOUT)
    kept(layer)
    matrices = layer.matrices()
    assert all(matrix.requires_grad for matrix in matrices)
    torch.stack([matrix.square().sum() for matrix in matrices]).sum().backward()
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().min()) > 0


def test_another_precision_and_a_copy_have_their_own() -> None:
    layer = EquivariantLinear(LAYOUT, LAYOUT)
    kept(layer)
    other = copy.deepcopy(layer).double()
    assert kept(other)[0].dtype == torch.float64
    _in_place(other)
    assert equal(kept(other), made(other))
    assert equal(kept(layer), made(layer))
    assert not torch.equal(kept(layer)[0].double(), kept(other)[0])
