"""The convergence benchmark reads curves and times as they are."""

from __future__ import annotations

from pathlib import Path

from benchmarks.convergence import LEVELS, draw, make_parser, read_curve, run, seconds_to, table
from benchmarks.convergence import cases as make_cases

HISTORY = "step,seconds,val_mae\n10,1.5,12.0\n15,2.0,\n20,3.0,4.5\n30,6.0,5.5\n40,9.0,1.9\n"


def test_a_level_is_reached_at_its_first_validation(tmp_path: Path) -> None:
    """The first point at or below the level counts, later rises do not, rows without a validation are left out."""
    (tmp_path / "history.csv").write_text(HISTORY, encoding="utf-8")
    points = read_curve(tmp_path / "history.csv")
    assert points == [(1.5, 12.0), (3.0, 4.5), (6.0, 5.5), (9.0, 1.9)]
    assert seconds_to(points) == {"10": 3.0, "5": 3.0, "2": 9.0, "1": None}


def test_a_level_that_was_not_reached_has_no_time() -> None:
    """Control: a curve that stays above every level gives no number at all."""
    assert set(seconds_to([(1.0, 11.0)]).values()) == {None}
    assert len(LEVELS) == 4


def test_a_complete_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    """With run.json and history.csv in place nothing is trained, and the table holds the measured seconds."""
    options = make_parser().parse_args(["--work", str(tmp_path), "--recipes", "fast"])
    (case,) = make_cases(options)
    folder = tmp_path / case.name
    folder.mkdir()
    (folder / "history.csv").write_text(HISTORY, encoding="utf-8")
    (folder / "run.json").write_text(
        '{"steps": 40, "parameters": 7, "metrics": {"all": {"mae_all": 2.5}}}', encoding="utf-8"
    )
    curve = run(case, options)
    assert "| 3 | 3 | 9 | - | 1.900 |" in table([curve])
    assert curve["test_mae_all_mev"] == {"all": 2.5}
    assert len(draw([curve], "MG").axes[0].lines) == 1 + len(LEVELS)
