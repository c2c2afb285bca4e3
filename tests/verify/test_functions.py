"""verify_equivariance on functions and e3nn modules: sound ones pass, each check rejects what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

from verify import Report, Verdict, replay, verify_equivariance

VECTORS = "4x1o"


def _verify(func: Callable[..., object], *args: object, **options: object) -> Report:
    settings: dict[str, object] = {"trials": 16, "search": 8, **options}
    return verify_equivariance(func, *args, **settings)  # type: ignore[arg-type]


def _norms(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 3)).norm(dim=-1)


def _scaled(x: Tensor) -> Tensor:
    return (x.unflatten(-1, (-1, 3)) * torch.tanh(_norms(x))[..., None]).flatten(-2)


def _center_and_relative(points: Tensor) -> tuple[Tensor, Tensor]:
    return points.mean(0, keepdim=True), points - points.mean(0)


def _gate() -> Gate:
    return Gate("4x0e", [torch.tanh], "4x0e", [torch.sigmoid], "4x1o")


SOUND: dict[str, tuple[Callable[[], Callable[..., object]], list[str], list[str]]] = {
    "linear": (lambda: o3.Linear("4x0e+4x1o+2x2e", "2x0e+3x1o+2x2e"), ["4x0e+4x1o+2x2e"], ["2x0e+3x1o+2x2e"]),
    "spherical harmonics": (lambda: o3.SphericalHarmonics([1, 2, 3, 4], True), ["1x1o"], ["1x1o+1x2e+1x3o+1x4e"]),
    "gate": (_gate, ["8x0e+4x1o"], ["4x0e+4x1o"]),
    "norm": (lambda: _norms, [VECTORS], ["4x0e"]),
    "scaled by norm": (lambda: _scaled, [VECTORS], [VECTORS]),
    "points": (lambda: _center_and_relative, ["cartesian_points"], ["cartesian_points", "1x1o"]),
    "cross product": (lambda: lambda x, y: torch.linalg.cross(x, y), ["1x1o", "1x1o"], ["1x1e"]),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_function_passes_every_check(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    make, irreps_in, irreps_out = SOUND[name]
    report = _verify(make(), irreps_in, irreps_out)
    assert report.passed, report.to_text()
    assert report.exit_code == 0


def test_tensor_product_built_in_single_precision_passes_in_double() -> None:
    built = o3.FullyConnectedTensorProduct("4x0e+4x1o+2x2e", "1x0e+1x1o", "4x0e+4x1o+2x2e")
    report = _verify(built, ["4x0e+4x1o+2x2e", "1x0e+1x1o"], ["4x0e+4x1o+2x2e"])
    assert report.passed, report.to_text()
    assert next(built.parameters()).dtype is torch.float32


def test_product_passes_in_single_precision_as_a_noise_budget(product: o3.FullyConnectedTensorProduct) -> None:
    report = _verify(product, ["4x0e+4x1o+2x2e", "1x0e+1x1o"], ["4x0e+4x1o+2x2e"], dtype=torch.float32)
    assert report.passed, report.to_text()


def test_order_of_components_matters() -> None:
    def z_polar(points: Tensor) -> Tensor:
        return (points - points.mean(0))[:, [1, 2, 0]]

    assert _verify(z_polar, ["cartesian_points"], ["1x1o"], basis="z-polar").passed
    assert _verify(z_polar, ["cartesian_points"], ["1x1o"]).verdict is Verdict.STRUCTURAL


def _silu_on_vectors(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def _tiny_bias(x: Tensor) -> Tensor:
    return x + 1e-10


def _single(x: Tensor) -> Tensor:
    return (x.float() * _norms(x).float().repeat_interleave(3, -1)).double()


def _detached(x: Tensor) -> Tensor:
    return x * _norms(x).detach().repeat_interleave(3, -1)


def _noisy(x: Tensor) -> Tensor:
    return x * (1 + 1e-3 * torch.rand(1, dtype=x.dtype))


def _mutating(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(1.01)
    return 2 * x


def _zero(x: Tensor) -> Tensor:
    return 0 * x


def _nan(x: Tensor) -> Tensor:
    return x / 0 * 0


def _constant(x: Tensor) -> Tensor:
    return torch.ones(len(x), 4, dtype=x.dtype)


def _above_nine(x: Tensor) -> Tensor:
    return torch.where(_norms(x).max() > 9, torch.relu(x), x)


def _pole(x: Tensor) -> Tensor:
    unit = x / x.norm(dim=-1, keepdim=True)
    return torch.where((unit[:, 1:2].abs() > 0.9999), -x, x)


FAULTS: dict[str, tuple[Callable[..., object], str, str, Verdict]] = {
    "SiLU on vectors": (_silu_on_vectors, VECTORS, "rotation", Verdict.STRUCTURAL),
    "bias of 1e-10": (_tiny_bias, VECTORS, "rotation", Verdict.SUSPECT),
    "single precision inside": (_single, VECTORS, "dtype_leak", Verdict.PRECISION),
    "detached branch": (_detached, VECTORS, "finite_difference", Verdict.STRUCTURAL),
    "leftover noise": (_noisy, VECTORS, "determinism", Verdict.STRUCTURAL),
    "input changed in place": (_mutating, VECTORS, "input_mutation", Verdict.STRUCTURAL),
    "zero": (_zero, VECTORS, "vacuity", Verdict.VACUOUS),
    "not a number": (_nan, VECTORS, "vacuity", Verdict.VACUOUS),
    "break above a norm of nine": (_above_nine, VECTORS, "search", Verdict.STRUCTURAL),
    "break at the pole": (_pole, "1x1o", "search", Verdict.STRUCTURAL),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_rejected_by_the_check_for_it(name: str) -> None:
    func, irreps, check, verdict = FAULTS[name]
    report = _verify(func, [irreps], [irreps], diagnose=False)
    assert report.check(check).verdict is verdict, report.to_text()
    assert report.exit_code != 0


def test_detached_branch_is_invisible_to_rotations_and_to_the_symmetry_of_gradients() -> None:
    report = _verify(_detached, [VECTORS], [VECTORS], diagnose=False)
    assert report.check("rotation").passed
    assert report.check("gradient").passed


def test_constant_output_is_vacuous() -> None:
    report = _verify(_constant, [VECTORS], ["4x0e"], diagnose=False)
    assert report.check("vacuity").verdict is Verdict.VACUOUS
    assert "do not depend" in report.check("vacuity").message


def test_output_without_rows_is_vacuous() -> None:
    report = _verify(lambda x: x[:0], [VECTORS], [VECTORS], diagnose=False)
    assert report.exit_code == 3
    assert "no rows" in report.check("vacuity").message


def test_dead_block_is_vacuous_unless_declared() -> None:
    linear = o3.Linear("2x0e+2x1o", "2x0e+2x1o+1x2e")
    arguments = (["2x0e+2x1o"], ["2x0e+2x1o+1x2e"])
    assert "2e" in _verify(linear, *arguments).check("vacuity").message
    assert _verify(linear, *arguments).exit_code == 3
    assert _verify(linear, *arguments, allow_zero=["2e"]).passed


def test_input_without_influence_is_named_and_does_not_fail() -> None:
    report = _verify(lambda x: 2 * x[..., :3], ["1x1o+2x0o"], ["1x1o"])
    assert report.passed
    assert report.check("vacuity").details["dead_inputs"] == ["input 0 2x0o"]


def test_pseudoscalars_through_an_even_function_break_the_inversion_alone() -> None:
    report = _verify(lambda x: x.abs(), ["2x0o"], ["2x0o"], diagnose=False)
    assert report.check("rotation").passed
    assert report.check("inversion").verdict is Verdict.STRUCTURAL


def test_tensors_of_the_caller_stay_as_they_were() -> None:
    x = torch.ones(3, 3, dtype=torch.float64)
    report = _verify(lambda x: x.mul_(2.0), ["1x1o"], ["1x1o"], inputs=[x], checks=["rotation", "input_mutation"])
    assert not report.check("input_mutation").passed
    assert report.check("rotation").passed
    assert torch.equal(x, torch.ones(3, 3))


def test_wrong_but_symmetric_backward_is_found_by_differences_alone() -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return 1.8 * grad

    report = _verify(Scaled.apply, [VECTORS], [VECTORS], checks=["rotation", "gradient", "finite_difference"])
    assert [c.name for c in report.failures] == ["finite_difference"]
    assert report.check("finite_difference").error == pytest.approx(0.1, abs=1e-3)


def test_wrong_forward_mode_is_found_by_the_dot_test_alone() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return 2 * grad

        @staticmethod
        def jvp(ctx: object, tangent: Tensor) -> Tensor:
            return 2.1 * tangent

    report = _verify(Doubled.apply, [VECTORS], [VECTORS], diagnose=False)
    assert [c.name for c in report.failures] == ["jvp_vjp"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torchscript_is_judged_without_forward_mode_that_pytorch_loses_there() -> None:
    def scaled(x: Tensor) -> Tensor:
        return (x * x).sum(-1, keepdim=True).sin() * x + 2.0 * x

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * x).sum(-1, keepdim=True).sin() * x + 2.0 * x

    def sheared(x: Tensor) -> Tensor:
        return x + 1e-3 * x * x

    for target in (torch.jit.script(scaled), torch.jit.script(Scaled())):
        for _ in range(3):  # optimised for gradients, like a trained model
            target(torch.randn(5, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
        report = _verify(target, ["1x1o"], ["1x1o"])
        assert report.passed, report.to_text()
        assert "TorchScript" in report.skipped["jvp_vjp"]
        assert report.check("finite_difference").verdict is Verdict.PASS
    assert _verify(scaled, ["1x1o"], ["1x1o"]).check("jvp_vjp").verdict is Verdict.PASS
    assert not _verify(torch.jit.script(sheared), ["1x1o"], ["1x1o"]).passed


def test_discontinuity_at_a_tie_is_listed_and_does_not_fail() -> None:
    def largest(x: Tensor) -> Tensor:
        y = x.unflatten(-1, (-1, 3))
        return y[torch.arange(len(y)), y.norm(dim=-1).argmax(-1)]

    report = _verify(largest, [VECTORS], ["1x1o"], search=24)
    assert report.passed, report.to_text()


def test_counterexample_is_small_and_its_code_replays_it() -> None:
    def broken(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x[..., :2], torch.nn.functional.silu(x[..., 2:8]), y], dim=-1)

    report = _verify(broken, ["2x0e+2x1o", "1x2e"], ["2x0e+2x1o+1x2e"])
    case = report.check("rotation").counterexample
    assert case is not None
    assert case.rows == 1
    assert case.live_irreps == ["input 0 2x1o"]
    assert all(abs(c) <= 2 and c == int(c) for c in case.quaternion)
    assert not case.inversion
    scope: dict[str, object] = {"func": broken}
    exec(case.code, scope)
    assert scope["error"] == pytest.approx(case.error, rel=1e-6)
    assert case.error > 1e-3
    assert case.example.startswith("@example(inputs=[torch.tensor(")


def test_replay_of_a_sound_function_is_round_off() -> None:
    x = torch.randn(3, 12, dtype=torch.float64)
    assert replay(_scaled, [VECTORS], [VECTORS], [x], quaternion=[1, 2, 3, 4], inversion=True) < 1e-14


class _Network(nn.Module):
    def __init__(self, fault: bool) -> None:
        super().__init__()
        self.first = o3.Linear("2x0e+4x1o", "2x0e+4x1o")
        self.middle = _Activation(fault)
        self.last = o3.Linear("2x0e+4x1o", "4x1o")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


class _Activation(nn.Module):
    def __init__(self, fault: bool) -> None:
        super().__init__()
        self.irreps_in = self.irreps_out = o3.Irreps("2x0e+4x1o")
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        vectors = x[..., 2:] + 0.1 if self.fault else x[..., 2:] * x[..., :1]
        return torch.cat([torch.tanh(x[..., :2]), vectors], dim=-1)


def test_localisation_names_the_module_and_the_leaked_irrep() -> None:
    torch.set_default_dtype(torch.float64)
    report = _verify(_Network(fault=True), ["2x0e+4x1o"], [VECTORS])
    culprit = report.culprit
    assert culprit is not None
    assert culprit.name == "middle"
    assert [m.name for m in report.modules] == ["first", "middle", "last"]
    assert [m.ratio > 1 for m in report.modules] == [False, True, False]
    assert culprit.example.startswith("a 1o output contains 0e")
    assert "1o contains 0e" in culprit.leak
    assert culprit.source_file.endswith("test_functions.py")
    assert culprit.source_line > 0
    assert report.modules[2].cumulative_error > 1e-3


def test_sound_network_needs_no_localisation() -> None:
    torch.set_default_dtype(torch.float64)
    report = _verify(_Network(fault=False), ["2x0e+4x1o"], [VECTORS])
    assert report.passed
    assert report.modules == []


def test_same_seed_gives_the_same_report() -> None:
    first, second = (_verify(_silu_on_vectors, [VECTORS], [VECTORS], seed=3).to_dict() for _ in range(2))
    assert first == second


def test_leaving_a_check_out_changes_no_other() -> None:
    whole = _verify(_scaled, [VECTORS], [VECTORS])
    part = _verify(_scaled, [VECTORS], [VECTORS], checks=["inversion"])
    assert [c.name for c in part.checks] == ["inversion"]
    assert part.check("inversion").error == whole.check("inversion").error


def test_defaults_of_torch_are_left_as_they_were() -> None:
    before = torch.get_default_dtype()
    _verify(_scaled, [VECTORS], [VECTORS])
    assert torch.get_default_dtype() is before


def test_clean_trials_are_reported_with_their_bound() -> None:
    report = _verify(_scaled, [VECTORS], [VECTORS], trials=64)
    assert report.statistics["failures"] == 0
    assert report.statistics["breaking_measure_95"] == pytest.approx(0.0457, abs=1e-3)
    assert "rule of three" in report.to_text()


@pytest.mark.parametrize("func", [_zero, _nan])
def test_trials_that_were_not_judged_are_not_called_clean(func: Callable[..., object]) -> None:
    report = _verify(func, [VECTORS], [VECTORS], diagnose=False)
    assert report.statistics == {}
    assert "Haar trials" not in report.to_text()


def test_checks_that_do_not_apply_are_listed_and_nothing_left_is_vacuous() -> None:
    report = _verify(_scaled, [VECTORS], [VECTORS], checks=["translation"])
    assert report.skipped == {"translation": "no input is a set of points"}
    assert report.exit_code == 3
