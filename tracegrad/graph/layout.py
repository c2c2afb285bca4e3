"""Which numbers a network predicts: the blocks of all pairs of shells, as irreps, with masks per pair of species."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from tracegrad.errors import DataError
from tracegrad.so3.blocks import hermitian_signs
from tracegrad.so3.frames import FrameLayout
from tracegrad.so3.irreps import OrbitalBasis, block_irreps, channel_parts, shell_name

if TYPE_CHECKING:
    from tracegrad.data import Dataset, Structure


@dataclass(frozen=True)
class Channel:
    """One basic block shared by all pairs of elements that have both shells.

    Attributes:
        row: ``(l, n)`` of the row shell, the ``n``-th shell of degree ``l`` of its element (from 1).
        column: the same of the column shell.
    """

    row: tuple[int, int]
    column: tuple[int, int]

    @property
    def name(self) -> str:
        """Label of the block, such as ``"s1-p2"``."""
        return f"{shell_name(*self.row)}-{shell_name(*self.column)}"

    @property
    def partner(self) -> Channel:
        """Channel of the transposed block."""
        return Channel(self.column, self.row)


class TargetLayout:
    """Irreps, masks and symmetries of the predicted Hamiltonian.

    Channels are ordered pairs of shells, identified over all elements by degree and number (the target channels of
    DeepH-E3, arXiv:2210.13955); an element pair that lacks a shell is masked there. Tensors are kept and made outside
    inference mode, so that a layout first used for a prediction can be trained with.

    Args:
        orbitals: degrees of the shells of every element, ``{Z: (l, ...)}``.
        spinful: complex ``2 x 2`` blocks with spin-orbit coupling.
        time_reversal: keep only the half of the spinful components that non-magnetic data can have.
    """

    def __init__(self, orbitals: Mapping[int, Sequence[int]], spinful: bool, time_reversal: bool = True) -> None:
        self.orbitals = {int(Z): tuple(int(l) for l in orbitals[Z]) for Z in sorted(orbitals)}
        self.spinful = bool(spinful)
        self.time_reversal = bool(time_reversal and spinful)
        self.elements = tuple(self.orbitals)
        self.channels = self._collect_channels()

    @classmethod
    def from_dataset(cls, dataset: Dataset, time_reversal: bool = True) -> TargetLayout:
        """Layout of all elements of a data set."""
        return cls(dataset.orbitals, dataset.spinful, time_reversal)

    def _collect_channels(self) -> tuple[Channel, ...]:
        channels: dict[Channel, None] = {}
        for a in self.elements:
            for b in self.elements:
                for row in OrbitalBasis(self.orbitals[a]).numbered:
                    for column in OrbitalBasis(self.orbitals[b]).numbered:
                        channels.setdefault(Channel(row, column))
        return tuple(channels)

    @property
    def num_channels(self) -> int:
        """Number of basic blocks, the length of the trace label of an edge."""
        return len(self.channels)

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the basic blocks."""
        return tuple(channel.name for channel in self.channels)

    def channel_irreps(self, channel: Channel) -> Irreps:
        """Irreps of one block, in the order of :func:`tracegrad.so3.block_to_irreps`."""
        return block_irreps(channel.row[0], channel.column[0], self.spinful, self.time_reversal)

    @cached_property
    def irreps(self) -> Irreps:
        """Irreps of all blocks one after the other, not simplified."""
        return Irreps([entry for channel in self.channels for entry in self.channel_irreps(channel)])

    @cached_property
    def channel_slices(self) -> tuple[slice, ...]:
        """Part of the irreps vector that belongs to each block."""
        slices, start = [], 0
        for channel in self.channels:
            dim = self.channel_irreps(channel).dim
            slices.append(slice(start, start + dim))
            start += dim
        return tuple(slices)

    @cached_property
    @torch.inference_mode(False)
    def component_block(self) -> Tensor:
        """Block of every component of the irreps vector, ``(dim,)``."""
        lengths = torch.tensor([s.stop - s.start for s in self.channel_slices])
        return torch.repeat_interleave(torch.arange(self.num_channels), lengths)

    @cached_property
    @torch.inference_mode(False)
    def component_scale(self) -> Tensor:
        """``t = scale * t_DeepH-E3`` per irrep: DeepH-E3's components are larger by ``sqrt(2l+1)`` for the orbital
        coupling, and by ``sqrt(2L+1)`` for the coupling of a triplet (docs/conventions.md).
        """
        scales = []
        for channel in self.channels:
            for part in channel_parts(channel.row[0], channel.column[0], self.spinful, self.time_reversal):
                for degree, orbital in zip(part.degrees, part.orbital_degrees, strict=True):
                    scales.append(((2 * orbital + 1) * (2 * degree + 1 if part.triplet else 1)) ** -0.5)
        return torch.tensor(scales, dtype=torch.float64)

    @cached_property
    def frame(self) -> FrameLayout:
        """Layout of the irreps in the frames of the edges."""
        return FrameLayout(self.irreps)

    @cached_property
    @torch.inference_mode(False)
    def partner(self) -> tuple[Tensor, Tensor]:
        """Hermitian partner in the global frame: ``t(j, i, -R)[c] = sign[c] * t(i, j, R)[index[c]]``."""
        position = {channel: k for k, channel in enumerate(self.channels)}
        index = torch.empty(self.irreps.dim, dtype=torch.long)
        sign = torch.empty(self.irreps.dim, dtype=torch.float64)
        for channel, piece in zip(self.channels, self.channel_slices, strict=True):
            source = self.channel_slices[position[channel.partner]]
            index[piece] = torch.arange(source.start, source.stop)
            sign[piece] = hermitian_signs(
                channel.column[0], channel.row[0], spinful=self.spinful, time_reversal=self.time_reversal
            ).to(torch.float64)
        return index, sign

    @cached_property
    @torch.inference_mode(False)
    def frame_partner(self) -> tuple[Tensor, Tensor]:
        """The partner in the frames of the edges: ``flat(j, i, -R)[c] = sign[c] * flat(i, j, R)[index[c]]``."""
        position, component_sign = self.frame.component_index
        inverse = torch.argsort(position)
        partner_index, partner_sign = self.partner
        index = inverse[partner_index[position]]
        sign = component_sign * partner_sign[position] * component_sign[index] * self.frame.reversal_signs
        return index, sign

    @cached_property
    @torch.inference_mode(False)
    def partner_block(self) -> Tensor:
        """Index of the transposed block of every block, ``(n_blocks,)``."""
        position = {channel: k for k, channel in enumerate(self.channels)}
        return torch.tensor([position[channel.partner] for channel in self.channels])

    @cached_property
    @torch.inference_mode(False)
    def block_mask(self) -> Tensor:
        """Blocks that a pair of species has, ``(S * S, n_blocks)`` boolean; row ``a * S + b``."""
        rows = []
        for a in self.elements:
            for b in self.elements:
                rows.append([self.block_position(channel, a, b) is not None for channel in self.channels])
        return torch.tensor(rows)

    @cached_property
    @torch.inference_mode(False)
    def block_elements(self) -> Tensor:
        """Number of matrix elements of every block (complex ones count once), ``(n_blocks,)``."""
        spins = 4 if self.spinful else 1
        return torch.tensor([spins * (2 * c.row[0] + 1) * (2 * c.column[0] + 1) for c in self.channels])

    def block_position(self, channel: Channel, a: int, b: int) -> tuple[slice, slice] | None:
        """Rows and columns of a block in the matrix of the elements ``a`` and ``b``, or None where they lack it."""
        position = []
        for Z, shell in ((a, channel.row), (b, channel.column)):
            basis = OrbitalBasis(self.orbitals[Z])
            if shell not in basis.numbered:
                return None
            position.append(basis.slices[basis.numbered.index(shell)])
        return position[0], position[1]

    def species(self, numbers: Iterable[int], name: str = "structure") -> Tensor:
        """Index of the element of every atom, ``(N,)``.

        Raises:
            DataError: an atom is of an element that the layout does not know.
        """
        position = {Z: k for k, Z in enumerate(self.elements)}
        unknown = sorted({int(Z) for Z in numbers} - set(position))
        if unknown:
            raise DataError(
                f"{name}: expected only the elements with atomic numbers {list(self.elements)}, found {unknown}. "
                "Use a model that was trained on these elements."
            )
        return torch.tensor([position[int(Z)] for Z in numbers])

    def check_orbitals(self, structure: Structure) -> None:
        """Compare the orbitals of a structure with those of the layout.

        Raises:
            DataError: an element has other shells, or the spin does not fit.
        """
        for Z, shells in structure.orbitals.items():
            if int(Z) in self.orbitals and tuple(shells) != self.orbitals[int(Z)]:
                raise DataError(
                    f"{structure.name}: expected shells {self.orbitals[int(Z)]} for Z = {Z}, found {tuple(shells)}. "
                    "Use data of one basis set."
                )
        if structure.spinful != self.spinful:
            raise DataError(
                f"{structure.name}: expected spinful = {self.spinful}, found {structure.spinful}. "
                "Train spinful and spinless data apart."
            )

    def to_dict(self) -> dict[str, object]:
        """Plain data for checkpoints; :meth:`from_dict` is its inverse."""
        orbitals = {str(Z): list(shells) for Z, shells in self.orbitals.items()}
        return {"orbitals": orbitals, "spinful": self.spinful, "time_reversal": self.time_reversal}

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> TargetLayout:
        """Layout from the plain data of :meth:`to_dict`."""
        orbitals = record["orbitals"]
        assert isinstance(orbitals, Mapping)
        return cls(
            {int(Z): shells for Z, shells in orbitals.items()}, bool(record["spinful"]), bool(record["time_reversal"])
        )
