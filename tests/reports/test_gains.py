"""The figure of all comparisons: seeds in pairs, groups by recipe and rate, the paper's values apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.gains import GROUPS, METHOD, Gain, draw, grid, main, published_gains, read_gains
from reports.tables import PAPER
from tracegrad.data import DATABASES

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def trained(rate: float, recipe: str = "fast") -> dict[str, Any]:
    """Fields of a record with a rate and a recipe."""
    return {"recipe": recipe, "config": {"data": {}, "model": {}, "training": {"learning_rate": rate}}}


def test_the_change_is_over_the_seeds_that_both_have(fake_record: Make, write_records: Write) -> None:
    folder = write_records(
        fake_record(seed=1, scale=2.0, **trained(0.1)),
        fake_record(seed=2, scale=50.0, **trained(0.1)),  # has no partner
        fake_record(seed=3, scale=4.0, **trained(0.1)),
        fake_record(setting=METHOD, seed=1, scale=1.0, **trained(0.05)),
        fake_record(setting=METHOD, seed=3, scale=3.5, **trained(0.05)),
        fake_record(setting=METHOD, seed=4, scale=90.0, **trained(0.05)),  # nor has this one
    )
    (gain,) = read_gains(folder)
    mean = 3.5  # of the errors 1 to 6 that scale multiplies
    assert gain.baseline == pytest.approx(3.0 * mean)
    assert gain.change == pytest.approx(2.25 / 3.0 - 1.0)
    assert (gain.seeds, gain.steps, gain.rate, gain.group) == (2, 80, "0.1 / 0.05", "recipe fast")


@pytest.mark.parametrize("dataset", sorted(DATABASES))
def test_groups_follow_recipe_and_published_rate(
    fake_record: Make, write_into: Write, tmp_path: Path, dataset: str
) -> None:
    published = DATABASES[dataset].preset()["learning_rate"]
    cases = {("fast", published, published): 0, ("paper", published, published): 1}
    cases |= {("paper", 2 * published, 2 * published): 2, ("paper", published, 2 * published): 2}
    for number, ((recipe, first, second), group) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        pair = fake_record(dataset, **trained(first, recipe)), fake_record(dataset, METHOD, **trained(second, recipe))
        gains = read_gains(write_into(folder, *pair))
        assert {gain.group for gain in gains} == {list(GROUPS)[group]}
        assert [gain.where for gain in gains] in ([dataset], [f"{dataset} nt", f"{dataset} t"])


def test_the_paper_has_ten_changes_all_below_zero() -> None:
    gains = published_gains()
    assert len(gains) == 10
    assert all(-0.35 < gain.change < -0.11 for gain in gains)
    assert {gain.group for gain in gains} == {PAPER}


def test_the_grid_has_a_line_per_condition_and_marks_what_reaches_the_paper() -> None:
    fast, published, other = GROUPS
    paper = [Gain("MG", "all", 0.3, -0.30, PAPER), Gain("BB", "t", 0.5, -0.18, PAPER)]
    ours = [
        Gain("MG", "all", 1.0, -0.30, fast, 80, "0.1 / 0.05", 3),  # as much as the paper
        Gain("BB", "t", 2.0, -0.17, fast, 80, "0.05", 1),  # a little less
        Gain("MG", "all", 1.0, -0.31, fast, 80, "0.1"),  # the same condition again: a line of its own
        Gain("MG", "all", 1.0, 0.1, fast, 80, "0.05", source="data/more.h5"),
        Gain("BB", "t", 1.0, 0.2, other, 80, "0.02"),
        Gain("MG", "all", 1.0, 0.3, other, 80, "0.01"),
        Gain("MG", "all", 1.0, 0.0, published, 1200, "0.003"),
    ]
    head, _, *lines = grid(ours, paper).splitlines()
    assert head == "| recipe and rate | rate | steps | seeds | MG | BB t |"
    assert lines == [
        f"| {fast} | 0.05 to 0.1 | 80 | 1 to 3 | **-30.0** | -17.0 |",
        f"| {fast} | 0.1 | 80 | 1 | **-31.0** | – |",
        f"| {fast}, more | 0.05 | 80 | 1 | +10.0 | – |",
        f"| {published} | 0.003 | 1,200 | 1 | +0.0 | – |",
        f"| {other} | 0.01 | 80 | 1 | +30.0 | – |",
        f"| {other} | 0.02 | 80 | 1 | – | +20.0 |",
        f"| {PAPER} | – | – | – | -30.0 | -18.0 |",
    ]


def test_every_comparison_is_one_mark_and_the_papers_stand_apart() -> None:
    fast, paper, _ = GROUPS
    ours = [Gain("MG", "all", 1.0, -0.1, fast), Gain("BB", "t", 2.0, 0.1, paper)]
    left, right = draw(ours, published_gains()).axes
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines if line.get_marker() != "None"]
    assert marks == [(1.0, pytest.approx(-10.0)), (2.0, pytest.approx(10.0))]
    assert [line.get_markerfacecolor() for line in left.lines[:2]] == [GROUPS[fast], "none"]
    assert sum(line.get_marker() != "None" for line in right.lines) == 10
    assert right.get_title(loc="left") == PAPER


def test_the_command_writes_table_and_figure_and_refuses_half_a_comparison(
    fake_record: Make, write_into: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("whole", "half")]
    for folder in folders:
        folder.mkdir()
    pair = fake_record("BB", **trained(0.05)), fake_record("BB", METHOD, scale=0.5, **trained(0.05))
    write_into(folders[0], *pair)
    write_into(folders[1], pair[0])
    assert main([str(folders[0]), "--out", str(tmp_path / "out")]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["gains.md", "gains.png", "gains.svg", "gains_by_condition.md"]
    text = capsys.readouterr().out
    details, by_condition = ((tmp_path / "out" / name).read_text(encoding="utf-8") for name in written if "md" in name)
    assert text == f"{details}\n{by_condition}"
    assert re.findall(r"(?<=\| )BB n?t \| 1 .*", text) == [
        "BB nt | 1 | 3.500 | 1.750 | -50.0 % |",
        "BB t | 1 | 3.500 | 1.750 | -50.0 % |",
    ]
    assert main([str(folders[1]), "--out", str(tmp_path / "other")]) == 2
    assert f"expected runs of DeepHE3 and {METHOD} with one seed, found none" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("x")
    assert main([str(folders[0]), "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    write_into(folders[1], fake_record("BB"), fake_record("BB", METHOD))
    assert main([str(folders[1]), "--out", str(tmp_path / "other")]) == 2
    assert "expected a number at config.training.learning_rate" in capsys.readouterr().err
