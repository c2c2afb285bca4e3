"""Prediction in chunks of edges gives the numbers of the whole graph, whatever the chunks, with memory of a chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tracegrad.data import Blocks, Structure
from tracegrad.errors import ConfigError, DataError
from tracegrad.graph import PairChunks, TargetLayout, build_graph, structure_pairs
from tracegrad.graph.chunks import PairChunk
from tracegrad.model import DeepHE3, HarmoSE, Induction, NetworkSizes, predict_blocks, predict_in_chunks
from tracegrad.model.chunked import frame_degree
from tracegrad.model.e3nn_backend import E3nnDeepHE3

CUTOFF = 4.2
TARGETS = TargetLayout({6: (0, 1), 14: (0, 1, 1)}, spinful=False)
OPERATOR = Induction(operator=True, trace=True, form="low_rank", width=6, gain=0.7, trace_width=5)
THREE_BLOCKS = NetworkSizes("6x0e+4x1o+3x2e+2x3o", 5, 3, 3, 4.0, 8, "none", 7.0, 2)


def structure_of(targets: TargetLayout, num_atoms: int = 9) -> Structure:
    """Return some atoms at random places of a periodic sheet, the last of them without neighbours."""
    random = np.random.default_rng(4)
    positions = np.append(random.uniform(0, 1, (num_atoms - 1, 3)) * [5.0, 5.0, 2.0], [[2.0, 2.0, 12.0]], axis=0)
    numbers = np.array([targets.elements[k % targets.num_species] for k in range(num_atoms)])
    cell, pbc = np.diag([5.0, 5.0, 25.0]), np.array([True, True, False])
    orbitals = {Z: targets.orbitals[Z] for Z in set(numbers.tolist())}
    return Structure(numbers, positions, cell, pbc, orbitals, targets.spinful).validate()


def chunks_of(structure: Structure, model: DeepHE3, chunk_edges: int) -> PairChunks:
    """Return the pairs of a structure in chunks for a model."""
    return PairChunks(
        structure,
        structure_pairs(structure, CUTOFF),
        model.targets,
        chunk_edges=chunk_edges,
        lmax=frame_degree(model),
        dtype=next(model.parameters()).dtype,
    )


def joined(parts: Iterator[Blocks]) -> dict[tuple[int, ...], np.ndarray]:
    """Return all blocks by key; none may come twice."""
    found: dict[tuple[int, ...], np.ndarray] = {}
    for blocks in parts:
        mine = blocks.to_dict()
        assert not found.keys() & mine.keys()
        found |= mine
    return found


def relative_difference(ours: dict[tuple[int, ...], np.ndarray], theirs: dict[tuple[int, ...], np.ndarray]) -> float:
    """Return the largest difference of blocks with equal keys over the largest number."""
    assert ours.keys() == theirs.keys()
    largest = max(float(np.abs(block).max()) for block in theirs.values())
    return max(float(np.abs(ours[key] - theirs[key]).max()) for key in theirs) / largest


@pytest.mark.parametrize("chunk_edges", [2, 30, 64, 100_000])
def test_chunks_give_the_numbers_of_the_whole_graph(
    chunk_edges: int, dtype: torch.dtype, network: Callable[..., DeepHE3]
) -> None:
    sizes = dataclasses.replace(THREE_BLOCKS, envelope_end=3.0)  # shorter than the pairs, which are up to 4.2 Å apart
    model = network(TARGETS, sizes=sizes, induction=OPERATOR, dtype=dtype)
    structure = structure_of(model.targets)
    expected = predict_blocks(model, build_graph(structure, model.targets, r_max=CUTOFF, dtype=dtype)).to_dict()
    chunks = chunks_of(structure, model, chunk_edges)
    pairs = len(chunks.pairs[0])
    assert pairs > 40
    assert len(chunks) == -(-2 * pairs // chunk_edges)
    found = joined(predict_in_chunks(model, chunks))
    assert relative_difference(found, expected) < (1e-13 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(("key", "hermitian"), [("BB", True), ("MG", False)])
def test_spinful_and_not_symmetrised_blocks(
    key: str, hermitian: bool, layout: Callable[..., TargetLayout], network: Callable[..., DeepHE3]
) -> None:
    model = network(layout(key), hermitian=hermitian)
    structure = structure_of(model.targets, 6)
    graph = build_graph(structure, model.targets, r_max=CUTOFF)
    found = joined(predict_in_chunks(model, chunks_of(structure, model, 20)))
    assert relative_difference(found, predict_blocks(model, graph).to_dict()) < 1e-13
    assert len(found) == (graph.num_nodes + graph.num_pairs if hermitian else graph.edge_index.shape[1])


def test_a_self_loop_counted_in_every_chunk_is_seen(
    network: Callable[..., DeepHE3], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(TARGETS)
    structure = structure_of(model.targets)
    expected = joined(predict_in_chunks(model, chunks_of(structure, model, 30)))
    honest = PairChunks._build

    def careless(self: PairChunks, number: int) -> PairChunk:
        chunk = honest(self, number)
        return dataclasses.replace(chunk, owns_loop=torch.ones_like(chunk.owns_loop))

    monkeypatch.setattr(PairChunks, "_build", careless)
    wrong: dict[tuple[int, ...], np.ndarray] = {}
    for blocks in predict_in_chunks(model, chunks_of(structure, model, 30)):
        wrong |= blocks.to_dict()
    assert relative_difference(wrong, expected) > 1e-3


def test_networks_that_mix_all_edges_are_refused(
    network: Callable[..., DeepHE3],
) -> None:
    structure = structure_of(TARGETS)
    with_norm = network(TARGETS, sizes=dataclasses.replace(THREE_BLOCKS, norm="graph"))
    plain = network(TARGETS)
    for model, reason in (
        (with_norm, "norm = none"),
        (HarmoSE(plain, 8, 1, 2), "attention"),
        (E3nnDeepHE3(plain), "backend = fast"),
    ):
        with pytest.raises(ConfigError, match=reason):
            next(predict_in_chunks(model, chunks_of(structure, plain, 50)))
    with pytest.raises(DataError, match="at least 2 edges"):
        chunks_of(structure, plain, 1)


def test_progress_counts_every_pass_and_the_model_stays_as_it_was(
    network: Callable[..., DeepHE3],
) -> None:
    model = network(TARGETS).train()
    chunks = chunks_of(structure_of(model.targets), model, 40)
    seen: list[tuple[int, int]] = []
    for _ in predict_in_chunks(model, chunks, lambda done, total: seen.append((done, total))):
        assert not model.training
    assert model.training
    assert seen == [(k + 1, 3 * len(chunks)) for k in range(3 * len(chunks))]


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [part for part in tree_flatten(result)[0] if isinstance(part, torch.Tensor)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors)])
        return result


def test_no_tensor_grows_with_the_structure(network: Callable[..., DeepHE3]) -> None:
    model = network(TARGETS)
    largest = {}
    for name, num_atoms, chunk_edges in (("small", 30, 300), ("large", 60, 300), ("whole", 60, 10**9)):
        chunks = chunks_of(structure_of(model.targets, num_atoms), model, chunk_edges)
        with LargestTensor() as mode:
            joined(predict_in_chunks(model, chunks))
        largest[name] = mode.numel
    assert largest["large"] < 1.2 * largest["small"]
    assert largest["whole"] > 5 * largest["large"]
