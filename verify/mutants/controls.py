"""Sound variants (C1-C14) that look like faults and must not be flagged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .activations import on
from .bases import frame_of
from .kinds import Mutant, Subject, network_of, network_with
from .network import Context, Fault, Network, columns, sound_coupling


def scaled_path(l1: int, l2: int, l3: int) -> Tensor:
    """3j symbols with the path (1, 1, 2) multiplied by -3.7."""
    return sound_coupling(l1, l2, l3) * (-3.7 if (l1, l2, l3) == (1, 1, 2) else 1.0)


def rescaled_degrees(value: Tensor, context: Context) -> Tensor:
    """Harmonics of l = 1 times 3.7, of l = 2 times 0.2."""
    return value * value.new_tensor([1.0] + [3.7] * 3 + [0.2] * 5)


def unnormalised(value: Tensor, context: Context) -> Tensor:
    """Solid instead of spherical harmonics."""
    length = context.vectors.norm(dim=1, keepdim=True)
    return value * torch.cat([torch.ones_like(length), length.expand(-1, 3), length.square().expand(-1, 5)], dim=1)


def channel_norm(part: Tensor, context: Context) -> Tensor:
    """Mean over channels taken off, RMS over channels and components divided out."""
    centred = part - part.mean(1, keepdim=True)
    return centred / centred.square().mean((1, 2), keepdim=True).add(1e-3).sqrt()


def subtract_node_mean(part: Tensor, context: Context) -> Tensor:
    """Mean over the nodes taken off."""
    return part - part.mean(0, keepdim=True)


def unit_irreps(part: Tensor, context: Context) -> Tensor:
    """x / (|x| + eps) on whole irreps."""
    result: Tensor = part / (part.norm(dim=2, keepdim=True) + 0.1)
    return result


def largest_by_norm(part: Tensor, context: Context) -> Tensor:
    """The irrep of the node where its norm is largest, added to all nodes."""
    index = part.norm(dim=2).argmax(0)
    return part + part[index, torch.arange(part.shape[1])][None]


def irrep_dropout(part: Tensor, context: Context) -> Tensor:
    """Fixed mask of whole irreps by node and channel: depends on the index, not on the frame."""
    kept = (torch.arange(len(part))[:, None] + torch.arange(part.shape[1])[None]) % 3 != 0
    return part * kept[:, :, None]


def local_frame(part: Tensor, context: Context) -> Tensor:
    """An odd function of the components in a local frame; nothing happens where the frame does not exist.

    The third axis is a cross product and keeps its sign under the inversion, so that the component along it changes
    sign: the function must be odd. The weight is the squared sine between the two vectors of the frame, which makes the
    result continuous where they are parallel.
    """
    frame = frame_of(part)
    local = part @ frame.mT
    changed = (local * torch.sigmoid(local.square())) @ frame
    first, second = part[:, 0], part[:, 1]
    sine = torch.linalg.cross(first, second).square().sum(1)
    weight = sine / (first.square().sum(1) * second.square().sum(1) + 1e-12)
    result: Tensor = part + weight[:, None, None] * (changed - part)
    return result


def absolute_pseudoscalar(value: Tensor, context: Context) -> Tensor:
    """|0o| added to 0e: the modulus is even."""
    modulus = value[:, columns("0o")].square().add(1e-2).sqrt()
    return torch.cat([value[:, :1] + modulus[:, :1], value[:, 1:]], dim=1)


def cross_product_as_axial(value: Tensor, context: Context) -> Tensor:
    """The cross product of two polar vectors added to 1e."""
    polar = value[:, columns("1o")].unflatten(1, (-1, 3))
    axial = columns("1e")
    added = torch.linalg.cross(polar, polar.roll(1, 1))[:, : (axial.stop - axial.start) // 3].flatten(1)
    return torch.cat([value[:, : axial.start], value[:, axial] + added, value[:, axial.stop :]], dim=1)


def node_statistics(part: Tensor, context: Context) -> Tensor:
    """Scalars standardised over the nodes."""
    return (part - part.mean(0)) / part.var(0, unbiased=False).add(1e-2).sqrt()


def float32_radial(value: Tensor, context: Context) -> Tensor:
    """Radial functions rounded to float32: invariant to the last bit of float32, and no further."""
    return value.to(torch.float32).to(value.dtype)


def _control(
    key: str,
    title: str,
    build: Callable[[int], Subject],
    without: tuple[str, ...] = (),
    may_report: tuple[str, ...] = (),
) -> Mutant:
    return Mutant(key, "controls", title, build, control=True, without=without, may_report=may_report)


def _mixed(key: str, title: str, kind: str, update: Fault, without: tuple[str, ...] = ()) -> Mutant:
    return _control(key, title, network_with("mixed", on(kind, update)), without=without)


CONTROLS = (
    _control("C1", "one coupling path times -3.7", network_of(lambda seed: Network(seed, coupling=scaled_path))),
    _control("C2", "harmonics rescaled per degree", network_with("harmonics", rescaled_degrees)),
    _control("C3", "unnormalised (solid) harmonics", network_with("harmonics", unnormalised)),
    _mixed("C4", "channel mean and RMS norm of l=1", "1o", channel_norm),
    _mixed("C5", "node mean of l=2 subtracted", "2e", subtract_node_mean),
    _mixed("C6", "x / (|x| + eps) on whole irreps", "1o", unit_irreps),
    _mixed("C7", "pooling of the irrep of largest norm", "1o", largest_by_norm),
    _mixed(
        "C8",
        "dropout of whole irreps, fixed mask (declared index-dependent)",
        "1o",
        irrep_dropout,
        without=("node_permutation",),
    ),
    _mixed("C9", "local frame of two vectors, rotated back", "1o", local_frame),
    _control("C10", "modulus of 0o as 0e", network_with("mixed", absolute_pseudoscalar)),
    _control("C11", "cross product declared 1e", network_with("mixed", cross_product_as_axial)),
    _mixed("C12", "0e standardised over the nodes", "0e", node_statistics),
    _control(
        "C13",
        "float32 radial functions alone (PRECISION of gradients, not equivariance)",
        network_with("radial", float32_radial),
        may_report=("finite_difference", "jvp_vjp", "dtype_leak"),
    ),
    _control("C14", "the plain network", network_of(Network)),
)
