r"""The small O(3) graph network in which faults are planted: sound by construction, with named places for one fault
each.

All pairs of nodes as edges, two layers of

.. math:: x_i \leftarrow \mathrm{gate}\Big(x_i + \sum_j T\,(x_j \otimes Y(r_{ij}) \otimes R(|r_{ij}|))\Big)

with T a fully connected tensor product, kept as one matrix. Every irrep of the hidden features is fed and read, so
that a fault in any of them can be seen. Components are e3nn's (l = 1: x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from e3nn import o3
from torch import Tensor, nn

INPUT = o3.Irreps("2x0e + 1x0o + 1x1o + 1x1e + 1x2e")
HIDDEN = o3.Irreps("3x0e + 2x0o + 3x1o + 2x1e + 2x2e")
OUTPUT = o3.Irreps("1x0e + 1x0o + 2x1o + 1x1e + 1x2e")
HARMONICS = o3.Irreps("1x0e + 1x1o + 1x2e")
RADIAL = 2
CUTOFF = 6.0

STAGES = ("positions", "input", "graph", "vectors", "harmonics", "radial", "mixed", "hidden", "output")
"""Places for a fault, in the order of the forward pass; "mixed" and "hidden" are before and after the first gate."""


@dataclass
class Context:
    """What a fault may look at besides the value it changes.

    Args:
        positions: (N, 3) as the network uses them.
        centre: (E,) receiving node of every edge.
        neighbour: (E,) sending node.
        vectors: (E, 3) from the receiving to the sending node.
    """

    positions: Tensor
    centre: Tensor
    neighbour: Tensor
    vectors: Tensor


Fault = Callable[[Tensor, Context], Tensor]


class Stage(nn.Module):
    """The identity, or the fault planted here.

    Args:
        fault: what to do with the value; None for nothing.
        irreps: irreps of the value, declared so that localisation can test the stage alone.
    """

    def __init__(self, fault: Fault | None, irreps: o3.Irreps | None) -> None:
        super().__init__()
        self.fault = fault
        if irreps is not None:
            self.irreps_in = self.irreps_out = irreps

    def forward(self, value: Tensor, context: Context) -> Tensor:
        """Value after the fault."""
        return value if self.fault is None else self.fault(value, context)


@cache
def columns(kind: str) -> slice:
    """Columns of the hidden entry of one kind, such as ``columns("1o")``."""
    ir = o3.Irrep(kind)
    return next(s for s, entry in zip(HIDDEN.slices(), HIDDEN, strict=True) if entry.ir == ir)


def change(value: Tensor, kind: str, update: Callable[[Tensor], Tensor]) -> Tensor:
    """Copy of the hidden features with the entry of one kind, as (N, mul, 2l+1), replaced by its update."""
    where = columns(kind)
    part = value[:, where].unflatten(1, (-1, 2 * int(kind[0]) + 1))
    return torch.cat([value[:, : where.start], update(part).flatten(1), value[:, where.stop :]], dim=1)


def spherical_harmonics(vectors: Tensor) -> Tensor:
    """Degrees 0, 1, 2 of unit vectors (E, 3) in e3nn's order: (E, 9); zero vectors give l = 0 only."""
    x, y, z = vectors.unbind(1)
    root = math.sqrt(3.0)
    quadratic = [root * x * z, root * x * y, y * y - 0.5 * (x * x + z * z), root * y * z, 0.5 * root * (z * z - x * x)]
    parts = [torch.ones_like(x), *(root * c for c in (x, y, z)), *(math.sqrt(5.0) * q for q in quadratic)]
    return torch.stack(parts, dim=1)


Coupling = Callable[[int, int, int], Tensor]


def sound_coupling(l1: int, l2: int, l3: int) -> Tensor:
    """3j symbols (2l1+1, 2l2+1, 2l3+1) of the real basis."""
    symbols: Tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64, device="cpu")
    return symbols


def product_matrix(irreps_out: o3.Irreps, generator: torch.Generator, coupling: Coupling) -> Tensor:
    """Fully connected tensor product of the hidden features with RADIAL copies of the harmonics, as one matrix.

    Args:
        irreps_out: irreps of the result.
        generator: source of the weights.
        coupling: 3j symbols.

    Returns:
        (HIDDEN.dim * HARMONICS.dim * RADIAL, irreps_out.dim).
    """
    table = torch.zeros(HIDDEN.dim, HARMONICS.dim, RADIAL, irreps_out.dim, dtype=torch.float64)
    for (mul1, ir1), s1 in zip(HIDDEN, HIDDEN.slices(), strict=True):
        for (_, ir2), s2 in zip(HARMONICS, HARMONICS.slices(), strict=True):
            for (mul3, ir3), s3 in zip(irreps_out, irreps_out.slices(), strict=True):
                weight = torch.randn(mul1, RADIAL, mul3, generator=generator, dtype=torch.float64)
                if ir3 not in ir1 * ir2:
                    continue
                block = torch.einsum("mao,ukv->umakvo", coupling(ir1.l, ir2.l, ir3.l), weight) * math.sqrt(
                    ir3.dim / mul1
                )
                table[s1, s2, :, s3] = block.flatten(4, 5).flatten(0, 1)
    return table.flatten(0, 2)


def linear_matrix(irreps_in: o3.Irreps, irreps_out: o3.Irreps, generator: torch.Generator) -> Tensor:
    """Equivariant linear map as a dense matrix (irreps_in.dim, irreps_out.dim)."""
    matrix = torch.zeros(irreps_in.dim, irreps_out.dim, dtype=torch.float64)
    for (mul1, ir1), s1 in zip(irreps_in, irreps_in.slices(), strict=True):
        for (mul2, ir2), s2 in zip(irreps_out, irreps_out.slices(), strict=True):
            weight = torch.randn(mul1, mul2, generator=generator, dtype=torch.float64) / math.sqrt(mul1)
            if ir1 == ir2:
                matrix[s1, s2] = torch.kron(weight, torch.eye(ir1.dim, dtype=torch.float64))
    return matrix


class Gate(nn.Module):
    """Non-linearity that keeps the irreps: SiLU on 0e, tanh on 0o, and a sigmoid of 0e per channel of the others."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.irreps_in = self.irreps_out = HIDDEN
        mul = HIDDEN.num_irreps
        self.weight = nn.Parameter(torch.randn(HIDDEN[0].mul, mul, generator=generator, dtype=torch.float64) * 0.5)
        repeats = torch.tensor([ir.dim for count, ir in HIDDEN for _ in range(count)])
        self.channel: Tensor
        self.register_buffer("channel", torch.repeat_interleave(torch.arange(mul), repeats))

    def forward(self, x: Tensor) -> Tensor:
        """Gated features (N, HIDDEN.dim)."""
        scalars, odd = columns("0e"), columns("0o")
        gates = torch.sigmoid(x[:, scalars] @ self.weight)[:, self.channel]
        gated = x * gates
        return torch.cat([nn.functional.silu(x[:, scalars]), torch.tanh(x[:, odd]), gated[:, odd.stop :]], dim=1)


class Network(nn.Module):
    """The network; `forward` maps positions (N, 3) and features (N, INPUT.dim) to (N, irreps_out.dim).

    Args:
        seed: seed of the weights.
        faults: stage name -> fault; see `STAGES`.
        coupling: 3j symbols of the first layer.
        irreps_out: irreps of the output.
        self_loops: whether every node is also its own neighbour, at the zero vector.
    """

    def __init__(
        self,
        seed: int = 0,
        faults: dict[str, Fault] | None = None,
        coupling: Coupling = sound_coupling,
        irreps_out: o3.Irreps = OUTPUT,
        self_loops: bool = False,
    ) -> None:
        super().__init__()
        faults = faults or {}
        laws = {"vectors": o3.Irreps("1o"), "harmonics": HARMONICS, "input": INPUT}
        laws |= {"mixed": HIDDEN, "hidden": HIDDEN, "output": irreps_out}
        self.stages = nn.ModuleDict({name: Stage(faults.get(name), laws.get(name)) for name in STAGES})
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(linear_matrix(INPUT, HIDDEN, generator))
        self.mix = nn.ParameterList([linear_matrix(HIDDEN, HIDDEN, generator) for _ in range(2)])
        kinds = (coupling, sound_coupling)
        self.products = nn.ParameterList([product_matrix(HIDDEN, generator, kind) * 0.12 for kind in kinds])
        self.gates = nn.ModuleList([Gate(generator) for _ in range(2)])
        self.read = nn.Parameter(linear_matrix(HIDDEN, irreps_out, generator))
        self.self_loops = self_loops
        self.irreps_in = ["cartesian_points", INPUT]
        self.irreps_out = irreps_out

    def radial(self, squares: Tensor) -> Tensor:
        """Smooth functions of the squared length (E,), zero with two derivatives at the cutoff: (E, RADIAL)."""
        envelope = (1 - squares / CUTOFF**2).clamp(min=0) ** 3
        decay = torch.tensor([0.15, 0.6], dtype=squares.dtype, device=squares.device)
        return torch.exp(-squares[:, None] * decay) * envelope[:, None]

    def forward(self, positions: Tensor, features: Tensor) -> Tensor:
        """Output features (N, irreps_out.dim)."""
        n = len(positions)
        nodes = torch.arange(n, device=positions.device)
        context = Context(positions, nodes.repeat_interleave(n), nodes.repeat(n), positions.new_zeros(0, 3))
        positions = context.positions = self.stages["positions"](positions, context)
        features = self.stages["input"](features, context)
        vectors = (positions[None, :, :] - positions[:, None, :]).flatten(0, 1)
        vectors = context.vectors = self.stages["vectors"](vectors, context)
        attributes = self.attributes(vectors, context).unflatten(0, (n, n))
        x = features @ self.embed
        for layer, (mix, product, gate) in enumerate(zip(self.mix, self.products, self.gates, strict=True)):
            # (i, j, a), (j, d) -> (i, d, a): what node i hears, before the tensor product's matrix
            heard = torch.einsum("ija,jd->ida", attributes, x).flatten(1)
            x = x @ mix + heard @ product
            if layer == 0:
                x = self.stages["hidden"](gate(self.stages["mixed"](x, context)), context)
            else:
                x = gate(x)
        result: Tensor = self.stages["output"](x @ self.read, context)
        return result

    def attributes(self, vectors: Tensor, context: Context) -> Tensor:
        """Harmonics times radial functions of all pairs, zero for a node and itself: (N * N, 9 * RADIAL)."""
        squares = vectors.square().sum(1)
        length = torch.where(squares > 0, squares, 1.0).sqrt()
        harmonics = self.stages["harmonics"](spherical_harmonics(vectors / length[:, None]), context)
        radial = self.stages["radial"](self.radial(squares), context)
        if not self.self_loops:
            radial = radial * (context.centre != context.neighbour)[:, None]
        radial = self.stages["graph"](radial, context)
        product: Tensor = (harmonics[:, :, None] * radial[:, None, :]).flatten(1)
        return product
