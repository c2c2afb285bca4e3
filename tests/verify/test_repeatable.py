"""Two calls that differ in the order of a sum: noise on an accelerator, a fault on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from verify import Report, verify_equivariance
from verify.context import Context
from verify.tolerances import repeats

EPS = float(torch.finfo(torch.float64).eps)


class _AnyOrder:
    """Sum over neighbours in another order at every call, as atomic additions run; ``noise`` adds more than that."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.random = noise, torch.Generator().manual_seed(0)

    def __call__(self, points: Tensor) -> Tensor:
        steps = (points[:, None] - points[None]).reshape(-1, 3)
        rows = torch.arange(len(points)).repeat_interleave(len(points))
        terms = torch.sin(steps.norm(dim=1, keepdim=True)) * steps
        order = torch.randperm(len(steps), generator=self.random)
        total = torch.zeros_like(points).index_add(0, rows[order], terms[order])
        return total * (1 + self.noise * torch.rand(1, dtype=points.dtype, generator=self.random))


def _verify(noise: float = 0.0) -> Report:
    checks: dict[str, Any] = {"checks": ["rotation", "gradient", "lie_derivative", "determinism", "pole"]}
    return verify_equivariance(_AnyOrder(noise), ["cartesian_points"], ["1x1o"], diagnose=False, trials=16, **checks)


def test_order_of_sums_is_a_fault_on_a_cpu() -> None:
    report = _verify()
    assert not report.check("determinism").passed
    assert set(report.skipped) == {"gradient", "lie_derivative"}


@pytest.mark.parametrize("noise", [0.0, 1e-9], ids=["order of sums", "dropout"])
def test_order_of_sums_is_round_off_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    monkeypatch.setattr(Context, "device", "cuda")
    report = _verify(noise)
    assert report.passed is (noise == 0)
    assert report.check("determinism").passed is (noise == 0)
    assert ("gradient" in report.skipped) is (noise > 0)


def test_deterministic_algorithms_are_held_to_the_last_bit() -> None:
    assert repeats(0.0, "cpu", torch.float64)
    assert not repeats(EPS, "cpu", torch.float64)
    assert repeats(100 * EPS, "cuda", torch.float64)
    assert not repeats(1e5 * EPS, "cuda", torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        assert not repeats(100 * EPS, "cuda", torch.float64)
    finally:
        torch.use_deterministic_algorithms(False)
