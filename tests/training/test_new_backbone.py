"""A network with the members that docs/extending.md calls needed is trained and measured; others are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.config import Config
from tracegrad.data import Dataset
from tracegrad.errors import ConfigError
from tracegrad.evaluation import evaluate_dataset
from tracegrad.graph import TargetLayout
from tracegrad.model import HarmoSE, OutputTransform, frame_degree
from tracegrad.training import run, train
from tracegrad.training.checkpoint import DataSummary, make_network
from tracegrad.training.data import output_of

Tiny = Callable[..., Config]


class Constants(nn.Module):
    """The same numbers for every edge, in its frame."""

    def __init__(self, targets: TargetLayout) -> None:
        super().__init__()
        self.targets = targets
        self.weight = nn.Parameter(torch.zeros(targets.irreps.dim))

    def in_frame(self, graph: Data) -> dict[str, Tensor]:
        """Numbers of the Hermitian half."""
        return {"frame": self.weight.expand(graph.num_nodes + graph.num_pairs, -1)}


class Tall(Constants):
    """The same, with a degree of its own."""

    frame_degree = 7


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, nn.Module]:
    """Let a run train the network in ``taken["model"]``, and save nothing: no configuration describes it."""
    networks: dict[str, nn.Module] = {}
    monkeypatch.setattr(run, "make_network", lambda config, data: networks["model"])
    monkeypatch.setattr(run, "save_checkpoint", lambda *rest: None)
    return networks


def test_the_members_that_are_needed_are_enough(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, taken: dict[str, nn.Module]
) -> None:
    model = taken["model"] = Constants(TargetLayout.from_dataset(dataset))
    train(tiny(training={"learning_rate": 0.02, "epochs": 6}), tmp_path / "run", quiet=True, dataset=dataset)
    rows = [line.split(",") for line in (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]]
    losses = [float(row[6]) for row in rows if row[6]]
    assert losses[-1] < 0.98 * losses[0]
    assert evaluate_dataset(model, dataset)["nt"]["mae_all"] > 0


@pytest.mark.parametrize("change", [{"reference": True}, {"scaling": "channel"}], ids=["reference", "scaling"])
def test_what_is_fitted_needs_a_network_that_fits_it(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, taken: dict[str, nn.Module], change: dict[str, object]
) -> None:
    taken["model"] = Constants(TargetLayout.from_dataset(dataset))
    with pytest.raises(ConfigError, match=r"expected a network with calibrate\(graphs\), .* found Constants without"):
        train(tiny(model=change), tmp_path / "run", quiet=True, dataset=dataset)


def test_labels_of_the_residual_need_a_network_with_a_reference(tiny: Tiny, dataset: Dataset) -> None:
    with pytest.raises(
        ConfigError, match=r"trace_of_residual: .* tracegrad\.model\.OutputTransform, .* found Constants"
    ):
        output_of(Constants(TargetLayout.from_dataset(dataset)))
    assert isinstance(output_of(make_network(tiny().model, DataSummary.of(dataset))), OutputTransform)  # control


def test_the_degree_of_the_frames_is_the_network_s_own(tiny: Tiny, dataset: Dataset) -> None:
    targets = TargetLayout.from_dataset(dataset)
    assert frame_degree(Constants(targets)) == 5
    assert frame_degree(Tall(targets)) == 7
    summary = DataSummary.of(dataset)
    first = make_network(tiny(model={"hidden_irreps": "4x0e+2x6e"}).model, summary)
    assert frame_degree(first) == frame_degree(HarmoSE(first, 8, 1, 2)) == 6
    assert frame_degree(make_network(tiny().model, summary)) == 2
