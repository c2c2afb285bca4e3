"""Frames of the edges: they point along the edge, keep every number, and are exact at the poles."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3

from tracegrad.so3 import random_rotation, wigner_D_irreps
from tracegrad.so3.frames import (
    FrameLayout,
    edge_angles,
    frame_matrix,
    frame_wigner,
    is_natural,
    reversed_wigner,
    unnatural_wigner,
)

IRREPS = o3.Irreps("2x1o+3x0e+1x2o+2x2e+1x0o+1x3e+1x1e+1x3o")
LMAX = 4


@pytest.fixture
def vectors() -> torch.Tensor:
    """Return random vectors, both poles, and a zero vector."""
    special = [[0.0, 0, 1.7], [0.0, 0, -0.4], [1e-13, -1e-13, 1.0], [0.0, 0, 0], [-1.0, 0, 0], [0.0, -1, 0]]
    return torch.cat([torch.randn(5, 3, dtype=torch.float64), torch.tensor(special, dtype=torch.float64)])


def natural_order(l: int) -> list[int]:
    """Return the components m = 0, +1, -1, ... as indices into m = -l..l."""
    return [l] + [l + s * m for m in range(1, l + 1) for s in (1, -1)]


def test_edge_is_the_pole_of_its_frame(vectors: torch.Tensor) -> None:
    wigner = frame_wigner(vectors, LMAX)
    for l in range(1, LMAX + 1):
        Y = o3.spherical_harmonics(l, vectors[:, [1, 2, 0]], normalize=True, normalization="component")[
            :, natural_order(l)
        ]
        there = (wigner[l] @ Y[:, :, None]).squeeze(2)
        pole = torch.zeros(2 * l + 1, dtype=torch.float64)
        pole[0] = math.sqrt(2 * l + 1)
        moving = vectors.norm(dim=1) > 0
        assert torch.allclose(there[moving], pole.expand(int(moving.sum()), -1), rtol=0, atol=1e-13)
        assert not torch.allclose(Y[moving], pole.expand(int(moving.sum()), -1), rtol=0, atol=1e-3)


def test_frames_are_orthogonal_and_the_zero_vector_has_the_identity(vectors: torch.Tensor) -> None:
    for D in frame_wigner(vectors, LMAX):
        unit = torch.eye(D.shape[1], dtype=torch.float64)
        assert torch.allclose(D @ D.transpose(1, 2), unit.expand_as(D), rtol=0, atol=1e-13)
        assert torch.allclose(D[8], unit, rtol=0, atol=1e-15)


def test_angles_are_exact_near_the_poles() -> None:
    small = torch.tensor([[1e-9, 0.0, 1.0], [0.0, 1e-12, -1.0]], dtype=torch.float64)
    _, polar = edge_angles(small)
    assert polar[0].item() == pytest.approx(1e-9, rel=1e-12)
    assert math.pi - polar[1].item() == pytest.approx(1e-12, rel=1e-3)


def test_reversed_frames_are_those_of_the_reversed_edges(vectors: torch.Tensor) -> None:
    """Up to a turn about the pole, which is the gauge: they map the reversed direction to the pole."""
    turned = reversed_wigner(frame_wigner(vectors, LMAX))
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    for l, (D, forward) in enumerate(zip(turned, frame_wigner(vectors, LMAX), strict=True)):
        assert torch.allclose(D, frame_matrix(l, half_turn) @ forward, rtol=0, atol=1e-13)
        if l:
            Y = o3.spherical_harmonics(l, -vectors[:8, [1, 2, 0]], normalize=True, normalization="component")
            pole = (D[:8] @ Y[:, natural_order(l), None]).squeeze(2)
            assert torch.allclose(pole[:, 1:], torch.zeros_like(pole[:, 1:]), rtol=0, atol=1e-13)
            assert (pole[:, 0] > 1).all()


def test_layout_loses_nothing() -> None:
    layout = FrameLayout(IRREPS)
    x = torch.randn(4, IRREPS.dim, dtype=torch.float64)
    flat = layout.permute(x)
    assert torch.equal(layout.unpermute(flat), x)
    blocks = layout.split(flat)
    assert torch.equal(layout.flatten(blocks), flat)
    assert [tuple(b.shape[1:]) for b in blocks] == [(1 if m == 0 else 2, w) for m, w in enumerate(layout.widths)]
    assert all(torch.equal(a, b) for a, b in zip(layout.from_fields(layout.to_fields(blocks)), blocks, strict=True))
    assert flat.square().sum() == pytest.approx(float(x.square().sum()))
    assert not torch.equal(flat, x)


def test_channels_are_sorted_by_degree_and_nature() -> None:
    layout = FrameLayout(IRREPS)
    kinds = [(l, unnatural) for l, unnatural, _ in layout.channels]
    assert kinds == sorted(kinds)
    assert layout.sorted_irreps == o3.Irreps("3x0e+1x0o+2x1o+1x1e+2x2e+1x2o+1x3o+1x3e")
    assert layout.widths == [len([k for k in kinds if k[0] >= m]) for m in range(4)]
    assert is_natural(1, -1)
    assert is_natural(2, 1)
    assert not is_natural(1, 1)


def test_rotation_into_the_frames_is_the_representation(vectors: torch.Tensor) -> None:
    layout = FrameLayout(IRREPS)
    x = torch.randn(len(vectors), IRREPS.dim, dtype=torch.float64)
    wigner = frame_wigner(vectors, layout.lmax)
    flat = layout.to_frame(x, wigner)
    assert torch.allclose(layout.from_frame(flat, wigner), x, rtol=0, atol=1e-13)
    azimuth, polar = edge_angles(vectors)
    ca, sa, cb, sb, zero = azimuth.cos(), azimuth.sin(), polar.cos(), polar.sin(), torch.zeros_like(polar)
    Q = torch.stack([ca * cb, -sa, ca * sb, sa * cb, ca, sa * sb, -sb, zero, cb], dim=1).view(-1, 3, 3)
    expected = (wigner_D_irreps(IRREPS, Q.transpose(1, 2)) @ x[:, :, None]).squeeze(2)
    assert torch.allclose(layout.unpermute(flat), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(layout.unpermute(flat), x, rtol=0, atol=1e-3)


def test_reflection_through_the_edge_keeps_even_rows_and_turns_odd_ones() -> None:
    """What makes one matrix serve +m and -m: the reflection y -> -y is diagonal in the rows of a block."""
    layout = FrameLayout(IRREPS)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    x = torch.randn(3, IRREPS.dim, dtype=torch.float64)
    blocks = layout.split(layout.permute(x))
    mirrored = layout.split(layout.permute(x @ wigner_D_irreps(IRREPS, mirror).T))
    for m in range(1, len(blocks)):
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None]
        assert torch.allclose(mirrored[m], blocks[m] * signs, rtol=0, atol=1e-13)
    natural = torch.tensor([-1.0 if unnatural else 1.0 for _, unnatural, _ in layout.channels], dtype=torch.float64)
    assert torch.allclose(mirrored[0], blocks[0] * natural, rtol=0, atol=1e-13)
    assert not torch.allclose(mirrored[1], blocks[1])


def test_unnatural_wigner_is_the_same_rotation_in_other_rows() -> None:
    R, l = random_rotation(), 3
    layout = FrameLayout("1x3e")
    x = torch.randn(1, 7, dtype=torch.float64)
    (field,) = layout.to_fields(layout.split(layout.permute(x)))
    (turned,) = layout.to_fields(layout.split(layout.permute(x @ wigner_D_irreps("1x3e", R).T)))
    D = frame_matrix(l, R)[None]
    assert torch.allclose(unnatural_wigner(D) @ field, turned, rtol=0, atol=1e-13)
    assert not torch.allclose(D @ field, turned, rtol=0, atol=1e-3)


def test_reversal_signs_are_the_half_turn() -> None:
    layout = FrameLayout(IRREPS)
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    x = torch.randn(2, IRREPS.dim, dtype=torch.float64)
    turned = layout.permute(x @ wigner_D_irreps(IRREPS, half_turn).T)
    assert torch.allclose(turned, layout.permute(x) * layout.reversal_signs, rtol=0, atol=1e-13)
    assert not torch.allclose(turned, layout.permute(x))


HARD = [[0.0, 0.0, 2.1], [0.0, 0.0, -1.3], [1e-9, 0.0, 1.0], [3e-3, -4e-3, 0.9], [0.0, 1.1, 0.0], [0.4, -0.3, 0.8]]


def invariants(vectors: torch.Tensor) -> torch.Tensor:
    """Return what of the frames does not depend on the turn about the edge, for all degrees."""
    parts = []
    for D in frame_wigner(vectors, 3):
        parts.append(D[:, 0])
        for m in range(1, D.shape[1], 2):
            rows = D[:, m : m + 2]
            parts.append((rows.mT @ rows).flatten(1))
    return torch.cat(parts, dim=1)


def test_what_the_gauge_does_not_touch_has_its_derivatives_also_at_the_poles() -> None:
    vectors = torch.tensor(HARD, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(invariants, (vectors,))
    assert torch.autograd.gradgradcheck(lambda v: invariants(v).sin().sum(0), (vectors,))


def test_frames_of_differentiated_edges_have_the_same_values(dtype: torch.dtype) -> None:
    vectors = torch.cat([torch.tensor([*HARD, [0.0, 0.0, 0.0]]), torch.randn(20, 3)]).to(dtype)
    plain, smooth = frame_wigner(vectors, LMAX), frame_wigner(vectors.clone().requires_grad_(), LMAX)
    for D, other in zip(plain, smooth, strict=True):
        assert torch.allclose(D, other, rtol=0, atol=8 * torch.finfo(dtype).eps)
    zero = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum(D.sum() for D in frame_wigner(zero, 2)), zero)
    assert not gradient.any()


def test_angles_alone_have_no_derivatives_at_the_pole() -> None:
    vector = torch.tensor(HARD[:1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum(edge_angles(vector)).sum(), vector)
    assert gradient.isnan().any()
