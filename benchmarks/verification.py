"""The verifier on the trained networks of a sweep: exact ones must pass, approximate ones are measured.

HarmoSE learns its equivariance. Its error is printed in meV beside its MAE, before training and after; the budget it is
held against is that MAE, so PASS means "rotating a structure changes less than the network is wrong by", never "exact".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.bands import CHECKPOINT
from benchmarks.ledger import Ledger, write_json
from benchmarks.plan import Run
from tracegrad.data import load_dataset
from tracegrad.errors import DataError
from tracegrad.model import build_model
from tracegrad.model.build import NetworkConfig
from tracegrad.training.checkpoint import load_checkpoint
from verify.result import Verdict, worst
from verify.targets import Target, checkpoint_target

VERIFIED = ("DeepHE3+TraceGrad", "HarmoSE", "HarmoSE+TraceGrad")  # of every database, the first run with a checkpoint
CHECKS = ["rotation", "inversion", "translation", "node_permutation", "edge_permutation", "hermiticity", "vacuity"]
MEASURED = "budget"  # the check of an approximate network against its MAE, which a short training may not reach
TRIALS = 4
ATOMS = 6


def write_verification(ledger: Ledger, runs: Sequence[Run]) -> Path | None:
    """Write ``verify.json``, which the report page shows.

    Args:
        ledger: folder of the sweep.
        runs: what to verify; reports on other networks that ``verify.json`` holds already stay in it.

    Returns:
        the file; None where no run of :data:`VERIFIED` left a checkpoint.
    """
    chosen: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.label in VERIFIED and (ledger.training(run) / CHECKPOINT).is_file():
            chosen.setdefault((run.dataset, run.label), run)
    reports = [report for run in chosen.values() for report in _reports(ledger, run)]
    if not reports:
        return None
    path = ledger.out / "verify.json"
    earlier = _earlier(path) if path.is_file() else []
    renewed = {report["target"] for report in reports}
    reports = [*(report for report in earlier if report["target"] not in renewed), *reports]
    checks = [
        {**check, "name": f"{report['target']}: {check['name']}"} for report in reports for check in report["checks"]
    ]
    verdict = worst(Verdict(report["verdict"]) for report in reports).value
    content = {"target": "trained networks of this sweep", "verdict": verdict, "checks": checks, "reports": reports}
    write_json(path, content)
    return path


def failing_targets(path: Path) -> list[str]:
    """Say which networks of a ``verify.json`` did not pass.

    Args:
        path: result of :func:`write_verification`.

    Returns:
        a line per network with its verdict, what failed, and where the report is; none where all passed. How far an
        approximate network has learned to be equivariant is measured and no failure; all else of it has to pass.
    """
    reports = json.loads(path.read_bytes())["reports"]
    found = {report["target"]: _failure(report) for report in reports}
    return [f"verification failed: {target}: {what}; see {path}" for target, what in found.items() if what]


def _failure(report: Mapping[str, Any]) -> str:
    """Verdict on one network and the checks that failed; empty where none did."""
    if report["verdict"] == Verdict.HARNESS_NOISE:
        return f"{report['verdict']} (the verifier's own self-check failed)"
    if not report["checks"]:
        return f"{report['verdict']} (no check ran)"
    verdicts = {check["name"]: Verdict(check["verdict"]) for check in report["checks"] if check["name"] != MEASURED}
    failed = {name: verdict for name, verdict in verdicts.items() if verdict is not Verdict.PASS}
    return f"{worst(failed.values())} ({', '.join(failed)})" if failed else ""


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Reports of a ``verify.json`` that an earlier sweep of this folder wrote."""
    try:
        reports = json.loads(path.read_bytes())["reports"]
        if all(_is_report(report) for report in reports):
            return list(reports)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{path}: expected the verifier's reports on the networks of this sweep, found something else; move the file "
        "away and go on with --resume"
    )


def _is_report(report: Mapping[str, Any]) -> bool:
    """Say whether a report has what is read of it: a target, a verdict, and checks."""
    checks = report["checks"]
    known = isinstance(report["target"], str) and report["verdict"] in [*Verdict] and isinstance(checks, list)
    return known and all("name" in check and check["verdict"] in [*Verdict] for check in checks)


def _reports(ledger: Ledger, run: Run) -> list[dict[str, Any]]:
    """Reports on one trained network; of an approximate one also before training."""
    path = ledger.training(run) / CHECKPOINT
    target = replace(checkpoint_target(path, atoms=ATOMS), name=f"{run.dataset} {run.label}")
    if not getattr(target.func, "approximate", False):
        return [_verify(target)]
    record = ledger.collected(run)
    budget = max(float(metrics["mae_all"]) for metrics in record["metrics"].values())
    _, config, _ = load_checkpoint(path)
    data = load_dataset(run.dataset, source=config.data.source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)  # the weights that the training began with
        fresh = build_model(cast(NetworkConfig, config.model), data).to(next(target.func.parameters()))
    before = replace(target, func=fresh, name=f"{target.name}, before training")
    return [_verify(before, budget), _verify(target, budget)]


def _verify(target: Target, budget_mev: float | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {} if budget_mev is None else {"budget_mev": budget_mev}
    report = target.verify(seed=0, trials=TRIALS, search=0, checks=CHECKS, **settings)
    return replace(report, target=target.name).to_dict()
