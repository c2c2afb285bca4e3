"""What no weights of a network can learn is said before the training, and is in its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.config import PRESETS, RECIPES, Config, load_config
from tracegrad.data import DATABASES, Dataset, load_dataset
from tracegrad.evaluation import run_and_record
from tracegrad.graph import TargetLayout, graph_from_pairs
from tracegrad.model import DeepHE3, Induction, NetworkSizes
from tracegrad.training.limits import missing_on_site

Tiny = Callable[..., Config]


def test_pairs_beyond_the_grid_are_said_and_recorded(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [(s, s.hamiltonian.hermitian_half()) for s in dataset.train if s.hamiltonian is not None]
    lengths = np.concatenate([np.linalg.norm(s.edge_vectors(half), axis=1) for s, half in blocks])
    lengths = lengths[lengths > 0]
    share = float((lengths > 2.5).mean())
    assert 0 < share < 1
    short = tiny(model={"r_max": 2.5}, training={"epochs": 1})
    record = run_and_record(short, tmp_path / "short", dataset=dataset)
    assert record["pairs_beyond_r_max"] == pytest.approx(share)
    told = f"{100 * share:.0f} % of the pairs are longer than model.r_max 2.5 Å (up to {lengths.max():.1f} Å): their "
    assert f"{told}distances do not reach the network" in capsys.readouterr().err
    run_and_record(short, tmp_path / "quiet", quiet=True, dataset=dataset)
    assert "r_max" not in capsys.readouterr().err
    record = run_and_record(tiny(training={"epochs": 1}), tmp_path / "long", dataset=dataset)  # control
    assert "pairs_beyond_r_max" not in record
    assert "r_max" not in capsys.readouterr().err


def test_on_site_irreps_above_the_features_are_said_and_recorded(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = tiny(model={"hidden_irreps": "4x0e+4x1o"}, training={"epochs": 1})
    record = run_and_record(low, tmp_path / "low", dataset=dataset)
    assert record["on_site_lmax_missing"] == 2
    told = "on-site blocks have irreps 2e, which model.hidden_irreps lacks: they are predicted as zero; add for example"
    assert f"{told} 4x2e" in capsys.readouterr().err
    record = run_and_record(tiny(training={"epochs": 1}), tmp_path / "all", dataset=dataset)  # control
    assert "on_site_lmax_missing" not in record
    assert "on-site" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("orbitals", "spinful", "features", "missing"),
    [
        ({57: (0, 1, 2, 3)}, False, "4x0e+2x1o+2x2e+2x3o+2x4e+2x5o", "6e"),
        ({6: (0, 1, 2)}, False, "4x0e+2x1o+2x2e", "3o 4e"),
        ({6: (0, 1, 2)}, False, "4x0e+2x1o+2x3o+2x4e", "2e"),
        ({6: (0, 1)}, True, "4x0e+2x1o", "2e"),
        ({1: (0,), 6: (0, 1)}, False, "4x0e+2x1o+2x2e", ""),
    ],
    ids=["f", "d", "a degree left out", "spin", "control"],
)
def test_what_is_missing_is_what_is_zero_for_any_weights(
    orbitals: dict[int, tuple[int, ...]], spinful: bool, features: str, missing: str
) -> None:
    targets = TargetLayout(orbitals, spinful)
    torch.manual_seed(0)
    operator = Induction(operator=True, form="low_rank", width=4)
    model = DeepHE3(targets, NetworkSizes(features, 4, 4, 2, 4.0, 8, "none"), operator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    positions = torch.tensor([[0.0, 0, 0], [1.3, 0.4, 0.2], [0.3, -0.9, 1.1]], dtype=torch.float64)
    pairs, shift = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.zeros(3, 3, dtype=torch.long)
    numbers, box = torch.full((3,), targets.elements[-1]), 20 * torch.eye(3, dtype=torch.float64)
    graph = graph_from_pairs(numbers, positions, box, pairs, shift, targets, lmax=model.frame_degree)
    with torch.no_grad():
        on_site = model(graph)["edge_irreps"][:3]
    parts = list(zip(targets.irreps, targets.irreps.slices(), strict=True))
    natural = {ir for (_, ir), _ in parts if ir.p == (-1) ** ir.l}
    there = {ir for (_, ir), part in parts if (on_site[:, part] != 0).any()}
    found = missing_on_site(targets, features)
    assert " ".join(map(str, found)) == missing
    assert natural - there == set(found)


@pytest.mark.parametrize("key", ["MG", "MM", "BG", "BB", "BT", "BS"])
def test_every_preset_reaches_all_on_site_blocks(key: str) -> None:
    dataset = load_dataset(key)
    symbols = {"C": 6, "S": 16, "Mo": 42, "Bi": 83, "Te": 52, "Se": 34}
    published = {symbols[name]: shells for name, shells in DATABASES[key].orbitals_published.items()}
    for orbitals in (dataset.orbitals, published):
        targets = TargetLayout(orbitals, dataset.spinful)
        for preset in PRESETS:
            for recipe in RECIPES:
                features = load_config(preset=preset, dataset=key, overrides=[f"recipe={recipe}"]).model.hidden_irreps
                assert missing_on_site(targets, features) == ()
        assert missing_on_site(targets, "64x0e+32x1o+16x2e+8x3o") != ()  # control


def test_the_limits_are_fields_of_the_record(root: Path) -> None:
    schema = json.loads((root / "benchmarks" / "schema_run.json").read_text(encoding="utf-8"))
    assert {"pairs_beyond_r_max", "on_site_lmax_missing"} <= schema["properties"].keys()
