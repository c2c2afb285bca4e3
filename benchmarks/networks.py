"""Networks and graphs that the speed of the core is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.graph import TargetLayout, cast_graph, graph_from_pairs
from tracegrad.model import DeepHE3, Induction, NetworkSizes

# The defaults of the public DeepH-E3 code: features and harmonics to l = 4, three blocks, norm over the whole graph.
BASELINE = NetworkSizes("64x0e+32x1o+16x2e+8x3o+8x4e", 64, 4, 3, 7.2, 128, "graph")
TARGETS = {6: (0, 0, 1, 1, 2)}
DENSITY = 0.04  # atoms per cubic Å; with the cutoff about 49 directed edges per atom
CUTOFF = 6.6  # Å
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def targets() -> TargetLayout:
    """Carbon with s2p2d1."""
    return TargetLayout(TARGETS, spinful=False)


def random_positions(num_edges: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Positions of random atoms, ``(N, 3)`` Å, and the side of their periodic box, Å.

    Args:
        num_edges: directed edges that they shall have, 49 per atom.
        seed: of the positions.
    """
    random = np.random.default_rng(seed)
    count = max(1, round(num_edges / 49))
    side = (count / DENSITY) ** (1 / 3)
    grid = int(np.ceil(count ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(grid)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = sites[np.sort(random.permutation(len(sites))[:count])]
    return (chosen + random.uniform(-0.2, 0.2, chosen.shape)) * side / grid, side


def pairs_of(positions: np.ndarray, side: float, num_edges: int) -> Pairs:
    """Pairs ``i``, ``j``, ``shift`` within the cutoff, the shortest of them up to a number of directed edges."""
    cell = side * np.eye(3)
    i, j, shift = neighbor_pairs(positions, cell, np.array([True] * 3), CUTOFF)
    distances = np.linalg.norm(positions[j] + shift @ cell - positions[i], axis=1)
    keep = np.sort(np.argsort(distances)[: max(0, (num_edges - len(positions)) // 2)])
    return i[keep], j[keep], shift[keep]


def random_graph(
    num_edges: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    pairs: tuple[np.ndarray, float, Pairs] | None = None,
) -> Data:
    """Graph of random atoms in a periodic box with about so many directed edges, 49 per atom.

    Args:
        num_edges: edges, self-loops and both directions counted.
        dtype: of the positions and frames.
        seed: of the positions.
        pairs: positions, side of the box, and pairs, where they are there already.
    """
    if pairs is None:
        positions, side = random_positions(num_edges, seed)
        pairs = positions, side, pairs_of(positions, side, num_edges)
    positions, side, (i, j, shift) = pairs
    graph = graph_from_pairs(
        torch.full((len(positions),), 6),
        torch.from_numpy(positions),
        side * torch.eye(3, dtype=torch.float64),
        torch.from_numpy(np.stack([i, j]).astype(np.int64)),
        torch.from_numpy(np.asarray(shift, dtype=np.int64)),
        targets(),
    )
    return cast_graph(graph, dtype)


def network(
    induction: Induction | None = None,
    *,
    hermitian: bool = False,
    dtype: torch.dtype = torch.float32,
    sizes: NetworkSizes = BASELINE,
) -> DeepHE3:
    """The baseline at its published widths with random weights; with an induction, a setting of TraceGrad."""
    torch.manual_seed(0)
    return DeepHE3(targets(), sizes, induction, hermitian).to(dtype)


def training_step(model: nn.Module, graph: Data) -> Callable[[], None]:
    """One forward and backward pass of a mean squared error; the gradients are thrown away before each."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(model, graph).backward()

    return step


def loss(model: nn.Module, graph: Data) -> Tensor:
    """Mean square of the outputs, trace labels included."""
    outputs: dict[str, Tensor] = model.in_frame(graph)  # type: ignore[operator]
    return torch.stack([value.square().mean() for value in outputs.values()]).sum()


def inference(model: nn.Module, graph: Data) -> Callable[[], None]:
    """One forward pass without gradients."""

    def run() -> None:
        model.eval()
        with torch.inference_mode():
            model.in_frame(graph)  # type: ignore[operator]
        model.train()

    return run


def rounds(functions: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> Rounds:
    """Seconds of several functions, called in turn so that a slow moment of the machine hits all of them.

    With one thread on the CPU, processor time is taken, so that other work on a shared machine does not count.

    Args:
        functions: what is measured, by name; each is called once before, untimed.
        repeats: rounds; every other one runs in the reverse order.
        device: on ``"cuda"`` the queue is emptied before and after every call.
    """
    clock = process_time if device == "cpu" and torch.get_num_threads() == 1 else perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(repeats + 1):
        for name in list(functions)[:: -1 if round_number % 2 else 1]:
            _synchronize(device)
            start = clock()
            functions[name]()
            _synchronize(device)
            if round_number:
                seconds[name].append(clock() - start)
    return Rounds(seconds)


@dataclass(frozen=True)
class Rounds:
    """Times of some functions.

    Attributes:
        seconds: of every function, one per round.
    """

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median time of a function, s."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of the time of one function over that of another in the same round."""
        return float(np.median(np.array(self.seconds[name]) / np.array(self.seconds[other])))


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def saved_bytes(model: nn.Module, graph: Data) -> int:
    """Bytes that a step keeps for the backward pass, weights left out; storage that is shared counts once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = loss(model, graph)
    inputs = {
        v.untyped_storage().data_ptr() for v in [*graph.to_dict().values(), *graph.wigner] if isinstance(v, Tensor)
    }
    del total
    return sum(size for pointer, size in kept.items() if pointer not in inputs)


_VIEW_NAMES = (
    "view reshape _reshape_alias as_strided expand transpose t permute slice select narrow split "
    "split_with_sizes unbind unsqueeze squeeze detach flatten alias _unsafe_view lift_fresh result_type empty "
    "empty_like empty_strided resize_ chunk unfold diagonal numpy_T mT item _local_scalar_dense is_nonzero "
    "new_empty resolve_conj resolve_neg view_as expand_as as_strided_ detach_ to unflatten movedim"
)
VIEWS = {"aten::" + name for name in _VIEW_NAMES.split()}


def launches(function: Callable[[], None]) -> int:
    """Kernel-like operations of a call: every operator that computes, counted where it calls no other operator.

    Views and empty allocations do not count. On a GPU each of them is at least one kernel.
    """
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(
        1
        for event in profile.events()
        if event.name.startswith("aten::")
        and event.name not in VIEWS
        and not any(child.name.startswith("aten::") and child.name not in VIEWS for child in event.cpu_children)
    )


def exponent(sizes: Sequence[float], seconds: Sequence[float], start: float = 0.0) -> float:
    """Slope of the logarithm of the time over that of the size, by least squares.

    Args:
        sizes: ascending.
        seconds: at every size.
        start: sizes below are left out, unless fewer than two remain.
    """
    chosen = [(n, t) for n, t in zip(sizes, seconds, strict=True) if n >= start]
    chosen = chosen if len(chosen) > 1 else list(zip(sizes, seconds, strict=True))
    logs = np.log(np.array(chosen))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
