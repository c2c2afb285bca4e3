"""One structure: what is asked for, the run of the engine, and the blocks made from its output."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from tracegrad.data.blocks import Blocks
from tracegrad.data.compact import HARTREE_EV
from tracegrad.data.dft import cp2k, csr
from tracegrad.data.dft.cp2k_input import MIXINGS, Mixing, write_input
from tracegrad.data.dft.fermi import fermi_level
from tracegrad.data.dft.geometry import Twist, find_twist, k_mesh, make_structure
from tracegrad.data.dft.spin_orbit import spin_orbit_blocks
from tracegrad.data.dft.systems import ELEMENTS, System, get_system, structure_seed
from tracegrad.data.diagnostics import bond_frame_defects
from tracegrad.data.spin import spinful_blocks
from tracegrad.data.structure import Structure
from tracegrad.errors import DataError

KS_PREFIX = "ks-KS_SPIN_1"
S_PREFIX = "s-S_SPIN_1"
CUBE_NAME = "v-v_hartree-1_0.cube"
BOND_FRAME_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Request:
    """One structure of a set; all else follows from these values.

    Args:
        key: System, MG, MM, BG, BB, BT or BS.
        split: train, val, test, train_large or test_twisted; it enters the seed.
        index: Number within the split.
        supercell: Repeats in the plane; the default of the system if None.
        twist: Twist angle in degrees, or None.
    """

    key: str
    split: str
    index: int
    supercell: tuple[int, int] | None = None
    twist: float | None = None

    @property
    def name(self) -> str:
        """Identifier of the structure."""
        return f"{self.key}_{self.split}_{self.index:03d}"

    @property
    def system(self) -> System:
        """Settings of the system."""
        return get_system(self.key)

    @property
    def seed(self) -> int:
        """Random seed of the geometry."""
        return structure_seed(self.system, self.split, self.index)

    @property
    def subset(self) -> str:
        """Subset of the dataset that the structure belongs to."""
        return "train" if self.split == "train_large" else self.split

    def atoms(self) -> Atoms:
        """Build the geometry."""
        return make_structure(self.system, self.seed, self.supercell, self._twist())

    def k_mesh(self) -> tuple[int, int, int]:
        """Monkhorst-Pack mesh of the cell."""
        return k_mesh(self.system, self.supercell, self._twist())

    def label(self) -> str:
        """Cell in words."""
        twist = self._twist()
        if twist is not None:
            return f"twisted bilayer, {twist.angle:.4f} degrees"
        first, second = self.supercell or (self.system.supercell,) * 2
        return f"{first}x{second} supercell"

    def _twist(self) -> Twist | None:
        return None if self.twist is None else find_twist(self.twist)


@dataclass(frozen=True)
class Calculation:
    """Blocks of one structure on the pairs of the Hermitian half, against the vacuum level.

    Args:
        request: What was asked for.
        atoms: Geometry, Å.
        hamiltonian: Scalar-relativistic H - V_vac S, eV.
        overlap: S.
        spin_orbit: (3, n) W_x, W_y, W_z in eV laid out as the values of the blocks, or None.
        facts: Seed, Fermi level, SCF cycles and so on.
    """

    request: Request
    atoms: Atoms
    hamiltonian: Blocks
    overlap: Blocks
    spin_orbit: NDArray[np.float64] | None
    facts: dict[str, Any]

    def structure(self) -> Structure:
        """Return the structure with its (spinful) Hamiltonian, checked."""
        scalar = self.scalar_structure()
        if self.spin_orbit is None:
            return scalar.validate()
        full = spinful_blocks(self.hamiltonian, self.spin_orbit)
        return Structure(**{**scalar.fields(), "hamiltonian": full, "spinful": True}).validate()

    def scalar_structure(self) -> Structure:
        """Return the structure with its Hamiltonian before the spin-orbit operator."""
        return Structure(
            numbers=self.atoms.numbers.astype(np.int64),
            positions=self.atoms.positions,
            cell=self.atoms.cell.array,
            pbc=np.ones(3, dtype=np.bool_),
            orbitals={atomic_numbers[s]: ELEMENTS[s].shells for s in self.request.system.symbols},
            hamiltonian=self.hamiltonian,
            overlap=self.overlap,
            name=self.request.name,
            metadata=self.facts,
        )


def calculate(request: Request, program: str, folder: Path, mixings: tuple[Mixing, ...] = MIXINGS) -> Calculation:
    """Run CP2K for one structure in an empty folder and return its blocks.

    Args:
        request: Which structure.
        program: CP2K program.
        folder: Where the engine works.
        mixings: Density mixings, tried in this order until one converges.

    Raises:
        ScfError: If no mixing converges, or the engine fails.
        DataError: If the output does not pass a check.
    """
    atoms = request.atoms()
    seconds = 0.0
    for number, mixing in enumerate(mixings):
        write_input(folder, atoms, request.system, request.k_mesh(), mixing)
        text, used = cp2k.run_cp2k(program, folder)
        seconds += used
        try:
            output = cp2k.parse_output(text)
        except cp2k.NotConvergedError:
            if number == len(mixings) - 1:
                raise
            continue
        facts = {"cpu_seconds": round(seconds, 1), "mixing": asdict(mixing)}
        break
    calculation = read_run(request, atoms, output, folder)
    return replace(calculation, facts={**calculation.facts, **facts})


def read_run(request: Request, atoms: Atoms, output: cp2k.Cp2kOutput, folder: Path) -> Calculation:
    """Assemble the blocks of a finished run, align them to the vacuum and add the spin-orbit operator.

    H <- H - V_vac S: the engine's zero is the cell average of the electrostatic potential, which depends on the cell.

    Raises:
        DataError: If the matrices do not fit the structure.
    """
    system = request.system
    sizes = np.array([ELEMENTS[symbol].n_orbitals for symbol in atoms.symbols], dtype=np.int64)
    geometry = csr.Geometry(atoms.positions, atoms.cell.array, sizes)
    pairs = csr.half_pairs(geometry, system.r_cut)
    raw, dropped = csr.assemble(folder, KS_PREFIX, output.images, geometry, pairs)
    overlap, _ = csr.assemble(folder, S_PREFIX, output.images, geometry, pairs)
    vacuum = cp2k.vacuum_level(folder / CUBE_NAME, atoms.info["slab_centre"], float(atoms.cell[2, 2]))
    hamiltonian = raw.with_values(HARTREE_EV * (raw.values - vacuum * overlap.values))
    facts: dict[str, Any] = {
        "seed": request.seed,
        "split": request.subset,
        "label": request.label(),
        "kmesh": list(request.k_mesh()),
        "engine": f"CP2K {output.version}",
        "scf_cycles": output.cycles,
        "energy_hartree": output.energy,
        "fermi_energy_eV": HARTREE_EV * (output.fermi_level - vacuum),
        "vacuum_level_eV": HARTREE_EV * vacuum,
        "largest_dropped_hartree": dropped,
    }
    spin_orbit = HARTREE_EV * spin_orbit_blocks(atoms, pairs) if system.spin_orbit else None
    calculation = Calculation(request, atoms, hamiltonian, overlap, spin_orbit, facts)
    check_orbitals(calculation.scalar_structure())
    if spin_orbit is not None:
        electrons = sum(ELEMENTS[symbol].valence for symbol in atoms.symbols)
        level = fermi_level(calculation.scalar_structure(), spin_orbit, electrons, request.k_mesh())
        facts.update(fermi_energy_eV=level, fermi_energy_scalar_eV=facts["fermi_energy_eV"])
    return calculation


def check_orbitals(structure: Structure) -> None:
    """Refuse a structure whose overlaps do not fit the orbital order and the pair vectors.

    In the frame of its bond an overlap between different m vanishes; a wrong orbital order or sign, a wrong fold of
    the atoms or a wrong table of periodic images breaks this.

    Raises:
        DataError: If such elements exceed 1e-4 of the largest one.
    """
    defect = bond_frame_defects(structure)["e3nn"]
    if defect > BOND_FRAME_TOLERANCE:
        raise DataError(
            f"the overlaps of {structure.name!r} mix orbitals of different m about a bond by {defect:.1e} of the "
            f"largest element, expected at most {BOND_FRAME_TOLERANCE:.0e}: "
            "this CP2K orders its orbitals or its periodic images in another way"
        )
