"""Bookkeeping of orbitals and of the irreps of their products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import index

from e3nn import o3

from tracegrad.errors import DataError

SHELL_LETTERS = "spdfghiklmnoq"
"""Spectroscopic letter of l = 0..12 (j and the second s and p are skipped)."""


def shell_name(l: int, n: int) -> str:
    """Name of the n-th shell of degree l, such as p2."""
    return f"{SHELL_LETTERS[l]}{n}"


@dataclass(frozen=True)
class OrbitalBasis:
    """The shells of one atom, in the order of its orbitals.

    Example::

        OrbitalBasis((0, 0, 1)).names     # ("s1", "s2", "p1")
        OrbitalBasis((0, 0, 1)).offsets   # (0, 1, 2)

    Args:
        ls: degree l of every shell.

    Raises:
        DataError: there is no shell, or a degree is not an integer from 0 to 12.
    """

    ls: tuple[int, ...]

    def __post_init__(self) -> None:
        integers = all(hasattr(l, "__index__") for l in self.ls)  # those of numpy too
        object.__setattr__(self, "ls", tuple(index(l) if integers else l for l in self.ls))
        wrong = [l for l in self.ls if not isinstance(l, int) or not 0 <= l < len(SHELL_LETTERS)]
        if wrong or not self.ls:
            raise DataError(
                f"expected shells with integer l from 0 to {len(SHELL_LETTERS) - 1}, found {list(self.ls)}; "
                "give the l of every shell, such as [0, 0, 1]"
            )

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Number of orbitals, 2l+1, of every shell."""
        return tuple(2 * l + 1 for l in self.ls)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of the first orbital of every shell."""
        return tuple(accumulate(self.dims[:-1], initial=0))

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Orbitals of every shell."""
        return tuple(slice(start, start + dim) for start, dim in zip(self.offsets, self.dims, strict=True))

    @cached_property
    def num_orbitals(self) -> int:
        """Number of orbitals of the atom."""
        return sum(self.dims)

    @cached_property
    def numbered(self) -> tuple[tuple[int, int], ...]:
        """Every shell as (l, n): the n-th one of degree l, counted from 1."""
        return tuple((l, self.ls[: k + 1].count(l)) for k, l in enumerate(self.ls))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of every shell, the letter of l and its number."""
        return tuple(shell_name(l, n) for l, n in self.numbered)

    @cached_property
    def irreps(self) -> o3.Irreps:
        """Irreps of the orbitals, one entry per shell, parity (-1)^l."""
        return o3.Irreps([(1, (l, (-1) ** l)) for l in self.ls])


def block_irreps(l1: int, l2: int, spinful: bool = False, time_reversal: bool = False) -> o3.Irreps:
    r"""Irreps of a Hamiltonian block between a shell of degree l1 and one of degree l2.

    Spinless: :math:`l_1 \otimes l_2 = |l_1 - l_2| \oplus \dots \oplus l_1 + l_2`, all of parity :math:`(-1)^{l_1 +
    l_2}`.
    Spinful: all l of h_0, then for each l the :math:`L \in l \otimes 1` of (h_y, h_z, h_x); real parts of all, then
    imaginary parts of all. The spin vector is even, so that it does not change the parity. With time reversal only the
    real part of h_0 and the imaginary part of the triplet are kept.

    Args:
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: whether the block is complex and carries two spins on both sides.
        time_reversal: whether a spinful block obeys time reversal; not used for a spinless one.

    Returns:
        Irreps, one entry of multiplicity 1 per channel (not simplified), of dimension (2l1+1)(2l2+1), or 8 times that
        when spinful, or 4 times that when spinful with time reversal.

    Raises:
        DataError: a degree is negative.
    """
    degrees = [l for part in channel_parts(l1, l2, spinful, time_reversal) for l in part.degrees]
    return o3.Irreps([(1, (l, (-1) ** (l1 + l2))) for l in degrees])


@dataclass(frozen=True)
class ChannelPart:
    """A run of channels of a block: one spin part (scalar h_0 or triplet), its real or its imaginary component.

    Args:
        triplet: whether the channels belong to (h_y, h_z, h_x); otherwise to h_0, which is also the spinless block.
        imaginary: whether they are imaginary parts.
        degrees: degree of every channel.
        orbital_degrees: degree l of the orbital coupling l1 x l2 behind every channel; equal to `degrees` for h_0.
    """

    triplet: bool
    imaginary: bool
    degrees: tuple[int, ...]
    orbital_degrees: tuple[int, ...]


def channel_parts(l1: int, l2: int, spinful: bool = False, time_reversal: bool = False) -> tuple[ChannelPart, ...]:
    """Runs of channels of a block, in the order of `block_irreps`.

    Args:
        l1: degree of the row shell.
        l2: degree of the column shell.
        spinful: see `block_irreps`.
        time_reversal: see `block_irreps`.

    Returns:
        One part (spinless), two (spinful with time reversal) or four (spinful).

    Raises:
        DataError: a degree is negative.
    """
    if l1 < 0 or l2 < 0:
        raise DataError(f"expected degrees of at least 0, found l1 = {l1}, l2 = {l2}")
    orbital = tuple(range(abs(l1 - l2), l1 + l2 + 1))
    pairs = [(l, L) for l in orbital for L in range(abs(l - 1), l + 2)]
    behind, coupled = tuple(l for l, _ in pairs), tuple(L for _, L in pairs)
    scalar_real, scalar_imaginary = (ChannelPart(False, imaginary, orbital, orbital) for imaginary in (False, True))
    triplet_real, triplet_imaginary = (ChannelPart(True, imaginary, coupled, behind) for imaginary in (False, True))
    if not spinful:
        return (scalar_real,)
    if time_reversal:
        return (scalar_real, triplet_imaginary)
    return (scalar_real, triplet_real, scalar_imaginary, triplet_imaginary)


def expand_channels(values: Iterable[int], degrees: Iterable[int]) -> list[int]:
    """Repeat one value per channel over the 2l+1 components of that channel.

    Args:
        values: one value per channel.
        degrees: degree of every channel.

    Returns:
        One value per component.
    """
    return [value for value, l in zip(values, degrees, strict=True) for _ in range(2 * l + 1)]
