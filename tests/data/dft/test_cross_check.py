"""The cross-check of the generator: a copy passes, a disturbed or shifted Hamiltonian does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cross_check import HEADER, LIMIT_MEV, compare
from tracegrad.data.blocks import Blocks
from tracegrad.data.dft.calculation import Calculation
from tracegrad.errors import DataError


def shuffled(blocks: Blocks) -> Blocks:
    """Return the same pairs in another order."""
    return blocks.select(np.random.default_rng(0).permutation(blocks.n_edges))


def test_a_copy_with_its_pairs_in_another_order_passes(recorded: str, read: Callable[..., Calculation]) -> None:
    calculation = read(recorded)
    stored = calculation.structure()
    comparison = compare(calculation, replace(stored, hamiltonian=shuffled(stored.hamiltonian)))
    assert comparison.passed
    assert comparison.largest == 0.0
    assert (comparison.spin_orbit_largest is not None) == (recorded == "bismuth_dimer")
    assert comparison.row().count("|") == HEADER.splitlines()[0].count("|")


@pytest.mark.parametrize("part", ["hamiltonian", "spin_orbit"])
def test_a_disturbance_above_the_limit_fails(part: str, read: Callable[..., Calculation]) -> None:
    calculation = read("bismuth_dimer")
    stored = calculation.structure()
    if part == "hamiltonian":
        values = calculation.hamiltonian.values + 2e-3 * LIMIT_MEV
        disturbed = replace(calculation, hamiltonian=calculation.hamiltonian.with_values(values))
    else:
        disturbed = replace(calculation, spin_orbit=1.1 * calculation.spin_orbit)
    comparison = compare(disturbed, stored)
    assert not comparison.passed
    assert (comparison.mean > LIMIT_MEV) == (part == "hamiltonian")


def test_other_pairs_are_refused(recorded: str, read: Callable[..., Calculation]) -> None:
    calculation = read(recorded)
    stored = calculation.structure()
    fewer = stored.hamiltonian.select(np.arange(stored.hamiltonian.n_edges - 1))
    with pytest.raises(DataError, match="pairs"):
        compare(calculation, replace(stored, hamiltonian=fewer))
