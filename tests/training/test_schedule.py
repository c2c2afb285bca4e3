"""Learning rates and budgets against the tables they come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tracegrad.config import TrainingConfig, load_config
from tracegrad.training.schedule import Budget, RateSchedule, cosine, one_cycle, slippery_slope


def schedule(**changes: object) -> RateSchedule:
    """Return a schedule with 10 steps per epoch and rate 1."""
    return RateSchedule(replace(TrainingConfig(learning_rate=1.0, epochs=100), **changes), 10)  # type: ignore[arg-type]


def test_slippery_slope_halves_at_start_and_then_every_interval() -> None:
    rates = [slippery_slope(epoch, 700, 300, 0.5) for epoch in (0, 699, 700, 999, 1000, 1299, 1300, 2399)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 2.0**-6]


def test_published_rates_over_the_run() -> None:
    training = load_config(preset="published", dataset="MM").training
    rates = RateSchedule(training, 300)
    assert rates.rate(0, 0.0) == 0.005
    assert rates.rate(1199 * 300 + 299, 0.5) == 0.005
    assert rates.rate(1200 * 300, 0.5) == 0.0025
    assert rates.rate(2201 * 300, 1.0) == pytest.approx(0.005 * 0.5**6)


def test_cosine_and_one_cycle_end_where_they_should() -> None:
    assert [cosine(p, 1.0, 0.01) for p in (0.0, 0.5, 1.0, 1.5)] == pytest.approx([1.0, 0.505, 0.01, 0.01])
    assert [one_cycle(p, 0.01) for p in (0.0, 0.3, 1.0)] == pytest.approx([0.04, 1.0, 0.01])


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, final_div_factor=4.0, cycle_momentum=False
    )
    found, expected = [], []
    for step in range(101):
        # torch counts its phases in steps: the rise ends at 0.3 * 101 - 1 = 29.3
        progress = 0.3 * step / 29.3 if step <= 29.3 else 0.3 + 0.7 * (step - 29.3) / (100 - 29.3)
        found.append(one_cycle(progress, 0.01))
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 100:
            oracle.step()
    assert found == pytest.approx(expected, abs=1e-9)


def test_warmup_is_linear_and_multiplies_the_schedule() -> None:
    rates = schedule(schedule="constant", warmup_steps=4)
    assert [rates.rate(step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_plateau_decays_after_patience_and_waits_during_cooldown() -> None:
    rates = schedule(schedule="plateau", patience=3, cooldown=2, threshold=0.0, smoothing=1.0)
    factors = []
    for _ in range(12):
        rates.observe(1.0, epochs=1)
        factors.append(rates.factor)
    # the first value is the best; epochs 2-5 are bad (4 > 3); 2 epochs of rest; 4 bad ones again
    assert factors == [1.0] * 4 + [0.5] * 6 + [0.25] * 2


def test_plateau_does_not_decay_while_the_loss_falls() -> None:
    rates = schedule(schedule="plateau", patience=3, cooldown=2, threshold=0.05, smoothing=0.5)
    for epoch in range(50):
        rates.observe(0.8**epoch, epochs=1)
    assert rates.factor == 1.0


def test_other_schedules_do_not_look_at_the_loss() -> None:
    rates = schedule(schedule="cosine", patience=1)
    for _ in range(50):
        rates.observe(1.0, epochs=1)
    assert rates.factor == 1.0


def test_state_is_complete() -> None:
    rates = schedule(schedule="plateau", patience=3, cooldown=2, threshold=0.0, smoothing=0.5)
    for _ in range(6):
        rates.observe(1.0, epochs=1)
    copy = schedule(schedule="plateau", patience=3, cooldown=2, threshold=0.0, smoothing=0.5)
    copy.load_state_dict(rates.state_dict())
    for loss in (1.0, 2.0, 1.5, 1.0, 1.0, 1.0):
        rates.observe(loss, epochs=1)
        copy.observe(loss, epochs=1)
        assert copy == rates


def test_budget_takes_the_smallest_limit() -> None:
    config = TrainingConfig(epochs=3, max_steps=25, max_seconds=10.0)
    assert Budget.from_config(config, 10) == Budget(25, 10.0)
    assert Budget.from_config(config, 5) == Budget(15, 10.0)
    assert Budget.from_config(TrainingConfig(max_seconds=10.0), 5) == Budget(0, 10.0)
    budget = Budget(20, 10.0)
    assert [budget.progress(10, 0.0), budget.progress(0, 7.5), budget.progress(99, 0.0)] == [0.5, 0.75, 1.0]
