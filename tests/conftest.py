"""Fixtures for all tests: fixed seeds, both precisions. Warnings and markers are configured in ``pyproject.toml``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Shared machines stall: a slow example is not a failing one. Derandomized, so that a red test stays red.
hypothesis.settings.register_profile("tracegrad", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tracegrad")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> Iterator[None]:
    """Seed every global generator before each test, and put torch's default dtype and threads back after it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code draws from the global generator)
    torch.manual_seed(0)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Run the test in both precisions."""
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    """Return a seeded torch generator of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).resolve().parent.parent
