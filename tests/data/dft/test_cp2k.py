"""The engine's text output and potential: what is read, and what must not pass for a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracegrad.data.dft import cp2k
from tracegrad.data.dft.systems import BOHR_IN_ANGSTROM
from tracegrad.errors import DataError


@pytest.fixture
def text(unpack: Callable[[str], Path]) -> str:
    """Return the output of the recorded carbon dimer."""
    return (unpack("carbon_dimer") / cp2k.OUTPUT_NAME).read_text(encoding="utf-8")


def test_a_converged_output_is_read(text: str) -> None:
    output = cp2k.parse_output(text)
    assert output.version == "2023.1"
    assert output.cycles == 16
    assert f"{output.energy:.12f}" in text
    assert f"{output.fermi_level:.14f}" in text
    assert output.images[1] == (0, 0, 0)
    assert len(set(output.images.values())) == len(output.images)


def test_an_unconverged_scf_is_refused(text: str) -> None:
    broken = text.replace("*** SCF run converged in    16 steps ***", "*** WARNING: SCF run NOT converged ***")
    assert broken != text
    with pytest.raises(cp2k.NotConvergedError):
        cp2k.parse_output(broken)


@pytest.mark.parametrize(
    ("cut_at", "message"),
    [("SCF run converged", "before the SCF converged"), ("PROGRAM ENDED AT", "before its output was complete")],
)
def test_an_output_that_ends_early_is_refused(text: str, cut_at: str, message: str) -> None:
    with pytest.raises(cp2k.ScfError, match=message):
        cp2k.parse_output(text[: text.index(cut_at)])


def test_the_reason_of_an_abort_is_passed_on() -> None:
    abort = (
        " *******************************************************\n"
        " *   ___                                               *\n"
        " *  /   \\                                              *\n"
        " * [ABORT]                                             *\n"
        " *  \\___/     The basis set was not found              *\n"
        " *    |                                                *\n"
    )
    with pytest.raises(cp2k.ScfError, match="The basis set was not found"):
        cp2k.parse_output(abort)


@pytest.mark.parametrize("change", ["missing row", "no table", "other table"])
def test_a_damaged_table_of_images_is_refused(text: str, change: str) -> None:
    lines = text.splitlines(keepends=True)
    header = next(n for n, line in enumerate(lines) if "S CSR write|" in line and "KS" not in line)
    if change == "missing row":
        del lines[header + 4]
    elif change == "no table":
        del lines[header]
    else:
        lines[header + 3] = lines[header + 3].replace("2", "3", 1)
    with pytest.raises(cp2k.ScfError, match="image"):
        cp2k.parse_output("".join(lines))


def test_a_missing_engine_is_named_with_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install cp2k cp2k-data"):
        cp2k.find_cp2k()


def test_an_engine_on_the_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "cp2k.psmp"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cp2k.find_cp2k() == str(program)


def write_cube(path: Path, height: float, planes: int, values: np.ndarray, step: float | None = None) -> None:
    step = height / planes if step is None else step
    header = ["-Quickstep-", " HARTREE POTENTIAL", "1 0.0 0.0 0.0", "2 1.0 0.0 0.0", "3 -0.5 0.8 0.0"]
    header += [f"{planes} 0.0 0.0 {step / BOHR_IN_ANGSTROM:.9f}", "6 0.0 0.0 0.0 0.0"]
    # The plane average is the wanted value; the planes themselves are not constant.
    ripple = np.array([0.5, -0.5, 0.25, -0.25, 1.0, -1.0]).reshape(2, 3, 1)
    grid = values + ripple
    path.write_text("\n".join([*header, *(f"{v:.12e}" for v in grid.reshape(-1))]) + "\n", encoding="ascii")


@pytest.mark.parametrize("centre", [3.0, 6.1, 14.2])
def test_vacuum_level_of_a_linear_potential_is_its_value_half_a_cell_above_the_slab(
    tmp_path: Path, centre: float
) -> None:
    height, planes = 20.0, 100
    middle = (centre + height / 2) % height
    z = np.arange(planes) * height / planes
    distance = (z - middle + height / 2) % height - height / 2
    write_cube(tmp_path / "v.cube", height, planes, 0.1 + 0.02 * distance)
    assert cp2k.vacuum_level(tmp_path / "v.cube", centre, height) == pytest.approx(0.1, abs=1e-9)
    # Control: half an ångström off in the place of the slab shows.
    assert abs(cp2k.vacuum_level(tmp_path / "v.cube", centre + 0.5, height) - 0.1) > 5e-3


def test_an_uneven_stride_does_not_stretch_the_heights(tmp_path: Path) -> None:
    """With stride 2 and 101 grid planes the file has 51 planes, the last step being half as long."""
    height, step = 20.0, 2 * 20.0 / 101
    values = np.sin(2 * np.pi * np.arange(51) * step / height)
    write_cube(tmp_path / "v.cube", height, 51, values, step)
    window = np.linspace(-0.75, 0.75, 4001)
    exact = np.sin(2 * np.pi * (6.0 + 10.0 + window) / height).mean()
    assert cp2k.vacuum_level(tmp_path / "v.cube", 6.0, height) == pytest.approx(exact, abs=3e-3)
    stretched = np.sin(2 * np.pi * (6.0 + 10.0 + window) / (51 * step)).mean()
    assert abs(stretched - exact) > 5e-3


def test_a_truncated_cube_is_refused(tmp_path: Path) -> None:
    write_cube(tmp_path / "v.cube", 10.0, 10, np.zeros(10))
    lines = (tmp_path / "v.cube").read_text(encoding="ascii").splitlines()
    (tmp_path / "v.cube").write_text("\n".join(lines[:-1]), encoding="ascii")
    with pytest.raises(cp2k.ScfError, match="truncated"):
        cp2k.read_plane_average(tmp_path / "v.cube")


def test_a_tilted_third_axis_is_refused(tmp_path: Path) -> None:
    write_cube(tmp_path / "v.cube", 10.0, 10, np.zeros(10))
    text = (tmp_path / "v.cube").read_text(encoding="ascii").replace("10 0.0 0.0", "10 0.1 0.0")
    (tmp_path / "v.cube").write_text(text, encoding="ascii")
    with pytest.raises(cp2k.ScfError, match="along z"):
        cp2k.read_plane_average(tmp_path / "v.cube")
