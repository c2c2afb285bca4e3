r"""The gradient-induced operator of TraceGrad (arXiv:2405.05722, Theorem 2, Eqs. 5 and 9).

.. math:: u_k = \sum_{l_i = l_j} W^k_{ij}\, \mathrm{CG}(f^{l_i} \otimes f^{l_j}, 0), \qquad z = s_\mathrm{nonlin}(u),
          v = \frac{\partial \sum_c z_c}{\partial f}

``u`` is quadratic in ``f``, so with ``g = d sum(z) / du`` the gradient is linear in ``f``,

.. math:: v = \sum_k g_k\, (W^k + W^{kT}) f / \sqrt{2l+1},

which needs one vector-Jacobian product of ``s_nonlin`` and no derivative of the tensor product. ``u`` and the map from
``f`` to ``v`` commute with rotations, so the operator acts on features in any frame.
"""

from __future__ import annotations

import math

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from tracegrad.model.invariant_head import InvariantHead
from tracegrad.model.layers.channels import channel_squares, scale_channels
from tracegrad.model.layers.constant import Constant
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.so3.frames import FrameBlocks, FrameLayout

FORMS = ("low_rank", "packed")
LowRankCache = tuple[list[Tensor], FrameBlocks]  # matrices of the projection, projected features


class PackedForm(nn.Module):
    r"""All of ``W^k``: the packed upper triangles of a symmetric matrix per irrep and channel of ``u`` (authors' form).

    .. math:: u_k = \sum_l \sum_{i \le j} w^{kl}_{ij}\, \frac{f^l_i \cdot f^l_j}{\sqrt{2l+1}}

    The weights start with a variance of one over the number of pairs ``i <= j`` of all irreps.

    Args:
        layout: channels of ``f``.
        width: channels of ``u``.
    """

    def __init__(self, layout: FrameLayout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.triangles = [Constant(torch.triu_indices(mul, mul)) for mul, _, _ in layout.groups]
        num_pairs = sum(mul * (mul + 1) // 2 for mul, _, _ in layout.groups)
        self.weight = nn.Parameter(torch.randn(num_pairs, width) / math.sqrt(num_pairs))

    def forward(self, blocks: FrameBlocks) -> tuple[Tensor, list[Tensor]]:
        """``u`` of shape ``(rows, width)`` and what :meth:`pull_back` needs."""
        fields = self.layout.to_fields(blocks)
        pairs = []
        for field, triangle in zip(fields, self.triangles, strict=True):
            first, second = triangle.like(field)
            gram = (field.transpose(1, 2) @ field) / math.sqrt(field.shape[1])
            pairs.append(gram.flatten(1).index_select(1, first * field.shape[2] + second))
        return torch.cat(pairs, dim=1) @ self.weight, fields

    def pull_back(self, g: Tensor, fields: list[Tensor]) -> FrameBlocks:
        """``v`` from ``g = d sum(z) / du``."""
        packed = g @ self.weight.T
        pieces = torch.split(packed, [triangle.value.shape[1] for triangle in self.triangles], dim=1)
        v = []
        for field, piece, triangle in zip(fields, pieces, self.triangles, strict=True):
            mul = field.shape[2]
            first, second = triangle.like(field)
            upper = piece.new_zeros(len(piece), mul * mul).index_copy(1, first * mul + second, piece).view(-1, mul, mul)
            v.append(field @ (upper + upper.transpose(1, 2)) / math.sqrt(field.shape[1]))
        return self.layout.from_fields(v)

    def add_pull_back(self, blocks: FrameBlocks, g: Tensor, fields: list[Tensor], gain: Tensor) -> FrameBlocks:
        """``blocks + gain * v``."""
        v, starts = self.pull_back(g, fields), self.layout.starts
        return [torch.addcmul(f, d, gain[start:]) for f, d, start in zip(blocks, v, starts, strict=True)]


class LowRankForm(nn.Module):
    r"""``W^k`` as a sum of squares of shared projections, ``rank`` per channel of ``f``.

    .. math:: p^l = A^l f^l, \qquad q^l_r = \frac{|p^l_r|^2}{2l+1}, \qquad u_k = \sum_{l r} M_{k, lr}\, q^l_r

    Args:
        layout: channels of ``f``.
        width: channels of ``u``.
        rank: projections per channel of ``f``.
    """

    def __init__(self, layout: FrameLayout, width: int, rank: int = 1) -> None:
        super().__init__()
        self.layout = layout
        self.projected = FrameLayout(Irreps([(rank * mul, ir) for mul, ir in layout.sorted_irreps]))
        self.projection = EquivariantLinear(layout, self.projected, bias=False)
        self.mixing = nn.Linear(self.projected.num_channels, width, bias=False)
        self.inverse_dims = Constant(1.0 / (2.0 * self.projected.degrees.double() + 1.0))

    def forward(self, blocks: FrameBlocks) -> tuple[Tensor, LowRankCache]:
        """``u`` of shape ``(rows, width)`` and what :meth:`pull_back` needs."""
        matrices = self.projection.matrices()
        projected = [block @ matrix for block, matrix in zip(blocks, matrices, strict=True)]
        squares = channel_squares(projected, self.projected.starts)
        return squares @ self.scaled_mixing().T, (matrices, projected)

    def pull_back(self, g: Tensor, cache: LowRankCache) -> FrameBlocks:
        """``v`` from ``g = d sum(z) / du``."""
        matrices, _ = cache
        return [block @ matrix.T for block, matrix in zip(self._scaled(g, cache), matrices, strict=True)]

    def add_pull_back(self, blocks: FrameBlocks, g: Tensor, cache: LowRankCache, gain: Tensor) -> FrameBlocks:
        """``blocks + gain * v``, one product per block."""
        matrices, starts = cache[0], self.layout.starts
        return [
            torch.addmm(block.flatten(0, 1), rows.flatten(0, 1), matrix.T * gain[start:]).view_as(block)
            for block, rows, matrix, start in zip(blocks, self._scaled(g, cache), matrices, starts, strict=True)
        ]

    def scaled_mixing(self) -> Tensor:
        """Weights of the squares in ``u``, divided by ``2l+1``, ``(width, K)``."""
        weight: Tensor = self.mixing.weight
        return weight * self.inverse_dims.like(weight)

    def _scaled(self, g: Tensor, cache: LowRankCache) -> FrameBlocks:
        return scale_channels(cache[1], g @ (2 * self.scaled_mixing()), self.projected.starts)


class GradientInduction(nn.Module):
    """``z`` and ``v`` of equivariant features: the encoding module of TraceGrad, usable in any e3nn network.

    Args:
        irreps: irreps of the features ``f`` (and of ``v``).
        width: channels of ``u``.
        num_invariants: channels of ``z``; with trace supervision the number of basic blocks.
        form: ``"packed"`` for the authors' full symmetric ``W``, ``"low_rank"`` for squares of projections.
        hidden: width of the hidden layer of ``s_nonlin``, by default ``width``.
        norm: layer norms in ``s_nonlin``; False leaves them out.
        rank: with ``"low_rank"``, projections per channel of ``f``.

    Example:
        >>> operator = GradientInduction("8x0e+4x1o", width=16, num_invariants=5)
        >>> z, v = operator(torch.randn(10, 20))
        >>> z.shape, v.shape
        (torch.Size([10, 5]), torch.Size([10, 20]))
    """

    def __init__(
        self,
        irreps: Irreps | str,
        width: int,
        num_invariants: int,
        form: str = "low_rank",
        hidden: int | None = None,
        norm: bool = True,
        rank: int = 1,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form: expected one of {list(FORMS)}, found {form!r}")
        if rank < 1:
            raise ValueError(f"rank: expected at least one projection per channel, found {rank}")
        self.irreps_in = self.irreps_out = Irreps(irreps)
        self.layout = FrameLayout(self.irreps_in)
        self.quadratic = LowRankForm(self.layout, width, rank) if form == "low_rank" else PackedForm(self.layout, width)
        self.head = InvariantHead(width, width if hidden is None else hidden, num_invariants, norm)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` of shape ``(..., num_invariants)`` and ``v`` of the shape of ``features``, ``(..., irreps.dim)``.

        Raises:
            ValueError: features of other irreps.
        """
        if features.shape[-1:] != (self.layout.dim,):
            raise ValueError(
                f"GradientInduction: expected features (..., {self.irreps_in.dim}) of {self.irreps_in}, found "
                f"{tuple(features.shape)}; give it the irreps of the features"
            )
        rows = features.reshape(-1, self.layout.dim)
        z, v = self.in_frame(self.layout.split(self.layout.permute(rows)))
        flat = self.layout.unpermute(self.layout.flatten(v))
        return z.reshape(*features.shape[:-1], z.shape[1]), flat.reshape(features.shape)

    def in_frame(self, blocks: FrameBlocks) -> tuple[Tensor, FrameBlocks]:
        """The same on frame blocks ``(rows, 1 or 2, K_m)``."""
        u, cache = self.quadratic(blocks)
        z, g = self.head(u)
        return z, self.quadratic.pull_back(g, cache)

    def residual(self, blocks: FrameBlocks, gain: Tensor) -> tuple[Tensor, FrameBlocks]:
        """``z`` and ``o = f + gain * v`` (paper, Section 8), with one gain per channel, ``(K,)``."""
        u, cache = self.quadratic(blocks)
        z, g = self.head(u)
        return z, self.quadratic.add_pull_back(blocks, g, cache, gain)

    def invariants(self, blocks: FrameBlocks) -> Tensor:
        """``z`` alone."""
        return self.head.value(self.quadratic(blocks)[0])

    def by_autograd(self, features: Tensor) -> Tensor:
        """``v`` by automatic differentiation of ``z``: the oracle of the closed form."""
        with torch.enable_grad():
            leaf = features if features.requires_grad else features.detach().requires_grad_()
            z = self.invariants(self.layout.split(self.layout.permute(leaf.reshape(-1, features.shape[-1]))))
            (v,) = torch.autograd.grad(z.sum(), leaf, create_graph=True)
        return v
