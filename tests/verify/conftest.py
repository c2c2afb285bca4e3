"""A layer that several tests of the verifier are about."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3


@pytest.fixture
def product() -> o3.FullyConnectedTensorProduct:
    """A tensor product with learned weights: sound."""
    torch.set_default_dtype(torch.float64)
    return o3.FullyConnectedTensorProduct("4x0e+4x1o+2x2e", "1x0e+1x1o", "4x0e+4x1o+2x2e")
