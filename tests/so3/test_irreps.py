"""Names, offsets and irreps of orbitals."""

from __future__ import annotations

import numpy as np
import pytest
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import DataError
from tracegrad.so3 import OrbitalBasis, block_irreps
from tracegrad.so3.irreps import channel_parts, expand_channels

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
DEGREES = st.integers(0, 6)


def test_names_count_the_shells_of_each_degree() -> None:
    basis = OrbitalBasis((0, 0, 1, 1, 2, 0))
    assert basis.names == ("s1", "s2", "p1", "p2", "d1", "s3")
    assert basis.offsets == (0, 1, 2, 5, 8, 13)
    assert basis.num_orbitals == 14
    assert str(basis.irreps) == "1x0e+1x0e+1x1o+1x1o+1x2e+1x0e"


@EXAMPLES
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_slices_cover_the_orbitals_in_order(ls: list[int]) -> None:
    basis = OrbitalBasis(tuple(ls))
    covered = [index for part in basis.slices for index in range(part.start, part.stop)]
    assert covered == list(range(basis.num_orbitals))
    assert basis.irreps.dim == basis.num_orbitals
    assert len(set(basis.names)) == len(ls)


def test_degrees_may_be_integers_of_numpy() -> None:
    basis = OrbitalBasis(np.array([0, 0, 1]))  # type: ignore[arg-type]
    assert basis == OrbitalBasis((0, 0, 1))
    assert all(type(l) is int for l in basis.ls)


@pytest.mark.parametrize("ls", [(), (0, -1), (13,), (0.0,), ("1",)], ids=str)
def test_what_is_no_list_of_degrees_raises(ls: tuple[object, ...]) -> None:
    with pytest.raises(DataError, match="integer l from 0 to 12"):
        OrbitalBasis(ls)  # type: ignore[arg-type]


def test_order_of_channels() -> None:
    assert str(block_irreps(1, 2)) == "1x1o+1x2o+1x3o"
    one_part = "1x1o+1x2o+1x3o+1x0o+1x1o+1x2o+1x1o+1x2o+1x3o+1x2o+1x3o+1x4o"
    assert str(block_irreps(1, 2, spinful=True)) == f"1x1o+1x2o+1x3o+{one_part[15:]}+{one_part}"
    assert str(block_irreps(1, 2, spinful=True, time_reversal=True)) == one_part
    assert block_irreps(1, 2, time_reversal=True) == block_irreps(1, 2)


@EXAMPLES
@given(DEGREES, DEGREES)
def test_irreps_are_those_of_the_tensor_product(l1: int, l2: int) -> None:
    orbital = list(o3.Irrep(l1, (-1) ** l1) * o3.Irrep(l2, (-1) ** l2))
    with_spin = orbital + [irrep for spatial in orbital for irrep in spatial * o3.Irrep("1e")]
    assert [irrep for _, irrep in block_irreps(l1, l2)] == orbital
    assert [irrep for _, irrep in block_irreps(l1, l2, spinful=True)] == with_spin + with_spin
    assert [irrep for _, irrep in block_irreps(l1, l2, spinful=True, time_reversal=True)] == with_spin
    natural = [
        (l, (-1) ** l) for l in range(abs(l1 - l2), l1 + l2 + 1)
    ]  # control: parities of harmonics, not of products
    assert ([(irrep.l, irrep.p) for irrep in orbital] == natural) == (min(l1, l2) == 0)


@EXAMPLES
@given(DEGREES, DEGREES)
def test_dimensions_count_the_matrix_elements(l1: int, l2: int) -> None:
    elements = (2 * l1 + 1) * (2 * l2 + 1)
    assert block_irreps(l1, l2).dim == elements
    assert block_irreps(l1, l2, spinful=True).dim == 8 * elements
    assert block_irreps(l1, l2, spinful=True, time_reversal=True).dim == 4 * elements


def test_every_triplet_channel_knows_its_orbital_degree() -> None:
    scalar, triplet = channel_parts(1, 2, spinful=True, time_reversal=True)
    assert scalar.degrees == scalar.orbital_degrees == (1, 2, 3)
    assert triplet.degrees == (0, 1, 2, 1, 2, 3, 2, 3, 4)
    assert triplet.orbital_degrees == (1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert (scalar.imaginary, triplet.imaginary) == (False, True)


def test_values_are_repeated_over_components() -> None:
    assert expand_channels([7, -1], [0, 1]) == [7, -1, -1, -1]


def test_negative_degrees_raise() -> None:
    with pytest.raises(DataError, match="l1 = -1, l2 = 2"):
        block_irreps(-1, 2)
