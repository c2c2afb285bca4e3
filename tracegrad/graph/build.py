"""Structure -> graph: directed edges, their frames, and the targets as irreps in these frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.data import Blocks, Structure
from tracegrad.data.neighbors import neighbor_pairs
from tracegrad.data.spin import scalar_and_spin_orbit
from tracegrad.errors import DataError
from tracegrad.graph.layout import TargetLayout
from tracegrad.graph.targets import blocks_to_irreps
from tracegrad.so3.frames import frame_wigner, reversed_wigner

DEFAULT_LMAX = 5  # largest degree of the published networks
SAME_ATOM = 0.1  # Å; no two atoms are so near to each other, and without a direction an edge has no frame
MAGNETIC = 1e-3  # eV; what breaks time reversal by more is no round-off of an engine

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def build_graph(
    structure: Structure,
    layout: TargetLayout,
    *,
    r_max: float | None = None,
    lmax: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Data:
    """Graph of a structure, with targets where the structure has a Hamiltonian.

    Without ``r_max`` the edges are exactly the pairs of the Hamiltonian (or of the overlap, where there is none).

    Args:
        structure: the structure, Å and eV.
        layout: which blocks are predicted.
        r_max: cutoff in Å; all pairs within it become edges, and no targets are made.
        lmax: largest degree of the frames, which a network needs (:func:`tracegrad.model.frame_degree`); by default 5,
            enough for the published networks. Never below that of the targets.
        dtype: dtype of the result; everything is computed in float64.

    Returns:
        A ``torch_geometric`` ``Data`` with the fields of :mod:`tracegrad.graph.fields`.

    Raises:
        DataError: unknown elements, other orbitals, nothing that defines the edges, two atoms at one place, or a
            Hamiltonian that breaks the time reversal of the layout.
    """
    graph = _graph(structure, structure_pairs(structure, r_max), layout, lmax)
    if structure.hamiltonian is not None and r_max is None:
        add_targets(graph, structure.hamiltonian, layout)
    return cast_graph(graph, dtype)


def graph_of_pairs(
    structure: Structure, pairs: Pairs, layout: TargetLayout, *, lmax: int, dtype: torch.dtype = torch.float64
) -> Data:
    """Graph of a structure whose pairs are known, without targets.

    Args:
        structure: atoms and cell, Å.
        pairs: of :func:`structure_pairs`.
        layout: which blocks are predicted.
        lmax: largest degree of the frames.
        dtype: dtype of the result; everything is computed in float64.

    Raises:
        DataError: unknown elements, other orbitals, or two atoms at one place.
    """
    return cast_graph(_graph(structure, pairs, layout, lmax), dtype)


def _graph(structure: Structure, pairs: Pairs, layout: TargetLayout, lmax: int | None) -> Data:
    layout.check_orbitals(structure)
    check_apart(structure, pairs)
    i, j, shift = pairs
    return graph_from_pairs(
        torch.from_numpy(np.array(structure.numbers)),
        torch.from_numpy(np.array(structure.positions, dtype=np.float64)),
        torch.from_numpy(np.array(structure.cell, dtype=np.float64)),
        torch.from_numpy(np.stack([i, j]).astype(np.int64)),
        torch.from_numpy(np.asarray(shift, dtype=np.int64)),
        layout,
        lmax=lmax,
        name=structure.name,
    )


def structure_pairs(structure: Structure, r_max: float | None = None) -> Pairs:
    """Undirected pairs ``i``, ``j`` of shape ``(P,)`` and cells ``(P, 3)`` of the second atoms, self-loops left out.

    Args:
        structure: the structure, Å.
        r_max: cutoff in Å; by default the pairs are those of the Hamiltonian, or of the overlap.

    Raises:
        DataError: nothing defines the pairs.
    """
    if r_max is not None:
        return neighbor_pairs(structure.positions, structure.cell, structure.pbc, r_max)
    blocks = structure.hamiltonian if structure.hamiltonian is not None else structure.overlap
    if blocks is None:
        raise DataError(
            f"{structure.name}: expected a Hamiltonian, an overlap or a cutoff to define the edges, found none. "
            "Give r_max in Å."
        )
    return _pairs_of_blocks(blocks)


def graph_from_pairs(
    numbers: Tensor,
    positions: Tensor,
    cell: Tensor,
    pair_index: Tensor,
    pair_shift: Tensor,
    layout: TargetLayout,
    *,
    lmax: int | None = None,
    name: str = "",
) -> Data:
    """Graph of atoms and undirected pairs.

    Args:
        numbers: ``(N,)`` atomic numbers.
        positions: ``(N, 3)`` Å.
        cell: ``(3, 3)`` rows are the lattice vectors, Å.
        pair_index: ``(2, P)`` every undirected pair once, in any direction, self-loops left out.
        pair_shift: ``(P, 3)`` cell of the second atom.
        layout: which blocks are predicted.
        lmax: largest degree of the frames, as in :func:`build_graph`.
        name: used in messages.

    Raises:
        DataError: unknown elements.
    """
    num_nodes, num_pairs = len(numbers), pair_index.shape[1]
    species = layout.species(numbers.tolist(), name or "structure").to(positions.device)
    device = positions.device
    loops = torch.arange(num_nodes, device=device)
    edge_index = torch.cat([loops.expand(2, -1), pair_index, pair_index.flip(0)], dim=1)
    cell_shift = torch.cat([pair_shift.new_zeros(num_nodes, 3), pair_shift, -pair_shift])
    forward = positions[pair_index[1]] + pair_shift.to(positions) @ cell - positions[pair_index[0]]
    edge_vectors = torch.cat([positions.new_zeros(num_nodes, 3), forward, -forward])
    largest = max(layout.frame.lmax, DEFAULT_LMAX if lmax is None else lmax)
    return Data(
        species=species,
        numbers=numbers,
        positions=positions,
        cell=cell[None],
        batch=torch.zeros(num_nodes, dtype=torch.long, device=device),
        edge_index=edge_index,
        cell_shift=cell_shift,
        edge_vectors=edge_vectors,
        edge_type=species[edge_index[0]] * layout.num_species + species[edge_index[1]],
        reverse_edge=reverse_edges(num_nodes, num_pairs).to(device),
        wigner=_edge_wigner(num_nodes, forward, largest),
        num_nodes=num_nodes,
        num_pairs=num_pairs,
        names=[name],
    )


def check_apart(structure: Structure, pairs: Pairs) -> None:
    """Refuse pairs without a direction: such an edge has no frame, and the network would not be equivariant.

    Raises:
        DataError: naming two atoms at one place.
    """
    i, j, shift = pairs
    lengths = np.linalg.norm(structure.positions[j] + shift @ structure.cell - structure.positions[i], axis=1)
    if lengths.min(initial=np.inf) < SAME_ATOM:
        first, second = (int(atoms[lengths.argmin()]) for atoms in (i, j))
        raise DataError(
            f"{structure.name}: atoms {first} and {second} are nearer than {SAME_ATOM} Å to each other or to an image; "
            "one of them is there twice, or lengths are not in Å"
        )


def reverse_edges(num_nodes: int, num_pairs: int) -> Tensor:
    """Index of the reverse of every edge in the order [self-loops | forward | reversed], ``(N + 2 P,)``."""
    forward = torch.arange(num_nodes, num_nodes + num_pairs)
    return torch.cat([torch.arange(num_nodes), forward + num_pairs, forward])


def _edge_wigner(num_nodes: int, forward: Tensor, lmax: int) -> list[Tensor]:
    """Frames of all edges: the identity for self-loops, one evaluation per undirected pair."""
    loops = frame_wigner(forward.new_zeros(num_nodes, 3), lmax)
    pairs = frame_wigner(forward, lmax)
    return [torch.cat(parts) for parts in zip(loops, pairs, reversed_wigner(pairs), strict=True)]


def _pairs_of_blocks(blocks: Blocks) -> Pairs:
    """Undirected pairs of the blocks without the on-site ones."""
    half = blocks.hermitian_half()
    pairs = (half.edge_index[0] != half.edge_index[1]) | (half.cell_shift != 0).any(axis=1)
    return half.edge_index[0][pairs], half.edge_index[1][pairs], half.cell_shift[pairs]


def half_keys(graph: Data) -> np.ndarray:
    """Keys ``(Rx, Ry, Rz, i, j)`` of the rows of the Hermitian half, ``(N + P, 5)``."""
    rows = graph.num_nodes + graph.num_pairs
    parts = [graph.cell_shift[:rows].cpu().numpy(), graph.edge_index[:, :rows].T.cpu().numpy()]
    return np.concatenate(parts, axis=1)


def add_targets(graph: Data, hamiltonian: Blocks, layout: TargetLayout) -> None:
    """Add the target fields of :mod:`tracegrad.graph.fields` to a graph.

    Raises:
        DataError: an edge has no block, or the blocks break the time reversal that the layout keeps.
    """
    rows = graph.num_nodes + graph.num_pairs
    half = hamiltonian.hermitian_half()
    if layout.time_reversal:
        _check_time_reversal(half, graph.names[0])
    irreps = blocks_to_irreps(half, half_keys(graph), graph.edge_type[:rows], layout)
    edge_type = graph.edge_type[:rows]
    block_mask = layout.block_mask[edge_type]
    component_mask = block_mask[:, layout.component_block]
    graph.target_frame = layout.frame.to_frame(irreps, [D[:rows] for D in graph.wigner])
    graph.target_mask = layout.frame.permute(component_mask.double()).abs()
    graph.target_weight = torch.cat([torch.ones(graph.num_nodes), torch.full((graph.num_pairs,), 2.0)]).double()
    graph.target_elements = (block_mask * layout.block_elements).sum(1).double()
    graph.target_trace = irreps.new_zeros(rows, layout.num_channels).index_add_(1, layout.component_block, irreps**2)
    graph.trace_mask = block_mask.double()


def _check_time_reversal(blocks: Blocks, name: str) -> None:
    broken = scalar_and_spin_orbit(blocks)[2]
    if broken > MAGNETIC:
        raise DataError(
            f"{name}: expected a Hamiltonian with time reversal, as without magnetism, found {broken:.3g} eV that "
            "break it; learn all spin components with --set model.time_reversal=false"
        )


def cast_graph(graph: Data, dtype: torch.dtype) -> Data:
    """Cast all floating-point fields of a graph, in place."""
    for key, value in graph.to_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point():
            graph[key] = value.to(dtype)
        elif key == "wigner":
            graph[key] = [D.to(dtype) for D in value]
    return graph
