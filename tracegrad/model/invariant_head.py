"""Non-linear maps between invariants, with their vector-Jacobian product in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InvariantHead(nn.Module):
    r"""``z = s_nonlin(u)``: Linear, LayerNorm, SiLU, Linear, LayerNorm, SiLU (TraceGrad, Section 8).

    :meth:`forward` returns ``z`` and the gradient of the plain sum of its channels,

    .. math:: g = \frac{\partial \sum_c z_c}{\partial u},

    written out, so that it needs no autograd graph and can be differentiated again as any other expression.

    Args:
        width_in: channels of ``u``.
        hidden: width of the hidden layer.
        width_out: channels of ``z``.
        norm: False leaves the layer norms out.

    Raises:
        ValueError: a layer norm over one channel, which is constant.
    """

    def __init__(self, width_in: int, hidden: int, width_out: int, norm: bool = True) -> None:
        super().__init__()
        if norm and min(hidden, width_out) < 2:
            raise ValueError(
                f"InvariantHead: expected at least 2 channels below a layer norm, found hidden={hidden}, "
                f"width_out={width_out}: the norm of one channel is constant. Widen it, or pass norm=False."
            )
        self.linear1, self.norm1 = nn.Linear(width_in, hidden), nn.LayerNorm(hidden) if norm else None
        self.linear2, self.norm2 = nn.Linear(hidden, width_out), nn.LayerNorm(width_out) if norm else None

    def value(self, u: Tensor) -> Tensor:
        """``z`` alone, ``(..., width_in) -> (..., width_out)``."""
        hidden = self.linear1(u)
        hidden = nn.functional.silu(hidden if self.norm1 is None else self.norm1(hidden))
        z = self.linear2(hidden)
        return nn.functional.silu(z if self.norm2 is None else self.norm2(z))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` of shape ``(..., width_out)`` and ``g`` of shape ``(..., width_in)``."""
        if self.norm1 is None or self.norm2 is None:
            hidden, slope1 = _silu(self.linear1(u))
            z, slope2 = _silu(self.linear2(hidden))
            return z, ((slope2 @ self.linear2.weight) * slope1) @ self.linear1.weight
        normed1, rstd1 = _normalise(self.linear1(u), self.norm1.eps)
        hidden, slope1 = _silu(torch.addcmul(self.norm1.bias, normed1, self.norm1.weight))
        normed2, rstd2 = _normalise(self.linear2(hidden), self.norm2.eps)
        z, slope2 = _silu(torch.addcmul(self.norm2.bias, normed2, self.norm2.weight))
        cotangent = _normalise_vjp(slope2 * self.norm2.weight, normed2, rstd2)
        cotangent = (cotangent @ (self.linear2.weight * self.norm1.weight)) * slope1
        return z, _normalise_vjp(cotangent, normed1, rstd1) @ self.linear1.weight


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``(x - mean) / std`` over the last axis and ``1 / std``."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * rstd, rstd


def _normalise_vjp(cotangent: Tensor, normed: Tensor, rstd: Tensor) -> Tensor:
    """Cotangent of ``x`` from the cotangent of ``(x - mean) / std``."""
    along = (cotangent * normed).mean(-1, keepdim=True)
    return rstd * torch.addcmul(cotangent - cotangent.mean(-1, keepdim=True), normed, along, value=-1)


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its derivative ``s + x s (1 - s)``, with ``s`` the sigmoid."""
    sigmoid = torch.sigmoid(x)
    value = x * sigmoid
    return value, torch.addcmul(sigmoid + value, value, sigmoid, value=-1)
