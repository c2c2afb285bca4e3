"""Mathematics of rotations, irreps and Hamiltonian blocks; no graphs. Conventions: `docs/conventions.md`."""

from tracegrad.so3.blocks import block_change_of_basis as block_change_of_basis
from tracegrad.so3.blocks import block_to_irreps as block_to_irreps
from tracegrad.so3.blocks import hermitian_signs as hermitian_signs
from tracegrad.so3.blocks import irreps_to_block as irreps_to_block
from tracegrad.so3.blocks import time_reversal_signs as time_reversal_signs
from tracegrad.so3.conventions import CONVENTIONS as CONVENTIONS
from tracegrad.so3.conventions import from_convention as from_convention
from tracegrad.so3.conventions import orbital_map as orbital_map
from tracegrad.so3.conventions import shell_order as shell_order
from tracegrad.so3.conventions import to_convention as to_convention
from tracegrad.so3.irreps import OrbitalBasis as OrbitalBasis
from tracegrad.so3.irreps import block_irreps as block_irreps
from tracegrad.so3.rotations import euler_angles as euler_angles
from tracegrad.so3.rotations import random_rotation as random_rotation
from tracegrad.so3.rotations import rotation_from_angles as rotation_from_angles
from tracegrad.so3.rotations import rotation_from_quaternion as rotation_from_quaternion
from tracegrad.so3.rotations import wigner_D as wigner_D
from tracegrad.so3.rotations import wigner_D_from_angles as wigner_D_from_angles
from tracegrad.so3.rotations import wigner_D_irreps as wigner_D_irreps
from tracegrad.so3.spin import components_to_spin as components_to_spin
from tracegrad.so3.spin import pauli_matrices as pauli_matrices
from tracegrad.so3.spin import spin_half_D as spin_half_D
from tracegrad.so3.spin import spin_to_components as spin_to_components
from tracegrad.so3.trace import trace_label as trace_label
from tracegrad.so3.trace import trace_labels_of_irreps as trace_labels_of_irreps
