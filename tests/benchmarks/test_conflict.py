"""The angle between the gradients of the two losses, against gradients taken apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.conflict import main, measure
from tracegrad.config import load_config
from tracegrad.data import load_dataset
from tracegrad.graph import build_graph, collate
from tracegrad.loss import TraceGradLoss
from tracegrad.training import train
from tracegrad.training.checkpoint import load_checkpoint

TINY = ("hidden_irreps=4x0e+2x1o+2x2e", "embed_dim=4", "num_radial=8", "operator_width=4", "trace_width=4")
MG = load_dataset("MG")
SHORT = ("num_train=1", "epochs=0", "max_steps=2", "warmup_steps=1", "training.dtype=float64")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trainings of two steps on graphene."""
    found = {}
    for setting in ("DeepHE3", "DeepHE3+Trace", "DeepHE3+TraceGrad"):
        config = load_config(preset="smoke", dataset="MG", setting=setting, overrides=(*TINY, *SHORT))
        found[setting] = Path(train(config, tmp_path_factory.mktemp("run") / "out", quiet=True))
    return found


def test_sizes_and_cosine_are_those_of_the_gradients_taken_apart(checkpoints: dict[str, Path]) -> None:
    rows = {row[0]: row[1:] for row in measure(checkpoints["DeepHE3+TraceGrad"], 1)}
    model, config, _ = load_checkpoint(checkpoints["DeepHE3+TraceGrad"])
    graph = collate([build_graph(load_dataset("MG").val[0], model.targets, dtype=torch.float64)])
    shared = [p for name, p in model.train().named_parameters() if p.requires_grad and "trace_decoder" not in name]
    training = config.training
    loss = TraceGradLoss(1.0, trace_loss=training.trace_loss, standardize=training.trace_standardize)
    terms = loss(model.in_frame(graph), graph)

    def gradient(total: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(total, shared, retain_graph=True, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(parts, shared, strict=True)]
        )

    alone = TraceGradLoss(0.0)({"frame": model.in_frame(graph)["frame"]}, graph).total
    H, T = gradient(alone), config.training.lambda_trace * (gradient(terms.total) - gradient(alone))
    ratio, cosine = rows["all shared weights"][2:]
    assert ratio == pytest.approx(float(T.norm() / H.norm()), rel=1e-8)
    assert cosine == pytest.approx(float(torch.dot(H, T) / (H.norm() * T.norm())), abs=1e-8)
    assert ratio != pytest.approx(float(T.norm() / H.norm()) / config.training.lambda_trace, rel=1e-3)  # control
    assert {"node updates", "edge updates", "operator"} < rows.keys()


def test_parts_that_one_loss_does_not_reach_are_left_out(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert "operator" not in {row[0] for row in measure(checkpoints["DeepHE3+Trace"], 1)}
    assert main([str(checkpoints["DeepHE3+Trace"]), "--structures", "1", "--out", str(tmp_path / "table.md")]) == 0
    assert "| MG DeepHE3+Trace | node updates |" in (tmp_path / "table.md").read_text()


def test_a_network_without_trace_supervision_is_refused(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoints["DeepHE3"])]) == 2
    assert "expected a network with trace supervision" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["model.hermitian=false", "model.trace_of_residual=true"])
def test_losses_are_those_of_the_training(change: str, tmp_path: Path) -> None:
    overrides = (*TINY, *SHORT, "learning_rate=0.0", "log_every=1", change)
    config = load_config(preset="smoke", dataset="MG", setting="DeepHE3+TraceGrad", overrides=overrides)
    folder = tmp_path / "run"
    checkpoint = Path(train(config, folder, quiet=True))
    with pytest.MonkeyPatch.context() as patch:  # the training structure, which the history has the loss of
        patch.setattr("benchmarks.conflict.load_dataset", lambda *_, **__: replace(MG, val=MG.train[:1]))
        rows = measure(checkpoint, 1)
    last = (folder / "history.csv").read_text().splitlines()
    logged = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert rows[0][1] == pytest.approx(float(logged["train_loss"]), rel=1e-6)
    assert rows[0][2] == pytest.approx(float(logged["train_trace"]), rel=1e-6)
