"""Training steps as CUDA graphs: forward and backward pass of each structure, recorded once and replayed as one launch.

A small structure keeps a GPU busy for a fraction of the time that it takes to launch its three thousand kernels. With
one structure per step, every batch is one of the training graphs, always with the same tensors, so that what is
recorded at its first step is right for all later ones. Weights and gradients stay where they are in memory; the
optimiser runs after the replay as it does without recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn
from torch_geometric.data import Data

from tracegrad.loss import LossTerms

WARM_UP = 3  # times that work runs before it is recorded: libraries make their handles, constants reach the device
Work = Callable[[], LossTerms]


class Recorder(Protocol):
    """Turns work into something that repeats it."""

    def record(self, work: Work) -> tuple[Callable[[], object], LossTerms]:
        """Return what repeats the work, and the terms that it then writes to."""


class CudaRecorder:
    """CUDA graphs on one stream with one pool of memory: no two of them ever run at the same time."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> tuple[Callable[[], object], LossTerms]:
        """Warm up on the side stream, then record."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            terms = work()
        return graph.replay, terms


class RecordedSteps:
    """Forward and backward passes by batch, recorded at the first use of each.

    Args:
        loss: terms of a batch; the same operations whenever it gets the same batch.
        parameters: what gradients are written to, in tensors that stay the same.
        recorder: how work is recorded.
    """

    def __init__(
        self, loss: Callable[[Data], LossTerms], parameters: Iterable[nn.Parameter], recorder: Recorder
    ) -> None:
        self.loss, self.recorder = loss, recorder
        self.parameters = list(parameters)
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._recorded: dict[int, tuple[Data, Callable[[], object], LossTerms]] = {}  # the batch keeps its id in use

    def __call__(self, batch: Data) -> LossTerms:
        """Terms of a batch, without a graph of autograd; the gradients are in the parameters."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # whoever dropped it: a recorded step writes to these tensors
        if id(batch) not in self._recorded:
            self._recorded[id(batch)] = (batch, *self.recorder.record(lambda: self._work(batch)))
        _, replay, terms = self._recorded[id(batch)]
        replay()
        return terms

    def _work(self, batch: Data) -> LossTerms:
        torch._foreach_zero_(self.gradients)
        terms = self.loss(batch)
        terms.total.backward()
        trace = None if terms.trace is None else terms.trace.detach()
        return LossTerms(terms.total.detach(), terms.hamiltonian.detach(), trace)
