"""Equivariance errors of approximate networks (HarmoSE), from the verifier's report, to stand beside their MAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.errors import DataError

BUDGET_CHECK = "budget"  # the verifier's check of a network that is approximate by design
BEFORE = ", before training"  # what the sweep adds to the name of the untrained network


@dataclass(frozen=True)
class EquivarianceError:
    """Root mean square change of a component of H under random rotations, meV.

    Args:
        before: of the untrained network; None where it was not measured.
        after: of the trained one.
    """

    before: float | None
    after: float

    @property
    def text(self) -> str:
        """Both values, such as ``1.6e-13 → 0.053``."""
        return f"{self.after:.2g}" if self.before is None else f"{self.before:.2g} → {self.after:.2g}"


def equivariance_errors(verification: Mapping[str, Any], source: Path) -> dict[str, EquivarianceError]:
    """Collect what the verifier measured on the approximate networks of a sweep.

    Args:
        verification: content of ``verify.json``, or empty.
        source: that file, for messages.

    Returns:
        errors by database and row, such as ``"MM HarmoSE"``; exact networks have none.

    Raises:
        DataError: a report lacks its target or checks, or one of these is no check.
    """
    try:
        found = {
            str(report["target"]): float(check["error"])
            for report in verification.get("reports", [])
            for check in report["checks"]
            if check["name"] == BUDGET_CHECK
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{source}: expected in every report a target and checks with name and error, found {error!r}; remove the "
            "file or make it again"
        ) from error
    trained = {name: error for name, error in found.items() if not name.endswith(BEFORE)}
    return {name: EquivarianceError(found.get(name + BEFORE), error) for name, error in trained.items()}
