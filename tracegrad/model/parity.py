"""Parity with the public DeepH-E3 code: the network of a case file on the input of the file, number by number."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.errors import DataError
from tracegrad.graph import TargetLayout, graph_from_pairs
from tracegrad.model.deephe3 import DeepHE3
from tracegrad.model.deephe3_description import DeepHE3Description, description_of_case
from tracegrad.model.deephe3_weights import deephe3_channels, node_output
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.so3 import irreps_to_block, to_convention
from tracegrad.so3.frames import FrameBlocks

TOLERANCE = 1e-10  # relative, float64
INPUTS = ("in/numbers", "in/positions", "in/cell", "in/edge_index", "in/cell_shift")
OUTPUTS = ("out/node", "out/edge_irreps", "out/H_openmx")


def compare_case(
    path: str | Path,
    backend: str = "fast",
    device: torch.device | str = "cpu",
    *,
    checkpoint: tuple[DeepHE3Description, Mapping[str, Tensor]] | None = None,
) -> dict[str, Any]:
    """Run the network of a case and compare its three outputs.

    Args:
        path: file of the form of ``reference/deephe3/*.npz``.
        backend: ``"fast"`` or ``"e3nn"``.
        device: where the network runs.
        checkpoint: description and weights of the network, by default those in the file.

    Returns:
        ``case``, ``dtype``, and ``max_abs`` and ``max_rel`` (of the largest reference value) for ``node``,
        ``edge_irreps`` and ``H``.

    Raises:
        DataError: the file is missing, truncated, or not such a case.
        CheckpointError: its weights do not fit the network that it describes.
    """
    arrays = _read(Path(path))
    description, name = _description(arrays, path)
    state = {key.removeprefix("state/"): _tensor(arrays[key]) for key in arrays if key.startswith("state/")}
    if checkpoint is not None:
        description, state = checkpoint[0], dict(checkpoint[1])
    state = {key: value.double() for key, value in state.items() if value.is_floating_point()}
    if not state:
        raise DataError(f"{path}: expected weights under state/, found none")
    model = description.network(state)
    graph, order = graph_of_case(arrays, model.targets, path)
    network = E3nnDeepHE3(model.to(device)) if backend == "e3nn" else model.to(device)
    with torch.no_grad():
        node_feats = [block.cpu() for block in network.encode(graph.to(device))[0]]
        irreps = network(graph)["edge_irreps"].cpu()
        found = _outputs(model.cpu(), node_feats, irreps, state, description)
    maxima = {}
    for output, key in zip(("node", "edge_irreps", "H"), OUTPUTS, strict=True):
        reference = _tensor(arrays[key])
        ours = found[output] if output == "node" else found[output][order]
        if ours.shape != reference.shape:
            raise DataError(f"{path}: {key}: expected the shape {tuple(ours.shape)}, found {tuple(reference.shape)}")
        maxima[output] = (float((ours - reference).abs().max()), float(reference.abs().max()))
    return {
        "case": name,
        "dtype": "float64",
        "max_abs": {output: error for output, (error, _) in maxima.items()},
        "max_rel": {output: error / max(scale, 1e-300) for output, (error, scale) in maxima.items()},
    }


def passed(result: dict[str, Any]) -> bool:
    """True when every output agrees to :data:`TOLERANCE`; a NaN does not."""
    return all(error <= TOLERANCE for error in result["max_rel"].values())


def blocks_in_openmx_order(irreps: Tensor, targets: TargetLayout) -> Tensor:
    """All blocks of all edges, flattened and concatenated, orbitals in OpenMX's order.

    Args:
        irreps: ``(E, D)`` orthonormal irreps in the global frame, eV.
        targets: what they are.

    Returns:
        ``(E, n)``, or with spin ``(E, 4, n)`` complex, second axis uu, ud, du, dd.
    """
    parts = []
    for channel, piece in zip(targets.channels, targets.channel_slices, strict=True):
        l1, l2 = channel.row[0], channel.column[0]
        block = irreps_to_block(irreps[:, piece], l1, l2, targets.spinful, targets.time_reversal)
        block = to_convention(block, [l1], [l2], "openmx")
        parts.append(block.reshape(len(block), 4, -1) if targets.spinful else block.flatten(1))
    return torch.cat(parts, dim=-1)


def _outputs(
    model: DeepHE3,
    node_feats: FrameBlocks,
    irreps: Tensor,
    state: dict[str, Tensor],
    description: DeepHE3Description,
) -> dict[str, Tensor]:
    """Outputs in the order and normalisation of DeepH-E3, edges in the order of our graph."""
    targets, slices = model.targets, model.targets.irreps.slices()
    scaled = [irreps[:, slices[c]] / targets.component_scale[c] for c in deephe3_channels(targets).tolist()]
    return {
        "node": node_output(model, state, node_feats, description.irreps["irreps_post_node"]),
        "edge_irreps": torch.cat(scaled, dim=1),
        "H": blocks_in_openmx_order(irreps, targets),
    }


def graph_of_case(arrays: Mapping[str, Any], targets: TargetLayout, path: str | Path) -> tuple[Data, Tensor]:
    """Graph of the input of a case, and the row of our edges for every edge of the file.

    Args:
        arrays: arrays of the file.
        targets: what is predicted.
        path: named in messages.

    Raises:
        DataError: a self-loop or a direction is missing, or an edge occurs twice.
    """
    numbers, positions, cell, edge_index, cell_shift = (_tensor(arrays[name]) for name in INPUTS)
    keys = [tuple(key) for key in torch.cat([cell_shift, edge_index.T], dim=1).tolist()]
    half = [e for e, (a, b, c, i, j) in enumerate(keys) if (a, b, c, i, j) > (-a, -b, -c, j, i)]
    pairs = edge_index[:, half], cell_shift[half]
    graph = graph_from_pairs(numbers, positions, cell, *pairs, targets, name=str(path))
    ours = torch.cat([graph.cell_shift, graph.edge_index.T], dim=1).tolist()
    row = {tuple(key): e for e, key in enumerate(ours)}
    if sorted(row) != sorted(keys):
        raise DataError(f"{path}: expected every self-loop and both directions of every pair once, found other edges")
    return graph, torch.tensor([row[key] for key in keys])


def _description(arrays: dict[str, Any], path: str | Path) -> tuple[DeepHE3Description, str]:
    try:
        meta = json.loads(str(arrays["meta"]))
    except ValueError as error:
        raise DataError(f"{path}: meta: expected JSON, found {error}") from None
    if not isinstance(meta, dict):
        raise DataError(f"{path}: meta: expected an object, found {type(meta).__name__}")
    return description_of_case(meta), str(meta.get("case", Path(path).stem))


def _read(path: Path) -> dict[str, Any]:
    """All arrays of a case file."""
    if not path.is_file():
        raise DataError(f"{path}: not found; expected a parity case (.npz)")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected a parity case (.npz), found a damaged or other file: {error}") from None
    missing = [name for name in ("meta", *INPUTS, *OUTPUTS) if name not in arrays]
    if missing:
        raise DataError(f"{path}: expected a parity case, found no {', '.join(missing)}")
    return arrays


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
