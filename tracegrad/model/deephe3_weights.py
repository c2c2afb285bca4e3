"""Weights of a DeepH-E3 ``state_dict`` in the order of our layers.

DeepH-E3 keeps irreps in the order of its configuration, factorises the tensor-product weights as
``weights1[u, w] * weights2[0, w]``, and lists the real parts of all spinful targets before the imaginary parts. Here
the irreps are sorted and there is one weight per path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.graph.layout import TargetLayout
from tracegrad.model.deephe3 import DeepHE3
from tracegrad.model.layers.convolution import EdgeConvolution
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.model.update import Update
from tracegrad.so3.frames import FrameLayout, is_natural

State = Mapping[str, Tensor]


def load_deephe3_weights(model: DeepHE3, state: State, irreps: Mapping[str, str]) -> None:
    """Copy the weights of a DeepH-E3 network into a model of the same sizes.

    Args:
        model: baseline with ``hermitian=False`` targets laid out without time reversal.
        state: parameters under DeepH-E3's names.
        irreps: DeepH-E3's irreps strings: ``irreps_embed``, ``irreps_mid``, ``irreps_post_node``, ``irreps_post_edge``.

    Raises:
        CheckpointError: a weight is missing or of another shape.
    """
    count = model.sizes.num_blocks
    nodes = [irreps["irreps_embed"]] + [irreps["irreps_mid"]] * (count - 1) + [irreps["irreps_post_node"]]
    edges = [irreps["irreps_embed"]] + [irreps["irreps_mid"]] * (count - 1) + [irreps["irreps_post_edge"]]
    node_irreps, edge_irreps = [Irreps(s) for s in nodes], [Irreps(s) for s in edges]
    with torch.no_grad():
        _assign(model.embedding.weight, _get(state, "embedding.weight"), "embedding.weight")
        for k in range(count):
            node, edge = model.node_updates[k], model.edge_updates[k]
            assert isinstance(node, Update)
            assert isinstance(edge, Update)
            own, name = node_irreps[k : k + 2], f"node_update_blocks.{k}"
            _load_update(node, state, name, own, node_irreps[k], edge_irreps[k])
            own, name = edge_irreps[k : k + 2], f"edge_update_blocks.{k}"
            _load_update(edge, state, name, own, node_irreps[k + 1], edge_irreps[k])
        _load_decoder(model.decoder.linear, state, edge_irreps[-1], model.targets)


def node_output(model: DeepHE3, state: State, node_feats: list[Tensor], irreps_node: str) -> Tensor:
    """DeepH-E3's scalar output per node, ``(N, 1)``, which the Hamiltonian does not need."""
    linear = EquivariantLinear(model.layouts_node[-1], FrameLayout("1x0e")).to(node_feats[0])
    with torch.no_grad():
        _load_linear(linear, state, "lin_node", Irreps(irreps_node), Irreps("1x0e"))
    blocks: list[Tensor] = linear(node_feats)
    return blocks[0][:, 0]


def deephe3_channels(targets: TargetLayout) -> Tensor:
    """Position in our irreps of every irrep of DeepH-E3's output: real parts of all blocks, then imaginary parts."""
    real: list[int] = []
    imaginary: list[int] = []
    start = 0
    for channel in targets.channels:
        count = len(targets.channel_irreps(channel))
        half = count // 2 if targets.spinful else count
        real += range(start, start + half)
        imaginary += range(start + half, start + count)
        start += count
    return torch.tensor(real + imaginary)


def _load_update(
    update: Update, state: State, name: str, own: list[Irreps], irreps_node: Irreps, irreps_edge: Irreps
) -> None:
    before, after = own
    _load_linear(update.lin_pre, state, f"{name}.lin_pre", before, before)
    _load_linear(update.lin_post, state, f"{name}.lin_post", after, after)
    _load_linear(update.sc, state, f"{name}.sc", before, after)
    if update.skip is not None:
        _load_linear(update.skip, state, f"{name}.skip_connect.sc", before, after)
    order = _channel_order(after)
    if update.norm is not None:
        _assign(update.norm.weight, _get(state, f"{name}.norm.weight")[order], f"{name}.norm.weight")
        _assign(update.norm.bias, _get(state, f"{name}.norm.bias"), f"{name}.norm.bias")
    for layer in ("0", "2", "4"):
        for kind in ("weight", "bias"):
            value = _get(state, f"{name}.conv.fc.{layer}.{kind}")
            if layer == "4":  # DeepH-E3 orders the factors as its gate: all scalars, then the rest
                scalars = Irreps([entry for entry in after if entry.ir.l == 0])
                value = value[_channel_order(scalars + Irreps([entry for entry in after if entry.ir.l > 0]))]
            _assign(getattr(update.conv.fc[int(layer)], kind), value, f"{name}.conv.fc.{layer}.{kind}")
    _load_tensor_product(update.conv, state, f"{name}.conv.tp", [irreps_node, irreps_node, irreps_edge], after)


def _load_tensor_product(conv: EdgeConvolution, state: State, name: str, sources: list[Irreps], after: Irreps) -> None:
    """One weight per path: ``weights1 * weights2``, with the gates in the order of our sorted irreps."""
    gates = conv.num_gates
    gated = Irreps([entry for entry in after if entry.ir.l > 0])
    scalars = Irreps([entry for entry in after if entry.ir.l == 0])
    outputs = (_with_gates(scalars, gates) + gated).sort().irreps.simplify()  # as e3nn's Gate sorts its input
    gate_order = torch.cat([torch.arange(conv.num_even), conv.num_even + _channel_order(gated)])
    paths = {}
    for number, (key, is_gate) in enumerate(_deephe3_paths(sources, conv, outputs)):
        weight = _get(state, f"{name}.weights1.{number}") * _get(state, f"{name}.weights2.{number}")
        paths[key] = weight[:, gate_order] if is_gate else weight
    pieces = [paths[key] for key, _ in _deephe3_paths(_sorted(sources), conv, conv.layout_gate.sorted_irreps)]
    _assign(conv.tp.weight, torch.cat([piece.flatten() for piece in pieces]), f"{name}.weights1")


def _deephe3_paths(
    sources: list[Irreps], conv: EdgeConvolution, outputs: Irreps
) -> Iterator[tuple[tuple[int, int, int, int, int, int], bool]]:
    """Keys ``(source, l1, p1, l2, l3, p3)`` of all paths in the order of the instructions; whether with gates."""
    for source, irreps in enumerate(sources):
        for _, first in irreps:
            for l2 in range(conv.lmax_sh + 1):
                for _, last in outputs:
                    if abs(first.l - l2) <= last.l <= first.l + l2 and last.p == first.p * (-1) ** l2:
                        yield (source, first.l, first.p, l2, last.l, last.p), (last.l, last.p) == (0, 1)


def _load_linear(linear: EquivariantLinear, state: State, name: str, irreps_in: Irreps, irreps_out: Irreps) -> None:
    """Reorder the weights of an ``e3nn.o3.Linear`` or of a tensor product with a one-hot vector."""
    flat, types = _get(state, f"{name}.weight"), linear.num_types
    matrices, start = {}, 0
    for mul_in, first in irreps_in:
        for mul_out, last in irreps_out:
            if first == last:
                size = mul_in * types * mul_out
                matrices[first] = flat[start : start + size]
                start += size
    pieces = [matrices[ir] for _, ir in linear.irreps_in if ir in matrices]
    _assign(linear.weight, torch.cat(pieces), f"{name}.weight")
    if linear.bias is not None:
        _assign(linear.bias, _get(state, f"{name}.bias"), f"{name}.bias")


def _load_decoder(linear: EquivariantLinear, state: State, irreps_in: Irreps, targets: TargetLayout) -> None:
    order = deephe3_channels(targets).tolist()
    flat, bias, start = _get(state, "lin_edge.weight"), _get(state, "lin_edge.bias"), 0
    columns: dict[int, Tensor] = {}
    for mul, ir in irreps_in:
        for channel in order:
            if targets.irreps[channel].ir == ir:
                columns[channel] = flat[start : start + mul]
                start += mul
    scalars = [channel for channel in order if targets.irreps[channel].ir == (0, 1)]
    _check_shape(bias.shape, (len(scalars),), "lin_edge.bias")
    biases = dict(zip(scalars, bias, strict=True))
    ours = targets.frame.order
    pieces = [
        torch.stack([columns[channel] for channel in ours if targets.irreps[channel].ir == ir], dim=1).flatten()
        for _, ir in linear.irreps_in
    ]
    _assign(linear.weight, torch.cat(pieces), "lin_edge.weight")
    if linear.bias is not None:
        _assign(linear.bias, torch.stack([biases[channel] for channel in ours if channel in biases]), "lin_edge.bias")


def _sorted(irreps: list[Irreps]) -> list[Irreps]:
    return [FrameLayout(entry).sorted_irreps for entry in irreps]


def _with_gates(scalars: Irreps, gates: int) -> Irreps:
    return Irreps([*scalars, (gates, "0e")])


def _channel_order(irreps: Irreps) -> Tensor:
    """``ours[k] = theirs[order[k]]`` for the channels of some irreps."""
    channels = [(ir.l, not is_natural(ir.l, ir.p)) for mul, ir in irreps for _ in range(mul)]
    return torch.tensor(sorted(range(len(channels)), key=channels.__getitem__), dtype=torch.long)


def _get(state: State, name: str) -> Tensor:
    if name not in state:
        raise CheckpointError(
            f"expected a DeepH-E3 network with a weight {name!r}, found none. Check the sizes of the network."
        )
    return state[name]


def _assign(parameter: Tensor, value: Tensor, name: str) -> None:
    _check_shape(value.shape, tuple(parameter.shape), name)
    parameter.copy_(value)


def _check_shape(found: tuple[int, ...], expected: tuple[int, ...], name: str) -> None:
    if tuple(found) != expected:
        raise CheckpointError(
            f"{name}: expected the shape {expected}, found {tuple(found)}. Check the irreps of the network."
        )
