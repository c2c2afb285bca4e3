"""Runs killed with signal 9 at random points, again and again: the final weights are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.config import Config
from tracegrad.training.checkpoint import read_tensors

KILLS = int(os.environ.get("TRACEGRAD_KILLS", "3"))
LIMIT = 60 * (KILLS + 2)  # s


def changed_weights(first: Path, second: Path) -> list[str]:
    """Return the names of the tensors that are not equal bit for bit."""
    a, b = read_tensors(first)["state_dict"], read_tensors(second)["state_dict"]
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def kill_once(command: list[str], folder: Path, environment: dict[str, str], delay: float) -> bool:
    """Start or continue a run, kill it some time after its first new state; return whether it was still running."""
    state = folder / "last.ckpt"
    before = state.stat().st_mtime_ns if state.exists() else None
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_runs_killed_at_random_points_end_with_the_same_bits(
    tiny: Callable[..., Config], data_file: Path, tmp_path: Path
) -> None:
    settings = {"checkpoint_seconds": 0.0, "epochs": 6 * (KILLS + 1), "select": "last", "ema_decay": 0.9}
    config = tiny(data={"source": str(data_file)}, training=settings)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "tracegrad", "train", "--quiet", "--resume", "--config"]
    command += [str(tmp_path / "config.yaml"), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*command, str(whole)], check=True, env=environment, timeout=LIMIT)
    delays = np.random.default_rng(7).uniform(0.0, 0.3, KILLS).tolist()
    killed = [kill_once([*command, str(parts)], parts, environment, delay) for delay in delays]
    assert any(killed)
    if all(killed):
        assert not (parts / "final.ckpt").exists()
    subprocess.run([*command, str(parts)], check=True, env=environment, timeout=LIMIT)
    assert changed_weights(whole / "final.ckpt", parts / "final.ckpt") == []
    assert [path.name for path in parts.rglob("*.tmp*")] == []
    other = tmp_path / "other"
    subprocess.run([*command, str(other), "--set", "seed=43"], check=True, env=environment, timeout=LIMIT)
    assert changed_weights(whole / "final.ckpt", other / "final.ckpt") != []
