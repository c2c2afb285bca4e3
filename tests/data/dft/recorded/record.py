"""The recorded CP2K outputs: what they are, and how to make them again.

    python tests/data/dft/recorded/record.py        writes NAME.tar.xz beside this file; needs CP2K, takes 20 s

Two atoms in a small hexagonal cell, one of them folded by CP2K and the other not.
Loose thresholds keep the files small.
"""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms

from tracegrad.data.dft import cp2k
from tracegrad.data.dft.calculation import Request
from tracegrad.data.dft.cp2k_input import write_input
from tracegrad.data.dft.systems import SYSTEMS, System

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recording(Request):
    """A recorded run: a request with a geometry, a mesh and settings of its own."""

    recorded_system: System = SYSTEMS["MG"]
    lattice: tuple[float, float] = (0.0, 0.0)
    positions: tuple[tuple[float, float, float], ...] = ()
    mesh: tuple[int, int, int] = (1, 1, 1)
    eps_default: str = "1e-10"
    threshold: str = "1e-10"

    @property
    def system(self) -> System:
        return self.recorded_system

    def k_mesh(self) -> tuple[int, int, int]:
        return self.mesh

    def atoms(self) -> Atoms:
        a, c = self.lattice
        cell = np.array([[a, 0.0, 0.0], [-a / 2, a * 3**0.5 / 2, 0.0], [0.0, 0.0, c]]).round(8)
        symbols = [self.system.symbols[0]] * len(self.positions)
        centre = float(np.mean([z for _, _, z in self.positions]))
        return Atoms(symbols, positions=self.positions, cell=cell, pbc=True, info={"slab_centre": centre})

    def run(self, folder: Path) -> str:
        """Run CP2K with the loose thresholds of the recording; return the text of its output."""
        path = write_input(folder, self.atoms(), self.system, self.mesh)
        text = path.read_text(encoding="utf-8")
        text = text.replace("EPS_DEFAULT 1e-10", f"EPS_DEFAULT {self.eps_default}")
        path.write_text(text.replace("THRESHOLD 1e-10", f"THRESHOLD {self.threshold}"), encoding="utf-8")
        return cp2k.run_cp2k(cp2k.find_cp2k(), folder)[0]


RECORDINGS = {
    "carbon_dimer": Recording(
        "MG",
        "test",
        0,
        recorded_system=replace(SYSTEMS["MG"], cutoff=100.0, r_cut=9.0),
        lattice=(5.2, 9.0),
        positions=((1.6, 0.4, 2.2), (2.75, 0.95, 2.9)),
        mesh=(2, 1, 1),
        eps_default="1e-8",
        threshold="1e-6",
    ),
    "bismuth_dimer": Recording(
        "BB",
        "test",
        0,
        recorded_system=replace(SYSTEMS["BB"], cutoff=60.0, r_cut=11.0),
        lattice=(8.0, 12.0),
        positions=((3.0, 0.7, 2.4), (4.9, 2.0, 4.2)),
        eps_default="1e-7",
        threshold="1e-5",
    ),
}


def main() -> None:
    """Record all outputs again."""
    for name, recording in RECORDINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            output = cp2k.parse_output(recording.run(Path(folder)))
            with tarfile.open(FOLDER / f"{name}.tar.xz", "w:xz") as archive:
                for path in sorted(Path(folder).iterdir()):
                    archive.add(path, arcname=path.name)
        print(f"{name}: {output.cycles} cycles, {(FOLDER / f'{name}.tar.xz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
