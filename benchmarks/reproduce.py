"""``python -m benchmarks``: train a grid of the paper's tables and print them beside the published ones."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.board import Board
from benchmarks.controls import check_controls, plan_controls
from benchmarks.environment import ROOT, cores, environment
from benchmarks.executors import EXECUTORS, Executor, check_executor, check_run, make_executor
from benchmarks.ledger import Ledger
from benchmarks.plan import (
    DATASETS,
    Run,
    check_runs,
    estimate,
    left_out,
    make_conditions,
    make_grid,
    total_seconds,
)
from benchmarks.sweep import TRAINER, Failure, Outcome, sweep
from tracegrad.config import PRESETS
from tracegrad.errors import ConfigError, TracegradError

MAX_JOBS = 8  # more networks side by side compete for memory
GPU_JOBS = 4  # trainings on one GPU; a single one on a small structure leaves most of it idle
LONGEST = 8760  # hours of a year, the longest time limit of a run
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
EXAMPLES = """examples:
  nox -s reproduce -- --dataset MG                          the four settings on bundled graphene
  nox -s reproduce -- --dataset MG --preset smoke           the same in two minutes, far from converged
  nox -s reproduce -- --dataset all --seeds 3 --resume      go on with an interrupted sweep, or extend it
  nox -s reproduce -- --dataset all --dry-run               what would run, and for how long
  nox -s reproduce -- --dataset MG --executor slurm --slurm partition=gpu --slurm gpus_per_node=1 --device cuda
"""


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="reproduce",
        description="Train the settings of the paper's tables and print the tables beside the published ones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", default="MG", help=f"{', '.join(DATASETS)}, several with commas, or all (default: MG)")
    add("--settings", default=None, help="settings with commas (default: those of the table)")
    add("--source", default=None, help="bundled, published, or a path (default: bundled; published with that preset)")
    add("--preset", default="bundled", help=f"{', '.join(PRESETS)} (default: bundled)")
    add("--seeds", type=int, default=1, help="number of repeats (default: 1)")
    add("--controls", default="", help="equal-time, parameter-matched, two-centre: extra rows after the grid")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="change every run")
    add("--out", type=Path, default=ROOT / "reports" / "out", help="output folder (default: reports/out)")
    add("--resume", action="store_true", help="go on with the grid in --out, or extend it")
    add("--no-report", action="store_true", help="train only; draw later with `python -m reports OUT`")
    add("--dry-run", action="store_true", help="print the plan with estimated times and stop")
    add("--executor", choices=EXECUTORS, default="local", help="where runs are executed (default: local)")
    add(
        "--jobs",
        type=int,
        default=None,
        help="local runs side by side (default: one per core; on a GPU 4 or, published, 1)",
    )
    add("--hours", type=float, default=72.0, help="time limit of one run in hours (default: 72)")
    add("--slurm", action="append", default=[], metavar="KEY=VALUE", help="parameter of the cluster, repeatable")
    return parser


def main(arguments: Sequence[str] | None = None, trainer: Sequence[str] = TRAINER) -> int:
    """Run the command.

    Args:
        arguments: command line, by default that of the process.
        trainer: training command, to which the arguments of each run are appended.

    Returns:
        exit code: 0, 1 when a run failed or a network did not pass the verifier, 2 for a mistake in the input, 130 when
        interrupted.
    """
    options = make_parser().parse_args(arguments)
    console = Console(stderr=False, markup=False, emoji=False)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _reproduce(options, console, trainer)
    except TracegradError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; go on with the same command and --resume (folder {options.out})", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: object) -> None:
    """Treat a request to end like Ctrl-C."""
    raise KeyboardInterrupt


def _reproduce(options: argparse.Namespace, console: Console, trainer: Sequence[str]) -> int:
    """Plan, train, add the controls, draw."""
    source = options.source or ("published" if options.preset == "published" else "bundled")
    conditions = make_conditions(source, options.preset, options.device, options.overrides)
    datasets, settings = _names(options.dataset), _names(options.settings) or None
    runs = make_grid(datasets, settings, options.seeds)
    controls = _names(options.controls)
    check_controls(controls)
    parameters = _parameters(options.slurm)
    check_executor(options.executor, parameters, planned=options.dry_run)
    if not 0 < options.hours <= LONGEST:
        raise ConfigError(f"--hours: expected a time above 0 and up to {LONGEST} (a year), found {options.hours:g}")
    for config in check_runs(runs, conditions):  # mistakes show before any work starts
        check_run(config.training, options.executor)
    if note := left_out(datasets, settings):
        console.print(note, highlight=False)
    ledger = Ledger(options.out.expanduser().resolve(), conditions)
    jobs = _jobs(options)
    if options.dry_run:
        ledger.check(options.resume)
        show_plan(runs, ledger, jobs, console)
        if controls:
            console.print(f"then, planned from the finished runs: {', '.join(controls)}", highlight=False)
        return 0
    variables = _variables(options.executor, jobs)
    described = environment(options.device)
    outcome = Outcome()
    extra: list[Run] = []
    problems: list[str] = []
    with ledger.claim(options.resume):
        executor = make_executor(options.executor, ledger.work / ".submitit", jobs, options.hours, parameters)
        ledger.write(runs, described, [], [])
        try:
            _train(runs, ledger, executor, console, variables, trainer, outcome)
            extra, problems = _plan_controls(controls, runs, ledger) if controls else ([], [])
            if extra:
                ledger.write([*runs, *extra], described, [], [])
                _train(extra, ledger, executor, console, variables, trainer, outcome)
        finally:  # what failed before an interruption is known too
            problems += [failure.line() for failure in outcome.failures]
            ledger.write([*runs, *extra], described, problems, outcome.started)
            show_failures(outcome.failures, ledger, console)
    if options.no_report or not any(ledger.finished(run) for run in runs):
        return 1 if problems else 0
    return _draw(ledger, runs) or (1 if problems else 0)


def _draw(ledger: Ledger, runs: Sequence[Run]) -> int:
    """Write bands and verification for the report, and draw it; what cannot be written does not keep it from that.

    Returns:
        exit code of the drawing; where that is 0, 1 for what could not be written and for a network of ``verify.json``
        that did not pass.
    """
    from benchmarks.bands import write_bands  # the first things here that need torch
    from benchmarks.verification import failing_targets, write_verification

    problems: list[str] = []
    try:
        write_bands(ledger, runs)
    except TracegradError as error:
        problems.append(f"error: {error}")
    try:
        path = write_verification(ledger, runs)
        problems += failing_targets(path) if path else []
    except TracegradError as error:
        problems.append(f"error: {error}")
    drawn = subprocess.run([sys.executable, "-m", "reports", str(ledger.out)], cwd=ROOT, check=False)
    for problem in problems:  # below the printed tables, where they are seen
        print(problem, file=sys.stderr)
    return drawn.returncode or int(bool(problems))


def _plan_controls(names: Sequence[str], runs: Sequence[Run], ledger: Ledger) -> tuple[list[Run], list[str]]:
    """Plan the controls; one that cannot be made is reported, because the grid is trained already."""
    records = [ledger.collected(run) for run in runs if ledger.finished(run)]
    planned: list[Run] = []
    problems = []
    of_one: dict[tuple[str, int], list[Any]] = {}
    for record in records:
        of_one.setdefault((record["dataset"], record["seed"]), []).append(record)
    for name, (dataset, seed) in product(names, of_one):
        try:
            planned += plan_controls([name], of_one[dataset, seed], ledger.conditions, ledger.controls())
        except TracegradError as error:
            problems.append(f"{dataset}, seed {seed}: {error}")
            print(f"error: {problems[-1]}", file=sys.stderr)
    return planned, problems


def _train(
    runs: Sequence[Run],
    ledger: Ledger,
    executor: Executor,
    console: Console,
    variables: Sequence[tuple[str, str | None]],
    trainer: Sequence[str],
    outcome: Outcome,
) -> None:
    """Train runs under a live table, which stays on the terminal."""
    board = Board(runs, console)
    with board.live():
        sweep(runs, ledger, executor, board, outcome, environment=variables, trainer=trainer)
    console.print(board.summary(), highlight=False)


def show_plan(runs: Sequence[Run], ledger: Ledger, jobs: int, console: Console) -> None:
    """Print every run, what is finished, and the estimated time of the rest."""
    known = [*ledger.records.glob("*.json"), *(ROOT / "reports").glob("**/runs/*.json")]
    table = Table(title=f"{len(runs)} runs, {ledger.conditions.source} data, preset {ledger.conditions.preset}")
    for name in ("run", "state", "estimate", "basis"):
        table.add_column(name, no_wrap=True)
    open_estimates = []
    for run in runs:
        guess = estimate(run, ledger.conditions, known)
        finished = ledger.finished(run)
        if not finished:
            open_estimates.append(guess)
        table.add_row(run.name, "finished" if finished else "to run", _duration(guess.seconds), guess.basis)
    console.print(table)
    total = _duration(total_seconds(open_estimates, jobs))
    console.print(f"{len(open_estimates)} to run, {jobs} side by side: about {total}", highlight=False)


def show_failures(failures: Sequence[Failure], ledger: Ledger, console: Console) -> None:
    """Print the last lines of each failed run's log and where the rest is."""
    for failure in failures:
        console.print(
            f"\n{failure.run.name} failed: {failure.reason}", style="bold red", highlight=False, soft_wrap=True
        )
        console.print("\n".join(failure.tail), markup=False, highlight=False, soft_wrap=True)
        console.print(f"log: {ledger.log(failure.run)}", highlight=False, soft_wrap=True)


def _names(text: str | None) -> list[str]:
    """Split a list with commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _jobs(options: argparse.Namespace) -> int:
    """Runs side by side."""
    if options.jobs is not None:
        if options.jobs < 1:
            raise ConfigError(f"--jobs: expected at least 1, found {options.jobs}")
        return int(options.jobs)
    if options.executor == "inline" or (options.device == "cuda" and options.preset == "published"):
        return 1  # the published structures and networks fill a GPU
    return GPU_JOBS if options.device == "cuda" else min(cores(), MAX_JOBS)


def _variables(executor: str, jobs: int) -> list[tuple[str, str | None]]:
    """Share the cores among the runs, and give the GPUs back that submitit hides from local processes.

    On a cluster its own settings hold.
    """
    if executor == "slurm":
        return []
    threads = str(max(1, cores() // jobs))
    visible = ("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [*((name, threads) for name in THREAD_VARIABLES), visible]


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters of the cluster, numbers as numbers."""
    parsed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--slurm: expected KEY=VALUE, found {text!r}")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--slurm {key.strip()}: cannot read the value {value!r}") from None
    return parsed


def _duration(seconds: float | None) -> str:
    """Format a time for people."""
    if seconds is None:
        return "unknown"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


if __name__ == "__main__":
    sys.exit(main())
