"""Node and edge update of DeepH-E3 (arXiv:2210.13955): convolution, linear map, self-connection, norm, skip."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.model.layers.channels import to_edges, to_nodes
from tracegrad.model.layers.convolution import EdgeConvolution, NodeMessages
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.model.layers.norm import GraphNorm
from tracegrad.so3.frames import EdgeFrames, FrameBlocks, FrameLayout


@dataclass(frozen=True)
class UpdateConfig:
    """What all updates of a network share.

    Attributes:
        lmax_sh: largest degree of the spherical harmonics.
        num_basis: length of the radial basis.
        num_species: number of elements.
        norm: ``"graph"`` for the layer norm of DeepH-E3, ``"none"`` for no norm.
        num_neighbors: the sum over neighbours is divided by its square root; 1 keeps the plain sum of DeepH-E3.
    """

    lmax_sh: int
    num_basis: int
    num_species: int
    norm: str = "graph"
    num_neighbors: float = 1.0


def gather_nodes(node_feats: FrameBlocks, layout: FrameLayout, graph: Data, frames: EdgeFrames) -> NodeMessages:
    """Node features of both ends of every edge, rotated into its frame.

    Args:
        node_feats: blocks ``(N, 1 or 2, K_m)`` in the global frame.
        layout: their channels.
        graph: edges.
        frames: frames of the edges.
    """
    centre, neighbour = graph.edge_index.unbind()
    num_scalars = layout.starts[1] if layout.lmax else layout.num_channels
    scalars = node_feats[0][:, 0, :num_scalars]
    if layout.lmax == 0:
        return NodeMessages(scalars, [], centre, neighbour)
    higher = layout.without_scalars
    blocks = [node_feats[0][:, :, num_scalars:], *node_feats[1:]]
    turned = to_edges(higher.to_fields(blocks), higher.doubled, frames, (centre, neighbour))
    return NodeMessages(scalars, turned, centre, neighbour)


class Update(nn.Module):
    """What node and edge updates have in common.

    Args:
        layout_node: channels of the node features that enter the convolution.
        layout_edge: channels of the edge features that enter it.
        layout_out: channels of the updated features.
        layout_self: channels of the features that are updated.
        num_types: number of types of the rows (species, or pairs of species).
        config: shared settings.
    """

    def __init__(
        self,
        layout_node: FrameLayout,
        layout_edge: FrameLayout,
        layout_self: FrameLayout,
        layout_out: FrameLayout,
        num_types: int,
        config: UpdateConfig,
    ) -> None:
        super().__init__()
        self.layout_out, self.config = layout_out, config
        self.lin_pre = EquivariantLinear(layout_self, layout_self)
        self.conv = EdgeConvolution(layout_node, layout_edge, layout_out, config.lmax_sh, config.num_basis)
        self.lin_post = EquivariantLinear(layout_out, layout_out)
        self.sc = EquivariantLinear(layout_self, layout_out, bias=False, num_types=num_types)
        self.norm = GraphNorm(layout_out) if config.norm == "graph" else None
        same = layout_self.sorted_irreps == layout_out.sorted_irreps
        self.skip = None if same else EquivariantLinear(layout_self, layout_out, bias=False)

    def finish(
        self,
        feats: FrameBlocks,
        messages: FrameBlocks,
        types: Tensor,
        batch: Tensor,
        num_graphs: int,
        frames: EdgeFrames | None,
    ) -> FrameBlocks:
        """``norm(lin_post(messages) + sc(feats, type)) + skip(feats)``."""
        updated: FrameBlocks = self.sc(feats, types, plus=self.lin_post(messages))
        if self.norm is not None:
            updated = self.norm(updated, batch, num_graphs, frames)
        if self.skip is not None:
            return list(self.skip(feats, plus=updated))
        return [a + b for a, b in zip(updated, feats, strict=True)]


class NodeUpdate(Update):
    r"""New node features from the messages of all edges that enter a node.

    .. math:: x_i' = x_i + \mathrm{norm}\Big(L \sum_j w_{ij} m_{ij} + \mathrm{sc}(x_i)\Big)

    with ``w = 1`` in DeepH-E3.
    """

    def __init__(
        self, layout_node: FrameLayout, layout_edge: FrameLayout, layout_out: FrameLayout, config: UpdateConfig
    ) -> None:
        super().__init__(layout_node, layout_edge, layout_node, layout_out, config.num_species, config)

    def forward(
        self,
        node_feats: FrameBlocks,
        gathered: NodeMessages,
        edge_feats: FrameBlocks,
        basis: Tensor,
        graph: Data,
        frames: EdgeFrames,
        weights: Tensor | None = None,
    ) -> FrameBlocks:
        """Updated node features, blocks ``(N, 1 or 2, K_m)`` in the global frame."""
        sums = self.collect(gathered, edge_feats, basis, frames, weights)
        return self.apply_sums(node_feats, sums, graph.species, graph.batch, len(graph.cell))

    def collect(
        self,
        gathered: NodeMessages,
        edge_feats: FrameBlocks,
        basis: Tensor,
        frames: EdgeFrames,
        weights: Tensor | None = None,
    ) -> list[Tensor]:
        """Sum of the messages that enter every node, fields ``(N, 2l+1, mul)`` in the global frame.

        Args:
            gathered: node features as the edges see them.
            edge_feats: features of the edges.
            basis: radial basis at 0 and of every pair.
            frames: frames of the edges.
            weights: ``(E,)`` factor of every message, by default 1.
        """
        messages = self.conv(gathered, edge_feats, basis, node_linear=self.lin_pre)
        num_nodes = len(gathered.scalars)
        if weights is not None:
            messages = [block * weights[:, None, None] for block in messages]
        return to_nodes(messages, self.layout_out, frames, gathered.centre, num_nodes)

    def apply_sums(
        self, node_feats: FrameBlocks, sums: list[Tensor], species: Tensor, batch: Tensor, num_graphs: int
    ) -> FrameBlocks:
        """Updated node features from those before and the sums of :meth:`collect`."""
        blocks = self.layout_out.from_fields(sums)
        if self.config.num_neighbors != 1:
            blocks = [block * self.config.num_neighbors**-0.5 for block in blocks]
        return self.finish(node_feats, blocks, species, batch, num_graphs, None)


class EdgeUpdate(Update):
    r"""New edge features from both end nodes, in the frames of the edges.

    .. math:: e_{ij}' = e_{ij} + \mathrm{norm}\big(L\, m_{ij} + \mathrm{sc}(e_{ij})\big)
    """

    def __init__(
        self, layout_node: FrameLayout, layout_edge: FrameLayout, layout_out: FrameLayout, config: UpdateConfig
    ) -> None:
        super().__init__(layout_node, layout_edge, layout_edge, layout_out, config.num_species**2, config)

    def forward(
        self, gathered: NodeMessages, edge_feats: FrameBlocks, basis: Tensor, graph: Data, frames: EdgeFrames
    ) -> FrameBlocks:
        """Updated edge features, blocks ``(E, 1 or 2, K_m)``."""
        messages = self.conv(gathered, edge_feats, basis, edge_linear=self.lin_pre)
        batch = graph.batch[gathered.centre]
        return self.finish(edge_feats, messages, graph.edge_type, batch, len(graph.cell), frames)
