"""Modules in another precision: a private copy, with constants that were rounded at construction restored."""

from __future__ import annotations

import copy
import pickle
import re

import torch

from tracegrad.errors import VerificationError

from .subject import quiet

_SYMBOL = re.compile(r"_w3j_(\d+)_(\d+)_(\d+)$")
_ROUNDING = 1.2e-7  # relative rounding of float32, doubled


def in_precision(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Copy of a tensor in a precision.

    Args:
        tensor: any tensor.
        dtype: real floating-point dtype.

    Returns:
        Real numbers in ``dtype``, complex ones in the complex dtype of the same precision, all others as they are.
    """
    if tensor.is_complex():
        return tensor.to(dtype.to_complex(), copy=True)
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def converted(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Deep copy of a module in another floating-point dtype; the original stays as it is.

    Args:
        module: any module.
        dtype: dtype of the copy.

    Returns:
        The copy, complex constants with their imaginary parts; 3j symbols that e3nn stored in float32 are stored in
        full precision.

    Raises:
        VerificationError: the module cannot be copied.
    """
    values = (value for part in module.modules() for value in vars(part).values())
    # Scripted functions have no state to keep apart, and PyTorch 2.4 cannot copy them.
    shared = {id(value): value for value in values if isinstance(value, torch.jit.ScriptFunction)}
    try:
        with quiet(dtype):
            clone = copy.deepcopy(module, shared)
            clone._apply(lambda tensor: in_precision(tensor, dtype))
    except (RuntimeError, TypeError, AttributeError, pickle.PickleError) as error:
        raise VerificationError(f"{type(module).__name__} cannot be copied for the verification: {error}") from error
    if dtype is torch.float64:
        _restore_symbols(clone)
    return clone


def _restore_symbols(module: torch.nn.Module) -> None:
    """Replaces 3j symbols by their exact values where they differ by no more than the rounding of float32.

    A symbol that differs by more is left as it is: it is wrong, not rounded.
    """
    from e3nn.o3 import wigner_3j

    for name, buffer in module.named_buffers():
        match = _SYMBOL.search(name)
        if match is None:
            continue
        exact = wigner_3j(*map(int, match.groups()), dtype=torch.float64).to(buffer.device)
        if exact.shape == buffer.shape and bool(((buffer - exact).abs() <= _ROUNDING * exact.abs()).all()):
            with torch.no_grad():
                buffer.copy_(exact)
