"""Decoders: equivariant features -> irreps of the Hamiltonian, invariants -> trace labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.graph.layout import TargetLayout
from tracegrad.model.layers.constant import Constant
from tracegrad.model.layers.linear import EquivariantLinear
from tracegrad.so3.frames import FrameBlocks, FrameLayout


class HamiltonianDecoder(nn.Module):
    r"""One equivariant linear map from the edge features to the irreps of the blocks, Hermitian by construction.

    .. math:: t = \tfrac{1}{2}\,(t_{ij} + P\, t_{ji})

    ``P`` is a permutation of the blocks with signs (:attr:`TargetLayout.partner`); in the frames of the edges the
    reversal adds one more sign, so the whole symmetrisation is folded into the weights. It uses both directed edges,
    never one of them, and so does not depend on the order of the atoms or on the choice of the cell.

    Args:
        layout: channels of the edge features.
        targets: what is predicted.
        hermitian: symmetrise and return the Hermitian half; otherwise return all directed edges, as DeepH-E3 does.
    """

    def __init__(self, layout: FrameLayout, targets: TargetLayout, hermitian: bool = True) -> None:
        super().__init__()
        self.layout, self.targets, self.hermitian = layout, targets, hermitian
        self.linear = EquivariantLinear(layout, targets.frame)
        self.output_scale = Constant(targets.component_scale[targets.frame.order])
        index, sign = _partner_channels(targets)
        self.partner, self.partner_sign = Constant(index), Constant(sign)
        reversal = torch.tensor([1.0 if (l % 2 == 0) == (not odd) else -1.0 for l, odd, _ in targets.frame.channels])
        self.reversed_sign = Constant(sign * reversal.double())
        natural = torch.tensor([1.0 if natural else -1.0 for mul, _, natural in layout.groups for _ in range(mul)])
        self._pole_mirror, self._row_mirror = Constant(natural), Constant(torch.tensor([[1.0], [-1.0]]))

    def forward(self, edge_feats: FrameBlocks, graph: Data) -> FrameBlocks:
        """Orthonormal irreps in the frames of the edges.

        Args:
            edge_feats: blocks ``(E, 1 or 2, K_m)``.
            graph: edges in the order [self-loops | forward | reversed].

        Returns:
            Blocks ``(N + P, 1 or 2, K_m)`` of the Hermitian half, or ``(E, ...)`` without symmetrisation.
        """
        matrix = self.linear.matrices()[0] * self.output_scale.like(self.linear.weight)
        bias = self.linear.padded_bias() * self.output_scale.like(self.linear.weight)
        if not self.hermitian:
            return self._multiply(edge_feats, matrix, bias)
        partner, sizes = self.partner.like(matrix), [graph.num_nodes, graph.num_pairs, graph.num_pairs]
        sign, reversed_sign = self.partner_sign.like(matrix), self.reversed_sign.like(matrix)
        parts = [torch.split(block, sizes) for block in edge_feats]
        swapped, swapped_bias = matrix[:, partner], bias[partner]
        loops = self._multiply(
            [p[0] for p in parts], 0.5 * (matrix + swapped * sign), 0.5 * (bias + swapped_bias * sign)
        )
        forward = self._multiply([p[1] for p in parts], 0.5 * matrix, 0.5 * bias)
        mirrored = [p[2] * self._mirror(m).like(p[2]) for m, p in enumerate(parts)]
        backward = self._multiply(mirrored, 0.5 * swapped * reversed_sign, 0.5 * swapped_bias * reversed_sign)
        return [torch.cat([loop, f + b]) for loop, f, b in zip(loops, forward, backward, strict=True)]

    def _mirror(self, m: int) -> Constant:
        """Sign of the rows under the reflection ``y -> -y``: the even row keeps it, the odd row changes it."""
        return self._pole_mirror if m == 0 else self._row_mirror

    def _multiply(self, blocks: FrameBlocks, matrix: Tensor, bias: Tensor) -> FrameBlocks:
        out = self.targets.frame
        outputs = []
        for m in range(out.lmax + 1):
            if m > self.layout.lmax:
                outputs.append(blocks[0].new_zeros(len(blocks[0]), 2, out.widths[m]))
            else:
                product = blocks[m] @ matrix[self.layout.starts[m] :, out.starts[m] :]
                outputs.append(product + bias if m == 0 else product)
        return outputs


def _partner_channels(targets: TargetLayout) -> tuple[Tensor, Tensor]:
    """Permutation and sign of the channels of the frame under the Hermitian partner."""
    index, sign = targets.partner
    first = [start for _, _, start in targets.frame.channels]
    channel_of = {start: k for k, start in enumerate(first)}
    partner = torch.tensor([channel_of[int(index[start])] for start in first])
    return partner, sign[torch.tensor(first)]


class TraceDecoder(nn.Module):
    """Trace labels of all blocks from the invariants of all encoding modules (TraceGrad, Section 8); training only.

    Linear, LayerNorm, SiLU; Linear, LayerNorm, SiLU; Linear.

    Args:
        width_in: channels of all ``z`` together.
        targets: what is predicted.
        hidden: width of the hidden layers (authors: 1024).
    """

    def __init__(self, width_in: int, targets: TargetLayout, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width_in, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, targets.num_channels),
        )
        self.partner = Constant(targets.partner_block)

    def forward(self, invariants: list[Tensor], graph: Data) -> Tensor:
        """Labels of the Hermitian half, ``(N + P, n_blocks)``, the mean of both directions."""
        labels = self.layers(torch.cat(invariants, dim=1))
        loops, forward, backward = torch.split(labels, [graph.num_nodes, graph.num_pairs, graph.num_pairs])
        partner = self.partner.like(labels)
        return torch.cat([0.5 * (loops + loops[:, partner]), 0.5 * (forward + backward[:, partner])])
