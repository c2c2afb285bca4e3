"""Figures: one bar per block and method, labels, the same bytes each time, nothing where there is nothing to draw."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.block_bars import block_summaries, draw_block_bars
from reports.curves import draw_bands, draw_distance, draw_learning_curves
from reports.records import RunRecord, load_records
from tracegrad.errors import DataError

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


@pytest.fixture
def pair(fake_record: Make, write_records: Write) -> list[RunRecord]:
    """Baseline and TraceGrad on a bilayer, two seeds of the baseline."""
    records = [fake_record("BB", seed=1), fake_record("BB", seed=2, scale=3.0), fake_record("BB", "DeepHE3+TraceGrad")]
    return load_records(write_records(*records) / "runs")


def texts(svg: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg.read_text(encoding="utf-8"))


def fills(svg: Path, colour: str) -> int:
    return svg.read_text(encoding="utf-8").lower().count(f"fill: {colour.lower()}")


def test_there_is_one_bar_per_block_subset_and_method(pair: list[RunRecord], tmp_path: Path) -> None:
    files = draw_block_bars(pair, "BB", tmp_path)
    assert [path.name for path in files] == ["blocks_BB.png", "blocks_BB.svg"]
    bars_and_legend = 4 * 2 + 1
    assert fills(files[1], "#0072B2") == bars_and_legend
    assert fills(files[1], "#D55E00") == bars_and_legend


def test_blocks_are_labelled_by_their_orbitals_and_panels_by_their_subset(
    pair: list[RunRecord], tmp_path: Path
) -> None:
    found = texts(draw_block_bars(pair, "BB", tmp_path)[1])
    assert [found.count(name) for name in ("s1-s1", "s1-p1", "p1-s1", "p1-p1")] == [2, 2, 2, 2]
    assert found.index("s1-p1") < found.index("p1-s1")
    assert {"BB, not twisted (nt)", "BB, twisted (t)", "DeepHE3", "DeepHE3+TraceGrad"} <= set(found)


def test_a_bar_is_the_mean_over_seeds(pair: list[RunRecord]) -> None:
    summary = block_summaries(pair[:2], "nt")["s1-p1"]
    assert (summary.mean, summary.std) == pytest.approx((22.0, 11.0 * 2**0.5))


def test_the_second_backbone_has_a_figure_of_its_own(fake_record: Make, write_records: Write, tmp_path: Path) -> None:
    records = load_records(write_records(fake_record("MM"), fake_record("MM", "HarmoSE")) / "runs")
    names = [path.name for path in draw_block_bars(records, "MM", tmp_path)]
    assert names == ["blocks_MM.png", "blocks_MM.svg", "blocks_MM_HarmoSE.png", "blocks_MM_HarmoSE.svg"]


def test_the_same_records_give_the_same_bytes(fake_record: Make, write_records: Write, tmp_path: Path) -> None:
    records = load_records(write_records(fake_record()) / "runs")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        for draw in (draw_block_bars, draw_learning_curves, draw_distance):
            draw(records, "MG", folder)
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second
    assert len(first) == 6


def test_learning_curves_take_the_first_column_that_all_runs_fill(
    fake_record: Make, write_records: Write, tmp_path: Path
) -> None:
    full = {"step": [1.0, 2.0], "val_loss": [2.0, 1.0], "val_mae": [9.0, 8.0]}
    records = load_records(write_records(fake_record(curve=full), fake_record(seed=43, curve=full)) / "runs")
    assert "validation MAE (meV)" in texts(draw_learning_curves(records, "MG", tmp_path)[1])
    records = load_records(write_records(fake_record(curve=full), fake_record(seed=43)) / "runs")
    assert "validation loss (eV²)" in texts(draw_learning_curves(records, "MG", tmp_path)[1])


def test_a_curve_of_ragged_columns_is_rejected(fake_record: Make, write_records: Write, tmp_path: Path) -> None:
    ragged = {"step": [1.0, 2.0, 3.0], "val_loss": [2.0, 1.0]}
    records = load_records(write_records(fake_record(curve=ragged)) / "runs")
    with pytest.raises(DataError, match="columns of one length"):
        draw_learning_curves(records, "MG", tmp_path)


def test_nothing_is_drawn_where_records_carry_nothing(fake_record: Make, write_records: Write, tmp_path: Path) -> None:
    records = load_records(write_records(fake_record(lean=True)) / "runs")
    assert draw_learning_curves(records, "MG", tmp_path) == []
    assert draw_distance(records, "MG", tmp_path) == []
    assert draw_block_bars(records, "BB", tmp_path) == []


def band_file(folder: Path, **changes: Any) -> Path:
    content = {
        "dataset": "MG",
        "structure": "MG_test_000",
        "k": [0.0, 0.5, 1.0],
        "ticks": [[0.0, "Γ"], [1.0, "K"]],
        "fermi_energy_eV": -1.0,
        "dft": [[-2.0, 0.0], [-2.1, 0.1], [-2.2, 0.2]],
        "predicted": {"DeepHE3": [[-2.0, 0.1], [-2.1, 0.2], [-2.2, 0.3]]},
    }
    path = folder / "bands_MG.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_bands_show_dft_and_predictions(tmp_path: Path) -> None:
    files = draw_bands(band_file(tmp_path), tmp_path)
    assert [path.name for path in files] == ["bands_MG.png", "bands_MG.svg"]
    assert {"DFT", "DeepHE3", "Γ", "K", "MG, MG_test_000", "E − E_F (eV)"} <= set(texts(files[1]))


def test_bands_without_a_fermi_level_are_drawn_as_they_are(tmp_path: Path) -> None:
    files = draw_bands(band_file(tmp_path, fermi_energy_eV=None), tmp_path)
    assert "E (eV)" in texts(files[1])
    assert "E − E_F (eV)" not in texts(files[1])


@pytest.mark.parametrize(
    "changes", [{"dft": [[1.0], [2.0]]}, {"predicted": {"DeepHE3": 1.0}}, {"k": None}], ids=["rows", "scalar", "path"]
)
def test_a_broken_band_file_is_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"bands_MG\.json"):
        draw_bands(band_file(tmp_path, **changes), tmp_path)
