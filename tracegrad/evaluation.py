"""A trained network on test structures: predictions and the metrics of the paper's tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tracegrad.atomic import atomic_write
from tracegrad.config import Config
from tracegrad.data import DATABASES, Blocks, Dataset, Structure, StructureSequence, load_dataset
from tracegrad.errors import DataError, did_you_mean
from tracegrad.graph import TargetLayout, build_graph
from tracegrad.metrics import StructureErrors, check_baseline, relative_to_baseline, structure_errors, subset_metrics
from tracegrad.model import frame_degree, predict_blocks
from tracegrad.physics import physics_metrics
from tracegrad.training.checkpoint import DataSummary, check_same_data, load_checkpoint
from tracegrad.training.device import choose_device, cpu_threads, process_rank
from tracegrad.training.folder import FINAL_FILE, threads_of

RECORD_FILE = "run.json"
UNTWISTED_KEYS = ("MG", "MM")  # their one test subset is called "all" in the tables


def evaluate_structures(model: nn.Module, structures: Iterable[Structure]) -> list[StructureErrors]:
    """Errors on every structure, one at a time; nothing is kept but sums.

    Args:
        model: trained network.
        structures: with Hamiltonians; the graph of each has exactly the pairs of its Hamiltonian.
    """
    return [structure_errors(_predicted(model, structure), structure) for structure in structures]


def evaluate_physics(model: nn.Module, structures: Sequence[Structure]) -> dict[str, Any]:
    """What the errors of the first structure mean: :func:`tracegrad.physics.physics_metrics`.

    Args:
        model: trained network.
        structures: of one subset; with an overlap there are energies, states and a gap.
    """
    structure = structures[0]
    return physics_metrics(_predicted(model, structure), structure)


def _predicted(model: nn.Module, structure: Structure) -> Blocks:
    """Hamiltonian on exactly the pairs of the structure's own."""
    parameter, targets = next(model.parameters()), cast(TargetLayout, model.targets)
    graph: Any = build_graph(structure, targets, lmax=frame_degree(model), dtype=parameter.dtype)
    with torch.inference_mode():
        return predict_blocks(model, graph.to(parameter.device))


def evaluate_dataset(model: nn.Module, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Metrics of all test subsets in meV: ``{"all": ...}``, or ``{"nt": ..., "t": ...}`` for bilayers.

    Each also has ``physics``, the errors of energies, states and gap of its first structure.

    Raises:
        DataError: there is no test structure.
    """
    return {
        name: {**subset_metrics(evaluate_structures(model, subset)), "physics": evaluate_physics(model, subset)}
        for name, subset in _test_subsets(dataset).items()
    }


def _test_subsets(dataset: Dataset) -> dict[str, StructureSequence]:
    """The test structures under the names that the tables have for them."""
    twisted = len(dataset.test_twisted) > 0
    first = "nt" if twisted or dataset.key not in UNTWISTED_KEYS else "all"
    subsets = {first: dataset.test, "t": dataset.test_twisted}
    filled = {name: subset for name, subset in subsets.items() if len(subset)}
    if not filled:
        raise DataError(f"{dataset.key}: expected test structures, found none; check the split")
    return filled


def evaluate_checkpoint(
    path: str | Path, data: str, key: str | None = None, *, baseline: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Metrics of a checkpoint on the test structures of a database.

    Args:
        path: ``final.ckpt`` of a run.
        data: key of a bundled database, or a path to data; a key is never taken for a path.
        key: name of the database where `data` is a path; by default that of the training.
        baseline: run record of DeepHE3 that the challenging metrics refer to.

    Returns:
        ``{"checkpoint", "setting", "dataset", "source", "split_sha256", "trained_on", "metrics"}``.

    Raises:
        CheckpointError: the file is not a checkpoint, or is one for other elements, orbitals or spin.
        DataError: there are no such data, another key is given for a bundled database, or the baseline is of other
            structures; said before anything is measured.
    """
    model, config, rest = load_checkpoint(path)
    summary: DataSummary = rest["data"]
    is_path = data not in DATABASES
    if key is not None and not is_path and key != data:
        raise DataError(
            f"--key {key}: expected with --data only where that is a path, found --data {data}; leave it out"
        )
    if is_path and not Path(data).exists():
        raise DataError(f"{data}: neither such a path nor such a database exists. {did_you_mean(data, DATABASES)}")
    dataset = load_dataset(key or summary.key, source=data) if is_path else load_dataset(data)
    check_same_data(path, summary, dataset.orbitals, dataset.spinful)
    if baseline is not None:
        _check_baseline(baseline, dataset)
    metrics = evaluate_dataset(model, dataset)
    return {
        "checkpoint": Path(path).name,
        "setting": config.model.setting,
        "dataset": dataset.key,
        "source": str(dataset.source),
        "split_sha256": dataset.split_sha256,
        "trained_on": {"dataset": summary.key, "split_sha256": summary.split_sha256},
        "metrics": metrics if baseline is None else relative_to_baseline(metrics, baseline["metrics"]),
    }


def _check_baseline(baseline: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a baseline that is not measured on the test structures of the data."""
    check_baseline(baseline["metrics"], {name: subset.names for name, subset in _test_subsets(dataset).items()})


def run_and_record(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    baseline: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Train, then measure the checkpoint on the test structures: leaves ``final.ckpt`` and ``run.json`` in a folder.

    Args:
        config: what to do.
        out: folder of the run.
        resume: continue the run in the folder; what is complete is not repeated.
        quiet: no progress display.
        baseline: run record of DeepHE3 that the challenging metrics refer to.
        dataset: the data; by default those that the configuration names.

    Returns:
        The run record, as in ``runs/*.json`` of a sweep, errors in meV; empty in all processes of a run but the first.

    Raises:
        DataError: a test structure is damaged or has no Hamiltonian, or the baseline is of other structures; said
            before the training.
    """
    from tracegrad.training.run import train

    data = dataset or load_dataset(config.data.dataset, source=config.data.source)
    if baseline is not None:
        _check_baseline(baseline, data)
    if not (Path(out) / FINAL_FILE).is_file():  # else nothing is trained that a fault could make useless
        _check_test_structures(data)
    checkpoint = train(config, out, resume=resume, quiet=quiet, dataset=data)
    record_file = Path(out) / RECORD_FILE
    if process_rank(config.training) > 0:
        return {}
    if resume and record_file.is_file():
        return read_record(record_file) if baseline is None else _compare_record(record_file, baseline["metrics"])
    model, _, rest = load_checkpoint(checkpoint)
    with cpu_threads(threads_of(Path(out), 0)):
        metrics = evaluate_dataset(model.to(choose_device(config.training)), data)
    if baseline is not None:
        metrics = relative_to_baseline(metrics, baseline["metrics"])
    record = make_record(config, data, metrics, rest["info"])
    write_record(record_file, record)
    return record


def _check_test_structures(dataset: Dataset) -> None:
    """Read every test structure once, which checks it; in all processes of a run, so that none waits for another."""
    for subset in _test_subsets(dataset).values():
        for structure in subset:
            if structure.hamiltonian is None:
                raise DataError(
                    f"{structure.name}: expected a Hamiltonian to measure the network on, found none; add it, or take "
                    "the structure out of the test structures"
                )


def _compare_record(path: Path, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a finished run with its challenging metrics taken where a baseline is worst, in the file too."""
    record = read_record(path)
    try:
        metrics = relative_to_baseline(record["metrics"], baseline)
    except (KeyError, TypeError):
        raise DataError(
            f"{path}: expected per_structure and mae_block in the metrics of every subset, found a record without; "
            "remove it, and --resume measures the run again"
        ) from None
    if metrics != record["metrics"]:
        record["metrics"] = metrics
        write_record(path, record)
    return record


def make_record(config: Config, data: Dataset, metrics: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Run record: everything needed to repeat the run, errors in meV."""
    return {
        "dataset": data.key,
        "setting": config.model.setting,
        "seed": config.training.seed,
        "source": str(config.data.source),
        "preset": config.preset,
        "recipe": config.recipe,
        "metrics": dict(metrics),
        **info,
        "split_sha256": data.split_sha256,
        "config": config.to_dict(),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a run record as JSON; numbers that are not finite are refused."""
    text = json.dumps(record, indent=1, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Run record from a file.

    Raises:
        DataError: missing, not JSON, or without metrics.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a run record: {str(error)[:200]}") from None
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise DataError(f"{path}: expected a run record with 'metrics', found something else")
    return cast(dict[str, Any], record)
