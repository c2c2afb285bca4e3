"""What may be kept of a computation that a transform of ``torch.func`` or a compiler watches: nothing.

The tensors of such a computation stand for others and mean nothing after it; a cache that held one would spoil every
later call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_traced() -> bool:
    """Whether a transform of ``torch.func`` or a compiler is at work.

    Our autograd functions then give way to plain operations, which both know. PyTorch's own way for the transforms, a
    ``setup_context`` for each function, makes every other call of it several times slower.
    """
    return torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()


def is_transient(tensor: Tensor) -> bool:
    """Whether a tensor may belong to a transform or a compilation that is under way, and must not outlive it."""
    return is_traced() or type(tensor) not in (Tensor, nn.Parameter)
