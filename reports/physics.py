"""Energies, states and gap of one test structure per subset, as the run records carry them."""

from __future__ import annotations

from collections.abc import Sequence

from reports.records import Comparison, RunRecord, by_comparison
from reports.render import EMPTY
from reports.statistics import Summary

PHYSICS_HEAD = (
    "data", "subset", "method", "structure", "MAE, meV", "MAE without μ", "occupied energies, meV", "without μ",
    "state similarity", "occupied space", "gap, DFT, eV", "gap, predicted", "runs",
)  # fmt: skip
PHYSICS_CAPTION = (
    "First test structure of each subset, at Γ, M, K and a general point (Γ alone above 1000 orbitals). μ is the rigid "
    "shift between H and H + μS, which no observable sees. Similarity is |ψ'†Sψ|, 1 for equal states. A small error of "
    "H does not make small errors of energies: they are those of S⁻¹H."
)
COLUMNS = (
    ("mae_raw", ".3f"), ("mae_aligned", ".3f"), ("occupied_energy_mae", ".1f"), ("occupied_energy_mae_aligned", ".1f"),
    ("state_similarity", ".4f"), ("occupied_similarity", ".4f"), ("gap_dft", ".3f"), ("gap_predicted", ".3f"),
)  # fmt: skip


def physics_rows(records: Sequence[RunRecord]) -> dict[Comparison, list[tuple[str, ...]]]:
    """Rows under ``PHYSICS_HEAD``: means over the seeds of every method on every subset.

    Args:
        records: of any origin; those without these figures are left out.

    Returns:
        rows of every comparison that has any.
    """
    tables = {}
    for comparison, members in by_comparison(records).items():
        groups: dict[tuple[str, str, str, str], list[RunRecord]] = {}
        for record in members:
            for subset, metrics in record.subsets.items():
                if len(metrics.physics) > 1:
                    key = (record.dataset, subset, record.label, str(metrics.physics["structure"]))
                    groups.setdefault(key, []).append(record)
        rows = [(*key, *_cells(runs, key[1]), str(len(runs))) for key, runs in groups.items()]
        if rows:
            tables[comparison] = rows
    return tables


def _cells(runs: Sequence[RunRecord], subset: str) -> list[str]:
    """Means over the runs; a figure that one of them lacks is left out."""
    cells = []
    for name, form in COLUMNS:
        values = [run.subsets[subset].physics.get(name) for run in runs]
        known = tuple(float(value) for value in values if value is not None)
        cells.append(format(Summary(known).mean, form) if len(known) == len(values) else EMPTY)
    return cells
