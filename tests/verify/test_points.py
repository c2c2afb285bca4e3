"""verify_equivariance on sets of points: shifts, the order of the points, and ties between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from verify import Report, Verdict, verify_equivariance


def _verify(func: Callable[..., object], *args: object, **options: object) -> Report:
    settings: dict[str, object] = {"trials": 16, "search": 8, **options}
    return verify_equivariance(func, *args, **settings)  # type: ignore[arg-type]


def test_sum_over_absolute_positions_breaks_the_translation_alone() -> None:
    report = _verify(lambda p: p.norm(dim=-1, keepdim=True), ["cartesian_points"], ["1x0e"], diagnose=False)
    assert report.check("rotation").passed
    assert report.check("translation").verdict is Verdict.STRUCTURAL


def test_weight_by_index_breaks_the_permutation_alone() -> None:
    def weighted(points: Tensor) -> Tensor:
        return (points - points.mean(0)) * (1 + torch.arange(len(points), dtype=points.dtype))[:, None]

    report = _verify(weighted, ["cartesian_points"], ["1x1o"], diagnose=False)
    assert [c.name for c in report.failures] == ["node_permutation"]
    assert "interchangeable" in report.check("node_permutation").message


@pytest.mark.parametrize("broken", [True, False])
def test_order_of_the_points_is_tested_together_with_one_number_per_point(broken: bool) -> None:
    def func(points: Tensor, charges: Tensor) -> Tensor:
        weight = 1 + torch.arange(len(points), dtype=points.dtype)[:, None] if broken else 1
        return (points - points.mean(0)) * charges[:, None] * weight

    inputs = [torch.randn(6, 3), torch.tensor([1.0, 1.0, 1.0, 1.0, 6.0, 6.0])]
    report = _verify(func, ["cartesian_points", None], ["1x1o"], inputs=inputs, diagnose=False)
    assert [c.name for c in report.failures] == (["node_permutation"] if broken else []), report.to_text()


def test_order_of_the_points_is_not_tested_where_integers_may_number_them() -> None:
    def func(points: Tensor, index: Tensor) -> Tensor:
        i, j = index
        return torch.zeros_like(points).index_add(0, i, points[j] - points[i])

    inputs = [torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])]
    report = _verify(func, ["cartesian_points", None], ["1x1o"], inputs=inputs, diagnose=False)
    assert "node_permutation" in report.skipped
    assert report.passed, report.to_text()


OCTAHEDRON = torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)]).double()


def _nearest(points: Tensor) -> tuple[Tensor, Tensor]:
    """The vector to the neighbour nearest to the first point, and a smooth invariant."""
    vectors = points[1:] - points[:1]
    return vectors[vectors.norm(dim=1).argmin()][None], torch.exp(-vectors.square().sum(1)).sum().reshape(1, 1)


@pytest.mark.parametrize("stretch", [1.0, 2.0], ids=["sound", "broken"])
def test_output_with_ties_at_the_given_input_is_neither_zero_nor_left_out(stretch: float) -> None:
    def func(points: Tensor) -> tuple[Tensor, Tensor]:
        vector, invariant = _nearest(points)
        return vector * vector.new_tensor([stretch, 1.0, 1.0]), invariant

    arguments = (func, ["cartesian_points"], ["1x1o", "1x0e"])
    options = {"checks": ["rotation", "finite_difference", "vacuity"], "diagnose": False}
    tied = _verify(*arguments, inputs=[OCTAHEDRON], **options)
    assert tied.check("rotation").verdict is Verdict.SUSPECT
    assert tied.check("vacuity").verdict is Verdict.VACUOUS
    assert "discontinuous at the given input" in tied.check("rotation").message
    assert "discontinuous" in tied.skipped["finite_difference"]
    assert "zero on every input" not in tied.to_text()
    loose = OCTAHEDRON + 0.1 * torch.randn(7, 3, dtype=torch.float64)
    assert _verify(*arguments, inputs=[loose], **options).passed is (stretch == 1)
