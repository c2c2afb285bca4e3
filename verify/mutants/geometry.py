"""Faults of geometry (M20-M31): fixed axes, poles, frames, clamps, absolute coordinates, zero vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .activations import on
from .kinds import Mutant, Subject, network_with
from .network import Context, Fault, columns

POLE = 0.995


def fixed_axis(value: Tensor, context: Context) -> Tensor:
    """0.1 t z added to the vectors, t a scalar feature."""
    vectors = columns("1o")
    axis = torch.cat([value.new_zeros(vectors.stop - vectors.start - 1), value.new_ones(1)])
    added = 0.1 * value[:, :1] * axis
    return torch.cat([value[:, : vectors.start], value[:, vectors] + added, value[:, vectors.stop :]], dim=1)


def pole_branch(value: Tensor, context: Context) -> Tensor:
    """One l = 2 harmonic flipped where the edge lies within 6 degrees of the y axis."""
    unit = torch.nn.functional.normalize(context.vectors, dim=1)
    flipped = value * value.new_tensor([1, 1, 1, 1, 1, 1, 1, -1, 1])
    return torch.where(unit[:, 1:2].abs() > POLE, flipped, value)


def principal_axes(part: Tensor, context: Context) -> Tensor:
    """SiLU in the frame of the principal axes, whose signs are arbitrary."""
    centred = context.positions - context.positions.mean(0)
    _, axes = torch.linalg.eigh((centred.mT @ centred).detach())
    result: Tensor = torch.nn.functional.silu(part @ axes) @ axes.mT
    return result


def sign_of_first(part: Tensor, context: Context) -> Tensor:
    """Sign made canonical by the first component."""
    return part * part[:, :, :1].sign()


def max_pool(part: Tensor, context: Context) -> Tensor:
    """Largest component over the nodes, one component at a time."""
    return part + part.amax(0, keepdim=True)


def dropout(part: Tensor, context: Context) -> Tensor:
    """Fixed mask on the components of every channel."""
    mask = torch.arange(part[0].numel(), device=part.device).reshape(part.shape[1:]) % 4 != 0
    return part * mask


def clamp(part: Tensor, context: Context) -> Tensor:
    """Components clamped to +-0.3."""
    return part.clamp(-0.3, 0.3)


def overflow_branch(part: Tensor, context: Context) -> Tensor:
    """Components scaled apart, but only where the norm of a channel is above 9."""
    large = part.norm(dim=2, keepdim=True) > 9
    return torch.where(large, part * part.new_tensor([1.0, 1.2, 0.8]), part)


def absolute_cutoff(value: Tensor, context: Context) -> Tensor:
    """Edges dropped where |dx| is above 1, whatever their length."""
    return value * (context.vectors[:, :1].abs() < 1.0)


def absolute_position(value: Tensor, context: Context) -> Tensor:
    """1e-2 times the distance from the origin added to a scalar."""
    distance = 1e-2 * context.positions.square().sum(1, keepdim=True).add(1.0).sqrt()
    return torch.cat([value[:, :1] + distance, value[:, 1:]], dim=1)


def stale_shift(value: Tensor, context: Context) -> Tensor:
    """A lattice shift kept in a buffer, added to the edges that leave a node upwards in index, taken off the others."""
    direction = (context.neighbour - context.centre).sign()[:, None]
    return value + direction * value.new_tensor([0.3, 0.1, -0.2])


def constant_at_zero(value: Tensor, context: Context) -> Tensor:
    """Harmonics of the zero vector set to 0.5 in every component."""
    zero = context.vectors.square().sum(1, keepdim=True) == 0
    return torch.where(zero, torch.full_like(value, 0.5), value)


def _entry(
    key: str, title: str, build: Callable[[int], Subject], precedent: str = "", found_by: str = "rotation"
) -> Mutant:
    return Mutant(key, "geometry", title, build, precedent=precedent, found_by=found_by)


def _vectors(fault: Fault) -> Callable[[int], Subject]:
    return network_with("mixed", on("1o", fault))


MUTANTS = (
    _entry("M20", "0.1 t z added to vectors (fixed axis)", network_with("mixed", fixed_axis)),
    _entry("M21", "branch near the pole: |u_y| > 0.995", network_with("harmonics", pole_branch), "fairchem#1771"),
    _entry("M22", "principal-axis frame with arbitrary signs", _vectors(principal_axes)),
    _entry("M23", "canonical sign x sign(x_0)", _vectors(sign_of_first)),
    _entry("M24", "max-pool over nodes per component", _vectors(max_pool)),
    _entry("M25", "dropout per component, fixed mask", _vectors(dropout)),
    _entry("M26", "clamp of components to 0.3", _vectors(clamp)),
    _entry("M27", "break only where a norm is above 9", _vectors(overflow_branch), found_by="search"),
    _entry("M28", "cutoff on |dx|", network_with("radial", absolute_cutoff)),
    _entry(
        "M29", "distance from the origin in a scalar", network_with("mixed", absolute_position), found_by="translation"
    ),
    _entry("M30", "stale lattice shift, not rotated", network_with("vectors", stale_shift), "equiformer_v2#5"),
    _entry(
        "M31",
        "harmonics of the zero vector set to constants",
        network_with("harmonics", constant_at_zero, self_loops=True),
        "se3-transformer-public#3",
    ),
)
