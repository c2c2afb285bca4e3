r"""DeepH-E3 in the global frame, on e3nn's layers: the same network and the same parameters as the fast core.

It is the oracle of the fast core in tests, ``backend="e3nn"`` in a configuration, and what benchmarks compare with.
Every layer is the published one (arXiv:2210.13955): one e3nn ``TensorProduct`` of ``[x_i | x_j | e_ij]`` with the
spherical harmonics per convolution, radial network and harmonics on every directed edge, gradients by automatic
differentiation.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from e3nn import o3
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.model.deephe3 import DeepHE3
from tracegrad.model.gradient_induction import GradientInduction, LowRankForm, PackedForm
from tracegrad.model.layers.convolution import EdgeConvolution
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.model.layers.norm import EPS, GraphNorm, root
from tracegrad.model.update import EdgeUpdate, NodeUpdate, Update
from tracegrad.so3.frames import FrameBlocks, FrameLayout


class E3nnDeepHE3(DeepHE3):
    """A second form of a network: the parameters are those of ``model``, the same objects.

    Args:
        model: the network; both forms may be used side by side.
    """

    def __init__(self, model: DeepHE3) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        self._layers: dict[tuple[torch.dtype, torch.device], _Layers] = {}

    def layers(self, like: Tensor) -> _Layers:
        """The e3nn layers in the dtype and on the device of a tensor; they hold constants only, exact in each dtype."""
        key = (like.dtype, like.device)
        if key not in self._layers:
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                with torch.inference_mode(False):
                    self._layers[key] = _Layers(self).to(device=like.device, dtype=like.dtype)
            finally:
                torch.set_default_dtype(default)
        return self._layers[key]

    def __deepcopy__(self, memo: dict[int, object]) -> E3nnDeepHE3:
        """A copy with parameters of its own; the layers are made anew."""
        plain = DeepHE3.__new__(DeepHE3)
        nn.Module.__init__(plain)
        plain.__dict__.update({name: value for name, value in self.__dict__.items() if name != "_layers"})
        return E3nnDeepHE3(copy.deepcopy(plain, memo))

    def encode_global(self, graph: Data) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Node features ``(N, dim)``, edge features ``(E, dim)`` and invariants, all in the global frame."""
        self.check_graph(graph)
        layers = self.layers(graph.edge_vectors)
        distances = graph.edge_vectors.norm(dim=1)
        basis = self.basis(distances)
        directions = graph.edge_vectors[:, [1, 2, 0]]  # e3nn's axes, see docs/conventions.md
        degrees = list(range(self.sizes.lmax_sh + 1))
        harmonics = o3.spherical_harmonics(degrees, directions, normalize=True, normalization="component")
        one_hot = nn.functional.one_hot(graph.species, self.targets.num_species).to(basis)
        pair_one_hot = nn.functional.one_hot(graph.edge_type, self.targets.num_species**2).to(basis)
        batch = graph.batch[graph.edge_index[0]]
        weights = self.message_weights(graph)
        nodes, edges = layers.embedding(one_hot, self.embedding.weight), self.distance_expansion(distances)
        invariants: list[Tensor] = []
        for k in range(self.sizes.num_blocks):
            nodes = layers.node_updates[k](nodes, edges, harmonics, basis, one_hot, graph.batch, graph, weights)
            edges = layers.edge_updates[k](nodes, edges, harmonics, basis, pair_one_hot, batch, graph)
            if self.has_invariants:
                z, v = layers.inductions[k](edges, self.inductions[k], self.induction.operator)
                invariants.append(z)
                if self.induction.operator:
                    edges = edges + v * layers.by_channel(self.gains[k], k + 1)
        return nodes, edges, invariants

    def encode(self, graph: Data) -> tuple[FrameBlocks, FrameBlocks, list[Tensor]]:
        """As :meth:`DeepHE3.encode`."""
        nodes, edges, invariants = self.encode_global(graph)
        node_layout, edge_layout = self.layouts_node[-1], self.layouts_edge[-1]
        in_frame = edge_layout.to_frame(edges, graph.wigner)
        return node_layout.split(node_layout.permute(nodes)), edge_layout.split(in_frame), invariants

    def in_frame(self, graph: Data) -> dict[str, Tensor]:
        """As :meth:`DeepHE3.in_frame`; decoded and symmetrised in the global frame."""
        _, edges, invariants = self.encode_global(graph)
        decoder, layers = self.decoder, self.layers(edges)
        irreps = layers.decoder(edges, decoder.linear.weight, decoder.linear.bias)[:, layers.target_order]
        irreps = irreps * layers.target_scale
        if decoder.hermitian:
            index, sign = self.targets.partner
            mirrored = irreps[graph.reverse_edge][:, index.to(irreps.device)] * sign.to(irreps)
            irreps = 0.5 * (irreps + mirrored)[: graph.num_nodes + graph.num_pairs]
        wigner = [D[: len(irreps)] for D in graph.wigner]
        outputs = {"frame": self.output(self.targets.frame.to_frame(irreps, wigner), graph)}
        if self.trace_decoder is not None and self.training:
            outputs["trace"] = self.trace_decoder(invariants, graph)
        return outputs


class _Layers(nn.Module):
    """The e3nn layers of a network, without weights of their own."""

    target_order: Tensor
    target_scale: Tensor

    def __init__(self, model: DeepHE3) -> None:
        super().__init__()
        self.embedding = _linear(model.embedding)
        self.node_updates = nn.ModuleList(_E3nnUpdate(cast(Update, update)) for update in model.node_updates)
        self.edge_updates = nn.ModuleList(_E3nnUpdate(cast(Update, update)) for update in model.edge_updates)
        self.inductions = nn.ModuleList(E3nnInduction(cast(GradientInduction, module)) for module in model.inductions)
        self.decoder = _linear(model.decoder.linear)
        for k, layout in enumerate(model.layouts_edge):
            self.register_buffer(f"channel_{k}", _component_channel(layout))
        self.register_buffer("target_order", _target_order(model.targets.frame))
        self.register_buffer("target_scale", model.targets.component_scale[_component_entry(model.targets.irreps)])

    def by_channel(self, factor: Tensor, block: int) -> Tensor:
        """One factor per channel, spread over the components of the features after a block."""
        return factor[getattr(self, f"channel_{block}")]


class _E3nnUpdate(nn.Module):
    """Node or edge update: linear, convolution, sum over neighbours, linear, self-connection, norm, skip."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.source = (update,)  # a tuple keeps the parameters of the network out of this module
        self.on_nodes = isinstance(update, NodeUpdate)
        assert self.on_nodes or isinstance(update, EdgeUpdate)
        self.lin_pre, self.lin_post, self.sc = _linear(update.lin_pre), _linear(update.lin_post), _linear(update.sc)
        self.skip = None if update.skip is None else _linear(update.skip)
        self.conv = _E3nnConvolution(update.conv)
        self.norm = None if update.norm is None else _E3nnNorm(update.norm)

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        harmonics: Tensor,
        basis: Tensor,
        types: Tensor,
        batch: Tensor,
        graph: Data,
        weights: Tensor | None = None,
    ) -> Tensor:
        (update,) = self.source
        centre, neighbour = graph.edge_index
        old = nodes if self.on_nodes else edges
        before = self.lin_pre(old, update.lin_pre.weight, update.lin_pre.bias)
        x, e = (before, edges) if self.on_nodes else (nodes, before)
        messages = self.conv(torch.cat([x[centre], x[neighbour], e], dim=1), harmonics, basis, update.conv)
        if self.on_nodes:
            scale = update.config.num_neighbors**-0.5
            messages = messages if weights is None else messages * weights[:, None]
            messages = messages.new_zeros(len(nodes), messages.shape[1]).index_add(0, centre, messages) * scale
        new = self.lin_post(messages, update.lin_post.weight, update.lin_post.bias)
        new = new + (
            self.sc(old, types, update.sc.weight) if update.sc.num_types > 1 else self.sc(old, update.sc.weight)
        )
        if self.norm is not None:
            new = self.norm(new, batch, len(graph.cell), update.norm)
        skipped: Tensor = old if self.skip is None or update.skip is None else self.skip(old, update.skip.weight)
        updated: Tensor = new + skipped
        return updated


class _E3nnConvolution(nn.Module):
    """``EquiConv``: tensor product with the harmonics, gate, radial factor."""

    channel: Tensor

    def __init__(self, conv: EdgeConvolution) -> None:
        super().__init__()
        sources = (conv.tp.layout_node, conv.tp.layout_node, conv.tp.layout_edge)
        irreps_in = Irreps([entry for layout in sources for entry in layout.sorted_irreps])
        irreps_sh = Irreps.spherical_harmonics(conv.lmax_sh)
        irreps_gate = conv.layout_gate.sorted_irreps
        instructions = [
            (i, l, k, "uvw", True)
            for i, (_, first) in enumerate(irreps_in)
            for l, (_, harmonic) in enumerate(irreps_sh)
            for k, (_, last) in enumerate(irreps_gate)
            if last in first * harmonic
        ]
        self.tp = o3.TensorProduct(
            irreps_in, irreps_sh, irreps_gate, instructions, internal_weights=False, shared_weights=True
        )
        self.sizes = [conv.num_even, conv.num_gates, conv.num_odd]
        higher = Irreps([entry for entry in conv.layout_out.sorted_irreps if entry.ir.l > 0])
        self.gate = o3.ElementwiseTensorProduct(higher, f"{conv.num_gates}x0e") if conv.num_gates else None
        self.register_buffer("channel", _component_channel(conv.layout_out))
        functions = (nn.functional.silu, torch.sigmoid, torch.tanh)
        self.silu, self.sigmoid, self.tanh = (normalize2mom(function) for function in functions)

    def forward(self, x: Tensor, harmonics: Tensor, basis: Tensor, conv: EdgeConvolution) -> Tensor:
        raw = self.tp(x, harmonics, conv.tp.weight)
        even, gates, odd, higher = raw.split([*self.sizes, raw.shape[1] - sum(self.sizes)], dim=1)
        parts = [self.silu(even)]
        if self.sizes[2]:
            parts.append(self.tanh(odd))
        if self.gate is not None:
            parts.append(self.gate(higher, self.sigmoid(gates)))
        factor: Tensor = conv.fc(basis)[:, self.channel]
        return torch.cat(parts, dim=1) * factor


class _E3nnNorm(nn.Module):
    """The layer norm of DeepH-E3 on irreps vectors, statistics per structure."""

    def __init__(self, norm: GraphNorm) -> None:
        super().__init__()
        self.irreps = norm.layout.sorted_irreps

    def forward(self, x: Tensor, batch: Tensor, num_graphs: int, norm: GraphNorm) -> Tensor:
        counts = torch.bincount(batch, minlength=num_graphs).to(x)[:, None]
        fields, channel = [], 0
        for (mul, ir), piece in zip(self.irreps, self.irreps.slices(), strict=True):
            field = x[:, piece].view(-1, mul, ir.dim)
            mean = x.new_zeros(num_graphs, ir.dim).index_add(0, batch, field.mean(1)) / counts
            field = field - mean[batch][:, None]
            if ir.l == 0:
                square = x.new_zeros(num_graphs, 1).index_add(0, batch, field.square().mean(1)) / counts
                field = field / (root(square) + EPS)[batch][:, None]
            field = field * norm.weight[None, channel : channel + mul, None]
            if ir == Irreps("0e")[0].ir:
                field = field + norm.bias[:, None]
            fields.append(field.flatten(1))
            channel += mul
        return torch.cat(fields, dim=1)


class E3nnInduction(nn.Module):
    """``z``, and ``v`` by automatic differentiation through e3nn's tensor product, as the authors' code has it.

    Args:
        induction: the operator whose weights are used.
    """

    def __init__(self, induction: GradientInduction) -> None:
        super().__init__()
        irreps = induction.layout.sorted_irreps
        if isinstance(induction.quadratic, PackedForm):
            width = induction.quadratic.weight.shape[1]
            self.tp: nn.Module = o3.FullyConnectedTensorProduct(
                irreps, irreps, f"{width}x0e", internal_weights=False, shared_weights=True
            )
            self.norm = math.sqrt(sum(mul * mul for mul, _ in irreps))
        else:
            self.projection = _linear(induction.quadratic.projection)
            projected = induction.quadratic.projected.sorted_irreps
            self.tp = o3.ElementwiseTensorProduct(projected, projected, ["0e"])
            self.norm = 1.0

    def full_weight(self, form: PackedForm) -> Tensor:
        """Weights of the fully connected tensor product, a symmetric matrix per irrep and channel of ``u``."""
        matrices, start = [], 0
        for (mul, _, _), triangle in zip(form.layout.groups, form.triangles, strict=True):
            first, second = triangle.like(form.weight)
            half = 0.5 * self.norm * form.weight[start : start + len(first)]
            upper = half.new_zeros(mul * mul, half.shape[1]).index_copy(0, first * mul + second, half)
            square = upper.view(mul, mul, -1)
            matrices.append((square + square.transpose(0, 1)).flatten())
            start += len(first)
        return torch.cat(matrices)

    def value(self, edges: Tensor, induction: GradientInduction) -> Tensor:
        """``z`` alone."""
        form = induction.quadratic
        if isinstance(form, LowRankForm):
            projected = self.projection(edges, form.projection.weight)
            squares = self.tp(projected, projected) * form.inverse_dims.like(edges).sqrt()
            return induction.head.value(form.mixing(squares))
        return induction.head.value(self.tp(edges, edges, self.full_weight(form)))

    def forward(self, edges: Tensor, induction: GradientInduction, operator: bool) -> tuple[Tensor, Tensor]:
        """``z`` and ``v`` of features in the global frame, ``(E, dim)``; without operator ``v`` is the input."""
        if not operator:
            return self.value(edges, induction), edges
        record = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = edges if edges.requires_grad else edges.clone().requires_grad_()
            z = self.value(leaf, induction)
            (v,) = torch.autograd.grad(z.sum(), leaf, create_graph=record)
        return z, v


def _linear(layer: EquivariantLinear) -> nn.Module:
    """The e3nn layer of an equivariant linear map; with row types, the tensor product with a one-hot vector."""
    irreps_in, irreps_out = layer.irreps_in, layer.irreps_out
    if layer.num_types > 1:
        product: nn.Module = o3.FullyConnectedTensorProduct(
            irreps_in, f"{layer.num_types}x0e", irreps_out, internal_weights=False, shared_weights=True
        )
        return product
    linear: nn.Module = o3.Linear(
        irreps_in, irreps_out, internal_weights=False, shared_weights=True, biases=layer.bias is not None
    )
    return linear


def _component_channel(layout: FrameLayout) -> Tensor:
    """Channel of every component of an irreps vector in the order of the layout's sorted irreps."""
    return _component_entry(Irreps([(1, ir) for mul, ir in layout.sorted_irreps for _ in range(mul)]))


def _component_entry(irreps: Irreps) -> Tensor:
    """Entry of some irreps that every component belongs to."""
    dims = torch.tensor([entry.dim for entry in irreps])
    return torch.repeat_interleave(torch.arange(len(irreps)), dims)


def _target_order(frame: FrameLayout) -> Tensor:
    """``vector[c] = sorted[order[c]]``: from the sorted irreps of the targets to the order of the blocks."""
    order, start = torch.empty(frame.dim, dtype=torch.long), 0
    for l, _, first in frame.channels:
        order[first : first + 2 * l + 1] = torch.arange(start, start + 2 * l + 1)
        start += 2 * l + 1
    return order
