"""The trace label is invariant (TraceGrad, Theorem 1); what looks like it is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tracegrad.errors import DataError
from tracegrad.so3 import (
    block_irreps,
    block_to_irreps,
    random_rotation,
    spin_half_D,
    trace_label,
    trace_labels_of_irreps,
    wigner_D,
)

DEGREES, SEEDS = st.integers(0, 4), st.integers(0, 2**31)
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def spinful_block(l1: int, l2: int, seed: int) -> torch.Tensor:
    """Random spinful block."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, 2 * l1 + 1, 2 * l2 + 1, dtype=torch.complex128, generator=generator)


def rotated(block: torch.Tensor, l1: int, l2: int, R: torch.Tensor) -> torch.Tensor:
    """Rotate orbitals and spins of a spinful block."""
    U, D1, D2 = spin_half_D(R), wigner_D(l1, R) + 0j, wigner_D(l2, R) + 0j
    return torch.einsum("sa,mp,abpq,tb,nq->stmn", U, D1, block, U.conj(), D2)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest relative difference."""
    return float(((a - b).abs() / b.abs()).max())


@EXAMPLES
@given(DEGREES, DEGREES, SEEDS)
def test_label_is_the_trace_and_does_not_rotate(l1: int, l2: int, seed: int) -> None:
    R, H = random_rotation(generator=torch.Generator().manual_seed(seed)), spinful_block(l1, l2, seed)
    Q = H[0, 0].real
    assert relative(trace_label(Q), torch.trace(Q @ Q.mT)) < 1e-14
    assert relative(trace_label(wigner_D(l1, R) @ Q @ wigner_D(l2, R).mT), trace_label(Q)) < 1e-14
    assert relative(trace_label(rotated(H, l1, l2, R)), trace_label(H)) < 1e-14


@pytest.mark.parametrize(
    "label",
    [
        lambda H: H.abs().square().sum((-2, -1)),
        lambda H: H[0, 0].abs().square().sum() + H[1, 1].abs().square().sum(),
        lambda H: torch.einsum("stmn,tsnm->", H, H).real,
        lambda H: H.abs().sum(),
    ],
    ids=["one label per spin component", "diagonal spins only", "dagger dropped", "sum of moduli"],
)
def test_a_wrong_label_is_rejected(label: object) -> None:
    H, R1, R2 = spinful_block(1, 1, 0), random_rotation(), random_rotation()
    U1, U2 = spin_half_D(R1), spin_half_D(R2)  # rows and columns by rotations of their own tell Q Q^dagger from Q Q
    turned = torch.einsum("sa,mp,abpq,tb,nq->stmn", U1, wigner_D(1, R1) + 0j, H, U2.conj(), wigner_D(1, R2) + 0j)
    assert relative(trace_label(turned), trace_label(H)) < 1e-14
    assert relative(label(turned), label(H)) > 1e-2  # type: ignore[operator]


@EXAMPLES
@given(DEGREES, DEGREES, SEEDS, st.booleans())
def test_irreps_give_the_same_labels(l1: int, l2: int, seed: int, spinful: bool) -> None:
    blocks = [(spinful_block(a, b, seed), a, b) for a, b in ((l1, l2), (l2, 2))]
    blocks = blocks if spinful else [(H[0, 0].real, a, b) for H, a, b in blocks]
    vector = torch.cat([block_to_irreps(H, a, b, spinful) for H, a, b in blocks])
    dims = [block_irreps(a, b, spinful).dim for _, a, b in blocks]
    expected = torch.stack([trace_label(H) for H, _, _ in blocks])
    assert relative(trace_labels_of_irreps(vector, dims), expected) < 1e-13
    assert dims[0] == dims[1] or relative(trace_labels_of_irreps(vector, dims[::-1]), expected) > 1e-6


def test_labels_of_a_batch_keep_its_shape_and_dtype(dtype: torch.dtype) -> None:
    labels = trace_labels_of_irreps(torch.arange(12, dtype=dtype).reshape(2, 1, 6), [1, 2, 3])
    assert labels.dtype == dtype
    assert labels.tolist() == [[[0, 5, 50]], [[36, 113, 302]]]
    assert trace_label(torch.ones(0, 3, 5)).shape == (0,)


def test_gradients_are_right() -> None:
    t = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: trace_labels_of_irreps(x, [1, 5]), t)
    assert torch.autograd.gradcheck(trace_label, spinful_block(0, 1, 0).requires_grad_())


def test_wrong_shapes_raise() -> None:
    with pytest.raises(DataError, match=r"spinful blocks \(\.\.\., 2, 2, .* found shape \(3, 5\)"):
        trace_label(torch.zeros(3, 5, dtype=torch.complex64))
    with pytest.raises(DataError, match=r"found shape \(3,\)"):
        trace_label(torch.zeros(3))
    with pytest.raises(DataError, match=r"expected 6 components \(2 blocks\) .* found shape \(5,\)"):
        trace_labels_of_irreps(torch.zeros(5), [1, 5])
