"""Potentials of other packages: a sound one passes, a fault is found, a missing package fails by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peers import Row, measure


@pytest.mark.parametrize("fault", peers.FAULTS, ids=lambda fault: fault.__name__)
def test_schnet_passes_and_its_faults_are_found(fault: peers.Fault) -> None:
    row = measure("torch-geometric", fault, trials=4, search=0, diagnose=False)
    assert (row.verdict == "PASS") == (fault is peers.sound)
    assert ("rotation" in row.failures) == (fault is not peers.sound)


def _row(fault: str, verdict: str) -> Row:
    return Row("potential", "package 1.0", fault, verdict, [], 0.0, 1e-14, 1.0)


def test_exit_code_says_whether_the_verifier_was_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*wanted: str) -> None:
        verdicts = dict(zip(("sound", "skewed", "rounded"), wanted, strict=True))

        def answered(name: str, fault: peers.Fault, **_: object) -> Row:
            if name == "mace-torch":
                raise ImportError("No module named 'mace'")
            return _row(fault.__name__, verdicts[fault.__name__])

        monkeypatch.setattr(peers, "measure", answered)

    record = tmp_path / "peers.json"
    answer("PASS", "STRUCTURAL", "PRECISION")
    assert peers.main(["--packages", "nequip", "--json", str(record)]) == 0
    assert [row["fault"] for row in json.loads(record.read_text())["rows"]] == ["sound", "skewed", "rounded"]
    assert peers.main(["--packages", "mace-torch,nequip"]) == 1
    assert "wrong: mace-torch was not verified: No module named 'mace'" in capsys.readouterr().err
    answer("PASS", "PASS", "PRECISION")
    assert peers.main(["--packages", "nequip"]) == 1
    assert "wrong: potential (skewed) got PASS" in capsys.readouterr().err
    answer("STRUCTURAL", "STRUCTURAL", "PRECISION")
    assert peers.main(["--packages", "nequip"]) == 1
    assert "wrong: potential (sound) got STRUCTURAL" in capsys.readouterr().err
