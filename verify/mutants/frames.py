r"""A layer in the frame of its edge, as tracegrad's encoder has it, sound and with two faults of frames.

Features turn into the frame whose pole is the edge, are scaled per |m| and gated by their m = 0 parts, and turn back.
The frame has a free angle about the edge; the layer is sound because nothing in it depends on that angle. Its result
goes to zero with the length of the edge, where there is no frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn

from tracegrad.so3 import wigner_D_from_angles

from .kinds import Subject

FEATURES = o3.Irreps("2x0e + 2x1o + 2x2e")
KINDS = ("atan2", "acos", "gauge")


class EdgeFrameLayer(nn.Module):
    """Features (E, FEATURES.dim) of edges (E, 3), through their frames.

    Args:
        kind: "atan2" is sound; "acos" loses half the digits at the pole; "gauge" applies SiLU to components of m != 0.
        seed: seed of the weights.
    """

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__()
        self.kind = kind
        self.irreps_in = [o3.Irreps("1o"), FEATURES]
        self.irreps_out = FEATURES
        generator = torch.Generator().manual_seed(seed)
        gains = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        gains = gains + torch.where(gains > 0, 0.5, -0.5)
        self.gains = nn.Parameter(gains)

    def angles(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Azimuth and polar angle of edges, pole y (e3nn's order of components)."""
        x, y, z = nn.functional.normalize(vectors, dim=1).unbind(1)
        azimuth = torch.atan2(x, z)
        if self.kind == "acos":
            return azimuth, torch.acos(y.clamp(-1, 1))
        return azimuth, torch.atan2(torch.hypot(x, z), y)

    def forward(self, vectors: Tensor, features: Tensor) -> Tensor:
        """Features of the same irreps."""
        azimuth, polar = self.angles(vectors)
        squares = vectors.square().sum(1, keepdim=True)
        parts = []
        for (mul, ir), where in zip(FEATURES, FEATURES.slices(), strict=True):
            D = wigner_D_from_angles(ir.l, azimuth, polar, torch.zeros_like(polar))
            local = features[:, where].unflatten(1, (mul, ir.dim)) @ D
            parts.append((self.act(local, ir.l) @ D.mT).flatten(1))
        return torch.cat(parts, dim=1) * squares / (1 + squares)

    def act(self, local: Tensor, l: int) -> Tensor:
        """What happens in the frame to (E, mul, 2l+1), components m = -l..l."""
        if self.kind == "gauge":
            return nn.functional.silu(local)
        order = torch.arange(-l, l + 1, device=local.device).abs()
        return local * self.gains[l][order] * torch.sigmoid(local[..., l : l + 1])


def edge_frame_subject(kind: str) -> Callable[[int], Subject]:
    """Builder of the layer as a subject.

    Args:
        kind: one of `KINDS`.
    """

    def build(seed: int) -> Subject:
        layer = EdgeFrameLayer(kind, seed)
        return Subject(layer, layer.irreps_in, [layer.irreps_out])

    return build
