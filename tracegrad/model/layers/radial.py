"""Radial bases: Gaussians of the distance, as DeepH-E3 uses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracegrad.model.layers.constant import Constant

SMALLEST_EXPONENT = -60.0  # exp(-60) is nothing beside 1; subnormal numbers would slow every product with them


class GaussianBasis(nn.Module):
    r"""Gaussians on an even grid, as wide as their spacing.

    .. math:: g_k(r) = \exp\Big(-\frac{(r - \mu_k)^2}{2 \sigma^2}\Big), \qquad \mu_k = k \sigma

    Args:
        r_max: centre of the last Gaussian, Å.
        num_basis: number of Gaussians.
    """

    def __init__(self, r_max: float, num_basis: int) -> None:
        super().__init__()
        self.r_max, self.num_basis = float(r_max), num_basis
        self.centres = Constant(torch.linspace(0.0, r_max, num_basis, dtype=torch.float64))

    def forward(self, distances: Tensor) -> Tensor:
        """Values ``(..., num_basis)`` at the distances ``(...)``, Å."""
        centres = self.centres.like(distances)
        steps = (distances[..., None] - centres) / (centres[1] - centres[0])
        return torch.exp((-0.5 * steps.square()).clamp(min=SMALLEST_EXPONENT))
