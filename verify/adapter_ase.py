"""Adapter for ASE calculators: energy and forces of a set of atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracegrad.errors import VerificationError

from .adapters import FRAGMENT_BOND, FRAGMENT_DISTANCE
from .group import Elements
from .representation import POINTS, VECTOR, Representation
from .subject import Leaf, OutputSpec
from .wigner import Array


class AtomsAdapter:
    """``ase.Atoms`` with a calculator as the model; outputs: energy (eV, extensive), forces (eV/Å)."""

    def __init__(self) -> None:
        self._points = Representation.parse(POINTS)

    def specs(self, model: Any, graph: Any) -> tuple[OutputSpec, ...]:
        """Energy, and forces when the calculator implements them."""
        if len(graph) == 0:
            raise VerificationError("the structure has no atoms: it verifies nothing")
        if not np.isfinite(graph.positions).all():
            raise VerificationError("the positions hold NaN or infinity: give a finite structure")
        if np.ndim(graph.get_initial_magnetic_moments()) > 1:
            raise VerificationError(
                "the atoms have vectors as magnetic moments, which no rotation would reach: not supported"
            )
        known = getattr(model, "implemented_properties", [])
        if "energy" not in known:
            raise VerificationError(
                f"{type(model).__name__} implements {list(known)}: expected a calculator with an energy"
            )
        specs = [OutputSpec("energy", Representation.parse("0e"), "total")]
        if "forces" in known:
            specs.append(OutputSpec("forces", Representation.parse("1o"), "node"))
        return tuple(specs)

    def evaluate(self, model: Any, graph: Any) -> list[Tensor]:
        """One calculation from scratch."""
        atoms = graph.copy()
        model.reset()
        atoms.calc = model
        values = [torch.tensor([[atoms.get_potential_energy()]], dtype=torch.float64)]
        if "forces" in model.implemented_properties:
            values.append(torch.from_numpy(np.array(atoms.get_forces(apply_constraint=False), dtype=float)))
        return values

    def num_nodes(self, graph: Any) -> int:
        """Number of atoms."""
        return len(graph)

    def edge_keys(self, graph: Any) -> np.ndarray:
        """No outputs of edges."""
        return np.zeros((0, 5), np.int64)

    def edge_vectors(self, graph: Any) -> Array:
        """Vectors between the first atoms."""
        p = np.asarray(graph.positions[:8], dtype=float)
        return np.asarray((p[None] - p[:, None])[np.triu_indices(len(p), 1)])

    def leaves(self, graph: Any) -> list[Leaf]:
        """The positions, and the lattice vectors of a periodic structure, Å."""
        points = torch.from_numpy(np.array(graph.positions, dtype=float))
        found = [Leaf("positions", self._points, points, given=True)]
        if graph.pbc.any():
            found.append(Leaf("cell", VECTOR, torch.from_numpy(np.array(graph.cell.array, dtype=float)), given=True))
        return found

    def with_leaves(self, graph: Any, values: Sequence[Tensor]) -> Any:
        """Atoms at other positions, in another cell."""
        atoms = graph.copy()
        if len(values) > 1:
            atoms.set_cell(values[1].detach().numpy(), scale_atoms=False)
        atoms.positions[:] = values[0].detach().numpy()
        return atoms

    def transform(self, graph: Any, element: Elements) -> Any:
        """Atoms and cell moved."""
        atoms = graph.copy()
        atoms.set_cell(np.asarray(graph.cell) @ element.matrix[0].T, scale_atoms=False)
        atoms.positions[:] = element.move(np.asarray(graph.positions, dtype=float)[None])[0]
        return atoms

    def cast(self, graph: Any, dtype: torch.dtype) -> Any:
        """The same atoms: ASE works in float64."""
        return graph.copy()

    def permute_nodes(self, graph: Any, order: np.ndarray) -> Any | None:
        """Atoms renumbered."""
        return graph[order.tolist()]

    def permute_edges(self, graph: Any, rng: np.random.Generator) -> Any | None:
        """None: there are no edges."""
        return None

    def batch(self, graphs: Sequence[Any]) -> Any | None:
        """None: calculators take one structure."""
        return None

    def with_fragment(self, graph: Any) -> Any | None:
        """Two atoms far away; None in a periodic cell, where there is no far away."""
        if graph.pbc.any():
            return None
        atoms = graph.copy()
        far = graph.positions.mean(axis=0) + np.array([FRAGMENT_DISTANCE, 0.0, 0.0])
        pair = graph[[0, len(graph) - 1]]
        pair.positions[:] = [far, far + 2 * np.array(FRAGMENT_BOND)]
        atoms.extend(pair)
        return atoms

    def tile(self, graph: Any, repeats: tuple[int, int, int]) -> Any | None:
        """Supercell, cell after cell; None unless all three directions are periodic."""
        return graph.repeat(repeats) if graph.pbc.all() else None

    def recell(self, graph: Any, basis: np.ndarray, moves: np.ndarray) -> Any | None:
        """Other lattice vectors of the lattice, atoms in other cells; None unless all three directions are periodic."""
        if not graph.pbc.all():
            return None
        atoms = graph.copy()
        atoms.set_cell(basis @ graph.cell.array, scale_atoms=False)
        atoms.positions += moves @ graph.cell.array
        return atoms

    def subset(self, graph: Any, nodes: Sequence[int]) -> Any | None:
        """Some of the atoms, at least two."""
        return graph[sorted(nodes)] if len(nodes) > 1 else None

    def blocks(self, model: Any, graph: Any) -> Mapping[tuple[int, ...], np.ndarray] | None:
        """None: no Hamiltonian."""
        return None

    def source(self, graph: Any) -> str:
        """Source of the atoms."""
        numbers, positions = graph.numbers.tolist(), graph.positions.tolist()
        cell, pbc = np.asarray(graph.cell).tolist(), graph.pbc.tolist()
        arguments = f"numbers={numbers}, positions={positions}, cell={cell}, pbc={pbc}"
        return f"from ase import Atoms\n\ngraph = Atoms({arguments})\n"
