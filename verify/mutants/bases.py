"""Faults of bases and couplings (M12-M19): the wrong order, sign or parity."""

from __future__ import annotations

import torch
from torch import Tensor

from .activations import on
from .kinds import Mutant, network_of, network_with
from .network import Context, Coupling, Fault, Network, sound_coupling, spherical_harmonics


def permuted_axes(value: Tensor, context: Context) -> Tensor:
    """Harmonics of (z, x, y) in place of (x, y, z)."""
    return spherical_harmonics(torch.nn.functional.normalize(context.vectors[:, [2, 0, 1]], dim=1))


def reversed_m(value: Tensor, context: Context) -> Tensor:
    """l = 2 harmonics in the order m = l..-l."""
    return torch.cat([value[:, :4], value[:, 4:].flip(1)], dim=1)


def phase(value: Tensor, context: Context) -> Tensor:
    """The sign (-1)^m on the components of odd m of l = 2, as the Condon-Shortley phase puts it."""
    return value * value.new_tensor([1, 1, 1, 1, 1, -1, 1, -1, 1])


def scaled_component(value: Tensor, context: Context) -> Tensor:
    """One l = 2 harmonic 2 % too large."""
    return value * value.new_tensor([1, 1, 1, 1, 1, 1, 1.02, 1, 1])


def flipped_sign(l1: int, l2: int, l3: int) -> Tensor:
    """3j symbols with the sign of one entry of (1, 1, 2) flipped."""
    symbols = sound_coupling(l1, l2, l3)
    if (l1, l2, l3) == (1, 1, 2):
        symbols = symbols.clone()
        index = tuple(symbols.abs().eq(symbols.abs().max()).nonzero()[0].tolist())
        symbols[index] *= -1
    return symbols


def small_entries_dropped(l1: int, l2: int, l3: int) -> Tensor:
    """3j symbols of (2, 2, 2) without their smaller entries."""
    symbols = sound_coupling(l1, l2, l3)
    if (l1, l2, l3) == (2, 2, 2):
        return torch.where(symbols.abs() < 0.8 * symbols.abs().max(), 0.0, symbols)
    return symbols


def frame_of(part: Tensor) -> Tensor:
    """Right-handed frame (N, 3, 3), rows are axes, from the first two vectors of every node."""
    first = torch.nn.functional.normalize(part[:, 0], dim=1)
    third = torch.nn.functional.normalize(torch.linalg.cross(first, part[:, 1]), dim=1)
    return torch.stack([first, torch.linalg.cross(third, first), third], dim=1)


def wrong_way_back(part: Tensor, context: Context) -> Tensor:
    """To a local frame, SiLU, and back with the matrix that led there instead of its transpose."""
    frame = frame_of(part)
    return torch.nn.functional.silu(part @ frame.mT) @ frame.mT


def swapped_layout(part: Tensor, context: Context) -> Tensor:
    """(mul, 2l+1) read as (2l+1, mul)."""
    return part.transpose(1, 2).reshape(part.shape)


def cross_product_as_vector(part: Tensor, context: Context) -> Tensor:
    """A cross product (1e) added to polar vectors (1o)."""
    result: Tensor = part + torch.linalg.cross(part, part.roll(1, 1))
    return result


def _harmonics(key: str, title: str, fault: Fault, precedent: str = "") -> Mutant:
    return Mutant(key, "bases", title, network_with("harmonics", fault), precedent=precedent, found_by="rotation")


def _coupled(key: str, title: str, coupling: Coupling) -> Mutant:
    return Mutant(key, "bases", title, network_of(lambda seed: Network(seed, coupling=coupling)), found_by="rotation")


MUTANTS = (
    _harmonics("M12", "harmonics fed (z, x, y)", permuted_axes, "equivariant_electron_density#5"),
    _harmonics("M13", "l=2 harmonics in reversed m order", reversed_m),
    _harmonics("M14", "Condon-Shortley-like sign on two l=2 components", phase),
    _harmonics("M15", "one harmonic 2 % too large", scaled_component),
    _coupled("M16", "sign of one 3j symbol flipped", flipped_sign),
    _coupled("M16b", "small 3j symbols set to zero", small_entries_dropped),
    Mutant(
        "M17",
        "bases",
        "rotated to a local frame, back with the un-transposed matrix",
        network_with("mixed", on("1o", wrong_way_back)),
        precedent="e3nn#443",
        found_by="rotation",
    ),
    Mutant(
        "M18",
        "bases",
        "mul-major read as m-major",
        network_with("mixed", on("1o", swapped_layout)),
        found_by="rotation",
    ),
    Mutant(
        "M19",
        "bases",
        "cross product returned as 1o",
        network_with("mixed", on("1o", cross_product_as_vector)),
        found_by="inversion",
    ),
)
