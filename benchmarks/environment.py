"""What a measurement was made with: versions, commit, machine, threads, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tracegrad", "torch", "e3nn", "torch-geometric", "lightning", "numpy", "scipy", "ase", "h5py")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine and the software, without importing any of it.

    Args:
        device: ``"cpu"`` or ``"cuda"``; for the latter the GPUs are named.

    Returns:
        plain data: python, versions, git_commit, git_dirty, platform, cpu, cores, threads, device, gpus.
    """
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or cores(),
        "device": device,
        "gpus": gpu_names() if device == "cuda" else [],
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on; packages that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Number of processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_name() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """Names of the GPUs that the driver reports; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    text = _output([program, "--query-gpu=name", "--format=csv,noheader"])
    return [line.strip() for line in text.splitlines() if line.strip()]


def _git(*arguments: str) -> str:
    """Output of git in the checkout; empty where there is no git or no commit."""
    return _output(["git", "-C", str(ROOT), *arguments])


def _output(command: list[str]) -> str:
    """Standard output of a short command; empty when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
