"""The study of conditions compares equal with equal, and trains the baseline once where a condition leaves it alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.convergence import Case, configuration, make_parser
from benchmarks.factors import FACTORS, OF_THE_METHOD, UNCHANGED, Factor, draw, main, table
from benchmarks.trials import START, read_trials
from tracegrad.config import load_config
from tracegrad.data import load_dataset
from tracegrad.model import build_model

SETTINGS = ["DeepHE3", "DeepHE3+TraceGrad"]


Leave = Callable[[Path, str, str, tuple[str, ...], float], None]


@pytest.fixture
def leave(finished: Callable[..., dict[str, Any]]) -> Leave:
    """Leave what a complete training leaves."""

    def write(work: Path, name: str, setting: str, change: tuple[str, ...], error: float) -> None:
        (work / name).mkdir(parents=True)
        (work / name / "history.csv").write_text(f"step,seconds,val_mae\n10,1.5,{error}\n", encoding="utf-8")
        changes = ("training.max_steps=400", "training.seed=42", *change)
        config = configuration(Case("MG", setting, "fast", 0.0, changes), make_parser().parse_args([])).to_dict()
        (work / name / "run.json").write_text(json.dumps(finished(setting=setting, config=config)), encoding="utf-8")

    return write


@pytest.fixture
def command(leave: Leave, tmp_path: Path) -> list[str]:
    """Return the command line of a study of two factors, one of the method alone; all but one training are complete."""
    (tmp_path / "factors.yaml").write_text("gain: {model.operator_gain: 1.0}\nwide: {model.embed_dim: 32}\n")
    gain, wide = ("model.operator_gain=1.0",), ("model.embed_dim=32",)
    for name, setting, change, error in (
        ("MG_DeepHE3_recipe_as_it_is_seed_42", SETTINGS[0], (), 2.0),
        ("MG_DeepHE3_wide_seed_42", SETTINGS[0], wide, 1.0),
        ("MG_DeepHE3_TraceGrad_gain_seed_42", SETTINGS[1], gain, 3.0),
        ("MG_DeepHE3_TraceGrad_wide_seed_42", SETTINGS[1], wide, 0.5),
    ):
        leave(tmp_path / "work", name, setting, change, error)
    folders = ["--factors", str(tmp_path / "factors.yaml"), "--out", str(tmp_path / "out")]
    return ["--settings", ",".join(SETTINGS), *folders, "--work", str(tmp_path / "work")]


def test_a_condition_of_the_method_alone_is_compared_with_the_unchanged_baseline(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| gain | 2.000 | 3.000 (+50.0 %) |" in printed
    assert "| wide | 1.000 | 0.500 (-50.0 %) |" in printed  # touches both: its own baseline
    content = json.loads((tmp_path / "out" / "factors_MG.json").read_text(encoding="utf-8"))
    assert content["factors"][1]["val_mae_mev"] == {"DeepHE3": [1.0], "DeepHE3+TraceGrad": [0.5]}
    assert (tmp_path / "out" / "factors_MG.png").stat().st_size > 1000


def test_every_condition_stands_on_top_of_the_start(
    leave: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start is a row of its own, and the baseline of what concerns the method alone."""
    norm, gain = "model.norm=graph", "model.operator_gain=1.0"
    (tmp_path / "conditions.yaml").write_text(
        "start: {model.norm: graph, model.operator_gain: 1.0}\n"
        "squares: {training.trace_loss: mse}\n"
        "wide: {model.embed_dim: 32}\n"
    )
    for name, setting, change, error in (
        ("MG_DeepHE3_recipe_as_it_is_seed_42", SETTINGS[0], (norm,), 2.0),
        ("MG_DeepHE3_wide_seed_42", SETTINGS[0], (norm, "model.embed_dim=32"), 4.0),
        ("MG_DeepHE3_TraceGrad_recipe_as_it_is_seed_42", SETTINGS[1], (norm, gain), 1.0),
        ("MG_DeepHE3_TraceGrad_squares_seed_42", SETTINGS[1], (norm, gain, "training.trace_loss=mse"), 3.0),
        ("MG_DeepHE3_TraceGrad_wide_seed_42", SETTINGS[1], (norm, gain, "model.embed_dim=32"), 5.0),
    ):
        leave(tmp_path / "work", name, setting, change, error)
    folders = ["--factors", str(tmp_path / "conditions.yaml"), "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main(["--settings", ",".join(SETTINGS), *folders]) == 0
    printed = capsys.readouterr().out
    assert "| recipe as it is | 2.000 | 1.000 (-50.0 %) |" in printed
    assert "| squares | 2.000 | 3.000 (+50.0 %) |" in printed
    assert "| wide | 4.000 | 5.000 (+25.0 %) |" in printed
    assert (tmp_path / "conditions_MG.json").is_file()


def test_a_training_that_fails_ends_the_study(command: list[str], tmp_path: Path) -> None:
    """Control: without a record the training is started, and here it cannot succeed."""
    (tmp_path / "work" / "MG_DeepHE3_wide_seed_42" / "run.json").unlink()
    assert main([*command, "--preset", "none"]) == 2


def test_repeats_are_shown_with_their_spread() -> None:
    factor = Factor("wide", (), {"DeepHE3": (1.0, 2.0), "DeepHE3+TraceGrad": (3.0, 3.0)})
    assert factor.change("DeepHE3+TraceGrad", "DeepHE3") == pytest.approx(1.0)
    assert "| wide | 1.500 ± 0.707 | 3.000 ± 0.000 (+100.0 %) |" in table(SETTINGS, [factor])
    assert len(draw(SETTINGS, [factor], "MG").axes[0].lines) == 3  # mean, seeds, zero


def test_seeds_without_a_finite_error_are_left_out_and_said() -> None:
    """Means are over the seeds with an error, changes over those of both; a dash stands where there is none."""
    some = Factor("some", (), {"DeepHE3": (1.0, None, 3.0), "DeepHE3+TraceGrad": (1.5, 4.0, 4.5)})
    none = Factor("none", (), {"DeepHE3": (1.0, 2.0, 3.0), "DeepHE3+TraceGrad": (None, None, None)})
    whole = Factor("whole", (), {"DeepHE3": (1.0, 2.0, 3.0), "DeepHE3+TraceGrad": (1.0, 2.0, 3.0)})
    text = table(SETTINGS, [some, none])
    assert "| some | 2.000 ± 1.414 (2 of 3 seeds) | 3.333 ± 1.607 (+50.0 % over 2 of 3 seeds) |" in text
    assert "| none | 2.000 ± 1.000 | - |" in text
    assert "A dash: no seed ended with a finite validation error." in text
    assert "A dash" not in table(SETTINGS, [whole])  # control
    means = draw(SETTINGS, [some, none], "MG").axes[0].lines[0].get_xdata()
    assert [means[0], math.isnan(means[1])] == [pytest.approx(50.0), True]


def test_a_training_that_ends_without_a_finite_error_leaves_null_in_the_record(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "work" / "MG_DeepHE3_TraceGrad_wide_seed_42" / "history.csv"
    history.write_text("step,seconds,val_mae\n10,1.5,0.5\n20,3.0,nan\n", encoding="utf-8")
    assert main(command) == 0
    assert "| wide | 1.000 | - |" in capsys.readouterr().out
    text = (tmp_path / "out" / "factors_MG.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["factors"][1]["val_mae_mev"] == {"DeepHE3": [1.0], "DeepHE3+TraceGrad": [None]}


@pytest.mark.parametrize("file", [FACTORS, FACTORS.with_name("factors_paper.yaml")], ids=lambda file: file.stem)
def test_every_factor_is_a_change_that_the_configuration_accepts(file: Path) -> None:
    factors = read_trials(file, [])
    unchanged = START if START in factors else UNCHANGED
    start, *others = (
        load_config(preset="bundled", dataset="MG", overrides=["training.max_steps=400", *factors[name]])
        for name in (unchanged, *factors)
    )
    assert [name for name, config in zip(factors, others, strict=True) if config == start] == [unchanged]


def test_conditions_of_the_method_do_not_change_the_baseline() -> None:
    """What spares the baseline a training has no effect on it: same weights, same outputs."""
    dataset = load_dataset("MG")
    networks = []
    for overrides in ((), *(o for o in read_trials(FACTORS, []).values() if o and all_of_the_method(o))):
        config = load_config(preset="smoke", dataset="MG", setting="DeepHE3", overrides=overrides)
        torch.manual_seed(0)
        networks.append(build_model(config.model, dataset).state_dict())
    assert len(networks) > 5
    for state in networks[1:]:
        assert all(torch.equal(state[name], value) for name, value in networks[0].items())


def all_of_the_method(overrides: tuple[str, ...]) -> bool:
    """Return whether a factor spares the baseline a training."""
    return all(text.startswith(OF_THE_METHOD) for text in overrides)


def test_a_file_of_conditions_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--factors", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
