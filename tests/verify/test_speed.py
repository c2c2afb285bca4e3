"""A verification of a small layer is quick, and its cost is printed beside that of e3nn's tool."""

from __future__ import annotations

import json

import pytest

from verify import speed


def test_all_checks_of_a_layer_take_less_than_a_second_and_a_case_less_than_with_e3nn() -> None:
    timing = speed.measure("linear", repeats=3)  # medians: a collection of garbage in one run does not count
    assert timing.everything < 1.0
    assert timing.ours < timing.theirs


@pytest.mark.parametrize(
    ("timing", "code"), [((0.5, 1e-3, 2e-3), 0), ((1.5, 1e-3, 2e-3), 1), ((0.5, 3e-3, 2e-3), 1)], ids=str
)
def test_table_names_every_layer_and_the_exit_code_judges_it(timing, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "measure", lambda name, repeats: speed.Timing(name, *timing))
    assert speed.main(["--json", str(tmp_path / "speed.json")]) == code
    printed = capsys.readouterr().out
    assert [row["layer"] for row in json.loads((tmp_path / "speed.json").read_text())] == list(speed.layers())
    assert all(name in printed for name in speed.layers())
