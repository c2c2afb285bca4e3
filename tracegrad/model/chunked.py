"""Prediction over edges in chunks: memory bounded by a chunk, whatever the number of atoms.

Message passing needs the features of all nodes after block ``k`` before edge update ``k``; node features are small and
kept, those of the edges are not. Each of the ``K + 1`` passes over the chunks starts from the distances and applies the
edge updates up to its block again, so no features of edges outlive their chunk, neither in memory nor on a disk:
``K (K + 1) / 2`` more edge updates instead of 1.5 kB per edge. For two blocks that is a quarter more convolutions, for
three a half.

Kept per atom are the features after every block, kept per pair its key (:class:`tracegrad.graph.chunks.PairChunks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tracegrad.data import Blocks
from tracegrad.errors import ConfigError
from tracegrad.graph.build import DEFAULT_LMAX
from tracegrad.graph.chunks import PairChunk, PairChunks
from tracegrad.model.deephe3 import DeepHE3
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.model.layers.convolution import NodeMessages
from tracegrad.model.predict import blocks_of_frame
from tracegrad.model.update import NodeUpdate, gather_nodes
from tracegrad.so3.frames import EdgeFrames, FrameBlocks

Progress = Callable[[int, int], None]


def why_not_chunked(model: nn.Module) -> str | None:
    """Why a network cannot predict in chunks; None where it can."""
    if not isinstance(model, DeepHE3):
        return f"{type(model).__name__}: attention runs over all edges of a node at once"
    if isinstance(model, E3nnDeepHE3):
        return "model.backend = e3nn: this form is the oracle of the tests; use model.backend = fast"
    if model.sizes.norm == "graph":
        return "model.norm = graph: its statistics run over all edges of a structure at once; train with norm = none"
    return None


def frame_degree(model: nn.Module) -> int:
    """Largest degree of the frames that a network needs.

    Args:
        model: a network; one without the property ``frame_degree`` needs at most the degree of the published networks,
            5, or that of its targets, which :func:`tracegrad.graph.build_graph` always provides.
    """
    return int(getattr(model, "frame_degree", DEFAULT_LMAX))


def predict_in_chunks(model: nn.Module, chunks: PairChunks, progress: Progress | None = None) -> Iterator[Blocks]:
    """Hamiltonian of a structure, eV, chunk by chunk; the same numbers as those of ``predict_blocks``.

    Args:
        model: a :class:`DeepHE3` with ``norm`` other than ``"graph"``.
        chunks: of the structure, in the dtype and on the device of the model.
        progress: called with the number of passes over a chunk that are done, and that there are.

    Yields:
        Blocks of every chunk: the Hermitian half of its pairs and the on-site blocks of some atoms, or both directions
        where the model is not Hermitian. Every block comes once.

    Raises:
        ConfigError: the network mixes all edges of a structure.
    """
    reason = why_not_chunked(model)
    if reason:
        raise ConfigError(f"prediction in chunks is not possible with this network. {reason}")
    network = cast(DeepHE3, model)
    count = _Count(progress, (network.sizes.num_blocks + 1) * len(chunks))
    training = network.training
    network.eval()
    try:
        levels = _node_levels(network, chunks, count)
        for chunk in chunks:
            yield _blocks(network, chunk, levels)
            count.step()
    finally:
        network.train(training)


@dataclass
class _Count:
    """Progress so far."""

    progress: Progress | None
    total: int
    done: int = 0

    def step(self) -> None:
        """Tell that one chunk more is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


@torch.inference_mode()
def _node_levels(network: DeepHE3, chunks: PairChunks, count: _Count) -> list[FrameBlocks]:
    """Features of all nodes in the global frame before the first block and after each."""
    levels = [network.embed_nodes(chunks.species, next(network.parameters()))]
    batch = torch.zeros_like(chunks.species)
    for k in range(network.sizes.num_blocks):
        update = cast(NodeUpdate, network.node_updates[k])
        sums: list[Tensor] | None = None
        for chunk in chunks:
            state = _chunk_state(network, chunk, levels, k)
            weights = _owned(network, chunk, state.basis)
            parts = update.collect(state.gathered, state.edge_feats, state.basis, state.frames, weights)
            if sums is None:
                sums = [part.new_zeros(len(chunks.species), *part.shape[1:]) for part in parts]
            for total, part in zip(sums, parts, strict=True):
                total.index_add_(0, chunk.nodes, part)
            count.step()
        assert sums is not None
        levels.append(update.apply_sums(levels[k], sums, chunks.species, batch, 1))
    return levels


def _owned(network: DeepHE3, chunk: PairChunk, like: Tensor) -> Tensor:
    """Factor of every message of a chunk, zero for the self-loops that another chunk has."""
    weights = network.message_weights(chunk.graph)
    weights = like.new_ones(chunk.graph.edge_index.shape[1]) if weights is None else weights
    return torch.cat([weights[: chunk.graph.num_nodes] * chunk.owns_loop, weights[chunk.graph.num_nodes :]])


@dataclass(frozen=True)
class _State:
    """Features of a chunk at some block.

    Attributes:
        gathered: nodes after the block as the edges see them.
        edge_feats: edges after the block.
        basis: radial basis.
        frames: frames of the edges.
    """

    gathered: NodeMessages
    edge_feats: FrameBlocks
    basis: Tensor
    frames: EdgeFrames


def _chunk_state(network: DeepHE3, chunk: PairChunk, levels: list[FrameBlocks], num_blocks: int) -> _State:
    """Features of a chunk after some blocks, from those of the nodes after each."""
    graph = chunk.graph
    basis, edge_feats = network.embed_edges(graph)
    frames = EdgeFrames(graph.wigner)

    def gather(k: int) -> NodeMessages:
        feats = [block.index_select(0, chunk.nodes) for block in levels[k]]
        return gather_nodes(feats, network.layouts_node[k], graph, frames)

    gathered = gather(0) if num_blocks == 0 else None
    for k in range(num_blocks):
        gathered = gather(k + 1)
        edge_feats = network.edge_updates[k](gathered, edge_feats, basis, graph, frames)
        if network.induction.operator:
            edge_feats = network.induce(k, edge_feats, [])
    assert gathered is not None
    return _State(gathered, edge_feats, basis, frames)


@torch.inference_mode()
def _blocks(network: DeepHE3, chunk: PairChunk, levels: list[FrameBlocks]) -> Blocks:
    """Blocks that a chunk stands for, with the numbers of the atoms in the structure."""
    graph = chunk.graph
    edge_feats = _chunk_state(network, chunk, levels, network.sizes.num_blocks).edge_feats
    flat = network.output(network.targets.frame.flatten(network.decoder(edge_feats, graph)), graph)
    blocks = blocks_of_frame(flat, graph, network.targets)
    pairs = chunk.owns_loop.new_ones(len(flat) - graph.num_nodes)
    own = blocks.select(torch.cat([chunk.owns_loop, pairs]).cpu().numpy())
    return Blocks(chunk.nodes.cpu().numpy()[own.edge_index], own.cell_shift, own.shapes, own.values)
