"""What one state of a module hides: the other mode, weights of zero, the calls before; sound modules pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from e3nn.nn import BatchNorm
from torch import Tensor, nn

from verify import Report, Verdict, verify_equivariance
from verify.context import Context
from verify.function_subject import FunctionSubject

IRREPS = "4x0e+4x1o"
SIZE = 16


class Layer(nn.Module):
    """Features times a scalar of their own, then a change that depends on the state of the module."""

    def __init__(self, change: Callable[[Layer, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.change = change
        self.branch = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.mixing = nn.Parameter(torch.eye(SIZE, dtype=torch.float64))  # equivariant as a whole only
        self.first: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        y = (features @ self.mixing) * (1 + features.square().mean(1, keepdim=True))
        return y if self.change is None else self.change(self, y)


def _bias(y: Tensor) -> Tensor:
    return y + 0.1 * torch.arange(SIZE, dtype=y.dtype)


def _scale_of_the_first(layer: Layer, y: Tensor) -> Tensor:
    if layer.first is None:
        layer.first = y.detach().norm()
    return y / layer.first


def _random(layer: Layer, y: Tensor) -> Tensor:
    return y * (1 + torch.rand(1, dtype=y.dtype)) if layer.training else y


FAULTS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "modes": lambda layer, y: y if layer.training else _bias(y),
    "weights": lambda layer, y: y + layer.branch * _bias(y),
    "history": _scale_of_the_first,
}
SOUND: dict[str, Callable[[Layer, Tensor], Tensor] | None] = {
    "nothing": None,
    "scale of the mode": lambda layer, y: y if layer.training else 0.5 * y,
    "closed branch": lambda layer, y: y + layer.branch * y.square().mean() * y,
}


def _verify(module: nn.Module, *checks: str, **options: Any) -> Report:
    settings = {"trials": 4, "search": 2, "diagnose": False, "checks": checks or None, **options}
    return verify_equivariance(module, [IRREPS], [IRREPS], **settings)


@pytest.mark.parametrize("check", FAULTS)
def test_fault_that_the_given_state_hides_is_found_by_its_check_alone(check: str) -> None:
    report = _verify(Layer(FAULTS[check]))
    assert [c.name for c in report.failures] == [check], report.to_text()
    assert report.check(check).verdict is Verdict.STRUCTURAL


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SOUND)
def test_sound_module_passes_whatever_its_state(name: str, training: bool) -> None:
    report = _verify(Layer(SOUND[name]).train(training))
    assert report.passed, report.to_text()
    assert {"modes", "weights", "history"} <= {c.name for c in report.checks}
    assert report.settings["training"] is training


def test_fault_in_training_alone_is_found_in_a_module_given_in_evaluation_mode() -> None:
    module = Layer(lambda layer, y: _bias(y) if layer.training else y).eval()
    report = _verify(module)
    assert [c.name for c in report.failures] == ["modes"]
    assert "in training mode" in report.check("modes").message
    assert not module.training


def test_dropout_is_no_fault_of_a_module_in_evaluation_mode() -> None:
    report = _verify(Layer(_random).eval())
    assert report.passed, report.to_text()
    assert "two calls with one input differ in training mode" in report.skipped["modes"]


def test_failures_in_training_mode_say_so_where_the_mode_matters() -> None:
    remark = "in training mode; a network in use is verified after .eval()"
    assert remark in _verify(Layer(_random), "determinism").check("determinism").message
    assert remark not in _verify(Layer(lambda _, y: _bias(y)), "rotation").check("rotation").message


def test_normalisation_of_e3nn_passes_in_both_modes() -> None:
    for training in (True, False):
        report = _verify(BatchNorm(IRREPS).double().train(training), "rotation", "modes", "weights", "history")
        assert report.passed, report.to_text()
        assert len(report.checks) == 4


def test_functions_have_no_modes_weights_or_copies() -> None:
    report = verify_equivariance(lambda x: 2 * x, ["1o"], ["1o"], trials=4, search=0)
    assert {report.skipped[name] for name in ("modes", "weights", "history")} == {"not a module"}


def test_weights_of_the_callers_module_stay_as_they_are() -> None:
    module = Layer(FAULTS["weights"])
    _verify(module, "weights", "modes", "history")
    assert float(module.branch) == 0.0
    assert torch.equal(module.mixing, torch.eye(SIZE, dtype=torch.float64))
    assert module.training


def test_renewed_copy_has_not_been_called() -> None:
    subject = FunctionSubject(Layer(_scale_of_the_first), [IRREPS], [IRREPS], None, torch.float64)
    Context(subject).base  # noqa: B018 - calls the copy of the subject
    copy = subject.renewed()
    assert copy is not None
    assert isinstance(copy.module, Layer)
    assert copy.module.first is None
