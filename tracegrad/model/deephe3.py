"""DeepH-E3 (arXiv:2210.13955) with the encoding modules of TraceGrad (arXiv:2405.05722): the assembly of Figure 1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.errors import DataError
from tracegrad.graph.layout import TargetLayout
from tracegrad.model.decoder import HamiltonianDecoder, TraceDecoder
from tracegrad.model.gradient_induction import GradientInduction
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.model.layers.radial import GaussianBasis
from tracegrad.model.output import OutputTransform
from tracegrad.model.update import EdgeUpdate, NodeUpdate, UpdateConfig, gather_nodes
from tracegrad.so3.frames import EdgeFrames, FrameBlocks, FrameLayout

EDGE_GAUSSIAN_STOP = 6.0  # Å; the grid of the initial edge features ends here whatever r_max is, as in DeepH-E3


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of the backbone (defaults: method.md, Section 9).

    Attributes:
        hidden_irreps: node and edge features.
        embed_dim: scalars of a node and of an edge before the first block.
        lmax_sh: largest degree of the spherical harmonics.
        num_blocks: pairs of node and edge update, K.
        r_max: end of the Gaussian grid, Å.
        num_radial: Gaussians.
        norm: ``"graph"`` (DeepH-E3) or ``"none"``.
        num_neighbors: see :class:`tracegrad.model.update.UpdateConfig`.
        envelope: power of the factor that messages into a node have, see :meth:`DeepHE3.message_weights`; 0 for none.
        envelope_end: where that factor ends, Å; 0 for ``r_max``.
    """

    hidden_irreps: str = "64x0e+32x1o+16x2e+8x3o+8x4e+4x5o"
    embed_dim: int = 64
    lmax_sh: int = 5
    num_blocks: int = 3
    r_max: float = 7.2
    num_radial: int = 128
    norm: str = "graph"
    num_neighbors: float = 1.0
    envelope: int = 0
    envelope_end: float = 0.0


@dataclass(frozen=True)
class Induction:
    """What TraceGrad adds to the backbone (the settings of Tables 1 and 2 are choices of the first two).

    Attributes:
        operator: add ``v`` to the edge features (+Grad).
        trace: supervise ``z`` by the trace labels (+Trace).
        form: ``"packed"`` or ``"low_rank"``.
        width: channels of ``u``.
        rank: with ``"low_rank"``, projections per channel of ``f``.
        norm: layer norms in ``s_nonlin``.
        gain: factor of ``v`` at the start.
        gain_learned: train the factor, one per channel of ``f``.
        trace_width: hidden width of the trace decoder.
    """

    operator: bool = False
    trace: bool = False
    form: str = "packed"
    width: int = 1024
    rank: int = 1
    norm: bool = True
    gain: float = 1.0
    gain_learned: bool = False
    trace_width: int = 1024


class DeepHE3(nn.Module):
    """Graph -> Hamiltonian blocks; with an :class:`Induction`, the four settings of the paper.

    Args:
        targets: what is predicted.
        sizes: sizes of the backbone.
        induction: gradient operator and trace supervision.
        hermitian: symmetrise the blocks (design: Hermitian by construction); False is the published baseline.
        output: scale and reference of the outputs, by default none.
    """

    approximate = False  # a claim: the verifier accepts no budget in its place

    def __init__(
        self,
        targets: TargetLayout,
        sizes: NetworkSizes | None = None,
        induction: Induction | None = None,
        hermitian: bool = True,
        output: OutputTransform | None = None,
    ) -> None:
        super().__init__()
        self.targets, self.sizes = targets, sizes or NetworkSizes()
        self.induction = induction or Induction()
        embed = FrameLayout(f"{self.sizes.embed_dim}x0e")
        hidden = FrameLayout(FrameLayout(self.sizes.hidden_irreps).sorted_irreps)
        self.layouts_node = [embed] + [hidden] * (self.sizes.num_blocks - 1) + [_post_node_layout(hidden, targets)]
        last = FrameLayout(targets.frame.sorted_irreps)
        self.layouts_edge = [embed] + [hidden] * (self.sizes.num_blocks - 1) + [last]
        # === embed atoms and distances ===
        self.embedding = EquivariantLinear(FrameLayout(f"{targets.num_species}x0e"), embed, bias=False)
        self.basis = GaussianBasis(self.sizes.r_max, self.sizes.num_radial)
        self.distance_expansion = GaussianBasis(EDGE_GAUSSIAN_STOP, self.sizes.embed_dim)
        # === encode: K pairs of node and edge update, each followed by gradient induction ===
        shared = UpdateConfig(
            self.sizes.lmax_sh, self.sizes.num_radial, targets.num_species, self.sizes.norm, self.sizes.num_neighbors
        )
        nodes, edges, blocks = self.layouts_node, self.layouts_edge, range(self.sizes.num_blocks)
        self.node_updates = nn.ModuleList(NodeUpdate(nodes[k], edges[k], nodes[k + 1], shared) for k in blocks)
        self.edge_updates = nn.ModuleList(EdgeUpdate(nodes[k + 1], edges[k], edges[k + 1], shared) for k in blocks)
        self.inductions = nn.ModuleList(self._induction(edges[k + 1]) for k in blocks if self.has_invariants)
        self.gains = nn.ParameterList(self._gain(edges[k + 1]) for k in blocks if self.induction.operator)
        # === decode ===
        self.decoder = HamiltonianDecoder(edges[-1], targets, hermitian)
        self.output = output or OutputTransform(targets)
        width = self.sizes.num_blocks * targets.num_channels
        self.trace_decoder = TraceDecoder(width, targets, self.induction.trace_width) if self.induction.trace else None

    @property
    def has_invariants(self) -> bool:
        """True when the invariant branch ``z`` exists."""
        return self.induction.operator or self.induction.trace

    @property
    def irreps_out(self) -> dict[str, Irreps]:
        """Irreps of the named outputs of :meth:`forward`."""
        irreps = {"edge_irreps": self.targets.irreps}
        if self.trace_decoder is not None:
            irreps["trace"] = Irreps(f"{self.targets.num_channels}x0e")
        return irreps

    @property
    def frame_degree(self) -> int:
        """Largest degree of the frames that :func:`tracegrad.graph.build_graph` must make."""
        return max(layout.lmax for layout in (*self.layouts_node, *self.layouts_edge))

    def _induction(self, layout: FrameLayout) -> GradientInduction:
        chosen, invariants = self.induction, self.targets.num_channels
        norm = chosen.norm and invariants > 1  # of one channel it would be constant
        return GradientInduction(
            layout.sorted_irreps, chosen.width, invariants, form=chosen.form, norm=norm, rank=chosen.rank
        )

    def _gain(self, layout: FrameLayout) -> nn.Parameter:
        return nn.Parameter(torch.full((layout.num_channels,), self.induction.gain), self.induction.gain_learned)

    def calibrate(self, graphs: Iterable[Data]) -> None:
        """Fit scale and reference of the outputs to the training graphs, once, before training."""
        self.output.fit(graphs)

    def encode(self, graph: Data) -> tuple[FrameBlocks, FrameBlocks, list[Tensor]]:
        """Node features (global frame), edge features (edge frames), and the invariants ``z`` of every block."""
        self.check_graph(graph)
        basis, edge_feats = self.embed_edges(graph)
        node_feats, frames = self.embed_nodes(graph.species, basis), EdgeFrames(graph.wigner)
        weights = self.message_weights(graph)
        gathered = gather_nodes(node_feats, self.layouts_node[0], graph, frames)
        invariants: list[Tensor] = []
        for k in range(self.sizes.num_blocks):
            node_feats = self.node_updates[k](node_feats, gathered, edge_feats, basis, graph, frames, weights)
            gathered = gather_nodes(node_feats, self.layouts_node[k + 1], graph, frames)
            edge_feats = self.edge_updates[k](gathered, edge_feats, basis, graph, frames)
            if self.has_invariants:
                edge_feats = self.induce(k, edge_feats, invariants)
        return node_feats, edge_feats, invariants

    def check_graph(self, graph: Data) -> None:
        """Refuse a graph that the layers cannot compute with.

        Raises:
            DataError: another dtype than that of the weights, or a batch whose edges are not in our order.
        """
        if isinstance(graph.num_pairs, Tensor) and graph.num_pairs.numel() > 1:
            raise DataError(
                "expected one graph, or several joined by tracegrad.graph.collate, found a batch of PyTorch Geometric, "
                "whose edges are in another order; use tracegrad.graph.collate (as collate_fn of torch's DataLoader)"
            )
        weights, vectors = self.embedding.weight.dtype, graph.edge_vectors.dtype
        if weights != vectors:
            raise DataError(
                f"expected a graph in the dtype of the weights, {weights}, found {vectors}; build it with "
                f"build_graph(..., dtype={weights}), or cast the network with .to({vectors})"
            )

    def embed_nodes(self, species: Tensor, like: Tensor) -> FrameBlocks:
        """Node features before the first block, in the dtype of ``like``."""
        one_hot = (species[:, None] == torch.arange(self.targets.num_species, device=species.device)).to(like)
        return list(self.embedding([one_hot[:, None, :]]))

    def embed_edges(self, graph: Data) -> tuple[Tensor, FrameBlocks]:
        """Radial basis at distance 0 and of every pair, ``(1 + P, num_basis)``, and edge features before block 1."""
        distances = graph.edge_vectors[graph.num_nodes : graph.num_nodes + graph.num_pairs].norm(dim=1)
        distances = torch.cat([distances.new_zeros(1), distances])
        initial = self.distance_expansion(distances)
        edge_feats = torch.cat([initial[:1].expand(graph.num_nodes, -1), initial[1:], initial[1:]])
        return self.basis(distances), [edge_feats[:, None, :]]

    def message_weights(self, graph: Data) -> Tensor | None:
        r"""Factor of the message of every edge into its node, ``(E,)``, or None where it is 1 as in DeepH-E3.

        .. math:: w(r) = (1 - r^2 / r_\mathrm{end}^2)^p

        up to :math:`r_\mathrm{end}` (``envelope_end``, by default ``r_max``) and 0 beyond, so that an atom that leaves
        the cutoff leaves smoothly, and near atoms count most.
        """
        if not self.sizes.envelope:
            return None
        end = self.sizes.envelope_end or self.sizes.r_max
        squares = graph.edge_vectors.square().sum(1) / end**2
        weights: Tensor = (1 - squares).clamp(min=0) ** self.sizes.envelope
        return weights

    def induce(self, k: int, edge_feats: FrameBlocks, invariants: list[Tensor]) -> FrameBlocks:
        """``o = f + gain * v`` with the operator, ``f`` without; ``z`` is kept for the trace decoder (Section 8)."""
        induction = cast(GradientInduction, self.inductions[k])
        if not self.induction.operator:
            invariants.append(induction.invariants(edge_feats))
            return edge_feats
        z, induced = induction.residual(edge_feats, self.gains[k])
        invariants.append(z)
        return induced

    def in_frame(self, graph: Data) -> dict[str, Tensor]:
        """Predictions in the frames of the edges, as training compares them.

        Returns:
            ``"frame"``: ``(N + P, D)`` flat frame vectors of the orthonormal irreps, eV (all ``E`` edges where the
            model is not Hermitian); ``"trace"``: ``(N + P, n_blocks)`` trace labels, eV², where supervised and in
            training.
        """
        _, edge_feats, invariants = self.encode(graph)
        outputs = {"frame": self.output(self.targets.frame.flatten(self.decoder(edge_feats, graph)), graph)}
        if self.trace_decoder is not None and self.training:
            outputs["trace"] = self.trace_decoder(invariants, graph)
        return outputs

    def forward(self, graph: Data) -> dict[str, Tensor]:
        """Predictions in the global frame.

        Args:
            graph: a graph of :func:`tracegrad.graph.build_graph` for the same layout.

        Returns:
            ``"edge_irreps"``: ``(E, D)`` orthonormal irreps of the blocks of all directed edges, eV; ``"trace"`` as in
            :meth:`in_frame`, for the Hermitian half.
        """
        return self.to_global(self.in_frame(graph), graph)

    def to_global(self, outputs: dict[str, Tensor], graph: Data) -> dict[str, Tensor]:
        """Outputs of :meth:`in_frame` as :meth:`forward` returns them."""
        flat = outputs["frame"]
        irreps = self.targets.frame.from_frame(flat, [D[: len(flat)] for D in graph.wigner])
        others = {name: value for name, value in outputs.items() if name != "frame"}
        return {"edge_irreps": self.all_edges(irreps, graph), **others}

    def all_edges(self, irreps: Tensor, graph: Data) -> Tensor:
        """Irreps of all directed edges from those of the Hermitian half, ``(E, D)``, global frame."""
        if len(irreps) == graph.edge_index.shape[1]:
            return irreps
        index, sign = self.targets.partner
        mirrored = irreps[graph.num_nodes :, index.to(irreps.device)] * sign.to(irreps)
        return torch.cat([irreps, mirrored])


def _post_node_layout(hidden: FrameLayout, targets: TargetLayout) -> FrameLayout:
    """Last node features: with spin, unnatural vectors are added so that targets of every parity can be reached."""
    if not targets.spinful:
        return hidden
    vectors = next((mul for mul, l, natural in hidden.groups if l == 1 and natural), 0)
    return FrameLayout(FrameLayout(hidden.sorted_irreps + Irreps(f"{vectors}x1e")).sorted_irreps)
