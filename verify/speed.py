"""``python -m verify.speed``: what a verification of a small layer costs, beside ``e3nn.util.test.equivariance_error``.

A *case* is one input and one group element. This verifier judges 64 rotations and 16 inversions, e3nn's tool 64
rotations with and without the inversion. Times are CPU seconds of one thread, the median of interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tracegrad.atomic import atomic_write

from .api import verify_equivariance
from .subject import quiet

FEATURES = "4x0e+4x1o+2x2e"
TRIALS = 64
ROWS = 5
REPEATS = 3


@dataclass(frozen=True)
class Timing:
    """Times of one layer.

    Args:
        layer: what was verified.
        everything: seconds of `verify_equivariance` with all its checks and 64 trials.
        ours: seconds per case of its checks of rotation and inversion.
        theirs: seconds per case of e3nn's tool.
    """

    layer: str
    everything: float
    ours: float
    theirs: float

    def line(self) -> str:
        """One printed line."""
        figures = f"{1e3 * self.ours:10.3f} ms {1e3 * self.theirs:10.3f} ms {self.theirs / self.ours:7.1f}x"
        return f"{self.layer:<16} {self.everything:8.2f} s {figures}"


def layers() -> dict[str, tuple[torch.nn.Module, list[str], list[str]]]:
    """Small e3nn layers in float64: name -> module, irreps_in, irreps_out."""
    from e3nn import o3
    from e3nn.nn import Gate

    with quiet(torch.float64):
        product = o3.FullyConnectedTensorProduct(FEATURES, "1x0e+1x1o", FEATURES)
        linear = o3.Linear(FEATURES, FEATURES)
        gate = Gate("4x0e", [torch.tanh], "4x0e", [torch.sigmoid], "4x1o")
    return {
        "linear": (linear, [FEATURES], [FEATURES]),
        "gate": (gate, [str(gate.irreps_in)], [str(gate.irreps_out)]),
        "tensor product": (product, [FEATURES, "1x0e+1x1o"], [FEATURES]),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name: str, repeats: int = REPEATS) -> Timing:
    """Time one layer.

    Args:
        name: one of `layers`.
        repeats: interleaved runs, after one that warms up.

    Returns:
        Medians.
    """
    from e3nn.o3 import Irreps
    from e3nn.util.test import equivariance_error

    module, irreps_in, irreps_out = layers()[name]
    checks, cases = ["rotation", "inversion"], [0, 0]

    def everything() -> None:
        assert verify_equivariance(module, irreps_in, irreps_out, trials=TRIALS).passed

    def ours() -> None:
        report = verify_equivariance(module, irreps_in, irreps_out, trials=TRIALS, checks=checks)
        cases[0] = sum(check.trials for check in report.checks)

    def theirs() -> None:
        with quiet(torch.float64):
            inputs = [torch.randn(ROWS, Irreps(entry).dim) for entry in irreps_in]
            cases[1] = TRIALS * len(equivariance_error(module, inputs, irreps_in, irreps_out, ntrials=TRIALS))

    runs = [[_seconds(run) for run in (everything, ours, theirs)] for _ in range(repeats + 1)][1:]
    whole, own, other = (statistics.median(column) for column in zip(*runs, strict=True))
    return Timing(name, whole, own / cases[0], other / cases[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 when a layer takes more than a second or more per case than e3nn's tool."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.speed", description="time of a verification, beside e3nn's"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help="interleaved runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write(f"{'layer':<16} {'all checks':>10} {'per case':>13} {'e3nn per case':>13} {'ratio':>8}\n")
    found = []
    for name in layers():
        found.append(measure(name, max(1, options.repeats)))
        sys.stdout.write(found[-1].line() + "\n")
        sys.stdout.flush()
    if options.json is not None:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps([asdict(timing) for timing in found], indent=2), encoding="utf-8")
    return 0 if all(t.everything <= 1 and t.ours < t.theirs for t in found) else 1


if __name__ == "__main__":
    sys.exit(main())
