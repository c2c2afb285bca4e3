"""The trained network as one file: weights and buffers, configuration, orbitals, and what it was trained on."""

from __future__ import annotations

import pickle
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tracegrad import __version__
from tracegrad.atomic import atomic_write
from tracegrad.config import Config, ModelConfig, config_from_dict
from tracegrad.data.cutoffs import PairCutoffs
from tracegrad.data.structure import Orbitals
from tracegrad.errors import CheckpointError, TracegradError
from tracegrad.graph import TargetLayout
from tracegrad.model import build_network
from tracegrad.model.build import NetworkConfig

KIND = "tracegrad/network"
FORMAT = 1
BACKBONE = (  # options of every network that decide what its weights do
    *("lmax_sh", "num_blocks", "r_max", "num_radial", "norm", "num_neighbors", "envelope", "envelope_end"),
    *("hermitian", "reference", "reference_only", "scaling"),
)
INVARIANTS = ("operator", "operator_rank", "operator_norm")  # ... of the map from features to z
SECOND_STAGE = ("harmose_blocks", "harmose_heads")
PACKAGES = ("torch", "numpy", "e3nn", "torch-geometric", "lightning", "ase", "h5py")


@dataclass(frozen=True)
class DataSummary:
    """What a network must know of the data it was made for; stands in for the dataset when a checkpoint is read.

    Args:
        key: of the database.
        source: where the data came from.
        orbitals: atomic number -> angular momenta of the shells.
        spinful: whether Hamiltonians have spin blocks.
        split_sha256: hash of the split.
        cutoff: longest pair of the training structures, Å; None where nothing was trained here.
        pair_cutoffs: that of the pairs of elements whose blocks end before, Å.
    """

    key: str
    source: str
    orbitals: Orbitals
    spinful: bool
    split_sha256: str
    cutoff: float | None = None
    pair_cutoffs: PairCutoffs = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Any, cutoff: float | None = None, cutoffs_of_pairs: PairCutoffs | None = None) -> DataSummary:
        """Summary of a ``tracegrad.data.Dataset``; the cutoffs are those of its training structures, Å."""
        orbitals = {int(z): tuple(int(l) for l in shells) for z, shells in dataset.orbitals.items()}
        return cls(
            dataset.key,
            str(dataset.source),
            orbitals,
            bool(dataset.spinful),
            dataset.split_sha256,
            cutoff,
            cutoffs_of_pairs or {},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        orbitals = {str(z): list(shells) for z, shells in self.orbitals.items()}
        pairs = [[a, b, length] for (a, b), length in self.pair_cutoffs.items()]
        return {**vars(self), "orbitals": orbitals, "pair_cutoffs": pairs}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> DataSummary:
        """Inverse of ``to_dict``."""
        orbitals = {int(z): tuple(int(l) for l in shells) for z, shells in record["orbitals"].items()}
        names = (str(record["key"]), str(record["source"]))
        cutoff = record.get("cutoff")
        return cls(
            *names,
            orbitals,
            bool(record["spinful"]),
            str(record["split_sha256"]),
            None if cutoff is None else float(cutoff),
            {(int(a), int(b)): float(length) for a, b, length in record.get("pair_cutoffs", ())},
        )


def save_checkpoint(
    path: str | Path, model: nn.Module, config: Config, data: DataSummary, info: Mapping[str, Any]
) -> None:
    """Write a trained network; the file appears complete or not at all.

    Args:
        path: file to write.
        model: the network; weights and buffers (scales, reference) are saved.
        config: it was built and trained with.
        data: what it was trained on.
        info: further plain data, e.g. epochs and losses.
    """
    content = {
        "kind": KIND,
        "format": FORMAT,
        "config": config.to_dict(),
        "data": data.to_dict(),
        "info": {**info, "versions": versions()},
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | Path) -> tuple[nn.Module, Config, dict[str, Any]]:
    """Read a trained network.

    Args:
        path: file written by ``save_checkpoint``.

    Returns:
        The network in evaluation mode on the CPU with the numbers of the file, its configuration, and the rest:
        ``data`` (a ``DataSummary``) and ``info``.

    Raises:
        CheckpointError: missing, truncated, of another kind, or not loadable into the network that it describes.
    """
    path = Path(path)
    content = read_tensors(path)
    if content.get("kind") != KIND:
        raise CheckpointError(
            f"{path}: expected a trained network ({KIND}), found {describe(content)}; "
            "the file to use is final.ckpt of a training folder"
        )
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT}, found {content.get('format')}; update tracegrad")
    try:
        config = config_from_dict(content["config"], str(path))
        data = DataSummary.from_dict(content["data"])
        tensors = content["state_dict"]
        dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
        model = make_network(config.model, data).to(dtype)
        model.load_state_dict(tensors)
    except CheckpointError:
        raise
    except (TracegradError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: the weights do not fit the network they describe: {first[:300]}") from None
    return model.eval(), config, {"data": data, "info": dict(content["info"])}


def make_network(config: ModelConfig, data: DataSummary) -> nn.Module:
    """Network for data of some kind, with fresh weights from torch's generator."""
    targets = TargetLayout(data.orbitals, data.spinful, config.time_reversal)
    return build_network(cast(NetworkConfig, config), targets)


def start_from(path: str | Path, model: nn.Module, config: ModelConfig, data: DataSummary) -> list[str]:
    """Take weights, scales and reference from another network, e.g. the baseline below a new gradient operator.

    Gains that are not trained are those of the configuration, not of the checkpoint.

    Args:
        path: checkpoint to take them from.
        model: network to fill; what the checkpoint lacks stays as it is.
        config: of that network.
        data: what the network will be trained on.

    Returns:
        Names of the tensors that the checkpoint lacks.

    Raises:
        CheckpointError: other orbitals or spin, a tensor of another shape, nothing in common, or a configuration with
            which the same weights are another function.
    """
    source, before, rest = load_checkpoint(path)
    check_same_data(path, rest["data"], data.orbitals, data.spinful)
    given, wanted = source.state_dict(), model.state_dict()
    common = [name for name in wanted if name in given]
    wrong = [name for name in common if given[name].shape != wanted[name].shape]
    if wrong or not common:
        example = (
            f"{wrong[0]}: {tuple(given[wrong[0]].shape)} -> {tuple(wanted[wrong[0]].shape)}" if wrong else "none fit"
        )
        raise CheckpointError(
            f"{path}: its tensors do not fit this network ({example}); use the same widths and orbitals"
        )
    changed = changed_meaning(before.model, config, data.spinful)
    if changed:
        raise CheckpointError(
            f"{path}: its weights are another function with this configuration ({', '.join(changed)}); give the values "
            "that they were trained with, or leave training.start_from out"
        )
    fixed = [] if config.operator_gain_learned else [name for name in common if "gains" in name.split(".")]
    model.load_state_dict({name: given[name] for name in common if name not in fixed}, strict=False)
    return [name for name in wanted if name not in given]


def changed_meaning(before: ModelConfig, after: ModelConfig, spinful: bool) -> list[str]:
    """Name what makes another function of the weights that two networks have in common.

    What one of them lacks is free: the gradient operator and the trace decoder over a baseline, the components that
    time reversal leaves out where there is no spin.

    Args:
        before: the weights were trained with it.
        after: the weights shall be used with it.
        spinful: whether the Hamiltonians have spin blocks.

    Returns:
        The keys that differ, with both values.
    """
    names = [*BACKBONE, *(("time_reversal",) if spinful else ())]
    settings = (before.setting, after.setting)
    if "DeepHE3" not in settings and "HarmoSE" not in settings:
        names += INVARIANTS
    if all(setting.startswith("HarmoSE") for setting in settings):
        names += SECOND_STAGE
    ends = (0.0 if config.envelope_end == config.r_max else config.envelope_end for config in (before, after))
    old, new = ({**vars(config), "envelope_end": end} for config, end in zip((before, after), ends, strict=True))
    return [f"model.{name}: {old[name]!r} -> {new[name]!r}" for name in names if old[name] != new[name]]


def check_same_data(path: str | Path, data: DataSummary, orbitals: Mapping[int, Any], spinful: bool) -> None:
    """Refuse a checkpoint on data with other elements, orbitals or spin.

    Raises:
        CheckpointError: naming what the network knows and what the data have.
    """
    found = {int(z): tuple(shells) for z, shells in orbitals.items()}
    strange = {z: shells for z, shells in found.items() if data.orbitals.get(z) != shells}
    if strange or spinful != data.spinful:
        raise CheckpointError(
            f"{path}: made for {data.key} with the shells {data.orbitals} (spinful = {data.spinful}), the data have "
            f"{found} (spinful = {spinful}); use a checkpoint that was trained on such data"
        )


WAY_OUT = "give another file; a run whose last.ckpt is damaged starts afresh in a new folder"


def read_tensors(path: Path) -> dict[str, Any]:
    """Dictionary of tensors and plain data from a file; code in it is never run.

    Raises:
        CheckpointError: missing, truncated, not such a file, or holding anything but tensors and plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; expected the checkpoint of a run")
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({size} bytes); {WAY_OUT}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path}: holds more than tensors and plain data, which is not read for safety") from None
    except Exception as error:  # what a damaged file raises depends on the place of the damage
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: truncated or not a checkpoint ({size} bytes): {first[:200]}; {WAY_OUT}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(content).__name__}")
    return cast(dict[str, Any], content)


def weights_of_state(path: Path) -> dict[str, Tensor]:
    """Weights and buffers of the network in a state to resume from.

    Args:
        path: file written by Lightning in the folder of a run.

    Raises:
        CheckpointError: as :func:`read_tensors`, or the file holds no such state.
    """
    content = read_tensors(path)
    if "pytorch-lightning_version" not in content:
        raise CheckpointError(f"{path}: expected the state of an unfinished run, found {describe(content)}; {WAY_OUT}")
    prefix = "model."
    return {name.removeprefix(prefix): t for name, t in content["state_dict"].items() if name.startswith(prefix)}


def describe(content: Mapping[str, Any]) -> str:
    """What a file holds, in words."""
    if "pytorch-lightning_version" in content:
        return "the state of an unfinished run"
    if isinstance(content.get("kind"), str):
        return repr(content["kind"])
    return f"a dictionary with the keys {', '.join(sorted(map(str, content))[:5])}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "tracegrad": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
