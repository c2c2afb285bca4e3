"""Faults of non-linearities, biases and norms (M1-M11): components of an irrep treated as if they were channels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from .kinds import Mutant, network_with
from .network import Context, Fault, change


def on(kind: str, update: Fault) -> Fault:
    """Fault that replaces one kind of irrep, given as (N, mul, 2l+1), by its update."""
    return lambda value, context: change(value, kind, lambda part: update(part, context))


def silu(part: Tensor, context: Context) -> Tensor:
    """SiLU on every component."""
    return functional.silu(part)


def bias(part: Tensor, context: Context, size: float = 0.1) -> Tensor:
    """Constant added to every component."""
    return part + size


def layer_norm(part: Tensor, context: Context) -> Tensor:
    """LayerNorm over all mul * (2l+1) components."""
    return functional.layer_norm(part.flatten(1), (part[0].numel(),)).view_as(part)


def affine_per_component(part: Tensor, context: Context) -> Tensor:
    """A sound RMS norm, followed by one factor per component."""
    norm = part.square().mean((1, 2), keepdim=True).add(1e-3).sqrt()
    return part / norm * part.new_tensor([1.0, 1.1, 0.9])


def subtract_mean_over_m(part: Tensor, context: Context) -> Tensor:
    """Mean over the components m taken off."""
    return part - part.mean(2, keepdim=True)


def centre_of_wrong_axis(part: Tensor, context: Context) -> Tensor:
    """Position relative to the mean over x, y, z instead of over the nodes."""
    centred = context.positions - context.positions.mean(1, keepdim=True)
    return part + 0.1 * centred[:, None, :]


def softsign(part: Tensor, context: Context) -> Tensor:
    """x / sqrt(x^2 + eps), component by component."""
    return part / (part.square() + 0.1).sqrt()


def anisotropic_whitening(part: Tensor, context: Context) -> Tensor:
    """Whitening with a different ridge on every axis."""
    covariance = part.mT @ part / part.shape[1] + torch.diag(part.new_tensor([0.1, 0.2, 0.3]))
    values, vectors = torch.linalg.eigh(covariance)
    result: Tensor = part @ (vectors * values.rsqrt()[:, None, :]) @ vectors.mT
    return result


def _entry(key: str, title: str, kind: str, update: Fault, found_by: str = "rotation", precedent: str = "") -> Mutant:
    return Mutant(
        key, "activations", title, network_with("mixed", on(kind, update)), precedent=precedent, found_by=found_by
    )


MUTANTS = (
    _entry("M1", "SiLU on l=1 components", "1o", silu),
    _entry("M2", "SiLU (an even function) on live 0o scalars", "0o", silu, "inversion"),
    _entry("M3", "bias on l=1", "1o", bias, precedent="torchmd-net#57, HydraGNN#511"),
    _entry("M4", "bias of 1e-10 on l=1", "1o", partial(bias, size=1e-10)),
    _entry("M5", "bias on 0o", "0o", bias, "inversion"),
    _entry("M6", "LayerNorm over the mul*(2l+1) components of l=1", "1o", layer_norm, precedent="Pocket2Mol#16"),
    _entry("M7", "sound norm, affine factor per component", "1o", affine_per_component, precedent="Pocket2Mol#16"),
    _entry("M8", "mean over m subtracted within l=2", "2e", subtract_mean_over_m),
    _entry("M9", "positions.mean(1) for mean(0)", "1o", centre_of_wrong_axis, precedent="Steerable-E3-GNN#12"),
    _entry("M10", "x / sqrt(x^2 + eps) per component", "1o", softsign),
    _entry(
        "M11", "whitening with eps diag(1, 2, 3)", "1o", anisotropic_whitening, precedent="pre-training-via-denoising#5"
    ),
)
