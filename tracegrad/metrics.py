"""Errors of predicted Hamiltonians, with the definitions of the paper's tables (docs/method.md), in meV.

They are those of HarmoSE (arXiv:2401.00744) as the authors implement them: ``MAE_all`` is a mean over structures,
``MAE_block`` is pooled over edges, and the two challenging ones are taken where the *baseline* is worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracegrad.data import Blocks, Structure
from tracegrad.data.blocks import match_keys
from tracegrad.errors import DataError
from tracegrad.so3 import OrbitalBasis

MEV = 1000.0  # meV per eV
DISTANCE_BIN = 0.5  # Å, width of the distance bins
BASELINE = "DeepHE3"

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class StructureErrors:
    """Sums of |ΔH| over one structure, from which every metric follows.

    Both directions of every pair count; complex elements count once, by their modulus.

    Args:
        name: the structure.
        block_sum: label of the basic block -> sum of |ΔH| in eV.
        block_count: label of the basic block -> number of matrix elements.
        bin_sum: (bins,) sum of |ΔH| in eV of the pairs with a length in [k, k+1) · 0.5 Å; on-site ones in bin 0.
        bin_count: (bins,) number of matrix elements.
    """

    name: str
    block_sum: dict[str, float]
    block_count: dict[str, int]
    bin_sum: FloatArray
    bin_count: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """m_s, mean |ΔH| over all matrix elements of the structure, eV."""
        return float(sum(self.block_sum.values()) / sum(self.block_count.values()))


def structure_errors(predicted: Blocks, structure: Structure) -> StructureErrors:
    """Compare predicted blocks with those of a structure.

    Args:
        predicted: H in eV, the Hermitian half or complete; pairs that the structure lacks are not looked at.
        structure: with its Hamiltonian.

    Returns:
        Sums over the directed pairs of the structure, per basic block and per distance.

    Raises:
        DataError: no Hamiltonian, a pair without a prediction, or another block shape.
    """
    target = structure.hamiltonian
    if target is None:
        raise DataError(f"{structure.name}: expected a Hamiltonian to compare with, found none")
    half = target.is_half and predicted.is_half
    target, predicted = (target, predicted) if half else (target.completed(), predicted.completed())
    position = match_keys(predicted.keys(), target.keys())
    missing = np.flatnonzero(position < 0)
    if len(missing):
        raise DataError(f"{structure.name}: no prediction for the pair {target.keys()[missing[0]].tolist()}")
    predicted = predicted.select(position)
    if not np.array_equal(predicted.shapes, target.shapes):
        raise DataError(f"{structure.name}: predicted blocks have other shapes; check the orbitals of the model")
    return _sum_errors(target.with_values(np.abs(predicted.values - target.values)), structure, half)


def _sum_errors(errors: Blocks, structure: Structure, half: bool) -> StructureErrors:
    """Sum |ΔH|; in a Hermitian half a pair also counts as its reverse, under the transposed label."""
    lengths = np.linalg.norm(structure.edge_vectors(errors), axis=1)
    bins = np.floor(lengths / DISTANCE_BIN).astype(np.int64)
    on_site = (errors.edge_index[0] == errors.edge_index[1]) & (errors.cell_shift == 0).all(axis=1)
    weight = np.where(on_site | (not half), 1, 2)
    block_sum: dict[str, float] = {}
    block_count: dict[str, int] = {}
    bin_sum = np.zeros(int(bins.max(initial=0)) + 1)
    bin_count = np.zeros(len(bin_sum), dtype=np.int64)
    numbers = structure.numbers[errors.edge_index]
    for first, second in np.unique(numbers, axis=1).T.tolist():
        edges = np.flatnonzero((numbers[0] == first) & (numbers[1] == second))
        values = _stacked(errors, edges)
        np.add.at(bin_sum, bins[edges], weight[edges] * values.sum(axis=(1, 2)))
        np.add.at(bin_count, bins[edges], weight[edges] * values[0].size)
        spins = 2 if structure.spinful else 1
        rows, columns = (_shell_slices(structure.orbitals[z], spins) for z in (first, second))
        for row_name, row in rows.items():
            for column_name, column in columns.items():
                piece = values[:, row][:, :, column]
                per_edge = piece.sum(axis=(1, 2))
                _add(block_sum, block_count, f"{row_name}-{column_name}", per_edge, piece[0].size)
                if half:
                    reverse = per_edge[weight[edges] == 2]
                    _add(block_sum, block_count, f"{column_name}-{row_name}", reverse, piece[0].size)
    return StructureErrors(structure.name, block_sum, block_count, bin_sum, bin_count)


def _add(sums: dict[str, float], counts: dict[str, int], name: str, per_edge: FloatArray, elements: int) -> None:
    if len(per_edge):
        sums[name] = sums.get(name, 0.0) + float(per_edge.sum())
        counts[name] = counts.get(name, 0) + len(per_edge) * elements


def _stacked(blocks: Blocks, edges: NDArray[np.int64]) -> FloatArray:
    """(n, a, b) blocks of some pairs of equal shape."""
    rows, columns = blocks.shapes[edges[0]].tolist()
    positions = blocks.offsets[edges][:, None] + np.arange(rows * columns)
    return np.asarray(blocks.values[positions].reshape(len(edges), rows, columns), dtype=np.float64)


def _shell_slices(shells: Sequence[int], spins: int) -> dict[str, NDArray[np.int64]]:
    """Orbital positions of every shell of an element by its label (s1, s2, p1, ...), in all spin components."""
    basis = OrbitalBasis(tuple(shells))
    offsets = np.arange(spins)[:, None] * basis.num_orbitals
    return {
        name: (np.arange(piece.start, piece.stop) + offsets).reshape(-1)
        for name, piece in zip(basis.names, basis.slices, strict=True)
    }


def mae_all(errors: Sequence[StructureErrors]) -> float:
    """MAE_all: mean of m_s over the structures (not pooled), meV (docs/method.md)."""
    return float(np.mean([entry.mean for entry in _filled(errors)])) * MEV


def mae_cha_sample(errors: Sequence[StructureErrors], baseline: Sequence[StructureErrors]) -> float:
    """MAE_cha_sample: m_s of the structure on which the *baseline* is worst, meV (docs/method.md).

    Args:
        errors: of the model in question.
        baseline: of DeepHE3 on the same structures.

    Raises:
        DataError: the two are not of the same structures.
    """
    own = {entry.name: entry.mean for entry in _filled(errors)}
    reference = {entry.name: entry.mean for entry in _filled(baseline)}
    return _at_worst(own, reference, "structures") * MEV


def mae_block(errors: Sequence[StructureErrors]) -> dict[str, float]:
    """MAE_block: mean |ΔH| of each basic block, pooled over all edges of all structures, meV (docs/method.md)."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for entry in _filled(errors):
        for name, value in entry.block_sum.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + entry.block_count[name]
    return {name: sums[name] / counts[name] * MEV for name in sums}


def mae_cha_block(errors: Sequence[StructureErrors], baseline: Sequence[StructureErrors]) -> float:
    """MAE_cha_block: MAE_block of the block in which the *baseline* is worst, meV (docs/method.md).

    Raises:
        DataError: the two do not have the same blocks.
    """
    return _at_worst(mae_block(errors), mae_block(baseline), "blocks")


def mae_distance(errors: Sequence[StructureErrors]) -> list[dict[str, float]]:
    """Mean |ΔH| in meV of the pairs in every distance bin; on-site elements are in bin 0.

    Returns:
        One entry per bin that has pairs: ``{"from": Å, "to": Å, "mae": meV, "elements": number}``.
    """
    bins = max(len(entry.bin_sum) for entry in _filled(errors))
    total, count = np.zeros(bins), np.zeros(bins, dtype=np.int64)
    for entry in errors:
        total[: len(entry.bin_sum)] += entry.bin_sum
        count[: len(entry.bin_count)] += entry.bin_count
    return [
        {
            "from": k * DISTANCE_BIN,
            "to": (k + 1) * DISTANCE_BIN,
            "mae": float(total[k] / count[k]) * MEV,
            "elements": float(count[k]),
        }
        for k in np.flatnonzero(count).tolist()
    ]


def subset_metrics(errors: Sequence[StructureErrors]) -> dict[str, Any]:
    """Metrics of one subset as they stand in a run record, errors in meV.

    The challenging metrics are relative to the model itself until ``relative_to_baseline`` fills them in from a
    baseline's record; ``cha_reference`` says which of the two they are.
    """
    return {
        "mae_all": mae_all(errors),
        "mae_cha_sample": mae_cha_sample(errors, errors),
        "mae_cha_block": mae_cha_block(errors, errors),
        "cha_reference": "self",
        "mae_block": mae_block(errors),
        "per_structure": {entry.name: entry.mean * MEV for entry in errors},
        "per_distance": mae_distance(errors),
    }


def relative_to_baseline(
    metrics: Mapping[str, Mapping[str, Any]], baseline: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Metrics of a run record with the challenging ones taken where the baseline is worst.

    Args:
        metrics: ``{"nt": {...}, "t": {...}}`` or ``{"all": {...}}`` of a run.
        baseline: the same of DeepHE3 on the same data.

    Returns:
        A copy of `metrics`, with ``cha_reference`` set to ``DeepHE3`` in the subsets that both have.

    Raises:
        DataError: the baseline is no record of the same subsets, or not of the same structures or blocks.
    """
    check_baseline(baseline, {subset: own["per_structure"] for subset, own in metrics.items()})
    filled: dict[str, dict[str, Any]] = {}
    for subset, own in metrics.items():
        filled[subset] = dict(own)
        if subset in baseline:
            other = baseline[subset]
            sample = _at_worst(own["per_structure"], other["per_structure"], "structures")
            block = _at_worst(own["mae_block"], other["mae_block"], "blocks")
            filled[subset].update(mae_cha_sample=sample, mae_cha_block=block, cha_reference=BASELINE)
    return filled


def check_baseline(baseline: Mapping[str, Any], structures: Mapping[str, Iterable[str]]) -> None:
    """Refuse a baseline's metrics that cannot be compared with those of some structures.

    Args:
        baseline: ``metrics`` of its run record.
        structures: names by subset.

    Raises:
        DataError: it has none of the subsets, no errors in them, or those of other structures.
    """
    common = [subset for subset in structures if subset in baseline]
    if not common:
        raise DataError(
            f"expected a baseline with the subset {' or '.join(structures)}, found {', '.join(baseline) or 'none'}; "
            "measure the baseline on the same data"
        )
    for subset in common:
        for name in ("per_structure", "mae_block"):
            table = baseline[subset].get(name) if isinstance(baseline[subset], Mapping) else None
            if not isinstance(table, Mapping) or not all(type(value) in (int, float) for value in table.values()):
                where = f"metrics.{subset}.{name}"
                raise DataError(f"baseline: expected numbers by name in {where}, found {str(table)[:80]}")
        _check_names(structures[subset], baseline[subset]["per_structure"], "structures")


def _check_names(own: Iterable[str], reference: Mapping[str, float], what: str) -> None:
    difference = sorted(set(own) ^ reference.keys())
    if difference:
        raise DataError(f"expected the same {what} as the baseline, found a difference in {', '.join(difference[:5])}")


def _at_worst(own: Mapping[str, float], reference: Mapping[str, float], what: str) -> float:
    """Value of `own` where `reference` is largest (the first name of equal ones)."""
    _check_names(own, reference, what)
    return float(own[max(sorted(reference), key=lambda name: reference[name])])


def _filled(errors: Sequence[StructureErrors]) -> Sequence[StructureErrors]:
    if not errors:
        raise DataError("expected at least one structure to measure errors on, found none")
    return errors
