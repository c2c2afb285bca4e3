"""A model that raises: at inputs that the verifier made up this is skipped, at the given one turned it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from verify import DataAdapter, Field, Report, Verdict, verify_equivariance, verify_model
from verify.cli import main

POINTS = {"pos": Field("cartesian_points"), "charge": Field("1x0e")}


def _graph() -> Data:
    i, j = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    index = torch.stack([i[i != j], j[i != j]])
    return Data(
        pos=1.3 * torch.randn(5, 3, dtype=torch.float64), charge=torch.rand(5, 1).double() + 0.5, edge_index=index
    )


class Demanding(nn.Module):
    """Energies of the nodes; refuses what its test says; broken: from the x components alone."""

    def __init__(self, refuses: Callable[[Data], bool], broken: bool = False) -> None:
        super().__init__()
        self.refuses, self.broken = refuses, broken

    def forward(self, graph: Data) -> Tensor:
        assert not self.refuses(graph), "need four atoms"
        i, j = graph.edge_index
        vectors = graph.pos[j] - graph.pos[i]
        weight = torch.exp(-(vectors[:, :1] if self.broken else vectors).square().sum(1, keepdim=True))
        return torch.zeros(len(graph.pos), 1, dtype=weight.dtype).index_add(0, i, weight * graph.charge[j])


def _verify(model: nn.Module, *checks: str) -> Report:
    adapter = DataAdapter(POINTS, {"energy": Field("1x0e")})
    return verify_model(model, _graph(), adapter=adapter, checks=checks or None, trials=4, search=8)


def test_sound_model_that_refuses_few_atoms_passes_and_the_report_says_what_was_skipped() -> None:
    report = _verify(Demanding(lambda graph: graph.num_nodes < 4))
    assert report.passed, report.to_text()
    assert "chosen inputs skipped: the model raised AssertionError: need four atoms" in report.check("search").message
    assert report.check("search").details["refused"] > 0


def test_sound_model_of_a_fixed_number_of_atoms_passes_without_batch_and_fragment() -> None:
    report = _verify(Demanding(lambda graph: graph.num_nodes != 5))
    assert report.passed, report.to_text()
    for check in ("batch_independence", "far_fragment"):
        assert "the model raised AssertionError: need four atoms" in report.skipped[check]


@pytest.mark.parametrize("check", ["rotation", "search", "pole"])
def test_model_that_raises_where_its_given_input_is_turned_fails(check: str) -> None:
    torch.manual_seed(0)
    given = _graph().pos
    torch.manual_seed(0)

    def turned(graph: Data) -> bool:
        return graph.pos.shape == given.shape and not torch.allclose(graph.pos, given, atol=1e-2)

    report = _verify(Demanding(turned), check, "determinism")
    assert report.check(check).verdict is Verdict.STRUCTURAL
    assert "raised AssertionError: need four atoms" in report.check(check).message
    assert report.check("determinism").passed


def test_fault_keeps_its_verdict_where_the_model_refuses_every_smaller_case() -> None:
    report = _verify(Demanding(lambda graph: graph.num_nodes < 5, broken=True), "rotation")
    assert report.verdict is Verdict.STRUCTURAL
    case = report.check("rotation").counterexample
    assert case is not None
    assert case.rows == 5


class _Part(nn.Module):
    """A module that raises when it is tested alone."""

    irreps_in = irreps_out = "2x1o"

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x == x.flatten()[0]).all()), "expected equal numbers"
        return x


class _Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = _Part()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(torch.ones_like(x))


def test_diagnosis_that_raises_leaves_the_verdict() -> None:
    report = verify_equivariance(_Whole(), ["2x1o"], ["2x1o"], checks=["rotation"], trials=4)
    assert report.verdict is Verdict.STRUCTURAL
    assert report.check("rotation").error > 0.1
    assert report.modules == []


def test_exception_outside_the_checks_exits_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raising_target.py").write_text(
        "from verify import Target\n\ndef build():\n"
        "    class Late(Target):\n        def verify(self, **options):\n            raise KeyError('lost')\n"
        "    return Late(abs)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--target", "raising_target:build"]) == 2
    captured = capsys.readouterr()
    assert "raised KeyError: 'lost'" in captured.err
    assert "raising_target.py:" in captured.err
    assert "Traceback" not in captured.err
