"""The SOAP of a package is an oracle of ours, and sees through the adapter what ours sees."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_optimizer import SOAP as PackageSOAP
from torch import Tensor, nn

from benchmarks import optimizers
from benchmarks.optimizers import MatrixShapes, OnMatrices, Timed, main
from tracegrad.training.soap import SOAP

# With a side of 5 the first gradient would leave two directions out, whose basis is anybody's choice.
SHAPES = [(4, 3), (3, 4), (4, 3)]
Make = Callable[[MatrixShapes], torch.optim.Optimizer]


def path(make: Make, shapes: list[tuple[int, int]], steps: int = 30) -> Tensor:
    """Where an optimiser takes a flat weight that holds three matrices, on a target that wavers.

    It wavers so that no gradient repeats the one before: its rounding errors in directions without a gradient would
    decide the path.
    """
    generator = torch.Generator().manual_seed(5)
    flat = nn.Parameter(torch.randn(36, generator=generator, dtype=torch.float64))
    target = torch.randn(36, generator=generator, dtype=torch.float64)
    mixing = torch.randn(36, 36, generator=generator, dtype=torch.float64)
    optimizer = make({flat: shapes})
    optimizer.param_groups[0]["lr"] = 0.02
    for _ in range(steps):
        optimizer.zero_grad()
        wavering = target + torch.randn(36, generator=generator, dtype=torch.float64)
        (mixing @ (flat - wavering)).square().sum().backward()
        optimizer.step()
    return flat.detach()


def ours(shapes: MatrixShapes) -> torch.optim.Optimizer:
    return SOAP(shapes, 0.0, eps=0.0, precondition_every=1)


def of_package(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return PackageSOAP(parameters, 0.0, (0.95, 0.95), weight_decay=0.0, precondition_frequency=1, eps=1e-30)


def on_matrices(shapes: MatrixShapes) -> torch.optim.Optimizer:
    return OnMatrices(shapes, of_package)


def as_they_are(shapes: MatrixShapes) -> torch.optim.Optimizer:
    return of_package(list(shapes))


@pytest.mark.parametrize(("make", "same"), [(on_matrices, True), (as_they_are, False)], ids=["matrices", "control"])
def test_soap_of_a_package_takes_the_same_path_on_the_same_matrices(make: Make, same: bool) -> None:
    # The package decomposes in float32.
    assert torch.allclose(path(ours, SHAPES), path(make, SHAPES), rtol=0, atol=1e-6) == same


def test_adapter_hands_every_weight_its_own_gradient() -> None:
    def adapted(shapes: MatrixShapes) -> torch.optim.Optimizer:
        return OnMatrices(shapes, lambda pieces: torch.optim.SGD(pieces, lr=0.0))

    plain = path(lambda shapes: torch.optim.SGD(list(shapes), lr=0.0), SHAPES, steps=3)
    assert torch.equal(path(adapted, SHAPES, steps=3), plain)
    assert not torch.equal(path(adapted, SHAPES, steps=2), plain)


@pytest.mark.parametrize("by_name", [True, False])
def test_time_of_the_closure_is_not_that_of_the_optimiser(by_name: bool) -> None:
    def closure() -> float:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        calls.append(1)
        return 0.0

    calls: list[int] = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    timed, start = Timed(optimizer), time.process_time()
    for _ in range(4):
        if by_name:
            optimizer.step(closure=closure)
        else:
            optimizer.step(closure)
    assert len(calls) == timed.steps == 4
    assert timed.seconds < 0.5 * (time.process_time() - start)  # the closures alone take nearly all of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "XX"), "unknown database 'XX'"),
        (("--rates", "0.05,abc"), "training.learning_rate: expected finite number, found str 'abc'"),
        (("--setting", "DeepHE4"), "Did you mean 'DeepHE3'?"),
        (("--out", "{file}"), "File exists"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
)
def test_bad_input_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def train(*_: object) -> dict[str, float]:
        trained.append(1)
        return {"optimizer_ms": 1.0, "val_mae_mev": 1.0}

    trained: list[int] = []
    monkeypatch.setattr(optimizers, "train_with", train)
    (tmp_path / "file").write_text("x")
    option, value = words
    out = ["--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main([*out, option, value.format(file=tmp_path / "file")]) == 2
    assert message in capsys.readouterr().err
    assert not trained
    assert main(out) == 0  # control
    assert trained


def test_a_training_that_blew_up_has_no_error_in_table_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = iter((None, 1.5, 2.5))
    monkeypatch.setattr(optimizers, "train_with", lambda *_: {"optimizer_ms": 1.0, "val_mae_mev": next(errors)})
    assert main(["--preset", "smoke", "--rates", "0.05", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| not finite |") == 1
    assert "| 1.500 |" in printed  # control
    rows = json.loads((tmp_path / "optimizers_MG.json").read_text(encoding="utf-8"))["rows"]
    assert [row["val_mae_mev"] for row in rows] == [None, 1.5, 2.5]


def test_table_and_record_hold_every_optimiser_and_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "2", "--preset", "smoke", "--rates", "0.05", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "optimizers_MG.json").read_text(encoding="utf-8"))
    assert [row["optimizer"] for row in record["rows"]] == [
        "ours",
        "package, parameters as they are",
        "package, on the matrices",
    ]
    assert all(row["val_mae_mev"] > 0 and row["optimizer_ms"] > 0 for row in record["rows"])
    assert (tmp_path / "optimizers_MG.md").read_text(encoding="utf-8") in capsys.readouterr().out
