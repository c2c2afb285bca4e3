"""Packed integers come back exactly; damage, and counts that do not fit, are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracegrad.data.codec import pack, quantise, unpack
from tracegrad.errors import DataError

INTEGERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=60)


@given(INTEGERS)
def test_numbers_come_back_exactly(numbers: list[int]) -> None:
    array = np.array(numbers, dtype=np.int32)
    assert unpack(pack(array), len(array), "here").tolist() == numbers


@given(INTEGERS, st.integers(-3, 3).filter(bool))
def test_another_count_is_refused(numbers: list[int], off: int) -> None:
    count = len(numbers) + off
    if count >= 0:
        with pytest.raises(DataError, match=r"packed numbers|damaged"):
            unpack(pack(np.array(numbers, dtype=np.int32)), count, "here")


@pytest.mark.parametrize("place", [10, 40, -8])
def test_a_changed_byte_is_refused(place: int) -> None:
    stream = pack(np.arange(1000, dtype=np.int32)).copy()
    stream[place] ^= 0x10
    with pytest.raises(DataError, match=r"some\.h5: "):
        unpack(stream, 1000, "some.h5")


def test_a_bomb_is_not_unpacked_beyond_the_expected_count() -> None:
    with pytest.raises(DataError, match="expected 10 packed numbers"):
        unpack(pack(np.zeros(5_000_000, dtype=np.int32)), 10, "here")


@given(st.lists(st.floats(-2000, 2000), max_size=20), st.sampled_from([1e-6, 1e-3]))
def test_quantisation_stays_within_half_a_quantum(values: list[float], quantum: float) -> None:
    array = np.array(values)
    error = np.abs(quantise(array, quantum) * quantum - array)
    assert error.max(initial=0.0) <= quantum / 2 * (1 + 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.2e3])
def test_values_that_do_not_fit_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="do not fit"):
        quantise(np.array([value]), 1e-6)
