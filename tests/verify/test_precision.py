"""The private copy of a module in another precision: complex constants keep both parts, the original its dtype."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

from tracegrad.errors import VerificationError
from verify import Verdict, verify_equivariance
from verify.precision import converted, in_precision


class _Phase(nn.Module):
    """Real part of phase (x + i bias): a bias on vectors that shows through the imaginary part of the phase alone."""

    def __init__(self, phase: complex) -> None:
        super().__init__()
        self.register_buffer("phase", torch.tensor([phase], dtype=torch.complex64))
        self.bias = nn.Parameter(torch.tensor([0.7, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.real(self.phase * torch.complex(x, self.bias.expand_as(x)))


@pytest.mark.parametrize(("phase", "verdict"), [(1 + 0.3j, Verdict.STRUCTURAL), (1 + 0j, Verdict.PASS)])
def test_fault_in_an_imaginary_part_is_found(phase: complex, verdict: Verdict) -> None:
    report = verify_equivariance(_Phase(phase), ["1x1o"], ["1x1o"], checks=["rotation", "inversion"], trials=4)
    assert report.verdict is verdict, report.to_text()


def test_copy_has_the_precision_and_the_original_keeps_its_own() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.register_buffer("phase", torch.tensor([1 + 2j], dtype=torch.complex64))
    module.register_buffer("index", torch.arange(3))
    clone = converted(module, torch.float64)
    assert [t.dtype for t in clone.buffers()] == [torch.complex128, torch.int64]
    assert {p.dtype for p in clone.parameters()} == {torch.float64}
    assert clone.phase.item() == 1 + 2j
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def _shift(x: Tensor, amount: float) -> Tensor:
    return x + amount


class _Scripted(nn.Module):
    """A module that keeps a scripted function, which PyTorch neither pickles nor copies; a shift of vectors, if any."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount, self.shift = amount, torch.jit.script(_shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.shift(x, self.amount)


@pytest.mark.parametrize(("amount", "verdict"), [(0.0, Verdict.PASS), (1e-3, Verdict.STRUCTURAL)])
def test_module_with_a_scripted_function_is_verified(amount: float, verdict: Verdict) -> None:
    report = verify_equivariance(_Scripted(amount), ["1x1o"], ["1x1o"], trials=4)
    assert report.verdict is verdict, report.to_text()


class _Uncopyable(nn.Module):
    def __reduce_ex__(self, protocol: object) -> str:
        raise pickle.PicklingError("holds a socket")


def test_module_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    with pytest.raises(VerificationError, match=r"_Uncopyable cannot be copied .*: holds a socket"):
        verify_equivariance(_Uncopyable(), ["1x1o"], ["1x1o"])


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(2, dtype=torch.float64), torch.arange(2)])
def test_tensor_in_a_precision_is_a_copy(value: Tensor) -> None:
    before = value.clone()
    in_precision(value, torch.float64).add_(1)
    assert torch.equal(value, before)
