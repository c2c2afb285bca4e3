"""NaN fails every check that meets it: gradients, forces, blocks; the finite twin of each passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from verify import CheckResult, DataAdapter, Field, Report, Verdict, verify_equivariance, verify_model
from verify.adapter_tracegrad import TraceGradAdapter
from verify.measure import relative_error
from verify.settings import layout_of, small_graph, small_model


def _distances(points: Tensor, floor: float) -> Tensor:
    """exp(-r) to all points, the point itself included; the square root of zero has no slope."""
    squares = (points[None] - points[:, None]).square().sum(-1)
    return torch.exp(-(squares + floor).sqrt()).sum(1, keepdim=True)


@pytest.mark.parametrize("check", ["finite_difference", "lie_derivative", "jvp_vjp"])
@pytest.mark.parametrize("floor", [0.0, 0.1], ids=["NaN", "finite"])
def test_gradient_that_is_not_a_number_fails(check: str, floor: float) -> None:
    report = verify_equivariance(
        lambda points: _distances(points, floor), ["cartesian_points"], ["1x0e"], checks=[check], trials=4
    )
    found = report.check(check)
    assert found.passed is (floor > 0)
    assert (found.margin == 0) is (floor == 0)


class _Springs(nn.Module):
    """Energy and forces of springs between all atoms."""

    def __init__(self, spoilt: bool) -> None:
        super().__init__()
        self.spoilt = spoilt

    def forward(self, graph: Data) -> tuple[Tensor, Tensor]:
        i, j = graph.edge_index
        vectors = graph.pos[j] - graph.pos[i]
        forces = torch.zeros_like(graph.pos).index_add(0, i, 2 * vectors)
        if self.spoilt:
            forces = torch.where(torch.arange(len(forces))[:, None] == 1, torch.nan, forces)
        return 0.5 * vectors.square().sum().reshape(1, 1), forces


@pytest.mark.parametrize("spoilt", [True, False])
def test_forces_that_are_not_numbers_fail_against_the_energy(spoilt: bool) -> None:
    index = torch.tensor([[0, 1, 1, 2, 0, 2], [1, 0, 2, 1, 2, 0]])
    graph = Data(pos=torch.randn(3, 3, dtype=torch.float64), edge_index=index)
    outputs = {"energy": Field("1x0e", "total"), "forces": Field("1x1o")}
    adapter = DataAdapter({"pos": Field("cartesian_points")}, outputs)
    report = verify_model(_Springs(spoilt), graph, adapter=adapter, checks=["force_consistency"])
    assert report.passed is not spoilt


def _hermiticity(row: int | None) -> Report:
    model, graph = small_model("MG", "DeepHE3"), small_graph("MG")

    class _Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, graph: Data) -> dict[str, Tensor]:
            irreps = self.model(graph)["edge_irreps"].clone()
            if row is not None:
                irreps[row] = torch.nan
            return {"edge_irreps": irreps}

    adapter = TraceGradAdapter(layout_of("MG"))
    return verify_model(_Spoilt(), graph, adapter=adapter, checks=["hermiticity"], trials=2, diagnose=False)


def test_block_that_is_not_a_number_is_not_hermitian() -> None:
    assert _hermiticity(None).passed
    assert _hermiticity(1).check("hermiticity").verdict is Verdict.STRUCTURAL


def test_error_with_anything_that_is_not_finite_is_infinite() -> None:
    assert relative_error(1.0, 2.0, 4.0) == 0.25
    assert relative_error(1.0, 2.0, noise=1.5) == 0
    assert relative_error(0.0, 0.0) == 0
    for values in ((math.nan, 1.0), (1.0, math.nan), (1.0, 2.0, math.inf), (math.inf, 1.0), (1.0, 0.0)):
        assert relative_error(*values) == math.inf
    assert relative_error(1.0, 1.0, noise=math.nan) == math.inf


def test_margin_of_an_error_that_is_not_a_number_is_zero() -> None:
    assert CheckResult("rotation", Verdict.STRUCTURAL, math.nan, 1e-14).margin == 0
    assert CheckResult("rotation", Verdict.PASS, 0.0, 1e-14).margin == math.inf
