"""The CP2K input holds the settings of the data; the pruned Mo basis is the engine's own less one shell and one row."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from tracegrad.data.dft.calculation import Request
from tracegrad.data.dft.cp2k_input import MIXINGS, PRUNED_BASIS, needs_pruned_basis, render_input, write_input
from tracegrad.data.dft.systems import ELEMENTS, SYSTEMS

CP2K_DATA = Path("/usr/share/cp2k/BASIS_MOLOPT")


def rendered(key: str) -> str:
    request = Request(key, "test", 0)
    return render_input(request.atoms(), request.system, request.k_mesh())


@pytest.mark.parametrize("key", SYSTEMS)
def test_input_holds_the_settings_of_the_system(key: str) -> None:
    text, system = rendered(key), SYSTEMS[key]
    assert "$" not in text
    assert float(re.search(r"^ +CUTOFF (\S+)", text, re.M)[1]) == system.cutoff
    assert float(re.search(r"^ +REL_CUTOFF (\S+)", text, re.M)[1]) == system.rel_cutoff
    assert re.findall(r"&KIND (\w+)\n +BASIS_SET (\S+)\n +POTENTIAL (\S+)", text) == [
        (symbol, ELEMENTS[symbol].basis, ELEMENTS[symbol].potential) for symbol in system.symbols
    ]
    for setting in ("EPS_DEFAULT 1e-10", "EPS_SCF 1e-6", "REAL_SPACE T", "UPPER_TRIANGULAR F", "[K] 300"):
        assert setting in text


def test_positions_are_written_to_the_last_stored_digit() -> None:
    request = Request("BT", "test", 0)
    atoms = request.atoms()
    block = re.search(r"&COORD\n(.*?)&END COORD", rendered("BT"), re.S)[1]
    written = [[float(word) for word in line.split()[1:]] for line in block.splitlines() if line.strip()]
    assert abs(written - atoms.positions).max() < 1e-9
    assert [line.split()[0] for line in block.splitlines() if line.strip()] == list(atoms.symbols)


def test_each_mixing_is_written_with_its_own_history_keyword(tmp_path: Path) -> None:
    request = Request("MG", "test", 0)
    texts = [write_input(tmp_path, request.atoms(), request.system, (3, 3, 1), m).read_text() for m in MIXINGS]
    assert [("NPULAY 8" in t, "NBROYDEN 8" in t, "NBROYDEN 12" in t) for t in texts] == [
        (False, True, False),
        (True, False, False),
        (False, False, True),
    ]


def test_only_mo_takes_its_basis_from_our_file(tmp_path: Path) -> None:
    for key in SYSTEMS:
        request = Request(key, "test", 0)
        folder = tmp_path / key
        folder.mkdir()
        write_input(folder, request.atoms(), request.system, request.k_mesh())
        assert (folder / PRUNED_BASIS).exists() == needs_pruned_basis(request.atoms()) == (key == "MM")
        assert (PRUNED_BASIS in rendered(key)) == (key == "MM")


def pruned_rows() -> list[list[str]]:
    text = files("tracegrad.data.dft").joinpath(PRUNED_BASIS).read_text(encoding="utf-8")
    return [line.split() for line in text.splitlines() if not line.startswith("#")]


def test_pruned_basis_has_the_shells_of_mo() -> None:
    shells = [int(word) for word in pruned_rows()[2]]
    counts = shells[4:]
    assert shells[:4] == [2, 0, 2, 6]
    assert tuple(l for l, count in enumerate(counts) for _ in range(count)) == ELEMENTS["Mo"].shells
    assert ELEMENTS["Mo"].n_orbitals == 19
    assert all(len(row) == 1 + sum(counts) for row in pruned_rows()[3:])


@pytest.mark.skipif(not CP2K_DATA.exists(), reason="needs the basis files of CP2K (apt-get install cp2k-data)")
def test_pruned_basis_is_the_engines_own_without_the_f_shell_and_the_last_primitive() -> None:
    lines = CP2K_DATA.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.split()[:2] == ["Mo", "DZVP-MOLOPT-SR-GTH"])
    full = [line.split() for line in lines[start + 3 : start + 10]]
    assert pruned_rows()[3:] == [row[:-1] for row in full[:-1]]
