"""Irrep content of an output over the orbit of its input: what is named, and that a sound output leaks nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from verify.group import Elements
from verify.leak import describe_leak, haar_quadrature, irrep_content
from verify.representation import Representation
from verify.wigner import wigner_D

Map = Callable[[np.ndarray], np.ndarray]
VECTOR = Representation.parse("1x1o")


def _orbit(func: Map, law: Representation = VECTOR) -> Callable[[Elements], np.ndarray]:
    x = np.random.default_rng(0).normal(size=(4, law.dim or 0))
    return lambda elements: func(law.act(np.broadcast_to(x, (len(elements), *x.shape)).copy(), elements))


def _cross(x: np.ndarray) -> np.ndarray:
    return np.cross(x, np.roll(x, 1, axis=-2))


def test_quadrature_makes_matrix_elements_orthogonal() -> None:
    q, weights = haar_quadrature(3)
    d = wigner_D([1, 2, 3], q)
    assert weights.sum() == pytest.approx(1)
    for l in (1, 2, 3):
        gram = np.einsum("n,nab,ncd->abcd", weights, d[l], d[l])
        expected = np.einsum("ac,bd->abcd", np.eye(2 * l + 1), np.eye(2 * l + 1)) / (2 * l + 1)
        assert np.abs(gram - expected).max() < 1e-14
    assert np.abs(np.einsum("n,nab,ncd->abcd", weights, d[1], d[3])).max() < 1e-14


def test_sound_output_leaks_nothing() -> None:
    leak, text = describe_leak(irrep_content(_orbit(lambda x: 3 * x), VECTOR), VECTOR)
    assert leak == {}
    assert text == ""


@pytest.mark.parametrize(
    ("func", "leaked"),
    [
        (lambda x: x + 0.1, "1o contains 0e"),
        (_cross, "1o contains 1e"),
        (lambda x: x[..., [1, 2, 0]], "1o contains 1o (mixed)"),
        (lambda x: x * np.array([1.0, 1.1, 0.9]), "1o contains 1o (mixed)"),
        (lambda x: x * np.linalg.norm(x, axis=-1, keepdims=True) + x**2, "1o contains 2e"),
    ],
    ids=["bias", "cross product", "permuted axes", "factor per component", "square"],
)
def test_leak_of_a_vector_is_named(func: Map, leaked: str) -> None:
    leak, _ = describe_leak(irrep_content(_orbit(func), VECTOR), VECTOR)
    assert leaked in leak


def test_leak_is_measured_as_an_amplitude() -> None:
    content = irrep_content(_orbit(lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True) + 1.0), VECTOR)
    assert content[0]["0e"] == pytest.approx((3 / 4) ** 0.5)
    assert content[0]["1o"] == pytest.approx((1 / 4) ** 0.5)
