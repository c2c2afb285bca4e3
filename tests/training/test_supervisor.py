"""What happens when the loss blows up or is not a number, and the mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tracegrad.config import Config, TrainingConfig
from tracegrad.data import Dataset
from tracegrad.training import TrainingError, callbacks, train
from tracegrad.training.callbacks import Supervisor, validation_interval
from tracegrad.training.checkpoint import read_tensors
from tracegrad.training.data import BatchOrder
from tracegrad.training.guard import Snapshot, WeightAverage
from tracegrad.training.module import TrainingModule

Tiny = Callable[..., Config]


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the learning curve of a run."""
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, after: int = 0) -> None:
    """Let the loss of one structure be not a number in all steps after some step."""
    original = TrainingModule.training_step

    def step(self: TrainingModule, batch, index: int):  # type: ignore[no-untyped-def]
        loss = original(self, batch, index)
        if name not in batch.names or self.trainer.global_step < after:
            return loss
        assert self.terms is not None
        object.__setattr__(self.terms, "total", loss * math.nan)
        return self.terms.total

    monkeypatch.setattr(TrainingModule, "training_step", step)


def test_nan_stops_the_run_with_the_batch_named_after_the_returns(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "train_2")
    with pytest.raises(TrainingError, match="batch: train_2, after 2 returns to the best weights"):
        train(tiny(training={"max_nan_reverts": 2, "epochs": 9}), tmp_path / "run", quiet=True, dataset=dataset)
    assert not (tmp_path / "run" / "final.ckpt").exists()


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_nan_at_the_first_step_is_named_with_every_optimiser(
    optimizer: str, tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset.train[BatchOrder(num_graphs=4, batch_size=1, seed=tiny().training.seed).indices(0)[0]].name
    spoil(monkeypatch, first)
    config = tiny(training={"optimizer": optimizer, "max_nan_reverts": 0})
    with pytest.raises(TrainingError, match=f"at step 1, batch: {first}, "):
        train(config, tmp_path / "run", quiet=True, dataset=dataset)


def test_nan_is_survived_by_going_back(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "train_2")
    path = train(tiny(training={"max_nan_reverts": 3, "epochs": 3}), tmp_path / "run", quiet=True, dataset=dataset)
    tensors = read_tensors(path)["state_dict"].values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    events = [row["event"] for row in rows(tmp_path / "run") if row["event"]]
    assert len(events) == 3
    assert all("loss not finite on train_2; returned to step" in event for event in events)


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_run_without_weights_of_a_finite_loss_saves_none(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    """Once it saved its initial weights as if they were trained."""
    order = BatchOrder(num_graphs=4, batch_size=1, seed=tiny().training.seed)
    config = tiny(training={"select": select, "max_steps": 2, "validate_every": 9})
    with monkeypatch.context() as patch:
        spoil(patch, dataset.train[order.indices(1)[0]].name)  # of the last step, after which there is a validation
        for resume in (False, True):
            with pytest.raises(TrainingError, match=r"went back to its initial weights 1 times and ends with them"):
                train(config, tmp_path / "run", quiet=True, dataset=dataset, resume=resume)
    assert not (tmp_path / "run" / "final.ckpt").exists()
    spoil(monkeypatch, dataset.train[order.indices(0)[0]].name)  # control: of the first step, and the second is well
    assert train(config, tmp_path / "well", quiet=True, dataset=dataset).is_file()


@pytest.mark.parametrize(("at_once", "noticed"), [(True, 2), (False, 3)], ids=["cpu", "gpu"])
def test_the_batch_named_is_the_first_bad_one_whenever_the_loss_is_looked_at(
    at_once: bool, noticed: int, tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = BatchOrder(num_graphs=4, batch_size=1, seed=tiny().training.seed)
    second = dataset.train[order.indices(1)[0]].name
    spoil(monkeypatch, second)
    monkeypatch.setattr(callbacks, "reads_at_once", lambda batch: at_once)
    original, steps = Supervisor._return_after_nan, []

    def note(self: Supervisor, trainer, module, bad: int) -> None:  # type: ignore[no-untyped-def]
        steps.append(trainer.global_step)
        original(self, trainer, module, bad)

    monkeypatch.setattr(Supervisor, "_return_after_nan", note)
    config = tiny(training={"max_nan_reverts": 0, "log_every": 3, "validate_every": 9, "epochs": 9})
    with pytest.raises(TrainingError, match=f"at step 2, batch: {second}, "):
        train(config, tmp_path / "run", quiet=True, dataset=dataset)
    assert steps == [noticed]


def blow_up(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the validation loss be large for the weights of all steps after some step."""
    original = Supervisor._validate

    def validate(self: Supervisor, trainer, module):  # type: ignore[no-untyped-def]
        result = original(self, trainer, module)
        return {**result, "val_loss": 100.0 if trainer.global_step > after else result["val_loss"]}

    monkeypatch.setattr(Supervisor, "_validate", validate)


def test_blow_up_returns_to_the_best_weights_with_a_lower_rate(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"revert_ratio": 2.0, "revert_epochs": 3, "epochs": 7, "schedule": "constant"}
    seen: list[dict[str, torch.Tensor]] = []
    original = Supervisor._return_to_best

    def note(self: Supervisor, trainer, module: TrainingModule) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, module)
        seen.append({name: p.detach().clone() for name, p in module.model.named_parameters() if p.requires_grad})

    blow_up(monkeypatch, after=8)
    monkeypatch.setattr(Supervisor, "_return_to_best", note)
    path = train(tiny(training=training), tmp_path / "run", quiet=True, dataset=dataset)
    validated = [row for row in rows(tmp_path / "run") if row["val_loss"]]
    # validations after epochs 3, 4, 5 are bad: back to step 8; then those after 6 and 7, too few for another return
    assert [row["event"] for row in validated] == ["", "", "", "", "returned to step 8", "", ""]
    assert [float(row["rate"]) for row in validated] == pytest.approx([0.01] * 5 + [0.008] * 2)
    final = read_tensors(path)["state_dict"]
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[0].items()), "the best weights are final"


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_record_names_the_weights_that_a_return_at_the_end_leaves(
    select: str, tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blow_up(monkeypatch, after=8)
    training = {"revert_ratio": 2.0, "revert_epochs": 3, "epochs": 5, "select": select}
    content = read_tensors(train(tiny(training=training), tmp_path / "run", quiet=True, dataset=dataset))
    curve = {int(row["step"]): row for row in rows(tmp_path / "run") if row["val_loss"]}
    assert curve[20]["event"] == "returned to step 8"
    assert (content["info"]["steps"], content["info"]["selected_step"]) == (20, 8)
    assert content["info"]["val_loss"] == float(curve[8]["val_loss"])
    off = {**training, "revert_ratio": 0.0, "select": "last"}
    control = read_tensors(train(tiny(training=off), tmp_path / "off", quiet=True, dataset=dataset))
    assert (control["info"]["selected_step"], control["info"]["val_loss"]) == (20, 100.0)
    assert not torch.equal(control["state_dict"]["embedding.weight"], content["state_dict"]["embedding.weight"])


@pytest.mark.parametrize(("epochs", "expected"), [(2, 4), (3, 8)])
def test_the_record_names_the_weights_that_a_nan_at_the_last_step_leaves(
    epochs: int, expected: int, tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = BatchOrder(num_graphs=4, batch_size=1, seed=tiny().training.seed)
    spoil(monkeypatch, dataset.train[order.indices(4 * epochs - 1)[0]].name, after=4 * epochs - 1)
    config = tiny(training={"epochs": epochs, "select": "last"})
    info = read_tensors(train(config, tmp_path / "run", quiet=True, dataset=dataset))["info"]
    losses = {int(row["step"]): float(row["val_loss"]) for row in rows(tmp_path / "run") if row["val_loss"]}
    assert (info["steps"], info["selected_step"]) == (4 * epochs, expected)
    assert info["val_loss"] == losses[expected]


def test_weights_that_the_last_update_breaks_are_not_kept(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    training = {"epochs": 0, "max_steps": 5, "select": "last", "optimizer": "adam", "schedule": "constant"}
    train(tiny(training=training), tmp_path / "sound", quiet=True, dataset=dataset)
    assert rows(tmp_path / "sound")[-1]["event"] == ""
    original = Supervisor.on_train_batch_start

    def break_last(self: Supervisor, trainer, *rest: object) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 4:
            trainer.optimizers[0].param_groups[0]["lr"] = 1e30

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "on_train_batch_start", break_last)
        path = train(tiny(training=training), tmp_path / "broken", quiet=True, dataset=dataset)
    assert "validation loss not finite; returned to step 4" in rows(tmp_path / "broken")[-1]["event"]
    tensors = read_tensors(path)["state_dict"]
    assert max(float(tensor.abs().max()) for tensor in tensors.values() if tensor.is_floating_point()) < 1e6


def test_no_return_where_it_is_switched_off_or_the_loss_recovers(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blow_up(monkeypatch, after=8)
    for name, training in {"off": {"revert_ratio": 0.0}, "patient": {"revert_ratio": 2.0}}.items():
        train(tiny(training={**training, "epochs": 7}), tmp_path / name, quiet=True, dataset=dataset)
        assert not any(row["event"] for row in rows(tmp_path / name))


def test_snapshot_brings_weights_mean_and_optimiser_back() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    average = WeightAverage(model, 0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        average.update()
        return torch.cat([p.detach().reshape(-1).clone() for p in (*model.parameters(), *average.mean)])

    step()
    snapshot = Snapshot(model, average, optimizer, 1.0, 1)
    later = [step() for _ in range(3)]
    for _ in range(2):  # a snapshot is not used up, and not changed by what follows
        snapshot.restore(model, average, optimizer)
        assert all(torch.equal(step(), expected) for expected in later)
    snapshot.restore_weights(model)  # without the optimiser the way is another one
    assert not torch.equal(step(), later[0])


def test_mean_of_the_weights_is_the_exponential_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    expected = float(model.weight.detach())
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.mean[0]) == pytest.approx(expected, rel=1e-6)
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight.detach()) == 29.0


def test_without_decay_the_mean_is_the_weights() -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.0)
    before = model.weight.detach().clone()
    average.update()
    with average.applied():
        assert torch.equal(model.weight.detach(), before)


def test_validation_takes_about_a_twentieth_of_the_time() -> None:
    config = TrainingConfig(epochs=1)
    assert validation_interval(config, num_train=23, num_val=6) == 2
    assert validation_interval(config, num_train=270, num_val=90) == 3
    assert validation_interval(config, num_train=1000, num_val=1) == 1
    assert validation_interval(TrainingConfig(epochs=1, validate_every=7), num_train=23, num_val=6) == 7


def test_mae_on_validation_data_is_written_when_asked_for(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    train(tiny(training={"validate_mae": True, "epochs": 2}), tmp_path / "run", quiet=True, dataset=dataset)
    validated = [row for row in rows(tmp_path / "run") if row["val_loss"]]
    for row in validated:  # the mean of |ΔH| is at most the root of the mean square
        assert 0.0 < float(row["val_mae"]) <= 1000 * math.sqrt(float(row["val_loss"])) * (1 + 1e-9)
    train(tiny(training={"epochs": 2}), tmp_path / "plain", quiet=True, dataset=dataset)
    assert not any(row["val_mae"] for row in rows(tmp_path / "plain"))
