"""Rows beyond the paper: the baseline with the time, and with the weights, that TraceGrad had, and no network at all.

They are planned from finished runs of the same database and seed, so they come after the grid itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

from benchmarks.plan import FIRST_SEED, Conditions, Run, configuration
from tracegrad.errors import ConfigError, did_you_mean

BASELINE, FULL = "DeepHE3", "DeepHE3+TraceGrad"
LABELS = {
    "equal-time": f"{BASELINE} (equal time)",
    "parameter-matched": f"{BASELINE} (parameter matched)",
    "two-centre": "two-centre reference",
}
NO_NETWORK = ("model.reference=true", "model.reference_only=true", "training.epochs=0", "training.max_steps=1")

# Lengths that belong to a schedule in steps or epochs: they stretch together, so that the schedule keeps its shape.
LENGTHS = ("epochs", "max_steps", "start", "interval", "patience", "cooldown", "warmup_steps")
BISECTIONS = 16
STEP_ROUNDS, STEPS_A_ROUND = 15, 10  # of the ratio of times; ten steps hold one update of SOAP's eigenvectors
FACTORS = (0.125, 16.0)  # of the multiplicities, searched for the number of weights


def check_controls(names: Sequence[str]) -> None:
    """Refuse an unknown control.

    Raises:
        ConfigError: with the nearest known name.
    """
    for name in names:
        if name not in LABELS:
            raise ConfigError(f"--controls: unknown {name!r}. {did_you_mean(name, LABELS)}")


def plan_controls(
    names: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    conditions: Conditions,
    planned: Mapping[str, tuple[str, ...]] | None = None,
    count: Callable[[Run, Conditions], int] | None = None,
    ratio: Callable[[Mapping[str, Any], Mapping[str, Any]], float] | None = None,
) -> list[Run]:
    """Plan the controls of every database and seed that has both the baseline and TraceGrad.

    The two-centre reference depends on no seed; it is fitted once per database.

    Args:
        names: ``"equal-time"``, ``"parameter-matched"``, ``"two-centre"``.
        records: finished runs of the grid.
        conditions: what all runs share.
        planned: overrides of controls that were planned before, by the name of the run; they are kept.
        count: number of weights of a run's network (default: build it).
        ratio: time of the second of two runs over that of the first (default: :func:`step_time_ratio` on the processor,
            where other work on the machine counts; the seconds of the runs on a GPU).

    Returns:
        the runs.
    """
    found = {(record["dataset"], record["seed"], record.get("label", record["setting"])): record for record in records}
    runs = []
    for dataset, seed, label in found:
        if label != BASELINE or (dataset, seed, FULL) not in found:
            continue
        baseline, full = found[dataset, seed, BASELINE], found[dataset, seed, FULL]
        if "two-centre" in names and seed == FIRST_SEED:
            runs.append(Run(dataset, BASELINE, seed, LABELS["two-centre"], NO_NETWORK))
        for name in ("equal-time", "parameter-matched"):
            if name not in names:
                continue
            run = Run(dataset, BASELINE, seed, LABELS[name])
            overrides = (planned or {}).get(run.name)
            if overrides is None and name == "equal-time":
                time_ratio = ratio or (step_time_ratio if conditions.device == "cpu" else _seconds_ratio)
                overrides = equal_time(baseline["config"]["training"], time_ratio(baseline, full))
            elif overrides is None:
                size = partial(_size, dataset, conditions, count or count_parameters)
                irreps = matched_irreps(baseline["config"]["model"]["hidden_irreps"], full["parameters"], size)
                overrides = (f"model.hidden_irreps={irreps}",)
            runs.append(replace(run, overrides=overrides))
    return runs


def _seconds_ratio(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    return float(second["train_seconds"] / first["train_seconds"])


def step_time_ratio(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Processor time of a training step of the second run over that of the first, in turn in one process, one thread.

    Args:
        first: record of a run.
        second: record of another on the same database.
    """
    import torch  # the sweep itself does not need it

    from benchmarks.networks import rounds
    from tracegrad.config import config_from_dict
    from tracegrad.data import load_dataset
    from tracegrad.training.run import prepare

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {}
        for name, record in (("first", first), ("second", second)):
            config = config_from_dict(record["config"])
            data = load_dataset(config.data.dataset, source=config.data.source)
            module = prepare(config, data, torch.device("cpu"), Path()).module
            optimizer = module.configure_optimizers()
            optimizer.param_groups[0]["lr"] = 0.0  # weights that blow up have slow numbers in them
            steps[name] = partial(_train, module, optimizer, iter(module.batches))
        return rounds(steps, STEP_ROUNDS).ratio("second", "first")
    finally:
        torch.set_num_threads(threads)


def _train(module: Any, optimizer: Any, batches: Iterator[Any]) -> None:
    """Some training steps, the same batches for every network of a seed."""
    for batch in islice(batches, STEPS_A_ROUND):
        optimizer.zero_grad()
        module.terms_of(batch).total.backward()
        optimizer.step()


def _size(dataset: str, conditions: Conditions, count: Callable[[Run, Conditions], int], irreps: str) -> int:
    """Count the weights of the baseline with other features."""
    return count(Run(dataset, BASELINE, FIRST_SEED, BASELINE, (f"model.hidden_irreps={irreps}",)), conditions)


def equal_time(training: Mapping[str, Any], ratio: float) -> tuple[str, ...]:
    """Stretch the budget and the schedule of a run.

    Args:
        training: training section of the run's configuration.
        ratio: wanted time over the time it took.

    Returns:
        ``training.key=value`` of the stretched run; empty when the budget is a time already.
    """
    if not training.get("epochs") and not training.get("max_steps"):
        return ()
    lengths = {key: training[key] for key in LENGTHS if training.get(key)}
    return tuple(f"training.{key}={max(1, round(ratio * length))}" for key, length in lengths.items())


def scaled_irreps(irreps: str, factor: float) -> str:
    """Multiply the multiplicities of irreps, such as ``64x0e+32x1o``, keeping each at one or more."""
    return re.sub(r"(\d+)x", lambda match: f"{max(1, round(int(match[1]) * factor))}x", irreps)


def matched_irreps(irreps: str, target: int, count: Callable[[str], int]) -> str:
    """Widen or narrow a network until it has as many weights as asked for, as nearly as whole channels allow.

    Args:
        irreps: features of the network, such as ``"64x0e+32x1o"``.
        target: wanted number of weights.
        count: number of weights of a network with given features; grows with the multiplicities.

    Returns:
        the features whose number of weights is nearest to `target`.

    Raises:
        ConfigError: the target is out of reach.
    """
    low, high = FACTORS
    sizes = {text: count(text) for text in (scaled_irreps(irreps, low), scaled_irreps(irreps, high))}
    if not min(sizes.values()) <= target <= max(sizes.values()):
        raise ConfigError(
            f"parameter-matched control: expected a number of weights from {min(sizes.values())} to "
            f"{max(sizes.values())} ({irreps} scaled by {low} to {high}), found {target}; leave the control out"
        )
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        text = scaled_irreps(irreps, middle)
        if text not in sizes:
            sizes[text] = count(text)
        if sizes[text] < target:
            low = middle
        else:
            high = middle
    return min(sizes, key=lambda text: abs(sizes[text] - target))


def count_parameters(run: Run, conditions: Conditions) -> int:
    """Build the network of a run and count its weights."""
    from tracegrad.data import load_dataset  # both import torch, which the sweep itself does not need
    from tracegrad.model import build_model
    from tracegrad.model.build import NetworkConfig

    config = configuration(run, conditions)
    model = build_model(cast(NetworkConfig, config.model), load_dataset(run.dataset, source=conditions.source))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
