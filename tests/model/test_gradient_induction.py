"""The closed form of the operator is automatic differentiation, in value and in second derivatives; Theorem 2 holds."""

from __future__ import annotations

import pytest
import torch

from tracegrad.model import GradientInduction
from tracegrad.so3 import random_rotation, wigner_D_irreps

IRREPS = "5x0e+2x0o+4x1o+2x1e+3x2e+2x3o"


def operator_of(form: str, norm: bool = True, rank: int = 1) -> GradientInduction:
    """Return an operator with all weights away from zero and one."""
    torch.manual_seed(3)
    operator = GradientInduction(IRREPS, 6, 4, form=form, norm=norm, rank=rank).double()
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return operator


def features_of(operator: GradientInduction, rows: int = 7) -> torch.Tensor:
    """Return features of some rows."""
    return torch.randn(rows, operator.irreps_in.dim, dtype=torch.float64)


@pytest.fixture(params=[("packed", True, 1), ("low_rank", True, 1), ("low_rank", False, 1), ("low_rank", True, 3)])
def operator(request: pytest.FixtureRequest) -> GradientInduction:
    """Run the test for both forms of W, without the layer norms of ``s_nonlin``, and with several projections."""
    return operator_of(*request.param)


def growth_of_invariants(operator: GradientInduction) -> float:
    """Largest invariant of large features over that of features a tenth as large."""
    features = features_of(operator)
    z, larger = (operator(size * features)[0].detach().abs().max() for size in (30.0, 300.0))
    return float(larger / z)


def test_layer_norms_hold_the_invariants_of_large_features() -> None:
    assert growth_of_invariants(operator_of("low_rank")) == pytest.approx(1.0, abs=0.05)
    assert growth_of_invariants(operator_of("low_rank", norm=False)) == pytest.approx(100.0, rel=0.05)  # quadratic


def test_closed_form_is_the_gradient(operator: GradientInduction) -> None:
    features = features_of(operator)
    _, v = operator(features)
    assert torch.allclose(v, operator.by_autograd(features), rtol=0, atol=1e-12)
    assert not torch.allclose(1.001 * v, operator.by_autograd(features), rtol=0, atol=1e-12)


def test_second_derivatives_agree(operator: GradientInduction) -> None:
    features = features_of(operator).requires_grad_()
    weights = [p for name, p in operator.named_parameters() if name != "head.norm2.bias"]
    cotangent = torch.randn_like(features)
    closed = torch.autograd.grad((operator(features)[1] * cotangent).sum(), [features, *weights])
    oracle = torch.autograd.grad((operator.by_autograd(features) * cotangent).sum(), [features, *weights])
    for mine, theirs in zip(closed, oracle, strict=True):
        assert theirs.abs().max() > 1e-8
        assert (mine - theirs).abs().max() <= 1e-12 * max(1.0, float(theirs.abs().max()))
    detached = torch.autograd.grad((operator(features.detach() + 0 * features)[1] * cotangent).sum(), features)[0]
    assert not torch.allclose(detached, oracle[0])  # a graph that is cut would be seen


def test_closed_form_is_the_finite_difference(operator: GradientInduction) -> None:
    features, step = features_of(operator, 1), 1e-5
    _, v = operator(features)
    direction = torch.randn_like(features)
    with torch.no_grad():
        z = [operator(features + sign * step * direction)[0].sum() for sign in (1, -1)]
        assert float((z[0] - z[1]) / (2 * step)) == pytest.approx(float((v * direction).sum()), rel=1e-7)


def test_theorem_2(operator: GradientInduction) -> None:
    features = features_of(operator)
    z, v = operator(features)
    for R in (random_rotation(), -random_rotation()):
        D = wigner_D_irreps(operator.irreps_in, R)
        turned_z, turned_v = operator(features @ D.T)
        assert torch.allclose(turned_z, z, rtol=0, atol=1e-12)  # z is invariant
        assert torch.allclose(turned_v, v @ D.T, rtol=0, atol=1e-12)  # v transforms as f
        assert not torch.allclose(turned_v, v, rtol=0, atol=1e-3)


def test_operator_runs_in_inference_mode(operator: GradientInduction) -> None:
    features = features_of(operator)
    z, v = operator(features)
    with torch.inference_mode():
        frozen_z, frozen_v = operator(features)
    assert torch.allclose(frozen_z, z, rtol=0, atol=1e-14)
    assert torch.allclose(frozen_v, v, rtol=0, atol=1e-14)
    assert not frozen_v.requires_grad


def test_invariants_alone_are_those_of_the_operator(operator: GradientInduction) -> None:
    features = features_of(operator)
    blocks = operator.layout.split(operator.layout.permute(features))
    assert torch.allclose(operator.invariants(blocks), operator(features)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("rank", "independent"), [(1, 2), (2, 3)])
def test_projections_bound_the_forms_that_u_can_be(rank: int, independent: int) -> None:
    """Of two vectors there are three symmetric forms: one projection per vector gives two, two give all."""
    torch.manual_seed(3)
    operator = GradientInduction("2x1o", 5, 2, rank=rank).double()
    a = torch.eye(3, dtype=torch.float64)[0]
    features = torch.stack([torch.cat([x * a, y * a]) for x, y in ((1, 0), (0, 1), (1, 1), (1, -1))])
    u, _ = operator.quadratic(operator.layout.split(operator.layout.permute(features)))
    assert torch.linalg.matrix_rank(u.T, rtol=1e-10) == independent


def test_packed_form_is_the_symmetric_bilinear_form() -> None:
    operator = operator_of("packed")
    features = features_of(operator, 2)
    u, _ = operator.quadratic(operator.layout.split(operator.layout.permute(features)))
    expected, row = torch.zeros(2, 6, dtype=torch.float64), 0
    starts = [s.start for s in operator.irreps_in.slices()]
    for k, (mul, ir) in enumerate(operator.irreps_in):  # IRREPS is in the order of the frame
        f = features[:, starts[k] : starts[k] + mul * ir.dim].reshape(2, mul, ir.dim)
        for i in range(mul):
            for j in range(i, mul):
                pair = (f[:, i] * f[:, j]).sum(1, keepdim=True) / ir.dim**0.5
                expected += pair * operator.quadratic.weight[row]
                row += 1
    assert row == len(operator.quadratic.weight)
    assert torch.allclose(u, expected, rtol=0, atol=1e-12)


def test_unknown_form_raises() -> None:
    with pytest.raises(ValueError, match="low_rank"):
        GradientInduction(IRREPS, 4, 4, form="full")


def test_no_projection_at_all_raises() -> None:
    with pytest.raises(ValueError, match="at least one projection per channel, found 0"):
        GradientInduction(IRREPS, 4, 4, rank=0)


@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (2, 1, 3)])
def test_rows_may_have_any_leading_axes(operator: GradientInduction, shape: tuple[int, ...]) -> None:
    features = torch.randn(*shape, operator.irreps_in.dim, dtype=torch.float64)
    z, v = operator(features)
    assert (z.shape, v.shape) == ((*shape, 4), features.shape)
    rows_z, rows_v = operator(features.reshape(-1, features.shape[-1]))
    assert torch.equal(z.reshape(-1, 4), rows_z)
    assert torch.equal(v.reshape(rows_v.shape), rows_v)
    assert operator.by_autograd(features).shape == v.shape
    assert torch.allclose(operator.by_autograd(features), v, atol=1e-9)


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1)])
def test_one_channel_below_a_layer_norm_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="norm=False"):
        GradientInduction(IRREPS, *sizes)
    z, v = GradientInduction(IRREPS, *sizes, norm=False).double()(torch.randn(5, 54, dtype=torch.float64))
    assert z.std(0).min() > 0
    assert v.abs().max() > 0


@pytest.mark.parametrize("shape", [(7, 5), (41, 7), ()])
def test_features_of_other_irreps_are_refused(operator: GradientInduction, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected features \(\.\.\., \d+\) of 5x0e"):
        operator(torch.randn(shape, dtype=torch.float64))


def test_irreps_may_come_in_any_order() -> None:
    mixed = GradientInduction("3x1o+2x0e+1x2e+2x1o+1x0e", 6, 4).double()
    features = torch.randn(7, mixed.irreps_in.dim, dtype=torch.float64)
    assert torch.allclose(mixed(features)[1], mixed.by_autograd(features), rtol=0, atol=1e-12)
    D = wigner_D_irreps(mixed.irreps_in, -random_rotation())
    assert torch.allclose(mixed(features @ D.T)[1], mixed(features)[1] @ D.T, rtol=0, atol=1e-12)
    assert not torch.allclose(mixed(features @ D.T)[1], mixed(features)[1], rtol=0, atol=1e-3)
