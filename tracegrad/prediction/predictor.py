"""From a checkpoint and atoms to predicted blocks, of the whole structure at once or chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from tracegrad.config import TrainingConfig
from tracegrad.data import DATABASES, Blocks, Structure
from tracegrad.data.blocks import concatenate
from tracegrad.data.cutoffs import MARGIN
from tracegrad.errors import CheckpointError, ConfigError, DataError
from tracegrad.graph import PairChunks, TargetLayout, build_graph, graph_of_pairs, structure_pairs
from tracegrad.model import frame_degree, predict_blocks, predict_in_chunks
from tracegrad.model.chunked import Progress, why_not_chunked
from tracegrad.physics import computed_fermi_level, gaussian_overlap, is_gaussian_basis, overlap_of_pairs
from tracegrad.prediction.inputs import read_overlap, structure_from_atoms
from tracegrad.prediction.plan import (
    Overlap,
    Plan,
    Reach,
    covered,
    longest_pair_of,
    missing_neighbours,
    pairs_within,
)
from tracegrad.training.checkpoint import DataSummary, load_checkpoint
from tracegrad.training.device import choose_device

if TYPE_CHECKING:
    from ase import Atoms

WHOLE_EDGES = 100_000  # directed edges that are predicted at once; they take about 2 GB
CHUNK_EDGES = 20_000  # directed edges in a chunk, where nobody asks for another number


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready for structures.

    Args:
        model: in evaluation mode.
        setting: row of the tables, e.g. ``DeepHE3+TraceGrad``.
        data: what it was trained on.
        cutoff: longest pair in Å that it was trained on, or None where the checkpoint does not tell.
        path: of the checkpoint.
    """

    model: nn.Module
    setting: str
    data: DataSummary
    cutoff: float | None
    path: str

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "cpu") -> Predictor:
        """Read a checkpoint.

        Args:
            checkpoint: ``final.ckpt`` of a training folder.
            device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

        Raises:
            CheckpointError: missing, truncated, or not a trained network.
            ConfigError: a GPU is asked for and there is none.
        """
        model, config, rest = load_checkpoint(checkpoint)
        data: DataSummary = rest["data"]
        setting = config.model.setting
        return cls(
            model.to(choose_device(TrainingConfig(device=device))),
            setting,
            data,
            training_cutoff(model, data),
            str(checkpoint),
        )

    def __call__(
        self,
        atoms: Atoms,
        *,
        r_max: float | None = None,
        overlap: str | Path | Blocks = "auto",
        fermi_energy: float | None = None,
        name: str = "",
        chunk_edges: int | None = None,
        progress: Progress | None = None,
    ) -> Structure:
        """Predict one structure; arguments as :func:`predict`."""
        plan = self.plan(atoms, r_max=r_max, overlap=overlap, name=name, chunk_edges=chunk_edges)
        return self.complete(plan, fermi_energy, progress)

    def complete(self, plan: Plan, fermi_energy: float | None = None, progress: Progress | None = None) -> Structure:
        """The predicted structure with all its matrices."""
        structure = plan.structure
        if plan.overlap.gaussian:
            structure = replace(structure, overlap=gaussian_overlap(structure, plan.cutoff))
        predicted = concatenate(*self.parts(plan, progress))
        structure = replace(structure, hamiltonian=predicted)
        level, source = _fermi(structure, fermi_energy)
        return replace(structure, metadata=self.facts(plan, level, source))

    def plan(
        self,
        atoms: Atoms,
        *,
        r_max: float | None = None,
        overlap: str | Path | Blocks = "auto",
        name: str = "",
        chunk_edges: int | None = None,
    ) -> Plan:
        """What is to be predicted; arguments as :func:`predict`."""
        structure = structure_from_atoms(atoms, self.data.orbitals, self.data.spinful, name)
        cast(TargetLayout, self.model.targets).check_orbitals(structure)
        choice = self._overlap(structure, overlap)
        reach = self._reach(r_max, choice.blocks is not None)
        if choice.blocks is None:
            pairs = pairs_within(structure, reach)
            cutoff = reach.cutoff if r_max is None else float(r_max)
            return Plan(structure, pairs, choice, self._chunk_edges(len(pairs[0]), chunk_edges), cutoff)
        given = covered(structure, choice.blocks, reach, r_max is not None)
        structure = replace(structure, overlap=given)
        pairs, missing = structure_pairs(structure), missing_neighbours(structure, given, reach)
        cutoff = longest_pair_of(structure, given) if r_max is None else float(r_max)
        plan = Plan(structure, pairs, choice, self._chunk_edges(len(pairs[0]), chunk_edges), cutoff, missing)
        return replace(plan, structure=replace(structure, overlap=plan.kept(given)))

    def parts(self, plan: Plan, progress: Progress | None = None) -> Iterator[Blocks]:
        """The predicted blocks, eV, as Hermitian halves: all at once, or chunk by chunk."""
        parameter, targets = next(self.model.parameters()), cast(TargetLayout, self.model.targets)
        lmax, dtype = frame_degree(self.model), parameter.dtype
        if plan.chunk_edges is None:
            graph: Any = graph_of_pairs(plan.structure, plan.pairs, targets, lmax=lmax, dtype=dtype)
            yield plan.kept(predict_blocks(self.model, graph.to(parameter.device)).hermitian_part())
            return
        chunks = PairChunks(
            plan.structure,
            plan.pairs,
            targets,
            chunk_edges=plan.chunk_edges,
            lmax=lmax,
            dtype=dtype,
            device=parameter.device,
        )
        yield from (plan.kept(part.hermitian_part()) for part in predict_in_chunks(self.model, chunks, progress))

    def overlap_of(self, plan: Plan, part: Blocks) -> Blocks | None:
        """The computed overlap of the pairs of a part; None where it is given or there is none."""
        return overlap_of_pairs(plan.structure, part.edge_index, part.cell_shift) if plan.overlap.gaussian else None

    def facts(self, plan: Plan, fermi_energy: float | None, fermi_source: str) -> dict[str, Any]:
        """Where everything in a prediction comes from."""
        return {
            "checkpoint": Path(self.path).name,
            "setting": self.setting,
            "trained_on": self.data.key,
            "cutoff_A": plan.cutoff,
            "pairs": plan.num_blocks,
            "missing_neighbours": plan.missing,
            "chunk_edges": plan.chunk_edges,
            "overlap_source": plan.overlap.source,
            "fermi_energy_eV": fermi_energy,
            "fermi_source": fermi_source,
            "source": f"predicted by {self.setting}, trained on {self.data.key}",
        }

    def _chunk_edges(self, num_pairs: int, asked: int | None) -> int | None:
        """Directed edges in a chunk: as asked for (0: all at once), or by the size of the structure."""
        reason = why_not_chunked(self.model)
        if asked is None:
            return CHUNK_EDGES if 2 * num_pairs > WHOLE_EDGES and reason is None else None
        if asked == 0:
            return None
        if reason is not None:
            raise ConfigError(f"{self.path}: prediction in chunks is not possible. {reason}")
        return asked

    def _reach(self, r_max: float | None, overlap_given: bool) -> Reach:
        """How far the training data reach, or where the checkpoint does not tell, what is asked for."""
        if r_max is not None and (not np.isfinite(r_max) or r_max <= 0):
            raise DataError(f"expected a cutoff r_max > 0 Å, found {r_max}")
        if self.cutoff is None:
            if r_max is None and not overlap_given:
                raise CheckpointError(
                    f"{self.path}: does not tell the cutoff of its training data; give it in Å (--r-max), or an "
                    "overlap whose pairs are to be predicted"
                )
            return Reach(math.inf if r_max is None else float(r_max), {})
        if r_max is not None and r_max > self.cutoff + MARGIN:
            raise DataError(
                f"expected a cutoff r_max up to {self.cutoff:.3f} Å, the longest pair of the training data, found "
                f"{r_max:g}; leave it out for that"
            )
        return Reach(self.cutoff, self.data.pair_cutoffs)

    def _overlap(self, structure: Structure, choice: str | Path | Blocks) -> Overlap:
        """The overlap as asked for."""
        if isinstance(choice, Blocks):
            return Overlap(choice, False, "given")
        if choice == "none":
            return Overlap(None, False, "none")
        if choice == "auto":
            ours = self.data.source == "bundled" and is_gaussian_basis(self.data.orbitals)
            if not ours:
                reason = "none: the training data are in another basis; give the overlap or ask for 'gaussian'"
                return Overlap(None, False, reason)
            choice = "gaussian"
        if choice == "gaussian":
            return Overlap(None, True, "PySCF, analytic integrals of the Gaussian basis")
        return Overlap(read_overlap(structure, choice), False, str(choice))


def predict(
    atoms: Atoms,
    checkpoint: str | Path | Predictor,
    *,
    r_max: float | None = None,
    overlap: str | Path | Blocks = "auto",
    fermi_energy: float | None = None,
    chunk_edges: int | None = None,
    progress: Progress | None = None,
) -> Structure:
    """Predict the Hamiltonian of a structure.

    Args:
        atoms: ASE atoms, Å; directions that are not periodic get a vacuum.
        checkpoint: ``final.ckpt`` of a run, or a loaded :class:`Predictor` where many structures follow.
        r_max: keep blocks of pairs up to this, Å; by default up to the longest pair of the training data, which the
            network sees in any case.
        overlap: ``"auto"`` (analytic integrals for networks of the bundled data, else none), ``"gaussian"``,
            ``"none"``, blocks, an ``overlaps.h5`` of the same atoms in the same order, or a DeepH folder with one. The
            pairs of a given overlap are those that are predicted.
        fermi_energy: eV, where it is known.
        chunk_edges: directed edges that are predicted at a time, 0 for all at once; by default above 100,000 edges
            20,000. The network then needs the memory of a chunk; the blocks themselves are still returned whole, see
            :func:`tracegrad.prediction.predict_to_folder`.
        progress: called with the number of chunks that are done, and that there are.

    Returns:
        The structure with its Hermitian ``hamiltonian`` in eV and, if there is one, its ``overlap``; ``metadata`` tells
        the checkpoint, the cutoff and the sources of overlap and Fermi level.

    Raises:
        CheckpointError: the file is not a trained network, or does not tell its cutoff.
        ConfigError: chunks are asked for and the network mixes all edges of a structure.
        DataError: unknown elements, an overlap of other atoms, a cutoff beyond that of the training data, or a missing
            library.
    """
    predictor = checkpoint if isinstance(checkpoint, Predictor) else Predictor.load(checkpoint)
    return predictor(
        atoms,
        r_max=r_max,
        overlap=overlap,
        fermi_energy=fermi_energy,
        chunk_edges=chunk_edges,
        progress=progress,
    )


def predict_like(structure: Structure, checkpoint: str | Path | Predictor) -> tuple[str, Blocks]:
    """Setting and predicted Hamiltonian on exactly the pairs of a structure's own Hamiltonian.

    Args:
        structure: with a Hamiltonian, e.g. from DFT.
        checkpoint: of a run, or a loaded :class:`Predictor`.

    Raises:
        DataError: other elements, orbitals or spin than the network knows.
    """
    predictor = checkpoint if isinstance(checkpoint, Predictor) else Predictor.load(checkpoint)
    parameter, targets = next(predictor.model.parameters()), cast(TargetLayout, predictor.model.targets)
    graph: Any = build_graph(structure, targets, lmax=frame_degree(predictor.model), dtype=parameter.dtype)
    return predictor.setting, predict_blocks(predictor.model, graph.to(parameter.device)).hermitian_part()


def training_cutoff(model: nn.Module, data: DataSummary) -> float | None:
    """Longest pair of the training data in Å: of the bundled manifest, the checkpoint, or the output transform."""
    if data.source == "bundled" and data.key in DATABASES:
        return max(float(manifest["r_cut"]) for manifest in DATABASES[data.key].manifests)
    if data.cutoff is not None:
        return data.cutoff
    output: Any = getattr(model, "output", None)
    if output is not None and (output.reference or output.scaling):
        return float(output.bounds[1]) * (1 + 1e-6)  # the buffer may have been rounded to float32
    return None


def _fermi(structure: Structure, given: float | None) -> tuple[float | None, str]:
    """Fermi level in eV, and where it came from."""
    if given is not None:
        return float(given), "given"
    return computed_fermi_level(structure)
