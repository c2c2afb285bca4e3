"""Blocks that are zero up to round-off: they fail nothing, excuse nothing, and a fault beside them is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from e3nn import o3
from torch import Tensor

from tracegrad.graph import graph_from_pairs
from verify import Report, Verdict, verify_equivariance, verify_model
from verify.settings import layout_of, small_model

GRADIENTS = ("gradient", "finite_difference", "jvp_vjp", "lie_derivative")


def _verify(function: Callable[..., Any], irreps_in: str, irreps_out: Any, **options: Any) -> Report:
    return verify_equivariance(function, [irreps_in], irreps_out, diagnose=False, **options)


class _Rescaled(torch.autograd.Function):
    """The identity with a gradient that is too small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 0.9 * gradient


@pytest.mark.parametrize("broken", [False, True], ids=["sound", "gradient rescaled"])
def test_square_of_a_feature_has_blocks_that_vanish_and_gradients_that_do_not(broken: bool) -> None:
    torch.set_default_dtype(torch.float64)
    product = o3.FullTensorProduct("2x1o+1x2e", "2x1o+1x2e")

    def square(x: Tensor) -> Tensor:
        return product(x, _Rescaled.apply(x) if broken else x)  # antisymmetric parts are zero

    report = _verify(square, "2x1o+1x2e", [product.irreps_out], allow_zero=["1e", "3e"], checks=GRADIENTS, trials=16)
    assert len(report.checks) >= 3
    assert report.check("finite_difference").passed is not broken
    assert report.passed is not broken


def _vectors(points: Tensor) -> tuple[Tensor, Tensor]:
    """A vector for every point, and the pseudovector of two of them, which vanishes on a line."""
    steps = points[None] - points[:, None]
    r = steps.norm(dim=-1, keepdim=True)
    a, b = (steps * torch.exp(-r)).sum(1), (steps * torch.exp(-(r**2))).sum(1)
    return a, torch.linalg.cross(a, b)


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 2.0, 3.0)], ids=["along z", "oblique"])
@pytest.mark.parametrize("broken", [False, True], ids=["sound", "absolute values"])
def test_chain_along_an_axis_is_judged_as_along_any_line(axis: tuple[float, ...], broken: bool) -> None:
    chain = torch.tensor([0.0, 1.2, 2.5, 4.1], dtype=torch.float64)[:, None] * torch.tensor(axis, dtype=torch.float64)

    def function(points: Tensor) -> tuple[Tensor, Tensor]:
        a, b = _vectors(points)
        return (a + 1e-7 * a.abs() if broken else a), b

    options: dict[str, Any] = {"inputs": [chain], "allow_zero": ["1e"], "trials": 16}
    report = _verify(function, "cartesian_points", ["1x1o", "1x1e"], **options)
    assert report.passed is not broken
    assert report.check("rotation").passed is not broken


def _above(x: Tensor) -> Tensor:
    """Sound up to a length of 27, above it broken by 3e-5."""
    n = x.norm(dim=-1, keepdim=True)
    return x * torch.tanh(n) / (n + 1e-3) + (n > 27).to(x) * x.abs() / n * 3e-5


def _dust(x: Tensor) -> Tensor:
    """Zero in exact arithmetic."""
    return (torch.linalg.cross(x, 0.3 * x) * x.roll(1, 0)).sum(-1, keepdim=True)


def test_search_finds_a_fault_beside_a_block_that_is_dust() -> None:
    options: dict[str, Any] = {"allow_zero": ["0o"], "checks": ["rotation", "search"]}
    alone = _verify(_above, "1x1o", ["1x1o"], **options)
    beside = _verify(lambda x: (_above(x), _dust(x)), "1x1o", ["1x1o", "1x0o"], **options)
    assert alone.check("rotation").passed
    assert alone.check("search").verdict is beside.check("search").verdict is Verdict.STRUCTURAL
    assert beside.check("search").details["discontinuous_inputs"] == 0  # dust is no jump


def _shifted(points: Tensor) -> Tensor:
    """Vectors into which the absolute place enters at 3e-12."""
    return _smooth(points) * (1 + 3e-12 * points.norm(dim=-1, keepdim=True))


def _smooth(points: Tensor) -> Tensor:
    steps = points[None] - points[:, None]
    return (steps * torch.exp(-(steps.square().sum(-1, keepdim=True) + 1).sqrt())).sum(1)


def test_dust_loosens_no_tolerance_but_its_own() -> None:
    options: dict[str, Any] = {"allow_zero": ["0o"], "checks": ["translation", "lie_derivative"]}
    alone = _verify(_shifted, "cartesian_points", ["1x1o"], **options)
    beside = _verify(
        lambda points: (_shifted(points), _dust(_smooth(points))), "cartesian_points", ["1x1o", "1x0o"], **options
    )
    assert alone.check("translation").verdict is beside.check("translation").verdict is Verdict.SUSPECT
    assert beside.check("translation").tolerance < 1e-12
    assert beside.check("lie_derivative").tolerance < 1e-12


def test_network_of_this_package_passes_on_a_linear_molecule_along_z() -> None:
    model, graph = small_model("MG", "DeepHE3+TraceGrad").eval(), _linear_molecule()
    report = verify_model(model, graph, trials=4, search=0, diagnose=False, allow_zero=["1e", "2o", "3e"])
    failed = [check.line() for check in report.checks if not check.passed]
    assert not failed, failed


def _linear_molecule() -> Any:
    places = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.0, 2.7]], dtype=torch.float64)
    pairs, shift = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.zeros(3, 3, dtype=torch.long)
    no_cell, numbers = torch.zeros(3, 3, dtype=torch.float64), torch.tensor([6, 6, 6])
    return graph_from_pairs(numbers, places, no_cell, pairs, shift, layout_of("MG"))
