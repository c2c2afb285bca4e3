"""Small structures with every hard case: self-loops, a vertical edge, both directions, images of an atom."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
