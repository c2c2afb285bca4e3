"""Time around the network in a training step: ``python -m benchmarks.overhead``.

The same network takes the same steps in one process in a bare loop of forward pass, loss, backward pass and optimiser,
and in ``tracegrad train`` with its batches, schedule, guards, states, logs and Lightning's hooks. Of two lengths of the
latter the difference counts, so that set-up and the validations of the first and the last step drop out; the recipe
keeps validations near 5 % of the time. Rounds alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.ledger import write_json
from tracegrad.config import Config, load_config
from tracegrad.data import Dataset, load_dataset
from tracegrad.errors import TracegradError
from tracegrad.training.run import Run, fit, prepare

LIMIT = 0.10  # largest part of a step that may be spent around the network


def measure(config: Config, data: Dataset, steps: int) -> dict[str, float]:
    """Processor seconds per step of both, on one thread.

    Args:
        config: what is trained.
        data: training set.
        steps: steps of the bare loop, and by how many the longer run exceeds the shorter.
    """
    with tempfile.TemporaryDirectory() as folder:
        bare = bare_seconds(prepare(config, data, torch.device("cpu"), Path(folder)), steps)
    short, long = (run_seconds(config, data, length) for length in (steps // 2, steps // 2 + steps))
    return {"bare": bare, "whole": (long - short) / steps}


def run_seconds(config: Config, data: Dataset, steps: int) -> float:
    """Processor seconds of a whole run of so many steps."""
    config = replace(config, training=replace(config.training, max_steps=steps))
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(config, data, torch.device("cpu"), Path(folder))
        start = time.process_time()
        fit(run, config, Path(folder), quiet=True)
        return time.process_time() - start


def bare_seconds(run: Run, steps: int) -> float:
    """Seconds per step of the loop without anything around it."""
    module = run.module
    optimizer, batches = module.configure_optimizers(), iter(module.batches)
    graphs = [next(batches) for _ in range(steps)]
    start = time.process_time()
    for graph in graphs:
        optimizer.zero_grad()
        module.loss(module.model.in_frame(graph), graph).total.backward()  # type: ignore[operator]
        optimizer.step()
    return (time.process_time() - start) / steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 1 where the limit is exceeded, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--dataset", default="MG", help="key of the database (default MG)")
    parser.add_argument("--setting", default="DeepHE3", help="setting (default DeepHE3)")
    parser.add_argument("--steps", type=count, default=150, help="steps of a round (default 150)")
    parser.add_argument("--repeats", type=count, default=3, help="rounds (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        return judge(options)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def judge(options: argparse.Namespace) -> int:
    """Measure, print and write the record as the options say; exit code 1 where the limit is exceeded.

    Raises:
        TracegradError: no such database, or a configuration that does not exist.
        OSError: the record cannot be written.
    """
    config = load_config(
        preset="bundled",
        dataset=options.dataset,
        setting=options.setting,
        overrides=[f"training.max_steps={options.steps}", "training.epochs=0", "training.validate_every=1000000"],
    )
    data = load_dataset(options.dataset)
    rounds = [measure(config, data, options.steps) for _ in range(options.repeats)]
    bare, whole = (statistics.median(r[name] for r in rounds) for name in ("bare", "whole"))
    record: dict[str, Any] = {
        "dataset": options.dataset,
        "setting": options.setting,
        "steps": options.steps,
        "bare_seconds": bare,
        "whole_seconds": whole,
        "around_the_network": (whole - bare) / whole,
        "limit": LIMIT,
        "environment": environment(),
    }
    print(
        f"{options.dataset} {options.setting}: {1000 * bare:.1f} ms a step bare, {1000 * whole:.1f} ms in a run: "
        f"{100 * record['around_the_network']:.1f} % around the network (limit {100 * LIMIT:.0f} %)"
    )
    if options.json:
        write_json(options.json, record)
    return int(record["around_the_network"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
