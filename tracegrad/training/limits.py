"""What a network cannot learn of its training set, whatever its weights: told before the first step, and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from e3nn.o3 import Irrep, Irreps
from torch_geometric.data import Data

from tracegrad.config import ModelConfig
from tracegrad.graph import TargetLayout
from tracegrad.so3.frames import is_natural

ROUND_OFF = 1e-6  # of a distance in float32


@dataclass(frozen=True)
class Limits:
    """What of the training set does not reach a network.

    Attributes:
        r_max: end of the Gaussian grid, Å.
        longest: length of the longest pair, Å.
        pairs_beyond: fraction of the pairs that are longer than ``r_max``.
        on_site_missing: irreps of the on-site blocks that are zero for any weights.
    """

    r_max: float
    longest: float
    pairs_beyond: float
    on_site_missing: tuple[Irrep, ...]

    @classmethod
    def of(cls, config: ModelConfig, targets: TargetLayout, graphs: Sequence[Data]) -> Limits:
        """Limits of a network on training graphs.

        Args:
            config: of the network.
            targets: what is predicted.
            graphs: the training set.
        """
        vectors = [graph.edge_vectors[graph.num_nodes : graph.num_nodes + graph.num_pairs] for graph in graphs]
        lengths = torch.cat([part.norm(dim=1) for part in vectors])
        beyond = float((lengths > config.r_max * (1 + ROUND_OFF)).double().mean()) if len(lengths) else 0.0
        second_stage = config.setting.startswith("HarmoSE")  # which adds to every irrep
        missing = () if second_stage else missing_on_site(targets, config.hidden_irreps)
        return cls(config.r_max, float(lengths.max()) if len(lengths) else 0.0, beyond, missing)

    def record(self) -> dict[str, Any]:
        """Plain data for the run record; empty where there is no limit."""
        found: dict[str, Any] = {"pairs_beyond_r_max": self.pairs_beyond} if self.pairs_beyond else {}
        if self.on_site_missing:
            found["on_site_lmax_missing"] = max(irrep.l for irrep in self.on_site_missing)
        return found

    def notes(self) -> list[str]:
        """One sentence for each limit."""
        found = []
        if self.pairs_beyond:
            share = f"{100 * self.pairs_beyond:.0f} %" if self.pairs_beyond >= 0.01 else "less than 1 %"
            found.append(
                f"{share} of the pairs are longer than model.r_max {self.r_max:g} Å (up to {self.longest:.1f} Å): "
                "their distances do not reach the network"
            )
        if self.on_site_missing:
            names = ", ".join(map(str, self.on_site_missing))
            example = "+".join(f"4x{irrep}" for irrep in self.on_site_missing)
            found.append(
                f"on-site blocks have irreps {names}, which model.hidden_irreps lacks: they are predicted as zero; add "
                f"for example {example}"
            )
        return found


def missing_on_site(targets: TargetLayout, features: str) -> tuple[Irrep, ...]:
    """Irreps of the on-site blocks that features cannot reach.

    A self-loop has no direction: it keeps the degree of what it is given, so that an on-site irrep of natural parity
    needs features that have it. Those of unnatural parity, which spin brings, are left out as in DeepH-E3.

    Args:
        targets: what is predicted.
        features: irreps of the node and edge features.

    Returns:
        The irreps from low to high degree.
    """
    masks = [targets.block_mask[k * targets.num_species + k] for k in range(targets.num_species)]
    on_site = torch.stack(masks).any(0).tolist()
    channels = [channel for channel, there in zip(targets.channels, on_site, strict=True) if there]
    wanted = {ir for channel in channels for _, ir in targets.channel_irreps(channel) if is_natural(ir.l, ir.p)}
    return tuple(sorted(wanted - {ir for mul, ir in Irreps(features) if mul}))
