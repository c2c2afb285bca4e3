"""Small structures with every hard case: self-loops, a vertical edge, both directions, images of an atom."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from tracegrad.data import DATABASES
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.graph import TargetLayout, cast_graph, graph_from_pairs
from tracegrad.model import DeepHE3, Induction, NetworkSizes

SIZES = NetworkSizes("6x0e+4x1o+3x2e+2x3o", 5, 3, 2, 4.0, 8, "none")
POSITIONS = np.array([[0.0, 0.0, 0.0], [1.3, 0.4, 0.2], [0.0, 0.0, 2.1]])  # the third stands above the first


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Let sums be made in one order."""
    torch.set_num_threads(1)


def layout_of(key: str, time_reversal: bool = True) -> TargetLayout:
    """Return the targets of a database, with the orbitals of the published data."""
    symbols = {"C": 6, "S": 16, "Mo": 42, "Bi": 83, "Te": 52, "Se": 34}
    database = DATABASES[key]
    orbitals = {symbols[name]: shells for name, shells in database.orbitals_published.items()}
    return TargetLayout(orbitals, database.spinful, time_reversal)


def graph_of(
    targets: TargetLayout,
    *,
    rotation: torch.Tensor | None = None,
    positions: np.ndarray | None = None,
    cutoff: float = 2.6,
    cell: np.ndarray | None = None,
    pbc: tuple[bool, bool, bool] = (True, False, False),
    species: tuple[int, ...] | None = None,
) -> Data:
    """Return the graph of a few atoms, without targets."""
    where = POSITIONS if positions is None else positions
    box = np.diag([2.5, 9.0, 9.0]) if cell is None else cell
    elements = targets.elements
    which = species or tuple(k % len(elements) for k in range(len(where)))
    i, j, shift = neighbor_pairs(where, box, np.array(pbc), cutoff)
    R = torch.eye(3, dtype=torch.float64) if rotation is None else rotation
    return graph_from_pairs(
        torch.tensor([elements[k] for k in which]),
        torch.from_numpy(where) @ R.T,
        torch.from_numpy(box) @ R.T,
        torch.from_numpy(np.stack([i, j]).astype(np.int64)),
        torch.from_numpy(np.asarray(shift, dtype=np.int64)),
        targets,
    )


def network_of(
    targets: TargetLayout,
    *,
    sizes: NetworkSizes = SIZES,
    induction: Induction | None = None,
    hermitian: bool = True,
    dtype: torch.dtype = torch.float64,
) -> DeepHE3:
    """Return a network whose weights are all away from zero and one."""
    torch.manual_seed(1)
    model = DeepHE3(targets, sizes, induction, hermitian).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def layout() -> Callable[..., TargetLayout]:
    """Return a maker of target layouts by the key of a database."""
    return layout_of


@pytest.fixture
def graph() -> Callable[..., Data]:
    """Return a maker of graphs."""
    return graph_of


@pytest.fixture
def network() -> Callable[..., DeepHE3]:
    """Return a maker of networks with perturbed weights."""
    return network_of


@pytest.fixture
def single() -> Callable[[Data], Data]:
    """Return a function that casts a graph to float32."""
    return lambda graph: cast_graph(graph.clone(), torch.float32)


@pytest.fixture
def gradients() -> Callable[..., Mapping[str, torch.Tensor]]:
    """Return the gradients of a fixed functional of the outputs by name of the parameter."""

    def of(model: torch.nn.Module, graph: Data) -> dict[str, torch.Tensor]:
        outputs = model.in_frame(graph)
        total = sum((x * torch.cos(torch.arange(x.numel()).view_as(x).to(x))).sum() for x in outputs.values())
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        found = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named, found, strict=True)}

    return of


@pytest.fixture
def case(root: Path) -> Callable[[str], Path]:
    """Return the file of a parity case."""
    return lambda name: root / "tests" / "reference" / "deephe3" / f"{name}.npz"


@pytest.fixture
def arrays_of(case: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """Return a reader of all arrays of a parity case."""

    def read(name: str) -> dict[str, Any]:
        with np.load(case(name)) as file:
            return {key: file[key] for key in file.files}

    return read


@pytest.fixture
def run_folder(arrays_of: Callable[[str], dict[str, Any]], tmp_path: Path) -> Path:
    """Return the folder of a DeepH-E3 run with the weights of the spinless case."""
    arrays = arrays_of("spinless_mos2")
    meta = json.loads(str(arrays["meta"]))
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state/")}
    state["edge_update_blocks.0.conv.tp.tp._compiled_main_left_right._w3j"] = torch.zeros(3)
    (tmp_path / "src").mkdir()
    torch.save({"epoch": 7, "val_loss": 1e-6, "state_dict": state, "optimizer": {}}, tmp_path / "best_model.pkl")
    irreps = {f"irreps_{place}_{kind}": meta[f"irreps_{place}"] for place in ("mid",) for kind in ("node", "edge")}
    irreps |= {"irreps_embed_node": meta["irreps_embed"], "irreps_edge_init": meta["irreps_embed"]}
    irreps |= {name: meta[name] for name in ("irreps_sh", "irreps_post_node", "irreps_post_edge", "irreps_out_edge")}
    numbers = {"num_block": meta["num_blocks"], "r_max": meta["gaussian_stop"], "use_sbf": False, "only_ij": False}
    call = ",\n    ".join(f"{name}={value!r}" for name, value in (irreps | numbers).items())
    (tmp_path / "src" / "build_model.py").write_text(f"from deephe3_1 import Net\nnet = Net(\n    {call}\n)\n")
    shells = [meta["orbitals"][str(Z)] for Z in meta["elements"]]
    info = {"spinful": False, "index_to_Z": meta["elements"], "orbital_types": shells}
    (tmp_path / "src" / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path
