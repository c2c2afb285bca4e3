"""Recorded steps train as plain ones do, and a step is fit to be recorded: nothing in it waits for a number.

No GPU is needed: a recorder that repeats the work by calling it stands for a CUDA graph, and what a CUDA graph cannot
hold is looked for among the operations of a step on the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tracegrad.config import Config, load_config
from tracegrad.data import Dataset, load_dataset
from tracegrad.errors import ConfigError
from tracegrad.loss import LossTerms
from tracegrad.training import train
from tracegrad.training.checkpoint import read_tensors
from tracegrad.training.recorded import RecordedSteps
from tracegrad.training.run import prepare

Tiny = Callable[..., Config]
# Operations whose result the processor must know before it can go on, or that bring numbers of Python to the device.
UNFIT = ("_local_scalar_dense", "nonzero", "_unique", "masked_select", "lift_fresh", "equal", "bincount")


class Repeater:
    """Stands for CUDA graphs: what is recorded runs once for the warm-up, then at each replay, into the same terms."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def record(self, work: Callable[[], LossTerms]) -> tuple[Callable[[], object], LossTerms]:
        self.recordings += 1
        held = work()

        def replay() -> None:
            self.replays += 1
            terms = work()
            held.total.copy_(terms.total)
            held.hamiltonian.copy_(terms.hamiltonian)
            if held.trace is not None and terms.trace is not None:
                held.trace.copy_(terms.trace)

        return replay, held


class UnfitOperations(TorchDispatchMode):
    """Collects the operations that cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in UNFIT):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a final checkpoint."""
    return dict(read_tensors(path)["state_dict"])


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_recorded_training_ends_with_the_same_weights(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    changes = {"optimizer": optimizer, "epochs": 3, "clip": 0.5, "ema_decay": 0.9}
    plain = weights(train(tiny(training=changes), tmp_path / "plain", quiet=True, dataset=dataset))
    repeater = Repeater()
    monkeypatch.setattr("tracegrad.training.run.CudaRecorder", lambda: repeater)
    monkeypatch.setattr("tracegrad.training.run.choose_device", lambda *_: torch.device("cpu"))
    recorded_config = tiny(training={**changes, "cuda_graphs": True})
    recorded = weights(train(recorded_config, tmp_path / "recorded", quiet=True, dataset=dataset))
    assert all(torch.equal(recorded[name], value) for name, value in plain.items())
    assert (repeater.recordings, repeater.replays) == (4, 12)  # once per structure, then every step


def test_gradients_are_those_of_the_last_batch_alone(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    module = prepare(tiny(), dataset, torch.device("cpu"), tmp_path).module
    first, second = module.batches.graphs[:2]
    trained = [p for p in module.model.parameters() if p.requires_grad]
    steps = RecordedSteps(module.terms_of, trained, Repeater())
    for batch in (first, second, first):
        terms = steps(batch)
    of_first = [p.grad.clone() for p in trained if p.grad is not None]
    for parameter in trained:
        parameter.grad = None
    expected = module.terms_of(first)
    expected.total.backward()
    unused = torch.zeros(())
    for mine, parameter in zip(of_first, trained, strict=True):
        assert torch.equal(mine, unused.expand_as(mine) if parameter.grad is None else parameter.grad)
    assert torch.equal(terms.total, expected.total.detach())
    assert not torch.equal(terms.total, module.terms_of(second).total)
    assert not terms.total.requires_grad


@pytest.mark.parametrize("setting", ["DeepHE3", "DeepHE3+TraceGrad"])
@pytest.mark.parametrize("key", ["MG", "BT"])  # one element without spin, two with it
def test_no_operation_of_a_step_waits_for_a_number(key: str, setting: str, tmp_path: Path) -> None:
    config = load_config(preset="smoke", dataset=key, setting=setting, overrides=["data.num_train=1"])
    module = prepare(config, load_dataset(key), torch.device("cpu"), tmp_path).module
    (batch,) = module.batches.graphs
    module.terms_of(batch).total.backward()  # constants reach their dtype
    with UnfitOperations() as unfit:
        terms = module.terms_of(batch)
        terms.total.backward()
    assert unfit.found == []
    with UnfitOperations() as control:
        float(terms.total.detach())
        terms.total.new_tensor([1.0])
    assert len(control.found) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 2), ("devices", 2), ("nodes", 2), ("rotate_after", 0.5), ("lambda_schedule", "annealed")],
)
def test_what_a_recorded_step_cannot_follow_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"cuda_graphs needs training.{key}"):
        load_config(preset="smoke", dataset="MG", overrides=["training.cuda_graphs=true", f"training.{key}={value}"])


def test_without_a_gpu_nothing_is_recorded(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cuda_graphs: expected a CUDA GPU"):
        train(tiny(training={"cuda_graphs": True}), tmp_path / "run", quiet=True, dataset=dataset)
