"""The network and its loss as Lightning sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.config import TrainingConfig
from tracegrad.graph import TargetLayout, rotate_graph
from tracegrad.loss import LossTerms, ReversedFrame, TraceGradLoss
from tracegrad.training.data import BatchStream, step_rotation
from tracegrad.training.recorded import RecordedSteps, Recorder
from tracegrad.training.soap import SOAP, weight_matrices


def make_loss(config: TrainingConfig, targets: TargetLayout) -> TraceGradLoss:
    """Loss of a configuration for a target layout."""
    return TraceGradLoss(
        config.lambda_trace,
        config.lambda_schedule,
        config.trace_loss,
        config.trace_standardize,
        ReversedFrame.of(targets),
    )


class TrainingModule(lightning.LightningModule):
    """One optimiser, one loss; schedules, validation and states live in the callbacks.

    The whole run is one Lightning epoch without end, so that a state can be saved and resumed after any step.

    Args:
        model: network with ``in_frame(graph)``.
        config: loss and optimiser.
        batches: endless batches; they are asked for after a state has been restored.
        recorder: records the steps, where they are replayed (``training.cuda_graphs``).
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, batches: BatchStream, recorder: Recorder | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.batches = batches
        self.loss = make_loss(config, cast(TargetLayout, model.targets))
        self.progress = 0.0
        self.terms: LossTerms | None = None
        trained = [p for p in model.parameters() if p.requires_grad]
        self.recorded = RecordedSteps(self.terms_of, trained, recorder) if recorder else None

    def terms_of(self, batch: Data) -> LossTerms:
        """Loss of a batch."""
        terms: LossTerms = self.loss(self.model.in_frame(batch), batch, self.progress)  # type: ignore[operator]
        return terms

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """Loss of one batch, rotated in the part of the run where the configuration asks for it."""
        if self.config.rotate_after < 1.0 and self.progress >= self.config.rotate_after:
            batch = rotate_graph(batch, step_rotation(self.config.seed, self.trainer.global_step))
        self.terms = self.recorded(batch) if self.recorded else self.terms_of(batch)
        return self.terms.total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, unless the recorded step has."""
        if self.recorded is None:
            loss.backward()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients; a recorded step has overwritten them."""
        if self.recorded is None:
            optimizer.zero_grad()

    def train_dataloader(self) -> BatchStream:
        """Batches from the next step on."""
        order = replace(self.batches.order, rank=self.trainer.global_rank, world_size=self.trainer.world_size)
        return BatchStream(self.batches.graphs, order, start=self.trainer.global_step)

    def transfer_batch_to_device(self, batch: Data, device: torch.device, dataloader_idx: int) -> Data:
        """Leave the batch where it is: the graphs were moved once, before the training."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam as in the paper or AdamW, one fused kernel per step, or SOAP."""
        if self.config.optimizer == "soap":
            return SOAP(weight_matrices(self.model), self.config.learning_rate, self.config.weight_decay)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        settings: dict[str, Any] = {"lr": self.config.learning_rate, "betas": (0.9, 0.999), "fused": True}
        if self.config.optimizer == "adamw":
            return torch.optim.AdamW(parameters, weight_decay=self.config.weight_decay, **settings)
        return torch.optim.Adam(parameters, **settings)
