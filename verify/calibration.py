"""Recalibration: how near sound networks come to the tolerance on this machine, written to ``floor.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tracegrad.atomic import atomic_write

from .api import verify_equivariance
from .environment import environment
from .selfcheck import self_check

CHECKS = ("rotation", "inversion", "translation")
SEEDS = 5


def calibrate(path: Path, seeds: int = SEEDS, trials: int = 16) -> dict[str, Any]:
    """Measure the worst error / tolerance of every control and write it down.

    Args:
        path: JSON file to write.
        seeds: seeds per control.
        trials: Haar trials per run.

    Returns:
        What was written: per control and check the worst ratio, the noise floor, the environment, the worst of all. A
        ratio above 1 is a false alarm: the policy does not hold here.
    """
    from .mutants.catalogue import CONTROLS

    table: dict[str, dict[str, float]] = {}
    for control in CONTROLS:
        if control.build is None:
            continue
        worst = dict.fromkeys(CHECKS, 0.0)
        for seed in range(seeds):
            subject = control.build(seed)
            report = verify_equivariance(
                subject.func,
                subject.irreps_in,
                subject.irreps_out,
                checks=[name for name in CHECKS if name not in control.without],
                seed=seed,
                trials=trials,
                diagnose=False,
            )
            for check in report.checks:
                worst[check.name] = max([worst[check.name], *(b.ratio for b in check.blocks if not b.zero)])
        table[control.key] = worst
    floor = self_check(12)
    record = {
        "noise_floor": floor.residuals,
        "ok": floor.ok,
        "ratios": table,
        "worst": max((max(row.values()) for row in table.values()), default=0.0),
        "runs": seeds * len(table),
        "environment": environment(torch.float64),
    }
    with atomic_write(path) as temporary:
        Path(temporary).write_text(json.dumps(record, indent=2), encoding="utf-8")
    return record
