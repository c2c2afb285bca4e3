"""SOAP turns with the matrices, sees every matrix of a flat weight, and needs fewer steps than Adam where it should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tracegrad.graph import TargetLayout
from tracegrad.model import DeepHE3, Induction, NetworkSizes
from tracegrad.training.soap import SOAP, weight_matrices

Loss = Callable[[Tensor], Tensor]


def orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return basis


def valley(left: Tensor, right: Tensor) -> Loss:
    """An ill-conditioned quadratic form of ``left^T W right`` with its minimum at a random matrix."""
    rows, columns = (torch.logspace(0, -2, len(side), dtype=torch.float64) for side in (left, right))
    weights = rows[:, None] * columns
    lowest = torch.randn(weights.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    def loss(W: Tensor) -> Tensor:
        return (weights * (left.T @ W @ right - lowest).square()).sum()

    return loss


def descend(start: Tensor, loss: Loss, make: Callable[[nn.Parameter], torch.optim.Optimizer], steps: int) -> Tensor:
    parameter = nn.Parameter(start.clone())
    optimizer = make(parameter)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
    return parameter.detach()


def soap(parameter: nn.Parameter) -> SOAP:
    return SOAP({parameter: [(parameter.shape[0], parameter.shape[1])]}, lr=0.03)


def adam(parameter: nn.Parameter) -> torch.optim.Adam:
    return torch.optim.Adam([parameter], lr=0.03)


@pytest.mark.parametrize(("make", "turns"), [(soap, True), (adam, False)], ids=["soap", "adam-control"])
def test_path_of_a_matrix_turns_with_it(make: Callable[[nn.Parameter], torch.optim.Optimizer], turns: bool) -> None:
    eye, A, B = torch.eye(4, dtype=torch.float64), orthogonal(4, 0), orthogonal(4, 1)
    start = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = descend(start, valley(eye, eye), make, 40)
    turned = descend(A @ start @ B.T, valley(A, B), make, 40)
    assert torch.allclose(A @ plain @ B.T, turned, rtol=0, atol=1e-6) == turns
    assert not torch.allclose(plain, start, rtol=0, atol=0.1)  # it moved


def test_valley_across_the_axes_is_descended_faster_than_by_adam() -> None:
    loss = valley(orthogonal(8, 3), orthogonal(8, 4))
    start = torch.zeros(8, 8, dtype=torch.float64)
    assert loss(descend(start, loss, soap, 200)) < 0.1 * loss(descend(start, loss, adam, 200))


def test_matrices_in_a_flat_weight_are_handled_as_parameters_of_their_own() -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(4, 3, generator=generator), torch.randn(2, 5, generator=generator))
    bias = torch.randn(6, generator=generator)
    flat = nn.Parameter(torch.cat([first.flatten(), second.flatten()]))
    apart, vector = [nn.Parameter(first.clone()), nn.Parameter(second.clone())], nn.Parameter(bias.clone())
    both = [SOAP({flat: [(4, 3), (2, 5)]}, 0.1), SOAP({apart[0]: [(4, 3)], vector: [], apart[1]: [(2, 5)]}, 0.1)]
    wrong_flat = nn.Parameter(flat.detach().clone())
    wrong = SOAP({wrong_flat: [(2, 6), (2, 5)]}, 0.1)
    for _ in range(15):
        for optimizer in (*both, wrong):
            optimizer.zero_grad()
        flat.pow(4).sum().backward()
        wrong_flat.pow(4).sum().backward()
        (apart[0].pow(4).sum() + apart[1].pow(4).sum() + vector.pow(2).sum()).backward()
        for optimizer in (*both, wrong):
            optimizer.step()
    together = torch.cat([p.flatten() for p in apart])
    assert torch.equal(flat, together)
    assert not torch.allclose(wrong_flat, together)  # control: the shapes matter
    assert not torch.allclose(vector, bias)


def test_state_is_restored_bit_for_bit() -> None:
    loss, start = valley(orthogonal(6, 6), orthogonal(4, 7)), torch.zeros(6, 4, dtype=torch.float64)
    whole = descend(start, loss, soap, 24)
    parameter = nn.Parameter(descend(start, loss, soap, 0))
    optimizer = soap(parameter)
    for step in range(24):
        if step == 13:
            parameter = nn.Parameter(parameter.detach().clone())
            optimizer, before = soap(parameter), optimizer
            optimizer.load_state_dict(before.state_dict())
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
    assert torch.equal(parameter.detach(), whole)


def test_every_weight_of_the_network_but_biases_and_gains_is_in_a_matrix() -> None:
    layout = TargetLayout({6: (0, 0, 1, 1, 2)}, spinful=False)
    sizes = NetworkSizes("8x0e+4x1o+4x2e", 8, 2, 2, 6.0, 8, "none")
    induction = Induction(
        operator=True, trace=True, form="low_rank", width=8, gain=0.1, gain_learned=True, trace_width=8
    )
    model = DeepHE3(layout, sizes, induction)
    shapes = weight_matrices(model)
    vectors = [name for name, p in model.named_parameters() if p.requires_grad and not shapes[p]]
    assert vectors
    large = [name for name in vectors if model.get_parameter(name).numel() > 64]
    assert large == []
    total = sum(a * b for matrices in shapes.values() for a, b in matrices)
    assert total == sum(p.numel() for p in shapes if shapes[p])


def test_decay_shrinks_matrices_and_spares_vectors() -> None:
    generator = torch.Generator().manual_seed(9)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    found = []
    for decay in (0.0, 0.5):
        matrix, vector = (nn.Parameter(value.clone()) for value in start)
        optimizer = SOAP({matrix: [(4, 3)], vector: []}, 0.1, weight_decay=decay)
        (matrix.square().sum() + vector.square().sum()).backward()
        optimizer.step()
        found.append((matrix.detach(), vector.detach()))
    (plain, plain_vector), (decayed, decayed_vector) = found
    assert torch.equal(plain, start[0])  # the first step only measures
    assert torch.allclose(decayed, 0.95 * plain, rtol=1e-15)
    assert torch.equal(decayed_vector, plain_vector)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected matrices with 12 weights"):
        SOAP({nn.Parameter(torch.zeros(12)): [(3, 3)]}, lr=0.1)


def test_a_first_gradient_that_is_not_finite_is_not_measured() -> None:
    loss, start = valley(orthogonal(6, 6), orthogonal(4, 7)), torch.zeros(6, 4, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = soap(parameter)
    parameter.grad = torch.full_like(start, torch.nan)
    optimizer.step()  # the guard of the loss then names the batch
    assert torch.equal(parameter.detach(), start)
    for _ in range(24):
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
    assert torch.equal(parameter.detach(), descend(start, loss, soap, 24))
    parameter.grad = torch.full_like(start, torch.nan)
    optimizer.step()
    assert bool(parameter.detach().isnan().all())  # the control: later gradients go into the means as they are
