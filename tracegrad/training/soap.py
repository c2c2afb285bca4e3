"""SOAP on the matrices inside equivariant layers: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    """Weights of one shape: ``index (n, a, b)`` are their places in the concatenation of all parameters."""

    index: Tensor
    sides: tuple[str, ...]

    @property
    def name(self) -> str:
        return "x".join(map(str, self.index.shape[1:]))


class SOAP(torch.optim.Optimizer):
    r"""Adam in the eigenbasis of Shampoo's preconditioner, for every matrix of every pair of irreps.

    For the gradient ``G`` of a matrix, with ``L`` and ``R`` the running means of ``G G^T`` and ``G^T G`` and ``Q_L``,
    ``Q_R`` their eigenvectors,

    .. math:: W \leftarrow W - \eta\, Q_L \frac{Q_L^T M Q_R}{\sqrt{V} + \epsilon} Q_R^T, \qquad
       V = \mathrm{mean}\left[(Q_L^T G Q_R)^2\right]

    with ``M`` the running mean of ``G``; ``eps`` is relative to the root mean square of ``sqrt(V)`` in the matrix, so
    that neither the scale of the loss nor rounding in directions without a gradient matters. Every so many steps one
    step of power iteration and a QR decomposition update the eigenvectors. Every element of a vector (biases, gains)
    is a matrix of its own: Adam. Matrices of one shape are handled as one batch; the first step only measures.
    With a decay ``d``, matrices shrink by ``1 - rate d`` before every step, as in AdamW; vectors do not.
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
        self.buckets = _buckets(shapes)

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
        state = self.state[parameters[0]]  # one state for all: the batches cut across the parameters
        state["step"] = state.get("step", 0) + 1
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        update = torch.empty_like(gradient)
        for bucket in self.buckets:
            index = bucket.index.to(gradient.device)
            values = state.setdefault(bucket.name, {})
            update[index] = self._direction(gradient[index], bucket.sides, values, state["step"])
        parts = update.split([p.numel() for p in parameters])
        for parameter, part, decay in zip(parameters, parts, self.decays, strict=True):
            if decay:
                parameter.mul_(1 - rate * decay)
            parameter.add_(part.view_as(parameter), alpha=-rate)
        return loss

    def _direction(self, gradient: Tensor, sides: tuple[str, ...], values: dict[str, Tensor], step: int) -> Tensor:
        """Step of a batch of matrices at unit rate."""
        first, second = self.betas
        if step == 1:
            values["mean"], values["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for side in sides:
                values[side] = (1 - second) * _outer(gradient, side)
                values[f"{side}_basis"] = torch.linalg.eigh(values[side]).eigenvectors.flip(-1)
            return torch.zeros_like(gradient)
        values["mean"].lerp_(gradient, 1 - first)
        turned = _turn(gradient, sides, values)
        values["square"].lerp_(turned.square(), 1 - second)
        square = values["square"] / (1 - second ** (step - 1))
        floor = self.eps * square.mean((1, 2), keepdim=True).sqrt() + torch.finfo(square.dtype).tiny
        direction = _turn(values["mean"], sides, values) / (1 - first ** (step - 1)) / (square.sqrt() + floor)
        direction = _turn(direction, sides, values, back=True)
        for side in sides:
            values[side].lerp_(_outer(gradient, side), 1 - second)
        if step % self.precondition_every == 0 or step == 2:
            for side in sides:
                _refresh(values, side)
        return direction


def _buckets(shapes: dict[nn.Parameter, list[tuple[int, int]]]) -> list[_Bucket]:
    """All matrices by shape."""
    places: dict[tuple[int, int], list[Tensor]] = {}
    first = 0
    for parameter, matrices in shapes.items():
        if matrices and sum(map(math.prod, matrices)) != parameter.numel():
            raise ValueError(f"expected matrices with {parameter.numel()} weights in all, found {matrices}")
        for shape in matrices or [(1, 1)] * parameter.numel():
            places.setdefault(shape, []).append(torch.arange(first, first + math.prod(shape)).view(shape))
            first += math.prod(shape)
    return [
        _Bucket(torch.stack(found), tuple(s for s, n in zip(SIDES, shape, strict=True) if 1 < n <= LARGEST_SIDE))
        for shape, found in places.items()
    ]


def _outer(gradient: Tensor, side: str) -> Tensor:
    return gradient @ gradient.mT if side == "left" else gradient.mT @ gradient


def _turn(matrices: Tensor, sides: tuple[str, ...], values: dict[str, Tensor], back: bool = False) -> Tensor:
    """Into the eigenbasis, or back."""
    if "left" in sides:
        basis = values["left_basis"]
        matrices = (basis if back else basis.mT) @ matrices
    if "right" in sides:
        basis = values["right_basis"]
        matrices = matrices @ (basis.mT if back else basis)
    return matrices


def _refresh(values: dict[str, Tensor], side: str) -> None:
    """One step of power iteration for the eigenvectors, in descending order; ``square`` follows the order."""
    basis = values[f"{side}_basis"]
    order = (basis * (values[side] @ basis)).sum(1).argsort(dim=-1, descending=True, stable=True)
    columns = order[:, None, :].expand_as(basis)
    values[f"{side}_basis"] = torch.linalg.qr(values[side] @ basis.gather(2, columns)).Q
    square = values["square"]
    rows = order[:, :, None] if side == "left" else order[:, None, :]
    values["square"] = square.gather(1 if side == "left" else 2, rows.expand_as(square))
