r"""The gradient-induced operator written out for the verifier, apart from `tracegrad.model`.

TraceGrad, Eqs. (5) and (9): with u_c = sum_ij W_c,ij CGDecomp(f_i x f_j, 0) and z = s_nonlin(u), v = d(sum_c z_c)/df.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn

NONLINEARITIES = ("silu", "layer_norm", "tanh", "attention")
"""Kinds of s_nonlin that `random_nonlinearity` makes."""


class _Attention(nn.Module):
    """Self-attention of the entries of u among each other: a map that mixes all of them and has no symmetry."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(1, heads) for _ in range(3))
        self.out = nn.Linear(heads, 1)
        self.width = width

    def forward(self, u: Tensor) -> Tensor:
        tokens = u[..., None]
        weights = torch.softmax(self.query(tokens) @ self.key(tokens).mT, dim=-1)
        result: Tensor = self.out(weights @ self.value(tokens))[..., 0]
        return result


def random_nonlinearity(kind: str, width: int, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A random s_nonlin: any map of the invariants u to invariants z.

    Args:
        kind: one of `NONLINEARITIES`.
        width: number of invariants.
        seed: seed of the weights, drawn from a normal distribution (biases too).
        dtype: dtype of the weights.

    Returns:
        Module (..., width) -> (..., some width).

    Raises:
        KeyError: the kind is not known.
    """
    makers: dict[str, Callable[[], list[nn.Module]]] = {
        "silu": lambda: [nn.SiLU()],
        "layer_norm": lambda: [nn.LayerNorm(2 * width), nn.SiLU()],
        "tanh": lambda: [nn.Tanh()],
        "attention": lambda: [_Attention(2 * width), nn.SiLU()],
    }
    middle = makers[kind]()
    module = nn.Sequential(nn.Linear(width, 2 * width), *middle, nn.Linear(2 * width, 3), nn.SiLU()).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=dtype))
            if parameter.ndim == 1:
                parameter.add_(1.0)
    return module


class GradientOperator(nn.Module):
    r"""v = d(sum_c z_c)/df by automatic differentiation, with a closed form beside it.

    .. math:: u_c = \sum_{ij} W_{c,ij} \sum_{m m'} C_{m m'} f_{im} f_{jm'}, \quad z = s(u), \qquad
              v = \sum_c \frac{\partial \sum z}{\partial u_c} (W_c + W_c^T)\, C f

    Subclasses override `couple` (how u is made) or `finish` (what happens to v) to plant a fault.

    Args:
        irreps: irreps of f; equal irreps are coupled to each other.
        width: number of invariants u.
        kind: kind of s_nonlin, one of `NONLINEARITIES`.
        seed: seed of all weights.
        dtype: dtype of all weights.
    """

    def __init__(
        self,
        irreps: o3.Irreps | str,
        width: int = 6,
        kind: str = "silu",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.irreps = o3.Irreps(irreps).simplify()
        self.width = width
        self.nonlinearity = random_nonlinearity(kind, width, seed, dtype)
        generator = torch.Generator().manual_seed(seed + 1)
        self.weights = nn.ParameterList()
        self.couplings: list[Tensor] = []
        for mul, ir in self.irreps:
            self.weights.append(torch.randn(width, mul, mul, generator=generator, dtype=dtype) / mul)
            symbols = o3.wigner_3j(ir.l, ir.l, 0, dtype=torch.float64, device="cpu")
            self.couplings.append(symbols[:, :, 0].to(dtype) / len(self.irreps))

    def split(self, f: Tensor) -> list[Tensor]:
        """f (..., dim) as one tensor (..., mul, 2l+1) per entry of the irreps."""
        parts = [f[..., s] for s in self.irreps.slices()]
        return [part.unflatten(-1, (mul, ir.dim)) for part, (mul, ir) in zip(parts, self.irreps, strict=True)]

    def couple(self, f: Tensor) -> Tensor:
        """Invariants u (..., width) of f (..., dim), TraceGrad Eq. (9)."""
        terms = [
            torch.einsum("cij,mn,...im,...jn->...c", weight, coupling, part, part)
            for weight, coupling, part in zip(self.weights, self.couplings, self.split(f), strict=True)
        ]
        return torch.stack(terms).sum(0)

    def finish(self, v: Tensor, f: Tensor) -> Tensor:
        """What follows the gradient; the sound operator changes nothing."""
        return v

    def scalar(self, f: Tensor) -> Tensor:
        """Sum over all rows and channels of z, the function whose gradient is taken."""
        total: Tensor = self.nonlinearity(self.couple(f)).sum()
        return total

    def forward(self, f: Tensor) -> Tensor:
        """v (..., dim) of f (..., dim), by autograd."""
        with torch.enable_grad():
            leaf = f if f.requires_grad else f.detach().requires_grad_()
            (v,) = torch.autograd.grad(self.scalar(leaf), leaf, create_graph=f.requires_grad)
        return self.finish(v, f)

    def closed_form(self, f: Tensor) -> Tensor:
        """v (..., dim) of f (..., dim) with autograd through s_nonlin alone."""
        with torch.enable_grad():
            u = GradientOperator.couple(self, f).detach().requires_grad_()
            (cotangent,) = torch.autograd.grad(self.nonlinearity(u).sum(), u)
        parts = [
            torch.einsum("...c,cij,mn,...jn->...im", cotangent, weight + weight.mT, coupling, part).flatten(-2)
            for weight, coupling, part in zip(self.weights, self.couplings, self.split(f), strict=True)
        ]
        return torch.cat(parts, dim=-1).detach()
