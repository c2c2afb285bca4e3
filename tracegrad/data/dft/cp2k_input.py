"""The CP2K input of a structure: one template, filled from the settings of its system.

The settings that matter for the numbers (thresholds, k-points, output in real space) stand in ``template.inp``; what
differs between systems comes from ``systems.py``. CP2K reads the bases and potentials of its own data folder; only the
pruned Mo basis is ours and is written beside the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from ase import Atoms

from tracegrad.data.dft.systems import ELEMENTS, System

INPUT_NAME = "run.inp"
PRUNED_BASIS = "BASIS_PRUNED"
MAX_SCF = 60


@dataclass(frozen=True)
class Mixing:
    """Density mixing of the SCF: method, ALPHA, BETA and the length of its history."""

    method: str
    alpha: float
    beta: float
    history: int

    def lines(self) -> list[str]:
        """Keywords of the MIXING section."""
        history = "NBROYDEN" if self.method == "BROYDEN_MIXING" else "NPULAY"
        values = ("METHOD", self.method), ("ALPHA", self.alpha), ("BETA", self.beta), (history, self.history)
        return [f"{keyword} {value}" for keyword, value in values]


# Tried in this order until the SCF converges.
MIXINGS = (
    Mixing("BROYDEN_MIXING", 0.6, 0.1, 8),
    Mixing("PULAY_MIXING", 0.6, 0.3, 8),
    Mixing("BROYDEN_MIXING", 0.2, 0.5, 12),
)


def render_input(
    atoms: Atoms, system: System, k_mesh: tuple[int, int, int], mixing: Mixing = MIXINGS[0], max_scf: int = MAX_SCF
) -> str:
    """Return the text of the CP2K input.

    Args:
        atoms: Structure, Å.
        system: Settings (cutoffs in Ry).
        k_mesh: Monkhorst-Pack mesh; an even number of points along an axis leaves Gamma out.
        mixing: Density mixing.
        max_scf: Largest number of SCF cycles.
    """
    symbols = list(dict.fromkeys(atoms.symbols))
    basis_files = ["BASIS_MOLOPT"] + [PRUNED_BASIS] * needs_pruned_basis(atoms)
    text = Template(files(__package__).joinpath("template.inp").read_text(encoding="utf-8"))
    return text.substitute(
        basis_files=_indent([f"BASIS_SET_FILE_NAME {name}" for name in basis_files], 4),
        cutoff=system.cutoff,
        rel_cutoff=system.rel_cutoff,
        k_mesh=" ".join(map(str, k_mesh)),
        max_scf=max_scf,
        mixing=_indent(mixing.lines(), 8),
        cell=_indent([f"{name} {_numbers(row)}" for name, row in zip("ABC", atoms.cell, strict=True)], 6),
        coordinates=_indent([f"{s} {_numbers(p)}" for s, p in zip(atoms.symbols, atoms.positions, strict=True)], 6),
        kinds=_indent([line for symbol in symbols for line in _kind(symbol)], 4),
    )


def write_input(
    folder: Path,
    atoms: Atoms,
    system: System,
    k_mesh: tuple[int, int, int],
    mixing: Mixing = MIXINGS[0],
    max_scf: int = MAX_SCF,
) -> Path:
    """Write the input, and the pruned basis where Mo needs it, into a run folder; return the path of the input."""
    if needs_pruned_basis(atoms):
        basis = files(__package__).joinpath(PRUNED_BASIS).read_text(encoding="utf-8")
        (folder / PRUNED_BASIS).write_text(basis, encoding="utf-8")
    path = folder / INPUT_NAME
    path.write_text(render_input(atoms, system, k_mesh, mixing, max_scf), encoding="utf-8")
    return path


def needs_pruned_basis(atoms: Atoms) -> bool:
    """Whether an element of the structure takes its basis from our own basis file."""
    return any(ELEMENTS[symbol].basis.endswith("PRUNED") for symbol in set(atoms.symbols))


def _kind(symbol: str) -> list[str]:
    element = ELEMENTS[symbol]
    return [f"&KIND {symbol}", f"  BASIS_SET {element.basis}", f"  POTENTIAL {element.potential}", "&END KIND"]


def _numbers(values: object) -> str:
    return " ".join(f"{value:.10f}" for value in values)  # type: ignore[attr-defined]


def _indent(lines: list[str], width: int) -> str:
    return "\n".join(" " * width + line for line in lines)
