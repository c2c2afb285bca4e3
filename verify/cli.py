"""Command line ``tracegrad-verify``: verify the package itself, a checkpoint, or any target; exit code = verdict."""

from __future__ import annotations

import argparse
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tracegrad.errors import TracegradError

from .result import Report
from .subject import describe

DTYPES = {"float64": torch.float64, "float32": torch.float32}
OF_TARGETS = ("checks", "trials", "search", "tol", "allow_zero", "parity", "data", "atoms")
"""Options that mean nothing to the package's own verification, as float32 does not."""

EXAMPLES = """examples:
  tracegrad-verify                                       theorems, settings and the kill matrix of this package
  tracegrad-verify --target my_package.layers:build      a factory without arguments
  tracegrad-verify --target my_md:calculator_and_atoms   a factory that returns (ASE calculator, atoms)
  tracegrad-verify --checkpoint runs/first/final.ckpt --report out
  tracegrad-verify --target my_models:approximate --budget-mev 0.5

exit codes: 0 pass, 1 broken, 2 suspect, precision or bad input, 3 vacuous, 4 harness noise too high"""


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="tracegrad-verify",
        description="Verify the equivariance of a model, with rotations and Wigner-D of its own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="final.ckpt of a training folder")
    what.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="measure sound networks on this machine, write FILE (floor.json)"
    )
    what.add_argument("--target", metavar="MODULE:FACTORY", help="what a factory without arguments returns")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write JSON, JUnit, Markdown, SARIF, HTML, pictures")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="report.json to compare with; errors that grew tenfold fail"
    )
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float64", help="float32 is a noise budget, not a proof"
    )
    parser.add_argument("--budget-mev", type=float, metavar="X", help="accept an approximate model up to X meV")
    parser.add_argument("--checks", metavar="A,B", help="names of the checks, separated by commas")
    parser.add_argument("--trials", type=int, metavar="N", help="Haar rotations")
    parser.add_argument("--search", type=int, metavar="N", help="examples of the hypothesis phase, 0 for none")
    parser.add_argument("--tol", type=float, help="relative tolerance of all blocks, instead of the policy")
    parser.add_argument("--allow-zero", metavar="A,B", help="irreps of outputs that are zero by symmetry, such as 0o")
    parser.add_argument(
        "--no-parity", dest="parity", action="store_false", default=None, help="the target claims rotations alone"
    )
    parser.add_argument("--data", metavar="KEY|PATH", help="data of a checkpoint, by default what it was trained on")
    parser.add_argument("--atoms", type=int, metavar="N", help="atoms kept of the structure of a checkpoint, 6")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", metavar="A,B", help="of the package: method, settings, mutants")
    parser.add_argument("--workers", type=int, metavar="N", help="processes for the package's own verification")
    parser.add_argument("--quiet", action="store_true", help="print the verdict alone")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words after the command's name; None takes those of the process.

    Returns:
        0 pass, 1 broken, 2 suspect, precision, bad input or an exception outside the checks, 3 vacuous, 4 harness
        noise too high.
    """
    options = build_parser().parse_args(arguments)
    try:
        if options.calibrate is not None:
            return _calibrate(options.calibrate)
        report = run(options)
        report = _with_baseline(report, options.baseline)
        if options.report is not None:
            from .reporting import write_reports

            write_reports(report, options.report)
    except TracegradError as error:
        sys.stderr.write(f"tracegrad-verify: error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"tracegrad-verify: error: {error.filename or ''}: {error.strerror or error}\n")
        return 2
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        sys.stderr.write(
            f"tracegrad-verify: error: raised {describe(error)} ({place.filename}:{place.lineno}): expected a target "
            "that can be built and evaluated; if the line is not yours, please report it\n"
        )
        return 2
    lines = report.to_text().splitlines()
    whole = not options.quiet and (options.target or options.checkpoint)
    sys.stdout.write("\n".join(lines if whole else lines[-1:]) + "\n")
    return report.exit_code


def run(options: argparse.Namespace) -> Report:
    """Report of what the options name.

    Raises:
        TracegradError: bad input.
    """
    if options.target is None and options.checkpoint is None:
        return _run_package(options)
    from .targets import checkpoint_target, load_target

    target = (
        load_target(options.target)
        if options.target
        else checkpoint_target(options.checkpoint, options.data, 6 if options.atoms is None else options.atoms)
    )
    settings: dict[str, Any] = {"seed": options.seed, "dtype": DTYPES[options.dtype]}
    for name, value in (
        ("trials", options.trials),
        ("search", options.search),
        ("tol", options.tol),
        ("budget_mev", options.budget_mev),
        ("parity", options.parity),
    ):
        if value is not None:
            settings[name] = value
    for name, value in (("checks", options.checks), ("allow_zero", options.allow_zero)):
        if value is not None:
            settings[name] = [part.strip() for part in value.split(",") if part.strip()]
    report = target.verify(**settings)
    return replace(report, target=target.name or report.target)


def _run_package(options: argparse.Namespace) -> Report:
    from .suite import PARTS, run_suite

    unused = [f"--{name.replace('_', '-')}" for name in OF_TARGETS if vars(options)[name] is not None]
    unused = [{"--parity": "--no-parity"}.get(name, name) for name in unused]
    unused += ["--dtype float32"] if options.dtype == "float32" else []
    if unused:
        raise TracegradError(f"{', '.join(unused)}: expected together with --target or --checkpoint; give one of them")
    parts = tuple(options.parts.split(",")) if options.parts else PARTS
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise TracegradError(f"--parts: unknown {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if options.seed < 0 or (options.workers is not None and options.workers < 1):
        raise TracegradError("expected a --seed of at least 0 and --workers of at least 1")
    if options.budget_mev is not None and not 0 < options.budget_mev < math.inf:
        raise TracegradError(f"--budget-mev is {options.budget_mev}, expected a positive number")
    extra: dict[str, Any] = {"progress": None} if options.quiet else {}
    return run_suite(seed=options.seed, workers=options.workers, parts=parts, budget_mev=options.budget_mev, **extra)


def _calibrate(path: Path) -> int:
    from .calibration import calibrate

    record = calibrate(path)
    sys.stdout.write(
        f"worst error / tolerance {record['worst']:.3g} in {record['runs']} runs of sound networks: {path}\n"
    )
    return 0 if record["ok"] and record["worst"] <= 1 else 4


def _with_baseline(report: Report, baseline: Path | None) -> Report:
    if baseline is None:
        return report
    from .trend import compare_report

    return replace(report, checks=[*report.checks, compare_report(report, baseline)])
