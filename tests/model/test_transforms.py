"""The operator under the transforms of ``torch.func`` and under compilers: right there, and unchanged afterwards."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch_geometric.data import Data

from tracegrad.graph import TargetLayout
from tracegrad.model import DeepHE3, GradientInduction, Induction
from tracegrad.so3 import random_rotation, wigner_D
from tracegrad.so3.rotations import _EXCHANGE_MATRICES

FORMS = ("packed", "low_rank")
ROWS = 3
Weights = dict[str, Tensor]


def operator_of(form: str, dtype: torch.dtype = torch.float64) -> GradientInduction:
    """Return an operator that has not been used yet."""
    torch.manual_seed(3)
    return GradientInduction("3x0e+2x1o+1x1e+2x2e", 5, 4, form=form).to(dtype)


def features_of(operator: GradientInduction, seed: int = 0, rows: int = ROWS) -> Tensor:
    """Return features of some rows."""
    generator, dtype = torch.Generator().manual_seed(seed), operator.head.linear1.weight.dtype
    return torch.randn(rows, operator.irreps_in.dim, generator=generator, dtype=torch.float64).to(dtype)


def total(operator: GradientInduction, weights: Weights, features: Tensor) -> Tensor:
    """Return a number that both outputs decide."""
    z, v = functional_call(operator, weights, (features,))
    return z.sin().sum() + v.sin().sum()


def by_autograd(operator: GradientInduction, features: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """First derivatives of the total by features and weights, and those of their sum of squares."""
    weights = {name: weight.detach().requires_grad_() for name, weight in operator.named_parameters()}
    leaves = [features.detach().requires_grad_(), *weights.values()]
    first = torch.autograd.grad(total(operator, weights, leaves[0]), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [g.detach() for g in first], list(second)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Compare tensor by tensor, in float64."""
    for mine, theirs in zip(found, expected, strict=True):
        mine, theirs = mine.detach(), theirs.detach()
        assert theirs.abs().max() > 1e-6
        assert (mine - theirs).abs().max() < 1e-12 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_first_and_second_derivatives_are_those_of_autograd(form: str) -> None:
    operator = operator_of(form)
    features, weights = features_of(operator), dict(operator.named_parameters())

    def gradients(features: Tensor, weights: Weights) -> tuple[Tensor, Weights]:
        return grad(lambda f, w: total(operator, w, f), argnums=(0, 1))(features, weights)

    def squares(features: Tensor, weights: Weights) -> Tensor:
        of_features, of_weights = gradients(features, weights)
        return of_features.square().sum() + sum(g.square().sum() for g in of_weights.values())

    expected = by_autograd(operator, features)
    for found, oracle in zip((gradients, grad(squares, argnums=(0, 1))), expected, strict=True):
        of_features, of_weights = found(features, weights)
        assert_close([of_features, *of_weights.values()], oracle)
    with pytest.raises(AssertionError):  # control
        assert_close([1.001 * expected[0][0]], [expected[0][0]])


@pytest.mark.parametrize("form", FORMS)
def test_jacobians_in_all_modes_are_those_of_autograd(form: str) -> None:
    operator = operator_of(form)
    features, direction = features_of(operator), features_of(operator, seed=1)

    def v(features: Tensor) -> Tensor:
        return operator(features)[1]

    jacobian = torch.autograd.functional.jacobian(v, features)
    assert_close([jacrev(v)(features), jacfwd(v)(features)], 2 * [jacobian])
    assert_close([vjp(v, features)[1](direction)[0]], [torch.einsum("ab,abcd->cd", direction, jacobian)])
    assert_close([jvp(v, (features,), (direction,))[1]], [torch.einsum("abcd,cd->ab", jacobian, direction)])

    def sines(features: Tensor) -> Tensor:
        return v(features).sin().sum()

    assert_close([hessian(sines)(features)], [torch.autograd.functional.hessian(sines, features)])
    with dual_level(), torch.no_grad():
        operator(features)  # keeps the matrices of the weights
        dual = {name: make_dual(w.detach(), w.detach()) for name, w in operator.named_parameters()}
        tangent = unpack_dual(functional_call(operator, dual, (features,))[1]).tangent
    along = {name: weight.detach() for name, weight in operator.named_parameters()}
    assert_close([tangent], [jvp(lambda w: functional_call(operator, w, (features,))[1], (along,), (along,))[1]])


@pytest.mark.parametrize("form", FORMS)
def test_many_inputs_and_many_weights_at_once_are_those_of_a_loop(form: str) -> None:
    operator = operator_of(form)
    many = torch.stack([features_of(operator, seed) for seed in range(4)])
    assert_close(list(vmap(operator)(many)), [torch.stack(parts) for parts in zip(*map(operator, many), strict=True)])
    weights = [{name: scale * w.detach() for name, w in operator.named_parameters()} for scale in (1.0, 1.5, 2.0)]
    stacked = {name: torch.stack([one[name] for one in weights]) for name in weights[0]}
    together = vmap(lambda w, f: grad(lambda f: total(operator, w, f))(f), in_dims=(0, None))(stacked, many[0])
    alone = torch.stack([grad(lambda f, w=one: total(operator, w, f))(many[0]) for one in weights])
    assert_close([together], [alone])


@pytest.mark.parametrize("form", FORMS)
def test_compiled_derivatives_are_those_of_autograd(form: str) -> None:
    operator = operator_of(form)
    features = features_of(operator).requires_grad_()
    z, v = torch.compile(operator, backend="aot_eager", fullgraph=True)(features)
    leaves = [features, *operator.parameters()]
    assert_close(list(torch.autograd.grad(z.sin().sum() + v.sin().sum(), leaves)), by_autograd(operator, features)[0])


def _gradient(operator: GradientInduction, features: Tensor) -> object:
    return grad(lambda f: operator(f)[1].sin().sum())(features)


def _rows(operator: GradientInduction, features: Tensor) -> object:
    with torch.no_grad():
        return vmap(operator)(features)


def _weights(operator: GradientInduction, features: Tensor) -> object:
    with torch.no_grad():
        return jvp(lambda w: functional_call(operator, w, (features,)), *2 * [(dict(operator.named_parameters()),)])


def _failure(operator: GradientInduction, features: Tensor) -> object:
    with pytest.raises(RuntimeError):
        vmap(lambda f: operator(f)[1].sum().item())(features[:, None])
    return None


def _fake(operator: GradientInduction, features: Tensor) -> object:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        return operator(mode.from_tensor(features))


def _export(operator: GradientInduction, features: Tensor) -> object:
    return torch.export.export(operator, (features,), strict=False)


TRACES = (_gradient, _rows, _weights, _failure, _fake, _export)


def outlived(operator: GradientInduction, trace: Callable[[GradientInduction, Tensor], object]) -> bool:
    """Return whether a trace by which an operator was used first changes what can be done with it later."""
    features, fresh = features_of(operator), copy.deepcopy(operator)
    trace(operator, features)
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            for mine, theirs in zip(operator(features), fresh(features), strict=True):
                if type(mine) is not Tensor or not torch.equal(mine, theirs):
                    return True
    try:
        torch.save(operator, io.BytesIO())
        copied = copy.deepcopy(operator)
    except NotImplementedError:  # a tensor of a transform has no storage
        return True
    return not torch.equal(copied(features)[1], fresh(features)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("form", FORMS)
def test_a_trace_leaves_nothing_behind(
    form: str, trace: Callable[[GradientInduction, Tensor], object], dtype: torch.dtype
) -> None:
    assert not outlived(operator_of(form, dtype), trace)


@pytest.mark.parametrize(("form", "trace"), [("packed", _gradient), ("low_rank", _gradient), ("low_rank", _fake)])
def test_constants_kept_in_a_trace_would_be_seen(
    form: str, trace: Callable[[GradientInduction, Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracegrad.model.layers.constant.is_transient", lambda tensor: False)
    assert outlived(operator_of(form, torch.float32), trace)


def test_a_whole_network_has_the_derivatives_of_autograd_and_is_unchanged(
    graph: Callable[..., Data], network: Callable[..., DeepHE3]
) -> None:
    induction = Induction(operator=True, trace=True, form="low_rank", width=4, trace_width=4)
    targets = TargetLayout({6: (0, 1), 14: (0, 0, 1)}, False)
    model, fresh, atoms = network(targets, induction=induction), network(targets, induction=induction), graph(targets)

    def loss(weights: Weights, model: DeepHE3 = model) -> Tensor:
        return sum(output.sin().sum() for output in functional_call(model, weights, (atoms,)).values())

    plain = {name: weight for name, weight in fresh.named_parameters() if weight.requires_grad}
    weights = {name: weight.detach() for name, weight in plain.items()}
    gradients, value = grad(loss)(weights), loss(plain, fresh)
    oracle = dict(zip(plain, torch.autograd.grad(value, list(plain.values())), strict=True))
    assert sum(float(gradient.abs().max()) > 1e-6 for gradient in oracle.values()) > 0.9 * len(oracle)
    for name, gradient in oracle.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-9, atol=1e-9)
    tangents = {name: torch.randn_like(weight) for name, weight in weights.items()}
    slope = sum(float((oracle[name] * tangents[name]).sum()) for name in oracle)
    assert float(jvp(loss, (weights,), (tangents,))[1]) == pytest.approx(slope, rel=1e-9)
    stacked = {name: torch.stack([2 * weight, weight]) for name, weight in weights.items()}
    assert float(vmap(loss)(stacked)[1]) == pytest.approx(value.item(), rel=1e-9)
    with torch.inference_mode():
        for mine, theirs in zip(copy.deepcopy(model)(atoms).values(), fresh(atoms).values(), strict=True):
            assert torch.equal(mine, theirs)


def test_rotation_matrices_first_made_in_a_trace_are_made_again() -> None:
    _EXCHANGE_MATRICES.clear()
    R = random_rotation(2)
    grad(lambda R: wigner_D(2, R).sum())(R)
    assert _EXCHANGE_MATRICES == {}
    wigner_D(2, R)
    assert all(type(J) is Tensor for J in _EXCHANGE_MATRICES.values())
    assert len(_EXCHANGE_MATRICES) == 1  # control
