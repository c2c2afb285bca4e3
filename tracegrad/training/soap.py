"""SOAP on the matrices inside equivariant layers: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracegrad.model.layers.constant import Constant
from tracegrad.model.layers.convolution import TensorProductWeights
from tracegrad.model.layers.linear import EquivariantLinear

SIDES = ("left", "right")
LARGEST_SIDE = 512  # a longer side of a matrix is left in its own basis


def weight_matrices(model: nn.Module) -> dict[nn.Parameter, list[tuple[int, int]]]:
    """Shapes of the matrices that every trained parameter holds, one after the other; none for a vector.

    A layer of irreps has one flat weight with a matrix per pair of irreps that it couples, and lists their shapes in
    ``matrix_shapes``. A parameter of two dimensions is a matrix.
    """
    shapes = {p: [(p.shape[0], p.shape[1])] if p.ndim == 2 else [] for p in model.parameters() if p.requires_grad}
    for module in model.modules():
        if isinstance(module, EquivariantLinear | TensorProductWeights) and module.weight in shapes:
            shapes[module.weight] = module.matrix_shapes
    return shapes


@dataclass(frozen=True)
class _Bucket:
    """Matrices of one shape, ``(count, rows, columns)``, at ``place`` of all weights in the order of the buckets."""

    shape: tuple[int, int, int]
    place: slice
    sides: tuple[str, ...]

    @property
    def name(self) -> str:
        return "x".join(map(str, self.shape[1:]))

    def of(self, flat: Tensor) -> Tensor:
        """View of the matrices in a vector of all weights."""
        return flat[self.place].view(self.shape)


class SOAP(torch.optim.Optimizer):
    r"""Adam in the eigenbasis of Shampoo's preconditioner, for every matrix of every pair of irreps.

    For the gradient ``G`` of a matrix, with ``L`` and ``R`` the running means of ``G G^T`` and ``G^T G`` and ``Q_L``,
    ``Q_R`` their eigenvectors,

    .. math:: W \leftarrow W - \eta\, Q_L \frac{Q_L^T M Q_R}{\sqrt{V} + \epsilon} Q_R^T, \qquad
       V = \mathrm{mean}\left[(Q_L^T G Q_R)^2\right]

    with ``M`` the running mean of ``G``, kept in the eigenbasis; ``eps`` is relative to the root mean square of
    ``sqrt(V)`` in the matrix, so that neither the scale of the loss nor rounding in directions without a gradient
    matters. Every so many steps one step of power iteration and a QR decomposition update the eigenvectors. Every
    element of a vector (biases, gains) is a matrix of its own: Adam. Matrices of one shape are handled as one batch;
    the first step with a finite gradient only measures. With a decay ``d``, matrices shrink by ``1 - rate d`` before
    every step, as in AdamW; vectors do not.
    Vyas et al., SOAP, arXiv:2409.11321, Algorithm 3.

    Args:
        shapes: trained parameters and the shapes of the matrices they hold (:func:`weight_matrices`).
        lr: rate.
        weight_decay: decay of the matrices.
        betas: decays of the mean ``M``, and of ``V``, ``L`` and ``R``.
        eps: part of the root mean square of ``sqrt(V)`` that is added to ``sqrt(V)``.
        precondition_every: steps between two updates of the eigenvectors.
    """

    def __init__(
        self,
        shapes: dict[nn.Parameter, list[tuple[int, int]]],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-4,
        precondition_every: int = 10,
    ) -> None:
        super().__init__(list(shapes), {"lr": lr})
        self.betas, self.eps, self.precondition_every = betas, eps, precondition_every
        self.decays = [weight_decay if matrices else 0.0 for matrices in shapes.values()]
        self.buckets, order = _buckets(shapes)
        self.order, self.inverse = Constant(order), Constant(torch.argsort(order))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters; a parameter without a gradient counts as one with a gradient of zero.

        Args:
            closure: computes the gradients and returns the loss, as in every optimiser of torch.

        Returns:
            what the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters, rate = self.param_groups[0]["params"], self.param_groups[0]["lr"]
        state = self.state[parameters[0]]  # one state for all: the buckets cut across the parameters
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        if "step" not in state and not bool(gradient.square().sum().isfinite()):
            return loss  # eigenvectors of no numbers: whoever looks at the loss finds the batch
        gradient = gradient.index_select(0, self.order.like(gradient))
        state["step"] = state.get("step", 0) + 1
        if state["step"] == 1:
            self._measure(gradient, state)
            update = torch.zeros_like(gradient)
        else:
            update = self._direction(gradient, state).index_select(0, self.inverse.like(gradient))
        parts = update.split([p.numel() for p in parameters])
        for parameter, part, decay in zip(parameters, parts, self.decays, strict=True):
            if decay:
                parameter.mul_(1 - rate * decay)
            parameter.add_(part.view_as(parameter), alpha=-rate)
        return loss

    def _measure(self, gradient: Tensor, state: dict[str, Any]) -> None:
        """Start all means, and the eigenvectors, from the first gradient."""
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        for bucket in self.buckets:
            values = state[bucket.name] = {}
            for side in bucket.sides:
                values[side] = (1 - self.betas[1]) * _outer(bucket.of(gradient), side)
                values[f"{side}_basis"] = torch.linalg.eigh(values[side]).eigenvectors.flip(-1)

    def _direction(self, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """Step of all weights at unit rate, in the order of the buckets."""
        (first, second), step = self.betas, state["step"]
        mean, square, turned = state["mean"], state["square"], torch.empty_like(gradient)
        for bucket in self.buckets:
            _turn(bucket, gradient, state, out=turned)
        mean.lerp_(turned, 1 - first)
        square.lerp_(turned.square_(), 1 - second)
        scale = (square / (1 - second ** (step - 1))).sqrt_()
        for bucket in self.buckets:
            of_bucket = bucket.of(scale)
            floor = self.eps * of_bucket.square().mean((1, 2), keepdim=True).sqrt()
            of_bucket.add_(floor + torch.finfo(scale.dtype).tiny)
        direction, result = mean / scale.mul_(1 - first ** (step - 1)), torch.empty_like(gradient)
        for bucket in self.buckets:
            _turn(bucket, direction, state, out=result, back=True)
            for side in bucket.sides:
                state[bucket.name][side].lerp_(_outer(bucket.of(gradient), side), 1 - second)
                if step % self.precondition_every == 0 or step == 2:
                    _refresh(state[bucket.name], bucket.of(mean), bucket.of(square), side)
        return result


def _buckets(shapes: dict[nn.Parameter, list[tuple[int, int]]]) -> tuple[list[_Bucket], Tensor]:
    """All matrices by shape, and the places of their weights in the concatenation of all parameters."""
    places: dict[tuple[int, int], list[Tensor]] = {}
    first = 0
    for parameter, matrices in shapes.items():
        if matrices and sum(map(math.prod, matrices)) != parameter.numel():
            raise ValueError(f"expected matrices with {parameter.numel()} weights in all, found {matrices}")
        for shape in matrices or [(1, 1)] * parameter.numel():
            places.setdefault(shape, []).append(torch.arange(first, first + math.prod(shape)))
            first += math.prod(shape)
    buckets, start = [], 0
    for shape, found in places.items():
        stop = start + len(found) * math.prod(shape)
        sides = tuple(side for side, n in zip(SIDES, shape, strict=True) if 1 < n <= LARGEST_SIDE)
        buckets.append(_Bucket((len(found), *shape), slice(start, stop), sides))
        start = stop
    return buckets, torch.cat([place for found in places.values() for place in found])


def _outer(gradient: Tensor, side: str) -> Tensor:
    return gradient @ gradient.mT if side == "left" else gradient.mT @ gradient


def _turn(bucket: _Bucket, source: Tensor, state: dict[str, Any], out: Tensor, back: bool = False) -> None:
    """Matrices of a bucket into their eigenbasis, or back, from one vector of all weights to another."""
    matrices, result, values = bucket.of(source), bucket.of(out), state[bucket.name]
    left, right = (values.get(f"{side}_basis") for side in SIDES)
    if left is not None:
        left = left if back else left.mT
    if right is not None:
        right = right.mT if back else right
    if left is not None and right is not None:
        torch.matmul(left @ matrices, right, out=result)
    elif left is not None:
        torch.matmul(left, matrices, out=result)
    elif right is not None:
        torch.matmul(matrices, right, out=result)
    else:
        result.copy_(matrices)


def _refresh(values: dict[str, Tensor], mean: Tensor, square: Tensor, side: str) -> None:
    """One step of power iteration for the eigenvectors, in descending order; both means follow."""
    basis = values[f"{side}_basis"]
    order = (basis * (values[side] @ basis)).sum(1).argsort(dim=-1, descending=True, stable=True)
    columns = order[:, None, :].expand_as(basis)
    values[f"{side}_basis"] = torch.linalg.qr(values[side] @ basis.gather(2, columns)).Q
    change = values[f"{side}_basis"].mT @ basis
    mean.copy_(change @ mean if side == "left" else mean @ change.mT)
    rows = order[:, :, None] if side == "left" else order[:, None, :]
    square.copy_(square.gather(1 if side == "left" else 2, rows.expand_as(square)))
