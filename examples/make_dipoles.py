"""Dipole moments of small molecules in random distortions, by Hartree-Fock: writes dipoles.pt beside this file.

    python examples/make_dipoles.py

Needs PySCF (pip install tracegrad[dft]); 160 molecules take about two minutes. The numbers are ours, CC0-1.0.
"""

from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from pyscf import gto, scf

random = np.random.default_rng(0)
numbers, positions, dipoles = [], [], []
for k in range(160):
    atoms = molecule(("H2O", "NH3", "H2CO", "HCN")[k % 4])
    atoms.positions += random.uniform(-0.15, 0.15, atoms.positions.shape)  # Å
    atoms.rotate(random.uniform(0, 360), random.normal(size=3))
    compound = gto.M(atom=list(zip(atoms.symbols, atoms.positions, strict=True)), basis="6-31g*", verbose=0)
    field = scf.RHF(compound).run(conv_tol=1e-9)
    assert field.converged
    numbers.append(np.pad(atoms.numbers, (0, 4 - len(atoms))))
    positions.append(np.pad(atoms.positions, ((0, 4 - len(atoms)), (0, 0))))
    dipoles.append(field.dip_moment(unit="Debye", verbose=0))
content = {
    "numbers": torch.from_numpy(np.array(numbers, dtype=np.int64)),  # (molecules, 4), padded with 0
    "positions": torch.from_numpy(np.array(positions)),  # (molecules, 4, 3) Å
    "dipoles": torch.from_numpy(np.array(dipoles)),  # (molecules, 3) Debye
    "source": "RHF/6-31g*, PySCF, examples/make_dipoles.py, seed 0",
}
torch.save(content, Path(__file__).with_name("dipoles.pt"))
