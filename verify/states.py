"""Chosen inputs: scales, single live irreps, few rows, and clouds with symmetry, made from a state of a subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .representation import Block
from .subject import Leaf, State, Subject
from .wigner import Array

Shape = Callable[[Array, np.random.Generator], Array]


def _aligned(points: Array, rng: np.random.Generator) -> Array:
    """Vectors along the coordinate axes, of the lengths they had."""
    lengths = np.linalg.norm(points, axis=-1, keepdims=True)
    axes = np.eye(3)[rng.integers(3, size=points.shape[:-1])] * rng.choice([-1.0, 1.0], size=(*points.shape[:-1], 1))
    return np.asarray(lengths * axes)


def _integers(points: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(-2, 3, size=points.shape).astype(float))


def _collinear(points: Array, rng: np.random.Generator) -> Array:
    return np.asarray(points[..., :1] * rng.normal(size=3))


def _planar(points: Array, _rng: np.random.Generator) -> Array:
    return np.asarray(points * np.array([1.0, 1.0, 0.0]))


def _duplicates(points: Array, _rng: np.random.Generator) -> Array:
    result = points.copy()
    flat = result.reshape(-1, points.shape[-1])
    flat[1::2] = flat[: len(flat) - 1 : 2]
    return result


def _zeros(points: Array, _rng: np.random.Generator) -> Array:
    result = points.copy()
    result.reshape(-1, points.shape[-1])[0] = 0.0
    return result


_SHAPERS: dict[str, Shape] = {
    "generic": lambda points, _rng: points,
    "axis-aligned": _aligned,
    "integer": _integers,
    "collinear": _collinear,
    "planar": _planar,
    "duplicate rows": _duplicates,
    "zero row": _zeros,
}
SHAPES = tuple(_SHAPERS)


@dataclass(frozen=True)
class Design:
    """How a chosen state differs from a generic one.

    Args:
        seed: seed of the values.
        shape: one of :data:`SHAPES`, applied to points and to l = 1 irreps.
        exponent: all irreps (and generated points) are multiplied by 10**exponent.
        live: index of the only irrep block that is not zero, -1 for all.
        rows: number of rows kept, 0 for all.
    """

    seed: int = 0
    shape: str = "generic"
    exponent: int = 0
    live: int = -1
    rows: int = 0

    @property
    def label(self) -> str:
        """Short text of what is special."""
        parts = [self.shape] if self.shape != "generic" else []
        parts += [f"scale 1e{self.exponent}"] if self.exponent else []
        parts += ["one live irrep"] if self.live >= 0 else []
        parts += [f"{self.rows} rows"] if self.rows else []
        return ", ".join(parts) or "generic"


def live_blocks(subject: Subject, state: State) -> list[tuple[int, Block]]:
    """(leaf, block) of all irreps inputs, the ones that can be switched off; points cannot."""
    leaves = subject.leaves(state)
    free = [(i, leaf) for i, leaf in enumerate(leaves) if leaf.law.kind == "irreps" and not leaf.given]
    return [(i, b) for i, leaf in free for b in leaf.law.blocks]


def designed(subject: Subject, state: State, design: Design) -> State | None:
    """State after a design; None when the design leaves it unchanged or does not apply.

    Given geometry (positions and cell of a structure, given points) is never changed: only features are.
    """
    rng = np.random.default_rng(design.seed)
    if design.rows:
        if design.rows > subject.num_rows(state):
            return None
        state = subject.take_rows(state, range(design.rows))
        if state is None:
            return None
    elif not subject.fixed:
        state = subject.states(1, rng)[0]
    blocks = live_blocks(subject, state)
    keep = blocks[design.live] if 0 <= design.live < len(blocks) else None
    leaves = subject.leaves(state)
    if all(leaf.given for leaf in leaves):
        return state if design.rows else None
    values = [leaf.value if leaf.given else _designed_leaf(leaf, i, design, keep, rng) for i, leaf in enumerate(leaves)]
    return subject.with_leaves(state, values)


def _designed_leaf(
    leaf: Leaf, index: int, design: Design, keep: tuple[int, Block] | None, rng: np.random.Generator
) -> torch.Tensor:
    values = leaf.value.detach().to("cpu", torch.float64).numpy().copy()
    shaper = _SHAPERS[design.shape]
    if leaf.law.kind == "points":
        values = shaper(values, rng)
    else:
        for b in leaf.law.blocks:
            part = values[..., b.start : b.stop]
            if b.l == 1:
                vectors = part.reshape(*part.shape[:-1], b.mul, 3)
                part[...] = shaper(vectors, rng).reshape(part.shape)
            elif design.shape in ("duplicate rows", "zero row"):
                part[...] = shaper(part, rng)
            if keep is not None and (index, b) != keep:
                part[...] = 0.0
    return torch.from_numpy(values * 10.0**design.exponent).to(leaf.value)
