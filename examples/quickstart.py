"""A rotation changes every block of a DFT Hamiltonian, and leaves its trace label alone (Theorem 1)."""

import torch

from tracegrad.data import load_dataset
from tracegrad.so3 import random_rotation, trace_label, wigner_D

graphene = load_dataset("MG")  # bundled, real DFT Hamiltonians; energies in eV, lengths in Å
structure = graphene.test[0]
block = torch.from_numpy(structure.hamiltonian.block(0))[2:5, 8:13]  # orbitals p1 and d1 of one pair of atoms

R = random_rotation()
rotated = wigner_D(1, R) @ block @ wigner_D(2, R).T
print(f"block changes by {(rotated - block).abs().max():.3f} eV")
print(f"label changes by {abs(trace_label(rotated) - trace_label(block)):.1e} eV²")
