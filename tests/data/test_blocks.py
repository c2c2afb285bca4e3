"""Blocks: selection, adjoints and completion against explicit loops over dictionaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracegrad.data import Blocks, Structure
from tracegrad.data.blocks import duplicate_keys, match_keys, reverse_keys
from tracegrad.errors import DataError

KEYS = st.tuples(*[st.integers(-3, 3)] * 3, *[st.integers(0, 3)] * 2)


def random_blocks(keys: list[tuple[int, ...]], seed: int) -> Blocks:
    """Complex blocks with a shape that depends on the atoms."""
    rng = np.random.default_rng(seed)
    return Blocks.from_dict({k: rng.normal(size=(k[3] + 1, k[4] + 1)) * (1 + 2j) for k in keys})


def reverse(key: tuple[int, ...]) -> tuple[int, ...]:
    """Key of the reversed pair, written out."""
    return (-key[0], -key[1], -key[2], key[4], key[3])


@given(st.lists(KEYS, unique=True, max_size=12), st.integers(0, 1000))
def test_completion_adds_exactly_the_missing_adjoints(keys: list[tuple[int, ...]], seed: int) -> None:
    blocks = random_blocks(keys, seed)
    expected = blocks.to_dict()
    for key, block in list(expected.items()):
        expected.setdefault(reverse(key), block.conj().T)
    found = blocks.completed().to_dict()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert blocks.completed().is_complete


@pytest.mark.parametrize("kinds", [("u1", "i1", "u1"), ("u8", "i2", ">i4"), ("i4", "i4", "i4")], ids=str)
def test_integers_of_every_width_give_the_same_blocks(kinds: tuple[str, str, str]) -> None:
    blocks = random_blocks([(0, 0, 0, 0, 0), (-1, 2, 0, 0, 1), (0, 3, -128, 2, 1)], 0)
    arrays = blocks.edge_index, blocks.cell_shift, blocks.shapes
    narrow = Blocks(*(array.astype(kind) for array, kind in zip(arrays, kinds, strict=True)), blocks.values)
    found, expected = (each.completed().to_dict() for each in (narrow, blocks))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert blocks.with_values(blocks.values).edge_index is blocks.edge_index  # nothing is copied


@pytest.mark.parametrize("place", [0, 1, 2])
def test_keys_and_shapes_that_are_no_integers_are_refused(place: int) -> None:
    blocks = random_blocks([(0, 0, 0, 0, 0), (-1, 2, 0, 0, 1)], 0)
    arrays = [blocks.edge_index, blocks.cell_shift, blocks.shapes]
    Blocks(*arrays, blocks.values)
    arrays[place] = arrays[place] + 0.5
    with pytest.raises(DataError, match=r"Blocks: expected integers in \w+, found float64"):
        Blocks(*arrays, blocks.values)


@given(st.lists(KEYS, unique=True, max_size=12), st.integers(0, 1000))
def test_half_of_the_completion_holds_each_pair_once(keys: list[tuple[int, ...]], seed: int) -> None:
    half = random_blocks(keys, seed).completed().hermitian_half()
    stored = set(half.to_dict())
    assert half.is_half
    assert stored == {k if k in stored else reverse(k) for k in map(tuple, random_blocks(keys, seed).keys().tolist())}
    assert all(key == reverse(key) or reverse(key) not in stored for key in stored)


@given(st.lists(KEYS, unique=True, max_size=12), st.integers(0, 1000))
def test_half_keeps_pairs_that_are_stored_in_the_other_direction_only(keys: list[tuple[int, ...]], seed: int) -> None:
    blocks = random_blocks(keys, seed)
    half = blocks.hermitian_half()
    assert half.is_half
    assert half.completed().to_dict().keys() == blocks.completed().to_dict().keys()
    for key, block in half.to_dict().items():
        stored = blocks.to_dict()
        assert np.array_equal(block, stored[key] if key in stored else stored[reverse(key)].conj().T)


@given(st.lists(KEYS, unique=True, max_size=12), st.integers(0, 1000))
def test_selection_takes_the_blocks_asked_for(keys: list[tuple[int, ...]], seed: int) -> None:
    blocks = random_blocks(keys, seed)
    order = np.random.default_rng(seed).permutation(len(keys))
    for place, edge in enumerate(order):
        assert np.array_equal(blocks.select(order).block(place), blocks.block(int(edge)))
    assert blocks.select(np.zeros(len(keys), dtype=bool)).n_edges == 0


@given(st.lists(KEYS, max_size=15), st.lists(KEYS, max_size=15), st.sampled_from([1, 10**15]))
def test_key_matching_equals_a_dictionary(
    stored: list[tuple[int, ...]], wanted: list[tuple[int, ...]], scale: int
) -> None:
    table: dict[tuple[int, ...], int] = {}
    for place, key in enumerate(stored):
        table.setdefault(key, place)
    first, second = (np.array(keys, dtype=np.int64).reshape(-1, 5) * scale for keys in (stored, wanted))
    assert match_keys(first, second).tolist() == [table.get(key, -1) for key in wanted]
    assert duplicate_keys(first).tolist() == [place for place, key in enumerate(stored) if table[key] != place]
    assert reverse_keys(first).tolist() == [[scale * part for part in reverse(key)] for key in stored]


def test_hermiticity_defect_measures_the_change(make_structure: Callable[..., Structure]) -> None:
    hamiltonian = make_structure(spinful=True).hamiltonian
    assert hamiltonian is not None
    complete = hamiltonian.completed()
    assert complete.hermiticity_defect() == 0.0
    changed = complete.values.copy()
    changed[complete.offsets[complete.index((1, -2, 0, 1, 0))] + 3] += 0.25
    assert complete.with_values(changed).hermiticity_defect() == pytest.approx(0.25)
    changed[0] = np.nan
    assert complete.with_values(changed).hermiticity_defect() == float("inf")


def test_an_on_site_block_that_is_not_hermitian_is_noticed() -> None:
    block = np.array([[1.0, 2.0], [2.5, 3.0]])
    assert Blocks.from_dict({(0, 0, 0, 0, 0): block}).hermiticity_defect() == 0.5


def test_no_blocks_at_all_are_handled() -> None:
    empty = Blocks.from_dict({})
    assert (empty.n_edges, empty.is_half, empty.completed().n_edges, empty.hermiticity_defect()) == (0, True, 0, 0.0)
    assert list(empty.grouped()) == []


def test_arrays_that_do_not_fit_are_refused() -> None:
    good = random_blocks([(0, 0, 0, 0, 1), (0, 0, 0, 1, 1)], 0)
    with pytest.raises(DataError, match=r"expected cell_shift of shape \(2, 3\), found \(1, 3\)"):
        Blocks(good.edge_index, good.cell_shift[:1], good.shapes, good.values)
    with pytest.raises(DataError, match="ask for 6 values, found an array of shape \\(5,\\)"):
        good.with_values(good.values[:-1])
    with pytest.raises(KeyError, match="no block"):
        good.index((9, 9, 9, 0, 0))
