"""Predict a DFT Hamiltonian, turn the crystal, predict again: every block turns with it, before any training."""

from dataclasses import replace

from tracegrad import build_graph, build_model, load_dataset, predict_blocks
from tracegrad.config import load_config
from tracegrad.so3 import random_rotation, wigner_D_irreps

graphene = load_dataset("MG")  # bundled, real DFT Hamiltonians; energies in eV, lengths in Å
config = load_config(dataset="MG", setting="DeepHE3+TraceGrad", preset="smoke")
model = build_model(config.model, graphene).double()

crystal, rotation = graphene.test[0], random_rotation()
R, D = rotation.numpy(), wigner_D_irreps("2x0e + 2x1o + 1x2e", rotation).numpy()  # orbitals of carbon: s1 s2 p1 p2 d1
turned = replace(crystal, positions=crystal.positions @ R.T, cell=crystal.cell @ R.T)
H, H_turned = (predict_blocks(model, build_graph(s, model.targets)).block(20) for s in (crystal, turned))
print(f"H_ij up to {abs(H).max():.2f} eV; H'_ij - D H_ij D^T up to {abs(H_turned - D @ H @ D.T).max():.0e} eV")
