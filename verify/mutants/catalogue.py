"""The whole catalogue: M1-M48 (small network), T1-T3, V1-V3, F1-F7 (the method), and the controls."""

from __future__ import annotations

from tracegrad.errors import VerificationError, did_you_mean

from . import activations, bases, controls, geometry, gradients, graphs, method, precision, state
from .kinds import Mutant

FAULTS: tuple[Mutant, ...] = (
    *activations.MUTANTS,
    *bases.MUTANTS,
    *geometry.MUTANTS,
    *precision.MUTANTS,
    *graphs.MUTANTS,
    *gradients.MUTANTS,
    *state.MUTANTS,
    *method.MUTANTS,
)
CONTROLS: tuple[Mutant, ...] = (*controls.CONTROLS, *state.CONTROLS, *method.CONTROLS)
CATALOGUE: dict[str, Mutant] = {mutant.key: mutant for mutant in (*FAULTS, *CONTROLS)}
"""Key -> entry, faults first."""


def entry(key: str) -> Mutant:
    """Entry of the catalogue.

    Args:
        key: such as ``"M1"``.

    Returns:
        The entry.

    Raises:
        VerificationError: no entry has that key.
    """
    if key not in CATALOGUE:
        raise VerificationError(f"no fault or control is called {key!r}. {did_you_mean(key, CATALOGUE)}")
    return CATALOGUE[key]
