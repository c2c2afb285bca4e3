"""Faults of gradients and of vacuity (M40-M45): sound values with wrong derivatives, or nothing to test at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .activations import on, silu
from .kinds import Mutant, network_of, network_with
from .network import Context, Fault, Network


class _PermutedBackward(torch.autograd.Function):
    """Identity whose backward pass permutes components."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].roll(1, -1)


class _ScaledBackward(torch.autograd.Function):
    """Identity whose backward pass is 10 % too small: still equivariant, no longer the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 0.9 * gradients[0]


def permuted_backward(part: Tensor, context: Context) -> Tensor:
    """Backward pass permutes the components."""
    result: Tensor = _PermutedBackward.apply(part)  # type: ignore[no-untyped-call]
    return result


def scaled_backward(part: Tensor, context: Context) -> Tensor:
    """Backward pass scaled by 0.9."""
    result: Tensor = _ScaledBackward.apply(part)  # type: ignore[no-untyped-call]
    return result


def detached_branch(part: Tensor, context: Context) -> Tensor:
    """Half of the value cut from the graph."""
    return 0.5 * part + 0.5 * part.detach()


def zero(value: Tensor, context: Context) -> Tensor:
    """Nothing."""
    return 0 * value


def not_a_number(value: Tensor, context: Context) -> Tensor:
    """NaN everywhere."""
    return value * torch.nan


def tiny(value: Tensor, context: Context) -> Tensor:
    """Output scaled below every absolute tolerance."""
    return 1e-11 * value


def _small_and_broken(seed: int) -> Network:
    return Network(seed, {"mixed": on("1o", silu), "output": tiny})


def _gradient(key: str, title: str, fault: Fault, precedent: str = "", found_by: str = "finite_difference") -> Mutant:
    build = network_with("mixed", on("1o", fault))
    return Mutant(key, "gradients", title, build, precedent=precedent, found_by=found_by)


def _vacuous(key: str, title: str, fault: Fault, precedent: str) -> Mutant:
    return Mutant(key, "gradients", title, network_with("output", fault), precedent=precedent, found_by="vacuity")


MUTANTS = (
    _gradient("M40", "custom backward permutes components", permuted_backward, found_by="gradient"),
    _gradient("M41", "backward scaled by 0.9 (still equivariant)", scaled_backward, "OEQ#211, nequip#610"),
    _gradient("M42", "one branch detached", detached_branch, "cuEq#77"),
    _vacuous("M43", "output identically zero", zero, "cuEq#77"),
    _vacuous("M44", "NaN output", not_a_number, "torchmd-net#57"),
    Mutant("M45", "gradients", "M1 with the output x 1e-11", network_of(_small_and_broken), found_by="rotation"),
)
