"""Does the generator reproduce the bundled data? One structure of each set, computed anew and compared.

    python -m benchmarks.cross_check [--systems MG BB ...] [--source FOLDER] [--markdown FILE]

Needs CP2K on PATH and PySCF; about five minutes of one core for all six. Exit code 1 if a mean error exceeds 0.05 meV.
Bundled matrices are rounded to 1e-6 hartree: 0.0136 meV is the largest and 0.0068 meV the mean error of a perfect copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracegrad.atomic import atomic_write
from tracegrad.data.blocks import match_keys
from tracegrad.data.dataset import load_dataset
from tracegrad.data.dft import SYSTEMS, Calculation, Request, calculate
from tracegrad.data.dft.cp2k import find_cp2k
from tracegrad.data.spin import scalar_and_spin_orbit
from tracegrad.data.structure import Structure
from tracegrad.errors import DataError

LIMIT_MEV = 0.05


@dataclass(frozen=True)
class Comparison:
    """Differences between a structure computed anew and the stored one, meV."""

    name: str
    cell: str
    atoms: int
    pairs: int
    mean: float
    largest: float
    spin_orbit_mean: float | None
    spin_orbit_largest: float | None
    position: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the mean errors of H and of the spin-orbit part stay within the limit."""
        return self.mean <= LIMIT_MEV and (self.spin_orbit_mean or 0.0) <= LIMIT_MEV

    def row(self) -> str:
        """One line of the table."""
        so = "–" if self.spin_orbit_mean is None else f"{self.spin_orbit_mean:.4f} / {self.spin_orbit_largest:.4f}"
        return (
            f"| {self.name} | {self.cell} | {self.atoms} | {self.pairs} | {self.mean:.4f} / {self.largest:.4f} | {so} "
            f"| {self.position:.0e} | {self.seconds:.0f} |"
        )


HEADER = (
    "| structure | cell | atoms | pairs | H, mean / max meV | spin-orbit W, mean / max meV | positions, Å | CPU s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def compute(request: Request) -> Calculation:
    """Run the generator for one structure in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return calculate(request, find_cp2k(), Path(folder))


def compare(calculation: Calculation, reference: Structure) -> Comparison:
    """Compare a structure computed anew with the stored one.

    Raises:
        DataError: If the two do not have the same pairs.
    """
    request = calculation.request
    computed = calculation.structure()
    stored, found = reference.hamiltonian, computed.hamiltonian
    assert stored is not None
    assert found is not None
    order = match_keys(found.keys(), stored.keys())
    if (order < 0).any() or stored.n_edges != found.n_edges:
        raise DataError(f"{request.name}: expected {stored.n_edges} stored pairs, found {found.n_edges} or other ones")
    found = found.select(order)
    w_mean = w_largest = None
    if reference.spinful:
        stored, stored_w, _ = scalar_and_spin_orbit(stored)
        found, found_w, _ = scalar_and_spin_orbit(found)
        w_error = 1e3 * np.abs(found_w - stored_w)
        w_mean, w_largest = float(w_error.mean()), float(w_error.max())
    error = 1e3 * np.abs(found.values - stored.values)
    return Comparison(
        request.name,
        request.label(),
        reference.n_atoms,
        stored.n_edges,
        float(error.mean()),
        float(error.max()),
        w_mean,
        w_largest,
        float(np.abs(computed.positions - reference.positions).max()),
        float(calculation.facts.get("cpu_seconds", np.nan)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print the table; return 1 if a comparison fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cross_check", description="generator against stored data"
    )
    parser.add_argument("--systems", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--source", type=Path, help="folder with KEY.h5 instead of the bundled sets")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    comparisons = []
    for key in options.systems:
        source = "bundled" if options.source is None else options.source / f"{key}.h5"
        request = Request(key, "test", 0)
        structures = load_dataset(key, source).test
        comparison = compare(compute(request), structures[structures.names.index(request.name)])
        print(comparison.row(), file=sys.stderr, flush=True)
        comparisons.append(comparison)
    table = "\n".join([HEADER, *(comparison.row() for comparison in comparisons)])
    print(table)
    print(f"{time.perf_counter() - start:.0f} s, limit {LIMIT_MEV} meV", file=sys.stderr)
    if options.markdown is not None:
        with atomic_write(options.markdown) as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
    return 0 if all(comparison.passed for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
