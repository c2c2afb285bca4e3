"""verify_equivariance with inputs of the caller: lists, objects, sparse tensors, tables of pairs, structures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from verify import Report, Verdict, verify_equivariance

VECTORS = torch.linspace(-1.0, 2.0, 15, dtype=torch.float64).reshape(5, 3).sin()
TABLE = torch.ones(5, 5, dtype=torch.float64).triu(1)


def _verify(func: Callable[..., object], irreps_in: list[str | None], inputs: list[Any], *checks: str) -> Report:
    return verify_equivariance(
        func, irreps_in, ["1x1o"], inputs=inputs, trials=8, search=4, diagnose=False, checks=checks or None
    )


class Options:
    """A value without an equality of its own."""

    scale = 2.0


class Incomparable(Options):
    """A value whose equality raises."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("no comparison")


SIDE_INPUTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "list of tensors": ([TABLE, TABLE], lambda value: value[0].sum() + value[1].sum()),
    "dict of tensors": ({"a": TABLE}, lambda value: value["a"].sum()),
    "object": (Options(), lambda value: value.scale),
    "object that cannot be compared": (Incomparable(), lambda value: value.scale),
    "not a number": (float("nan"), lambda value: 2.0),
    "sparse tensor": (TABLE.to_sparse(), lambda value: value.to_dense().sum()),
    "parameter": (torch.nn.Parameter(torch.ones(4, dtype=torch.float64)), lambda value: value.sum()),
    "array": (np.ones(4), lambda value: float(value.sum())),
}


@pytest.mark.parametrize("name", SIDE_INPUTS)
def test_inputs_that_do_not_transform_may_be_of_any_kind(name: str) -> None:
    value, number = SIDE_INPUTS[name]
    report = _verify(lambda x, side: x * number(side), ["1x1o", None], [VECTORS, value])
    assert report.passed, report.to_text()


def _in_list(x: Tensor, side: list[Tensor]) -> Tensor:
    side[0] += 1.0
    return 2 * x


def _in_array(x: Tensor, side: np.ndarray) -> Tensor:
    side *= 1.5
    return 2 * x


@pytest.mark.parametrize(("func", "value"), [(_in_list, [TABLE]), (_in_array, np.ones(4))])
def test_inputs_of_any_kind_that_are_written_to_are_named(func: Callable[..., Tensor], value: Any) -> None:
    report = _verify(func, ["1x1o", None], [VECTORS, value], "rotation", "input_mutation")
    assert report.check("input_mutation").details["changed"] == ["input 1"]


def test_path_without_gradients_is_tested_too() -> None:
    def other_path(x: Tensor) -> Tensor:
        return 2 * x if torch.is_grad_enabled() else 2 * x.abs()

    kept: list[Tensor] = []

    def stale(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return 2 * x
        kept.append(2 * x)
        return kept[0]

    def by_gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(x.square().sum(), x)[0]

    for func in (other_path, stale):
        report = _verify(func, ["1x1o"], [VECTORS])
        assert [c.name for c in report.failures] == ["inference"], report.to_text()
    assert "needs gradients" in _verify(by_gradient, ["1x1o"], [VECTORS], "rotation", "inference").skipped["inference"]
    assert _verify(lambda x: 2 * x, ["1x1o"], [VECTORS], "inference").passed


def test_order_of_points_is_not_tested_across_structures() -> None:
    def ordered(points: Tensor) -> Tensor:
        weight = torch.arange(points.shape[-2], dtype=points.dtype)
        return ((points - points.mean(-2, keepdim=True)) * weight[:, None]).sum(-2)

    structures = torch.stack([VECTORS, 2 * VECTORS.cos()])
    report = _verify(ordered, ["cartesian_points"], [structures])
    assert "input 0 of shape (2, 5, 3): expected points (N, 3) of one structure" in report.skipped["node_permutation"]
    assert not _verify(ordered, ["cartesian_points"], [VECTORS], "node_permutation").passed


def test_tables_of_pairs_are_not_reordered_by_rows_alone() -> None:
    def bonded(points: Tensor, table: Tensor) -> Tensor:
        return ((table + table.T)[..., None] * (points[None] - points[:, None])).sum(1)

    report = _verify(bonded, ["cartesian_points", None], [VECTORS, TABLE])
    assert report.passed, report.to_text()
    assert "input 1 of shape (5, 5)" in report.skipped["node_permutation"]


@pytest.mark.parametrize("count", [4, 5, 6])
def test_fault_at_one_number_of_points_is_found(count: int) -> None:
    def model(points: Tensor) -> Tensor:
        vectors = points[None] - points[:, None]
        shift = torch.tensor([0.0, 0.0, 1.0]).to(points) if len(points) == count else 0.0
        return (vectors * torch.exp(-vectors.square().sum(-1, keepdim=True))).sum(1) + shift

    report = verify_equivariance(model, ["cartesian_points"], ["1x1o"], trials=8, search=0, diagnose=False)
    assert report.check("search").verdict is Verdict.STRUCTURAL


def test_chosen_inputs_that_give_no_number_are_counted_in_words() -> None:
    def singular(points: Tensor) -> Tensor:
        volume = torch.linalg.det(points[1:4] - points[:1]).square()
        return (points - points.mean(0)) * (volume / volume)

    report = verify_equivariance(singular, ["cartesian_points"], ["1x1o"], trials=8, search=4, diagnose=False)
    assert "gave NaN or infinity" in report.check("search").message
