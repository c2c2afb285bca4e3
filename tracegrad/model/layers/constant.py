"""Constants that are exact in every dtype: held in float64, cast once per dtype and device."""

from __future__ import annotations

import torch
from torch import Tensor

from tracegrad.so3.traces import is_transient


class Constant:
    """A float64 or integer tensor that follows the dtype and device of the tensors it meets.

    A buffer would keep the digits of the dtype in which its module was built; ``module.double()`` could not restore
    them, and a network checked in float64 would carry the rounding of float32.

    Args:
        value: the tensor; floating-point values are kept in float64.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value.to("cpu", torch.float64) if value.is_floating_point() else value.cpu()
        self._casts: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The constant in the dtype and on the device of ``other``; integers keep their dtype."""
        dtype = other.dtype if self.value.is_floating_point() else self.value.dtype
        key = (dtype, other.device)
        known = self._casts.get(key)
        if known is None and is_transient(other):
            return self.value.to(device=other.device, dtype=dtype)
        if known is None:
            with torch.inference_mode(False), torch.no_grad():
                known = self.value.to(device=other.device, dtype=dtype)
            if not is_transient(known):
                self._casts[key] = known
        return known
