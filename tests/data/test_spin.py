"""Assembly of spinful blocks against explicit Kronecker products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tracegrad.data import Structure
from tracegrad.data.spin import scalar_and_spin_orbit, spinful_blocks


def test_splitting_and_assembling_are_inverse(make_structure: Callable[..., Structure]) -> None:
    # The fixture assembles with numpy's kron; the code under test never does.
    full = make_structure(spinful=True).hamiltonian
    assert full is not None
    scalar, spin_orbit, defect = scalar_and_spin_orbit(full)
    assert defect < 1e-14
    np.testing.assert_allclose(spinful_blocks(scalar, spin_orbit).values, full.values, atol=1e-14)
    assert scalar.hermiticity_defect() < 1e-14
    assert np.abs(spin_orbit).max() > 0.1


@pytest.mark.parametrize("element", [(0, 0), (0, -1), (-1, 0)], ids=["up up", "up down", "down up"])
def test_what_breaks_time_reversal_is_reported(
    element: tuple[int, int], make_structure: Callable[..., Structure]
) -> None:
    full = make_structure(spinful=True).hamiltonian
    assert full is not None
    values = full.values.copy()
    changed = full.with_values(values)
    changed.block(3)[element] += 0.3  # breaks the relation between the spin components
    assert scalar_and_spin_orbit(changed)[2] > 0.0
    values[:] = full.values * np.exp(0.3j)  # a complex phase
    assert scalar_and_spin_orbit(changed)[2] > 0.1
