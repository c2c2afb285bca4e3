"""Matrix products with separate matrices for self-loops: values and all derivatives, against plain operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from tracegrad.model.layers.row_products import sum_of_products

LOOPS, ROWS, WIDTH = 3, 8, 4
INNER = (5, 2)


def tensors(seed: int = 0) -> list[Tensor]:
    """What every row starts from, then rows and matrix of two terms."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(ROWS, WIDTH)] + [shape for inner in INNER for shape in ((ROWS, inner), (inner, 2 * WIDTH))]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def product(start: Tensor, *flat: Tensor) -> Tensor:
    """The function under test."""
    return sum_of_products(list(zip(flat[::2], flat[1::2], strict=True)), LOOPS, start)


def oracle(start: Tensor, *flat: Tensor, loops: int = LOOPS) -> Tensor:
    """The same by splitting and joining."""
    for rows, matrix in zip(flat[::2], flat[1::2], strict=True):
        for_pairs, for_loops = matrix.chunk(2, dim=1)
        start = start + torch.cat([rows[:loops] @ for_loops, rows[loops:] @ for_pairs])
    return start


def derivatives(function: Callable[..., Tensor]) -> list[Tensor]:
    """First and mixed second derivatives of a scalar made of the result."""
    leaves = [tensor.requires_grad_() for tensor in tensors()]
    first = torch.autograd.grad(function(*leaves).sin().sum(), leaves, create_graph=True)
    weights = tensors(seed=1)
    second = torch.autograd.grad(sum((g * w).sum() for g, w in zip(first, weights, strict=True)), leaves)
    return [*first, *second]


def test_values_equal_split_and_joined_products() -> None:
    assert torch.allclose(product(*tensors()), oracle(*tensors()), atol=1e-14)
    without = sum_of_products([(tensors()[1], tensors()[2])], LOOPS)
    assert torch.allclose(without, oracle(torch.zeros(ROWS, WIDTH, dtype=torch.float64), *tensors()[1:3]), atol=1e-14)


def test_the_rows_of_self_loops_have_their_own_matrix() -> None:
    others = oracle(*tensors(), loops=LOOPS + 1)
    assert not torch.allclose(product(*tensors()), others)


def test_first_and_second_derivatives_equal_those_of_plain_operations() -> None:
    for mine, plain in zip(derivatives(product), derivatives(oracle), strict=True):
        assert torch.allclose(mine, plain, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_pass_the_finite_difference_check(order: int) -> None:
    leaves = [tensor.requires_grad_() for tensor in tensors()]
    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    assert check(product, leaves)


def test_forward_derivatives_equal_those_of_plain_operations() -> None:
    tangents = tensors(seed=2)
    with dual_level():
        mine, plain = (
            unpack_dual(function(*[make_dual(x, t) for x, t in zip(tensors(), tangents, strict=True)])).tangent
            for function in (product, oracle)
        )
    assert torch.allclose(mine, plain, atol=1e-13)


def test_forward_derivatives_of_gradients_equal_those_of_plain_operations() -> None:
    tangents = tensors(seed=3)
    found = []
    for function in (product, oracle):
        with dual_level():
            leaves = [make_dual(x.requires_grad_(), t) for x, t in zip(tensors(), tangents, strict=True)]
            gradients = torch.autograd.grad(function(*leaves).sin().sum(), leaves, create_graph=True)
            found.append([unpack_dual(gradient).tangent for gradient in gradients])
    for mine, plain in zip(*found, strict=True):
        assert torch.allclose(mine, plain, atol=1e-12)
