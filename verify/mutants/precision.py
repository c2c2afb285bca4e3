"""Faults of precision (M32-M34): digits lost on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from .kinds import Mutant, network_with
from .network import Context


def float32_harmonics(value: Tensor, context: Context) -> Tensor:
    """Harmonics rounded to float32."""
    return value.to(torch.float32).to(value.dtype)


def bfloat16_harmonics(value: Tensor, context: Context) -> Tensor:
    """Harmonics rounded to bfloat16, as autocast would."""
    return value.to(torch.bfloat16).to(value.dtype)


def rounded_positions(value: Tensor, context: Context) -> Tensor:
    """Coordinates rounded to 1e-3, with the gradient of the identity."""
    return value + (torch.round(value * 1e3) / 1e3 - value).detach()


MUTANTS = (
    Mutant(
        "M32",
        "precision",
        "float32 cast of the harmonics",
        network_with("harmonics", float32_harmonics),
        precedent="se3-transformer-pytorch#3",
        found_by="rotation",
    ),
    Mutant(
        "M33",
        "precision",
        "bfloat16 rounding of the harmonics",
        network_with("harmonics", bfloat16_harmonics),
        precedent="torchmd-net#327, nequip#70",
        found_by="rotation",
    ),
    Mutant(
        "M34",
        "precision",
        "coordinates rounded to 1e-3",
        network_with("positions", rounded_positions),
        found_by="rotation",
    ),
)
