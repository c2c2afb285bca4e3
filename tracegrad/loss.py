"""Loss of the Hamiltonian and of the trace label (TraceGrad, arXiv:2405.05722, Eqs. 10-11)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.graph import TargetLayout

SMALLEST_LOSS = 1e-30  # keeps L_H / L_T finite when the labels are met exactly


@dataclass(frozen=True)
class LossTerms:
    """Loss of one batch.

    Args:
        total: what is minimised; of several processes the part of this one, whose mean over them is the loss.
        hamiltonian: L_H, mean |ΔH|² over the matrix elements of all directed edges, eV²; of all processes.
        trace: L_T, or None without a trace decoder; of all processes.
    """

    total: Tensor
    hamiltonian: Tensor
    trace: Tensor | None = None


@dataclass(frozen=True)
class ReversedFrame:
    """Targets of the reversed pairs from those of the forward ones, a signed permutation in the edge frames.

    Args:
        index: (D,) component of the forward pair.
        sign: (D,) its sign.
    """

    index: Tensor
    sign: Tensor

    @classmethod
    def of(cls, targets: TargetLayout) -> ReversedFrame:
        """Hermitian partner in the frames of the edges."""
        return cls(*targets.frame_partner)


@dataclass(frozen=True)
class TraceGradLoss:
    """L = L_H + λ · stopgrad(L_H / L_T) · L_T.

    The factor makes the gradient of the second term λ L_H ∇ log L_T, whatever the unit of T. Source: TraceGrad,
    Eqs. 10-11; the L1 form and the standardisation are those of the authors' later code.

    Args:
        lambda_trace: λ; the paper has 0.3.
        schedule: ``constant``, or ``annealed``: from λ to 0 over the second half of the run.
        trace_loss: ``mse`` (paper) or ``l1``.
        standardize: compare T with mean 0 and variance 1 over the blocks of each edge.
        reverse: for networks that predict both directions of every pair.
    """

    lambda_trace: float = 0.3
    schedule: str = "constant"
    trace_loss: str = "mse"
    standardize: bool = False
    reverse: ReversedFrame | None = None

    def __call__(self, outputs: Mapping[str, Tensor], graph: Data, progress: float = 0.0) -> LossTerms:
        """Loss of a batch.

        Args:
            outputs: ``frame`` (rows, D) in eV and, with a trace decoder, ``trace`` (rows, n_blocks) in eV².
            graph: the batch with its targets.
            progress: how much of the run is over, 0 to 1.
        """
        hamiltonian = hamiltonian_loss(outputs["frame"], graph, self.reverse)
        hamiltonian = hamiltonian * process_share(torch.dot(graph.target_weight, graph.target_elements))
        of_all = mean_over_processes(hamiltonian)
        if "trace" not in outputs:
            return LossTerms(hamiltonian, of_all)
        trace = trace_label_loss(outputs["trace"], graph, self.trace_loss, self.standardize)
        trace = trace * process_share(torch.dot(graph.target_weight, graph.trace_mask.sum(dim=1)))
        trace_of_all = mean_over_processes(trace)
        weight = trace_weight(self.lambda_trace, self.schedule, progress)
        ratio = (of_all / trace_of_all.clamp_min(SMALLEST_LOSS)).detach()
        return LossTerms(hamiltonian + weight * ratio * trace, of_all, trace_of_all)


def num_processes() -> int:
    """Processes that train one network together; 1 outside a distributed run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


def process_share(count: Tensor) -> Tensor | float:
    r"""Factor that makes the mean over processes of means over their batches the mean over the joint batch.

    .. math:: \frac{1}{W} \sum_r \frac{W n_r}{\sum_s n_s}\, \frac{A_r}{n_r} = \frac{\sum_r A_r}{\sum_r n_r}

    Distributed training averages gradients over processes; structures of different sizes have different ``n``.

    Args:
        count: ``n`` of this process, a scalar.
    """
    if num_processes() == 1:
        return 1.0
    total = count.detach().clone()
    torch.distributed.all_reduce(total)
    return count * num_processes() / total


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a scalar over the processes, without gradient; in a single process the scalar itself."""
    if num_processes() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / num_processes()


def hamiltonian_loss(predicted: Tensor, graph: Data, reverse: ReversedFrame | None = None) -> Tensor:
    r"""Mean squared error over the matrix elements of all directed edges.

    .. math:: L_H = \frac{\sum_e w_e \sum_c m_{ec} (t_{ec} - \hat t_{ec})^2}{\sum_e w_e n_e}

    Orthonormal irreps make the inner sum Σ|ΔH|² of the block matrix, so no rotation and no Clebsch-Gordan product is
    needed; w counts a pair of the Hermitian half twice. Source: TraceGrad, Eq. 10.

    Args:
        predicted: (rows, D) irreps in the edge frames, eV: the Hermitian half, or all directed edges.
        graph: batch with ``target_frame``, ``target_mask``, ``target_weight`` and ``target_elements`` of the half.
        reverse: needed where all directed edges are predicted; each then counts once.

    Returns:
        Scalar in eV².
    """
    target, mask = graph.target_frame, graph.target_mask
    elements = torch.dot(graph.target_weight, graph.target_elements)
    if len(predicted) == len(target):
        return torch.dot(graph.target_weight, ((predicted - target) * mask).square().sum(dim=1)) / elements
    assert reverse is not None, "predictions for all directed edges need the frames of the reversed ones"
    index, pairs = reverse.index.to(target.device), slice(graph.num_nodes, None)
    target = torch.cat([target, target[pairs, index] * reverse.sign.to(target)])
    mask = torch.cat([mask, mask[pairs, index]])
    return ((predicted - target) * mask).square().sum() / elements


def trace_label_loss(predicted: Tensor, graph: Data, kind: str = "mse", standardize: bool = False) -> Tensor:
    """Error of the trace labels over the blocks that the pairs of elements have (TraceGrad, Eq. 11).

    Args:
        predicted: (rows, n_blocks).
        graph: batch with ``target_trace`` in eV², ``trace_mask`` and ``target_weight``.
        kind: ``mse`` or ``l1``.
        standardize: label with mean 0 and variance 1 over the blocks of each edge.

    Returns:
        Scalar, eV⁴ (mse) or eV² (l1); without a unit when standardised.
    """
    target = standardized(graph.target_trace, graph.trace_mask) if standardize else graph.target_trace
    difference = predicted - target
    error = difference.square() if kind == "mse" else difference.abs()
    weight = graph.trace_mask * graph.target_weight[:, None]
    loss: Tensor = (error * weight).sum() / weight.sum()
    return loss


def standardized(label: Tensor, mask: Tensor) -> Tensor:
    """Label with mean 0 and variance 1 over the blocks of each edge, (rows, n_blocks); 0 where the mask is 0."""
    count = mask.sum(dim=1, keepdim=True).clamp_min(1.0)
    centred = (label - (label * mask).sum(dim=1, keepdim=True) / count) * mask
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    smallest = torch.finfo(label.dtype).tiny ** 0.5
    return centred / deviation.clamp_min(smallest)


def trace_weight(lambda_trace: float, schedule: str, progress: float) -> float:
    """λ at a point of the run: constant, or cosine to 0 over the second half."""
    if schedule == "constant":
        return lambda_trace
    return lambda_trace * 0.5 * (1.0 + math.cos(math.pi * min(max(2.0 * progress - 1.0, 0.0), 1.0)))
