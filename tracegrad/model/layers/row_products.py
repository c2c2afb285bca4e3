r"""Sums of matrix products over rows whose first few, those of the self-loops, have matrices of their own.

.. math:: y_r = s_r + \sum_t x^t_r M^t_{\kappa(r)}, \qquad \kappa(r) = \text{loop for } r < n, \text{ else pair}

Written as autograd functions that fill the two parts of one result: splitting the rows and joining the products again
would copy every row once forwards and once backwards. The three functions are the partial derivatives of the trilinear
form :math:`\sum_r x_r M_{\kappa(r)} g_r`, each made of the others, so that all derivatives exist. Where a transform
of ``torch.func`` or a compiler is at work the rows are split and joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tracegrad.so3.traces import is_traced

Term = tuple[Tensor, Tensor]


def sum_of_products(terms: Sequence[Term], num_loops: int, start: Tensor | None = None) -> Tensor:
    """``start + sum of rows @ matrix``.

    Args:
        terms: at least one ``(rows, matrix)``: rows ``(R, K)``, those of self-loops first; matrix ``(K, 2 N)``, its
            first half for pairs, its second half for self-loops.
        num_loops: rows of self-loops.
        start: ``(R, N)``.

    Returns:
        ``(R, N)``.
    """
    if is_traced():
        products = [torch.cat([x @ M for x, M in _halves(num_loops, rows, matrix)]) for rows, matrix in terms]
        return torch.stack(products if start is None else [start, *products]).sum(0)
    flat = [tensor for term in terms for tensor in term]
    result: Tensor = _Products.apply(num_loops, start, *flat)
    return result


def _pulled(num_loops: int, g: Tensor, matrix: Tensor) -> Tensor:
    if is_traced():
        return torch.cat([part @ M.T for part, M in _halves(num_loops, g, matrix)])
    result: Tensor = _Pulled.apply(num_loops, g, matrix)
    return result


def _outer(num_loops: int, rows: Tensor, g: Tensor) -> Tensor:
    if is_traced():
        return torch.cat([rows[num_loops:].T @ g[num_loops:], rows[:num_loops].T @ g[:num_loops]], dim=1)
    result: Tensor = _Outer.apply(num_loops, rows, g)
    return result


def _halves(num_loops: int, rows: Tensor, matrix: Tensor) -> list[Term]:
    """The self-loops and then the pairs, each with their half of the matrix."""
    for_pairs, for_loops = matrix.chunk(2, dim=1)
    return [(rows[:num_loops], for_loops), (rows[num_loops:], for_pairs)]


class _Products(torch.autograd.Function):
    """``y`` from ``x`` and ``M``."""

    @staticmethod
    def forward(ctx: Any, num_loops: int, start: Tensor | None, *flat: Tensor) -> Tensor:
        ctx.save_for_backward(*flat)
        ctx.save_for_forward(*flat)
        ctx.num_loops = num_loops
        out = flat[0].new_empty(len(flat[0]), flat[1].shape[1] // 2)
        for rows, matrix in zip(flat[::2], flat[1::2], strict=True):
            for x, M, part, first in _parts(num_loops, rows, matrix, out, start):
                if first is None:
                    torch.mm(x, M, out=part)
                else:
                    torch.addmm(first, x, M, out=part)
            start = out
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, (g,), needed = ctx.saved_tensors, gradients, ctx.needs_input_grad
        of_terms: list[Tensor | None] = []
        for number, (rows, matrix) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
            of_rows, of_matrix = needed[2 + 2 * number : 4 + 2 * number]
            of_terms.append(_pulled(ctx.num_loops, g, matrix) if of_rows else None)
            of_terms.append(_outer(ctx.num_loops, rows, g) if of_matrix else None)
        return None, g if needed[1] else None, *of_terms

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        flat, (_, of_start, *of_flat) = ctx.saved_tensors, tangents
        terms = [term for number in range(0, len(flat), 2) for term in _tangent_terms(flat, of_flat, number)]
        return sum_of_products(terms, ctx.num_loops, of_start)


class _Pulled(torch.autograd.Function):
    """``x`` from ``g`` and ``M``: the derivative of the form with respect to the rows."""

    @staticmethod
    def forward(ctx: Any, num_loops: int, g: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(g, matrix)
        ctx.save_for_forward(g, matrix)
        ctx.num_loops = num_loops
        out = g.new_empty(len(g), len(matrix))
        for part, M, gradient, _ in _parts(num_loops, out, matrix, g, None):
            torch.mm(gradient, M.T, out=part)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g, matrix), (h,) = ctx.saved_tensors, gradients
        return None, sum_of_products([(h, matrix)], ctx.num_loops), _outer(ctx.num_loops, h, g)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (g, matrix), (_, of_g, of_matrix) = ctx.saved_tensors, tangents
        left = _pulled(ctx.num_loops, _or_zero(of_g, g), matrix)
        result: Tensor = left + _pulled(ctx.num_loops, g, _or_zero(of_matrix, matrix))
        return result


class _Outer(torch.autograd.Function):
    """``M`` from ``x`` and ``g``: the derivative of the form with respect to the matrices."""

    @staticmethod
    def forward(ctx: Any, num_loops: int, rows: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(rows, g)
        ctx.save_for_forward(rows, g)
        ctx.num_loops = num_loops
        out = g.new_empty(rows.shape[1], 2 * g.shape[1])
        for x, part, gradient, _ in _parts(num_loops, rows, out, g, None):
            torch.mm(x.T, gradient, out=part)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (rows, g), (H,) = ctx.saved_tensors, gradients
        return None, _pulled(ctx.num_loops, g, H), sum_of_products([(rows, H)], ctx.num_loops)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (rows, g), (_, of_rows, of_g) = ctx.saved_tensors, tangents
        left = _outer(ctx.num_loops, _or_zero(of_rows, rows), g)
        result: Tensor = left + _outer(ctx.num_loops, rows, _or_zero(of_g, g))
        return result


def _parts(
    num_loops: int, rows: Tensor, matrix: Tensor, out: Tensor, start: Tensor | None
) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Views of the self-loops, then of the pairs: rows, their half of the matrix, results, what they start from."""
    width = matrix.shape[1] // 2
    loops, pairs = slice(0, num_loops), slice(num_loops, None)
    return [
        (rows[part], matrix[:, columns], out[part], None if start is None else start[part])
        for part, columns in ((loops, slice(width, None)), (pairs, slice(0, width)))
    ]


def _tangent_terms(flat: Sequence[Tensor], tangents: Sequence[Tensor | None], number: int) -> list[Term]:
    """Terms of the derivative of one term along the tangents of its rows and of its matrix."""
    rows, matrix = flat[number : number + 2]
    of_rows, of_matrix = tangents[number : number + 2]
    return [(_or_zero(of_rows, rows), matrix), (rows, _or_zero(of_matrix, matrix))]


def _or_zero(tangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tangent is None else tangent
