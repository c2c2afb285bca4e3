"""Networks of the settings of the paper's tables, from a configuration and a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import nn

from tracegrad.graph import TargetLayout
from tracegrad.model.deephe3 import DeepHE3, Induction, NetworkSizes
from tracegrad.model.e3nn_backend import E3nnDeepHE3
from tracegrad.model.harmose import HarmoSE
from tracegrad.model.output import OutputTransform

if TYPE_CHECKING:
    from tracegrad.data import Dataset

SETTINGS = {
    "DeepHE3": (False, False),
    "DeepHE3+Trace": (False, True),
    "DeepHE3+Grad": (True, False),
    "DeepHE3+TraceGrad": (True, True),
    "HarmoSE": (False, False),
    "HarmoSE+TraceGrad": (True, True),
}  # setting -> (gradient operator, trace supervision); Tables 1 and 2, Table 3


class NetworkConfig(Protocol):
    """The fields of a model configuration that the network itself needs (``tracegrad.config.ModelConfig``)."""

    setting: str
    hidden_irreps: str
    embed_dim: int
    lmax_sh: int
    num_blocks: int
    r_max: float
    num_radial: int
    norm: str
    num_neighbors: float
    envelope: int
    envelope_end: float
    backend: str
    operator: str
    operator_width: int
    operator_rank: int
    operator_norm: bool
    operator_gain: float
    operator_gain_learned: bool
    trace_width: int
    hermitian: bool
    time_reversal: bool
    reference: bool
    reference_only: bool
    scaling: str
    harmose_width: int
    harmose_blocks: int
    harmose_heads: int


def build_model(config: NetworkConfig, dataset: Dataset, num_neighbors: float | None = None) -> nn.Module:
    """Network for a data set, with fresh weights from torch's generator: the one that ``tracegrad train`` trains.

    Args:
        config: sizes and setting.
        dataset: gives the elements, their orbitals and the spin.
        num_neighbors: the sum of messages into a node is divided by the root of this; by default that of the
            configuration.
    """
    return build_network(config, TargetLayout.from_dataset(dataset, config.time_reversal), num_neighbors)


def build_network(config: NetworkConfig, targets: TargetLayout, num_neighbors: float | None = None) -> nn.Module:
    """Network for a target layout (as :func:`build_model`)."""
    operator, trace = SETTINGS[config.setting]
    sizes = NetworkSizes(
        hidden_irreps=config.hidden_irreps,
        embed_dim=config.embed_dim,
        lmax_sh=config.lmax_sh,
        num_blocks=config.num_blocks,
        r_max=config.r_max,
        num_radial=config.num_radial,
        norm=config.norm,
        num_neighbors=config.num_neighbors if num_neighbors is None else num_neighbors,
        envelope=config.envelope,
        envelope_end=config.envelope_end,
    )
    induction = Induction(
        operator=operator,
        trace=trace,
        form=config.operator,
        width=config.operator_width,
        rank=config.operator_rank,
        norm=config.operator_norm,
        gain=config.operator_gain,
        gain_learned=config.operator_gain_learned,
        trace_width=config.trace_width,
    )
    output = OutputTransform(targets, config.reference, config.scaling == "channel", config.reference_only)
    network = DeepHE3(targets, sizes, induction, config.hermitian, output)
    if config.backend == "e3nn":
        network = E3nnDeepHE3(network)
    if not config.setting.startswith("HarmoSE"):
        return network
    return HarmoSE(network, config.harmose_width, config.harmose_blocks, config.harmose_heads)
