"""Orbital orders against functions of x, y, z written out here, SciPy's Legendre functions and PySCF's orbitals."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, pi, sqrt

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import ConfigError, DataError
from tracegrad.so3 import CONVENTIONS, from_convention, orbital_map, shell_order, to_convention

Array = npt.NDArray[np.float64]
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
NAMES = st.sampled_from(CONVENTIONS)
SHELLS = st.lists(st.integers(0, 5), min_size=1, max_size=4)

# Orbitals on the unit sphere, by name; each is normalised like the others of its shell.
ORBITALS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "s": lambda x, y, z: sqrt(1 / (4 * pi)) + 0 * x,
    "x": lambda x, y, z: sqrt(3 / (4 * pi)) * x,
    "y": lambda x, y, z: sqrt(3 / (4 * pi)) * y,
    "z": lambda x, y, z: sqrt(3 / (4 * pi)) * z,
    "xy": lambda x, y, z: sqrt(15 / (4 * pi)) * x * y,
    "yz": lambda x, y, z: sqrt(15 / (4 * pi)) * y * z,
    "z2": lambda x, y, z: sqrt(5 / (16 * pi)) * (3 * z**2 - 1),
    "xz": lambda x, y, z: sqrt(15 / (4 * pi)) * x * z,
    "x2-y2": lambda x, y, z: sqrt(15 / (16 * pi)) * (x**2 - y**2),
    "y(3x2-y2)": lambda x, y, z: sqrt(35 / (32 * pi)) * y * (3 * x**2 - y**2),
    "xyz": lambda x, y, z: sqrt(105 / (4 * pi)) * x * y * z,
    "yz2": lambda x, y, z: sqrt(21 / (32 * pi)) * y * (5 * z**2 - 1),
    "z3": lambda x, y, z: sqrt(7 / (16 * pi)) * z * (5 * z**2 - 3),
    "xz2": lambda x, y, z: sqrt(21 / (32 * pi)) * x * (5 * z**2 - 1),
    "z(x2-y2)": lambda x, y, z: sqrt(105 / (16 * pi)) * z * (x**2 - y**2),
    "x(x2-3y2)": lambda x, y, z: sqrt(35 / (32 * pi)) * x * (x**2 - 3 * y**2),
}
D_ASCENDING, F_ASCENDING = "xy yz z2 xz x2-y2", "y(3x2-y2) xyz yz2 z3 xz2 z(x2-y2) x(x2-3y2)"
ORDERS = {
    "e3nn": ("y z x", D_ASCENDING, F_ASCENDING),
    "cp2k": ("y z x", D_ASCENDING, F_ASCENDING),
    "pyscf": ("x y z", D_ASCENDING, F_ASCENDING),
    "openmx": ("x y z", "z2 x2-y2 xy xz yz", "z3 xz2 yz2 z(x2-y2) xyz x(x2-3y2) y(3x2-y2)"),
    "siesta": ("-y z -x", "xy -yz z2 -xz x2-y2", "-y(3x2-y2) xyz -yz2 z3 -xz2 z(x2-y2) -x(x2-3y2)"),
    "abacus": ("z -x -y", "z2 -xz -yz x2-y2 xy", "z3 -xz2 -yz2 z(x2-y2) xyz -x(x2-3y2) -y(3x2-y2)"),
}


def directions(n: int = 40) -> Array:
    """Random unit vectors."""
    points = np.random.default_rng(0).normal(size=(n, 3))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def harmonics(ls: list[int], points: Array) -> Array:
    """Orthonormal harmonics of the shells in our order, one row per direction."""
    vectors = torch.from_numpy(points)[:, [1, 2, 0]]
    return np.concatenate([o3.spherical_harmonics(l, vectors, normalize=True).numpy() for l in ls], axis=1)


def converted(ls: list[int], convention: str, points: Array) -> Array:
    """Products of all pairs of orbitals at the points, converted to a convention."""
    values = harmonics(ls, points)
    return to_convention(values[:, :, None] * values[:, None, :], ls, ls, convention)


def pairs(values: Array) -> Array:
    """Products of all pairs of orbitals; the s orbital among them makes every sign visible."""
    return np.asarray(values[:, :, None] * values[:, None, :])


@pytest.mark.parametrize("convention", ORDERS)
@pytest.mark.parametrize("l", [1, 2, 3])
def test_stored_orbitals_are_the_named_functions(convention: str, l: int) -> None:
    points = directions()
    names = ["s", *ORDERS[convention][l - 1].split()]
    expected = np.stack([(-1) ** (n[0] == "-") * ORBITALS[n.removeprefix("-")](*points.T) for n in names], axis=1)
    np.testing.assert_allclose(converted([0, l], convention, points), pairs(expected), atol=1e-14)
    swapped = expected[:, [0, 2, 1, *range(3, 2 * l + 2)]]  # control: two orbitals exchanged
    assert np.abs(converted([0, l], convention, points) - pairs(swapped)).max() > 1e-2


def test_every_convention_is_written_out_here() -> None:
    assert sorted(ORDERS) == sorted(CONVENTIONS)


@pytest.mark.parametrize("convention", ["siesta", "abacus"])
@pytest.mark.parametrize("l", range(1, 7))
def test_programs_with_legendre_phase(convention: str, l: int) -> None:
    """SIESTA and ABACUS take associated Legendre functions with (-1)^m, times sin or cos; so does SciPy."""
    points = directions()
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    ms = range(-l, l + 1) if convention == "siesta" else [0] + [s * m for m in range(1, l + 1) for s in (1, -1)]
    columns = [np.full(len(points), sqrt(1 / (4 * pi)))]
    for m in ms:
        norm = sqrt((2 - (m == 0)) * (2 * l + 1) / (4 * pi) * factorial(l - abs(m)) / factorial(l + abs(m)))
        angular = np.sin(-m * azimuth) if m < 0 else np.cos(m * azimuth)
        columns.append(norm * scipy.special.lpmv(abs(m), l, points[:, 2]) * angular)
    expected = np.stack(columns, axis=1)
    np.testing.assert_allclose(converted([0, l], convention, points), pairs(expected), atol=1e-12)
    without_phase = expected * [1, *((-1) ** m for m in ms)]  # control
    assert np.abs(converted([0, l], convention, points) - pairs(without_phase)).max() > 1e-2


@pytest.mark.parametrize("l", range(1, 5))
def test_pyscf_evaluates_its_orbitals_in_its_convention(l: int) -> None:
    gto = pytest.importorskip("pyscf.gto")
    molecule = gto.M(atom="He 0 0 0", basis={"He": [[0, [1.0, 1.0]], [l, [1.0, 1.0]]]}, unit="Bohr", verbose=0)
    points = directions()
    values = molecule.eval_gto("GTOval_sph", points)  # on the unit sphere: harmonics times one number per shell
    for k, shell in ((0, values[:, :1]), (l, values[:, 1:])):
        shell *= np.sqrt((2 * k + 1) / (4 * pi * (shell**2).sum(1, keepdims=True)))  # addition theorem
    np.testing.assert_allclose(converted([0, l], "pyscf", points), pairs(values), atol=1e-12)
    assert np.abs(converted([0, l], "siesta", points) - pairs(values)).max() > 1e-2


@pytest.mark.parametrize(
    ("l", "permutation", "negative"),
    [(1, [1, 2, 0], [0, 1]), (2, [0, 3, 4, 1, 2], [3, 4]), (3, [0, 1, 2, 3, 4, 5, 6], [1, 2, 5, 6])],
)
def test_abacus_to_openmx_is_that_of_the_deeph_converter(l: int, permutation: list[int], negative: list[int]) -> None:
    signs = np.array([-1.0 if k in negative else 1.0 for k in range(2 * l + 1)])
    abacus = np.random.default_rng(0).normal(size=(1, 2 * l + 1))
    ours = from_convention(abacus, [0], [l], "abacus")
    np.testing.assert_array_equal(to_convention(ours, [0], [l], "openmx"), signs * abacus[:, permutation])


@pytest.mark.parametrize(
    ("l", "permutation"),
    [(1, [1, 2, 0]), (2, [2, 4, 0, 3, 1]), (3, [6, 4, 2, 0, 1, 3, 5]), (4, [8, 6, 4, 2, 0, 1, 3, 5, 7])],
)
def test_openmx_to_ours_is_that_of_the_deeph_tools(l: int, permutation: list[int]) -> None:
    openmx = np.random.default_rng(0).normal(size=(1, 2 * l + 1))
    np.testing.assert_array_equal(from_convention(openmx, [0], [l], "openmx"), openmx[:, permutation])


@EXAMPLES
@given(SHELLS, SHELLS, NAMES, st.booleans(), st.sampled_from([np.float32, np.float64, np.complex128]))
def test_round_trip_is_exact(rows: list[int], columns: list[int], name: str, spinful: bool, dtype: type) -> None:
    shape = tuple((1 + spinful) * sum(2 * l + 1 for l in ls) for ls in (rows, columns))
    matrix = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
    there = to_convention(matrix, rows, columns, name, spinful)
    assert there.dtype == dtype
    np.testing.assert_array_equal(from_convention(there, rows, columns, name, spinful), matrix)
    as_tensor = to_convention(torch.from_numpy(matrix), rows, columns, name, spinful)
    assert as_tensor.dtype == torch.from_numpy(matrix).dtype
    np.testing.assert_array_equal(as_tensor.numpy(), there)


@pytest.mark.parametrize("name", ["openmx", "abacus"])
def test_the_map_is_not_its_own_inverse(name: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 5))
    assert not np.array_equal(to_convention(to_convention(matrix, [1], [2], name), [1], [2], name), matrix)


def test_an_order_is_a_list_of_m_and_sign() -> None:
    assert shell_order(1, "siesta") == [(-1, -1), (0, 1), (1, -1)]


@EXAMPLES
@given(SHELLS, NAMES)
def test_map_of_an_axis_is_a_signed_permutation(ls: list[int], name: str) -> None:
    index, signs = orbital_map(ls, name)
    assert sorted(index) == list(range(sum(2 * l + 1 for l in ls)))
    assert set(signs.tolist()) <= {1, -1}
    vector = np.random.default_rng(0).normal(size=len(index))
    np.testing.assert_array_equal(np.outer(vector, vector)[np.ix_(index, index)] * np.outer(signs, signs),
                                  to_convention(np.outer(vector, vector), ls, ls, name))  # fmt: skip


def test_spins_are_the_outer_axis() -> None:
    blocks = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    matrix = np.block([[blocks[s, t] for t in range(2)] for s in range(2)])
    stored = to_convention(matrix, [1], [0, 1], "openmx", spinful=True)
    expected = np.block([[to_convention(blocks[s, t], [1], [0, 1], "openmx") for t in range(2)] for s in range(2)])
    np.testing.assert_array_equal(stored, expected)
    orbital_major = blocks.transpose(2, 0, 3, 1).reshape(6, 8)  # control: spin as the inner axis
    assert not np.array_equal(to_convention(orbital_major, [1], [0, 1], "openmx", spinful=True), expected)


@pytest.mark.parametrize(("name", "near"), [("OpenMX", "openmx"), ("opnmx", "openmx"), ("pyscff", "pyscf")])
def test_unknown_conventions_raise_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown orbital convention '{name}'. Did you mean '{near}'?"):
        to_convention(np.zeros((1, 1)), [0], [0], name)


def test_a_matrix_of_another_shape_raises() -> None:
    with pytest.raises(DataError, match=r"shape \(\.\.\., 3, 1\) for these shells, found \(3, 3\); check"):
        to_convention(np.zeros((3, 3)), [1], [0], "openmx")
    with pytest.raises(DataError, match=r"shape \(\.\.\., 6, 2\) .* whether the matrix carries spin"):
        from_convention(np.zeros((3, 1)), [1], [0], "openmx", spinful=True)
