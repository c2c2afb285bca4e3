"""Potentials of other packages: a sound one passes, a fault is found, what is not installed is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peers import Row, measure


@pytest.mark.parametrize("fault", peers.FAULTS, ids=lambda fault: fault.__name__)
def test_schnet_passes_and_its_faults_are_found(fault: peers.Fault) -> None:
    row = measure("torch-geometric", fault, trials=4, search=0, diagnose=False)
    assert row.right
    assert (row.verdict == "PASS") == (fault is peers.sound)
    assert ("rotation" in row.failures) == (fault is not peers.sound)


def _row(fault: str, verdict: str) -> Row:
    return Row("potential", "package 1.0", fault, verdict, [], 0.0, 1e-14, 1.0)


def test_exit_code_says_whether_the_verifier_was_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(verdict: str) -> None:
        monkeypatch.setattr(peers, "measure", lambda _name, fault, **_options: _row(fault.__name__, verdict))

    def missing(name: str, *_: object, **__: object) -> Row:
        raise ImportError(f"No module named {name!r}")

    record = tmp_path / "peers.json"
    answer("PASS")
    assert peers.main(["--packages", "nequip", "--json", str(record)]) == 1
    assert "wrong: potential (skewed): PASS" in capsys.readouterr().err
    assert [row["fault"] for row in json.loads(record.read_text())["rows"]] == ["sound", "skewed", "rounded"]
    answer("STRUCTURAL")
    assert peers.main(["--packages", "nequip"]) == 1
    assert "wrong: potential (sound): STRUCTURAL" in capsys.readouterr().err
    monkeypatch.setattr(peers, "measure", missing)
    assert peers.main([]) == 1
    assert "nequip: left out" in capsys.readouterr().err
