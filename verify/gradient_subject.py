"""The gradient of a subject as a subject of its own: the vector-Jacobian product must transform like its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .group import Elements
from .representation import VECTOR, Representation
from .subject import Leaf, OutputSpec, State, Subject
from .wigner import Array


def gradient_law(law: Representation) -> Representation:
    """Law of the gradient with respect to an input: points have vectors as gradients, irreps are orthogonal."""
    return VECTOR if law.kind == "points" else law


def differentiable(subject: Subject, state: State) -> bool:
    """True when some output at the state has a gradient with respect to some leaf."""
    leaves = [leaf.value.detach().requires_grad_(True) for leaf in subject.leaves(state)]
    with torch.enable_grad():
        return any(out.requires_grad for out in subject.raw(subject.with_leaves(state, leaves)))


def vector_jacobian(subject: Subject, state: State, cotangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of sum_o <w_o, f_o(x)> with respect to the leaves, and the outputs.

    Args:
        subject: differentiable subject.
        state: where.
        cotangents: w_o, one per output, of its shape.

    Returns:
        One gradient per leaf (zeros where nothing depends on it), and the outputs.
    """
    leaves = [leaf.value.detach().requires_grad_(True) for leaf in subject.leaves(state)]
    with torch.enable_grad():
        outputs = subject.raw(subject.with_leaves(state, leaves))
        terms = [(w.to(out) * out).sum() for w, out in zip(cotangents, outputs, strict=True) if out.requires_grad]
        if not terms:
            return [torch.zeros_like(leaf) for leaf in leaves], outputs
        grads = torch.autograd.grad(sum(terms[1:], terms[0]), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)], outputs


class GradientSubject(Subject):
    """Maps (state, cotangents) to the gradients with respect to the leaves of the state.

    The identity verified: grad(g x; D w) = D_in(g) grad(x; w).

    Args:
        inner: the differentiable subject.
        scales: per output (dim,) size of its columns; cotangents are divided by it so that every block counts.
    """

    def __init__(self, inner: Subject, scales: Sequence[Array]) -> None:
        self.inner, self.scales = inner, scales
        self.name, self.dtype, self.depth = f"gradient of {inner.name}", inner.dtype, inner.depth
        self.module, self.fixed = inner.module, False
        leaves = inner.leaves(inner.states(1, np.random.default_rng(0))[0])
        self.outputs = tuple(OutputSpec(f"gradient of {leaf.name}", gradient_law(leaf.law)) for leaf in leaves)

    def states(self, n: int, rng: np.random.Generator) -> list[State]:
        inner = self.inner.states(n, rng)
        values = self.inner.evaluate(inner)
        weights = [
            [rng.normal(size=x.shape) / s for x in column] for column, s in zip(values, self.scales, strict=True)
        ]
        return list(zip(inner, zip(*weights, strict=True), strict=True))

    def moved(self, states: Sequence[State], elements: Elements) -> list[State]:
        inner = self.inner.moved([state for state, _ in states], elements)
        linear = Elements.of(elements.quaternions, elements.inversion)
        weights: list[tuple[Array, ...]] = []
        for index, (_, cotangents) in enumerate(states):
            one = linear[[index]]
            moved = [
                gradient_law(s.law).act(w[None], one)[0] for s, w in zip(self.inner.outputs, cotangents, strict=True)
            ]
            weights.append(tuple(moved))
        return list(zip(inner, weights, strict=True))

    def raw(self, state: State) -> list[Tensor]:
        inner, weights = state
        cotangents = [torch.from_numpy(np.asarray(w)).to(self.dtype) for w in weights]
        grads, _ = vector_jacobian(self.inner, inner, cotangents)
        return [g.reshape(-1, g.shape[-1]) for g in grads]

    def leaves(self, state: State) -> list[Leaf]:
        return self.inner.leaves(state[0])

    def with_leaves(self, state: State, values: Sequence[Tensor]) -> State:
        return self.inner.with_leaves(state[0], values), state[1]

    def cast(self, state: State) -> State:
        return self.inner.cast(state[0]), state[1]

    def in_dtype(self, dtype: torch.dtype) -> Subject | None:
        other = self.inner.in_dtype(dtype)
        return None if other is None else GradientSubject(other, self.scales)

    def mutations(self, state: State) -> list[str]:
        return self.inner.mutations(state[0])

    @property
    def lmax(self) -> int:
        return self.inner.lmax

    @property
    def has_points(self) -> bool:
        return self.inner.has_points
