"""The entry points: the drop-in for e3nn's assert_equivariant, and bad input refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from e3nn.util.test import assert_equivariant as e3nn_assert_equivariant
from torch import Tensor

from tracegrad.errors import VerificationError
from verify import EquivarianceError, Verdict, assert_equivariant, verify_equivariance

VECTORS = "4x1o"


def _scaled(x: Tensor) -> Tensor:
    return x * _length(x)


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _silu_on_vectors(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def _tiny_bias(x: Tensor) -> Tensor:
    return x + 1e-10


def _detached(x: Tensor) -> Tensor:
    return x * _length(x).detach()


def _mutating(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(1.01)
    return 2 * x


def _zero(x: Tensor) -> Tensor:
    return 0 * x


def _nan(x: Tensor) -> Tensor:
    return x / 0 * 0


def test_drop_in_takes_the_arguments_of_e3nn(product: o3.FullyConnectedTensorProduct) -> None:
    e3nn_assert_equivariant(product, ntrials=1, do_parity=True, tolerance=1e-6)
    assert assert_equivariant(product, ntrials=8, do_parity=True).passed
    x, y = torch.randn(3, 26), torch.randn(3, 4)
    assert assert_equivariant(product, [x, y], irreps_out=["4x0e+4x1o+2x2e"], ntrials=8, search=0).passed


def test_drop_in_falls_back_to_the_default_dtype() -> None:
    linear = o3.Linear("4x1o", "4x1o")
    report = assert_equivariant(lambda x: linear(x), irreps_in="4x1o", irreps_out="4x1o", ntrials=8, search=0)
    assert report.settings["dtype"] == "torch.float32"


def test_drop_in_raises_with_the_shrunk_counterexample() -> None:
    with pytest.raises(EquivarianceError, match="replay") as caught:
        assert_equivariant(_silu_on_vectors, irreps_in=VECTORS, irreps_out=VECTORS, ntrials=8)
    assert caught.value.report.verdict is Verdict.STRUCTURAL
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("func", [_zero, _nan, _mutating, _detached, _tiny_bias])
def test_drop_in_rejects_what_that_of_e3nn_lets_pass(func: Callable[..., object]) -> None:
    torch.set_default_dtype(torch.float64)
    e3nn_assert_equivariant(func, irreps_in=["4x1o"], irreps_out=["4x1o"])
    with pytest.raises(EquivarianceError):
        assert_equivariant(func, irreps_in=["4x1o"], irreps_out=["4x1o"], ntrials=8, diagnose=False)


def _chiral(x: Tensor) -> Tensor:
    """A vector and the cross product of two, declared as vectors: equivariant under rotations alone."""
    v = x.unflatten(-1, (-1, 3))
    return (v + torch.linalg.cross(v, v.roll(1, -2))).flatten(-2)


def test_function_that_claims_rotations_alone_passes_every_other_check() -> None:
    arguments = {"irreps_in": [VECTORS], "irreps_out": [VECTORS], "ntrials": 8}
    torch.set_default_dtype(torch.float64)
    e3nn_assert_equivariant(_chiral, irreps_in=[VECTORS], irreps_out=[VECTORS], do_parity=False)
    report = assert_equivariant(_chiral, **arguments, do_parity=False)
    assert {"gradient", "search", "lie_derivative"} <= {c.name for c in report.checks}
    assert report.skipped["inversion"] == "parity is not claimed"
    with pytest.raises(EquivarianceError) as caught:
        assert_equivariant(_chiral, **arguments, diagnose=False)
    assert {c.name for c in caught.value.report.failures} == {"inversion", "gradient", "search"}


def test_broken_rotation_is_found_without_parity() -> None:
    with pytest.raises(EquivarianceError) as caught:
        assert_equivariant(_silu_on_vectors, None, [VECTORS], [VECTORS], do_parity=False, ntrials=8)
    case = caught.value.report.check("rotation").counterexample
    assert case is not None
    assert not case.inversion


def test_shifts_are_left_out_alone() -> None:
    def absolute(points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True)

    report = assert_equivariant(absolute, None, ["cartesian_points"], ["1x0e"], do_translation=False, ntrials=8)
    names = {c.name for c in report.checks}
    assert "translation" not in names
    assert {"search", "inversion"} <= names
    with pytest.raises(EquivarianceError, match="translation"):
        assert_equivariant(absolute, None, ["cartesian_points"], ["1x0e"], ntrials=8, diagnose=False)


def _two(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


BAD_INPUT: dict[str, tuple[Callable[..., object], object, object, dict[str, object], str]] = {
    "wrong number of outputs": (_two, ["4x1o"], ["4x1o"], {}, "returned 2 output"),
    "output of another width": (lambda x: x[..., :5], ["4x1o"], ["4x1o"], {}, "needs a last axis of 12"),
    "function refuses the width": (o3.Linear("2x1o", "2x1o"), ["4x1o"], ["2x1o"], {}, "raised"),
    "empty batch": (_scaled, ["4x1o"], ["4x1o"], {"inputs": [torch.zeros(0, 12)]}, "empty batch"),
    "integers": (_scaled, ["4x1o"], ["4x1o"], {"inputs": [torch.ones(2, 12, dtype=torch.int64)]}, "int64"),
    "not a number": (_scaled, ["4x1o"], ["4x1o"], {"inputs": [torch.full((2, 12), torch.nan)]}, "NaN"),
    "input of another width": (_scaled, ["4x1o"], ["4x1o"], {"inputs": [torch.zeros(2, 9)]}, "needs a last axis of 12"),
    "wrong number of inputs": (_scaled, ["4x1o"], ["4x1o"], {"inputs": []}, "give one per entry"),
    "input that is no tensor": (_scaled, ["4x1o"], ["4x1o"], {"inputs": [[1.0]]}, "expected a torch.Tensor"),
    "nothing transforms": (_scaled, [None], ["4x1o"], {}, "nothing to verify"),
    "value that cannot be drawn": (_scaled, ["4x1o", None], ["4x1o"], {}, "give inputs"),
    "output that is no tensor": (lambda x: 3.0, ["4x1o"], ["4x1o"], {}, "expected a torch.Tensor"),
    "dict": (lambda x: {"a": x}, ["4x1o"], ["4x1o"], {}, "dict"),
    "complex": (lambda x: x + 0j, ["4x1o"], ["4x1o"], {}, "complex"),
    "not callable": (3, ["4x1o"], ["4x1o"], {}, "callable"),  # type: ignore[dict-item]
    "irreps that do not parse": (_scaled, ["4x1z"], ["4x1o"], {}, "not understood"),
    "no outputs declared": (_scaled, ["4x1o"], [], {}, "empty"),
    "unknown check": (_scaled, ["4x1o"], ["4x1o"], {"checks": ["rotatoin"]}, "rotation"),
    "no checks": (_scaled, ["4x1o"], ["4x1o"], {"checks": []}, "at least one"),
    "no trials": (_scaled, ["4x1o"], ["4x1o"], {"trials": 0}, "positive integer"),
    "negative seed": (_scaled, ["4x1o"], ["4x1o"], {"seed": -1}, "seed is -1"),
    "negative search": (_scaled, ["4x1o"], ["4x1o"], {"search": -1}, "search is -1"),
    "tolerance that is no number": (_scaled, ["4x1o"], ["4x1o"], {"tol": float("nan")}, "tol is nan"),
    "endless tolerance": (_scaled, ["4x1o"], ["4x1o"], {"tol": float("inf")}, "tol is inf"),
    "tolerance that lets anything pass": (_scaled, ["4x1o"], ["4x1o"], {"tol": 1.0}, "between 0 and 1"),
    "half precision": (_scaled, ["4x1o"], ["4x1o"], {"dtype": torch.float16}, "float64"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_raises_and_says_what_was_expected(name: str) -> None:
    func, irreps_in, irreps_out, options, words = BAD_INPUT[name]
    with pytest.raises(VerificationError, match=words):
        verify_equivariance(func, irreps_in, irreps_out, **{"trials": 16, "search": 8, **options})  # type: ignore[arg-type]
