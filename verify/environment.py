"""Versions and switches that can change a floating-point result; recorded in every report."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "e3nn", "hypothesis", "torch-geometric", "ase", "tracegrad")


def environment(dtype: torch.dtype) -> dict[str, Any]:
    """Plain data: versions, dtype, default dtype, reduced-precision switches, threads, devices."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
        "dtype": str(dtype),
        "default_dtype": str(torch.get_default_dtype()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32_matmul": bool(torch.backends.cuda.matmul.allow_tf32),
        "tf32_cudnn": bool(torch.backends.cudnn.allow_tf32),
        "autocast": bool(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
