"""Training graphs, all in memory, and the order in which they are used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.config import ModelConfig
from tracegrad.data import Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.graph import TargetLayout, build_graph, collate
from tracegrad.model.output import OutputTransform
from tracegrad.so3 import random_rotation

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build_graphs(
    structures: Sequence[Structure],
    layout: TargetLayout,
    *,
    lmax: int | None = None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> list[Data]:
    """Graphs with targets of all structures; each is computed once, in float64, then cast and moved.

    Args:
        structures: with Hamiltonians.
        layout: which blocks are predicted.
        lmax: largest degree of the frames, as in :func:`tracegrad.graph.build_graph`.
        dtype: precision of the training.
        device: where the graphs stay during training.

    Raises:
        DataError: there is no structure, or one has no Hamiltonian.
    """
    if not len(structures):
        raise DataError(
            "expected at least one structure to train on and one to validate on, found none of one of them; write a "
            "split.json, or give at least five structures that are not twisted"
        )
    graphs = []
    for structure in structures:
        if structure.hamiltonian is None:
            raise DataError(f"{structure.name}: expected a Hamiltonian to learn from, found none")
        graphs.append(build_graph(structure, layout, lmax=lmax, dtype=dtype).to(device))
    return graphs


def longest_pair(graphs: Sequence[Data]) -> float:
    """Length of the longest edge in Å, rounded up past the precision of float32."""
    return max(float(graph.edge_vectors.norm(dim=1).max()) for graph in graphs) * (1 + 1e-6)


def calibrate(model: nn.Module, config: ModelConfig, graphs: Sequence[Data]) -> None:
    """Fit scale and reference of a network to the training graphs, where it has them.

    Args:
        model: network; one without ``calibrate(graphs)`` has no scale and no reference.
        config: of the network.
        graphs: training graphs with targets.

    Raises:
        ConfigError: a scale or a reference is asked for and the network has none.
    """
    if hasattr(model, "calibrate"):
        model.calibrate(graphs)  # type: ignore[operator]
    elif config.reference or config.scaling != "none":
        raise ConfigError(
            f"model.reference {config.reference} and model.scaling {config.scaling!r}: expected a network with "
            f"calibrate(graphs), which fits them, found {type(model).__name__} without; set them to false and none, or "
            "add the method (docs/extending.md)"
        )


def output_of(model: nn.Module) -> OutputTransform:
    """The part of a network that adds the two-centre reference.

    Raises:
        ConfigError: the network has none.
    """
    found = next((part for part in model.modules() if isinstance(part, OutputTransform)), None)
    if found is None:
        raise ConfigError(
            "model.trace_of_residual: expected a network with a tracegrad.model.OutputTransform, which holds the "
            f"two-centre reference, found {type(model).__name__} without; set it to false, or add one "
            "(docs/extending.md)"
        )
    return found


def label_residual(graphs: Sequence[Data], output: OutputTransform) -> None:
    """Make the trace labels T those of H minus the two-centre reference, in place.

    Args:
        graphs: training graphs.
        output: reference, fitted.
    """
    layout = output.targets
    block = layout.component_block[layout.frame.component_index[0]]
    for graph in graphs:
        residual = graph.target_frame.clone()
        residual[:, : output.num_pole] -= output.reference_pole(graph, len(residual)).to(residual)
        label = torch.zeros_like(graph.target_trace)
        graph.target_trace = label.index_add_(1, block.to(label.device), residual.square()) * graph.trace_mask


def step_rotation(seed: int, step: int) -> Tensor:
    """The random rotation of a step: a function of the seed and the step alone, (3, 3) float64."""
    return random_rotation(generator=torch.Generator().manual_seed(seed * 1_000_003 + step))


@dataclass(frozen=True)
class BatchOrder:
    """Which structures make up every step: a function of the seed and the step alone.

    No random state is carried along, so a resumed run meets the same batches, and so does every setting of a table.
    Each epoch is a fresh permutation; its last batch may be smaller. Where it has fewer structures than there are
    processes, those without one repeat its first, which then counts more than once.

    Args:
        num_graphs: size of the training set.
        batch_size: structures per step and process.
        seed: seed of the run.
        rank: this process, 0 to ``world_size`` - 1.
        world_size: number of processes; each takes every ``world_size``-th structure of a step.
    """

    num_graphs: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every structure is used once."""
        return math.ceil(self.num_graphs / (self.batch_size * self.world_size))

    def joint(self, step: int) -> list[int]:
        """Structures of a step, counted from the start of the run, in all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_graphs)
        size = self.batch_size * self.world_size
        return [int(k) for k in order[position * size : (position + 1) * size]]

    def indices(self, step: int) -> list[int]:
        """Structures of a step in this process."""
        chosen = self.joint(step)
        return chosen[self.rank :: self.world_size] or chosen[:1]


@dataclass(frozen=True)
class BatchStream:
    """Endless batches of a run, from a step on.

    Args:
        graphs: the training set.
        order: which of them make up every step.
        start: first step.
    """

    graphs: Sequence[Data]
    order: BatchOrder
    start: int = 0

    def __iter__(self) -> Iterator[Data]:
        """Yield the batch of every step."""
        step = self.start
        while True:
            yield collate([self.graphs[k] for k in self.order.indices(step)])
            step += 1
