"""Running CP2K and reading its text output: convergence, energies, Fermi level, vacuum level."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracegrad.data.dft.cp2k_input import INPUT_NAME
from tracegrad.data.dft.systems import BOHR_IN_ANGSTROM
from tracegrad.errors import DataError

PROGRAMS = ("cp2k.psmp", "cp2k.ssmp", "cp2k.popt", "cp2k.sopt", "cp2k")
OUTPUT_NAME = "run.out"
ERRORS_NAME = "run.err"
VACUUM_HALF_WIDTH = 0.75
VACUUM_POINTS = 31


class ScfError(DataError):
    """The engine ran but its result must not be stored: no convergence, or an incomplete output."""


class NotConvergedError(ScfError):
    """The SCF ran out of cycles; another density mixing may help."""


@dataclass(frozen=True)
class Cp2kOutput:
    """What the text output of a converged run says.

    Args:
        version: Version of CP2K.
        cycles: SCF cycles.
        energy: Total energy, Hartree.
        fermi_level: Fermi level against the average of the electrostatic potential, Hartree.
        images: Cell vectors R of the real-space matrices by image number.
    """

    version: str
    cycles: int
    energy: float
    fermi_level: float
    images: dict[int, tuple[int, int, int]]


def find_cp2k() -> str:
    """Return the path of the CP2K program.

    Raises:
        DataError: If there is none on PATH.
    """
    for program in PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return path
    raise DataError(
        f"expected CP2K on PATH (one of {', '.join(PROGRAMS)}), found none; "
        "install it with: apt-get install cp2k cp2k-data libopenblas0-serial"
    )


def run_cp2k(program: str, folder: Path) -> tuple[str, float]:
    """Run CP2K on the input in a folder, with one thread.

    Returns:
        The text of its output, and the CPU seconds that it took.

    Raises:
        ScfError: If the program leaves no output.
    """
    (folder / OUTPUT_NAME).unlink(missing_ok=True)  # the engine would append to that of another mixing
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [program, "-i", INPUT_NAME, "-o", OUTPUT_NAME]
    with (folder / ERRORS_NAME).open("wb") as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=errors, stderr=errors)
        # wait4 and not wait: it gives the CPU time of this child, whatever others run beside it.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    output = folder / OUTPUT_NAME
    if not output.exists():
        complaint = (folder / ERRORS_NAME).read_text(encoding="utf-8", errors="replace").strip()[-300:]
        raise ScfError(f"CP2K left no output (exit code {process.returncode}): {complaint}")
    return output.read_text(encoding="utf-8", errors="replace"), usage.ru_utime + usage.ru_stime


def parse_output(text: str) -> Cp2kOutput:
    """Read the output of a run.

    Raises:
        ScfError: If the SCF did not converge, or the run ended early.
    """
    if "SCF run NOT converged" in text:
        raise NotConvergedError("the SCF did not converge")
    converged = re.search(r"SCF run converged in +(\d+) steps", text)
    if converged is None:
        abort = re.search(r"\[ABORT\][^\n]*\n(?:[ |*\\/_oO.-]*([A-Za-z][^\n*|]*))?", text)
        reason = f": {abort.group(1).strip()}" if abort and abort.group(1) else ""
        raise ScfError(f"CP2K ended before the SCF converged{reason}")
    if "PROGRAM ENDED AT" not in text:
        raise ScfError("CP2K ended before its output was complete")
    version = re.search(r"version string: +CP2K version (\S+)", text)
    return Cp2kOutput(
        version=version.group(1) if version else "unknown",
        cycles=int(converged.group(1)),
        energy=_last_number(r"ENERGY\| Total FORCE_EVAL[^:]*: +(\S+)", text, "total energy"),
        fermi_level=_last_number(r"Fermi energy: +(\S+)", text, "Fermi energy"),
        images=parse_images(text),
    )


def parse_images(text: str) -> dict[int, tuple[int, int, int]]:
    """Read the table image number -> R of the real-space matrices; KS and S must have the same.

    Raises:
        ScfError: If a table is missing or incomplete, or the two differ.
    """
    tables = []
    for label in ("KS", "S"):
        header = re.search(rf"^ *{label} CSR write\| +(\d+) periodic images\n[^\n]*\n((?: *-?\d+){{4}}\n)+", text, re.M)
        if header is None:
            raise ScfError(f"the output has no table of periodic images for the {label} matrix")
        rows = [[int(word) for word in line.split()] for line in header.group(0).splitlines()[2:]]
        table = {number: (x, y, z) for number, x, y, z in rows}
        if len(table) != int(header.group(1)):
            raise ScfError(f"expected {header.group(1)} periodic images of {label}, found {len(table)}")
        tables.append(table)
    if tables[0] != tables[1]:
        raise ScfError("the KS and S matrices have different periodic images")
    return tables[0]


def _last_number(pattern: str, text: str, name: str) -> float:
    found = re.findall(pattern, text)
    if not found:
        raise ScfError(f"the output has no {name}")
    return float(found[-1])


@dataclass(frozen=True)
class PlaneAverage:
    """Average of a grid function over the planes of constant z.

    Args:
        heights: (n,) z of the planes, Å. They need not divide the cell evenly: with a stride of 2 and an odd number of
            grid planes the last step is half as long.
        values: (n,) averages in the unit of the file.
    """

    heights: NDArray[np.float64]
    values: NDArray[np.float64]


def read_plane_average(path: Path) -> PlaneAverage:
    """Read a cube file of a cell whose third axis is z and average over the plane.

    Raises:
        ScfError: If the file is truncated or its third axis is not along z.
    """
    with path.open(encoding="ascii") as lines:
        header = [lines.readline().split() for _ in range(6)]
        for _ in range(int(header[2][0])):
            lines.readline()
        values = np.array(lines.read().split(), dtype=np.float64)
    shape = [int(axis[0]) for axis in header[3:]]
    step = np.array([float(x) for x in header[5][1:]])
    if values.size != np.prod(shape):
        raise ScfError(f"{path.name}: expected {np.prod(shape)} values, found {values.size}; the file is truncated")
    if abs(step[:2]).max() > 1e-6:
        raise ScfError(f"{path.name}: expected a third axis along z, found the direction {step}")
    heights = np.arange(shape[2]) * step[2] * BOHR_IN_ANGSTROM
    return PlaneAverage(heights, values.reshape(shape).mean(axis=(0, 1)))


def vacuum_level(path: Path, slab_centre: float, height: float) -> float:
    """Return the electrostatic potential of an electron in the middle of the vacuum.

    V_vac is the mean of the plane average over ±0.75 Å around the height half a cell above the centre of the slab
    (31 points, linear interpolation).

    Args:
        path: Cube file of the Hartree potential (Hartree).
        slab_centre: Height of the middle of the unperturbed slab, Å.
        height: Length of the cell along z, Å.

    Returns:
        V_vac in Hartree.
    """
    average = read_plane_average(path)
    window = np.linspace(-VACUUM_HALF_WIDTH, VACUUM_HALF_WIDTH, VACUUM_POINTS)
    points = slab_centre + height / 2 + window
    return float(np.interp(points, average.heights, average.values, period=height).mean())
