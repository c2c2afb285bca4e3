"""Every tensor of a graph: one name, one shape, one meaning.

``N`` atoms, ``P`` undirected pairs, ``E = N + 2 P`` directed edges in the order [self-loops in the order of the atoms |
forward pairs | the same pairs reversed], ``H = N + P`` rows of the Hermitian half, ``G`` structures.
"""

from __future__ import annotations

SPECIES = "species"  # (N,) | index of the element in the layout
NUMBERS = "numbers"  # (N,) | atomic numbers
POSITIONS = "positions"  # (N, 3) | Å
CELL = "cell"  # (G, 3, 3) | rows are the lattice vectors, Å
BATCH = "batch"  # (N,) | structure of every atom
EDGE_INDEX = "edge_index"  # (2, E) | row 0 is the centre i that receives, row 1 is j
CELL_SHIFT = "cell_shift"  # (E, 3) | cell R of atom j
EDGE_VECTORS = "edge_vectors"  # (E, 3) | r_j + R cell - r_i, Å
EDGE_TYPE = "edge_type"  # (E,) | species_i * S + species_j
REVERSE_EDGE = "reverse_edge"  # (E,) | index of the edge (j, i, -R); a self-loop is its own
WIGNER = "wigner"  # list over l of (E, 2l+1, 2l+1) | global frame -> edge frame, see tracegrad.so3.frames
TARGET_FRAME = "target_frame"  # (H, D) | orthonormal irreps of the blocks in the edge frames, eV
TARGET_MASK = "target_mask"  # (H, D) | 1 where the pair of elements has the block, else 0
TARGET_WEIGHT = "target_weight"  # (H,) | directed edges that the row stands for: 1 or 2
TARGET_ELEMENTS = "target_elements"  # (H,) | matrix elements of the row
TARGET_TRACE = "target_trace"  # (H, n_blocks) | trace label T of every block, eV^2
TRACE_MASK = "trace_mask"  # (H, n_blocks) | blocks that the pair has

NODE_FIELDS = (SPECIES, NUMBERS, POSITIONS)
EDGE_FIELDS = (CELL_SHIFT, EDGE_VECTORS, EDGE_TYPE)
HALF_FIELDS = (TARGET_FRAME, TARGET_MASK, TARGET_WEIGHT, TARGET_ELEMENTS, TARGET_TRACE, TRACE_MASK)
