"""Measurement without judgement: relative errors per irrep block between two sets of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .representation import Representation
from .result import BlockError
from .tolerances import NEGLIGIBLE, ZERO_FACTOR
from .wigner import Array

Outputs = list[list[Array]]
"""Per output a list with one array (rows, dim) per trial."""

_OFFSET_FLOOR = 1e-2  # the scale of an invariant is its spread, but at least this fraction of its size


@dataclass(frozen=True)
class Jitter:
    """Round-off of every block of one output, measured by 1-ulp noise on the inputs.

    Args:
        absolute: (blocks,) median RMS change.
        relative: (blocks,) median RMS change over the block's scale.
    """

    absolute: Array
    relative: Array


@dataclass(frozen=True)
class Deviation:
    """Differences of one output, per trial and block.

    Args:
        error: (n, blocks) RMS difference over scale; inf where a side is not finite or rows differ in number.
        peak: (n, blocks) largest component of the difference over scale.
        scale: (n, blocks).
        zero: (blocks,) True where both sides vanish on every trial, up to round-off.
    """

    error: Array
    peak: Array
    scale: Array
    zero: np.ndarray

    def block(self, output: str, irrep: str, index: int, trial: int, jitter: Jitter, tolerance: float) -> BlockError:
        """Record of one block at one trial."""
        return BlockError(
            output=output,
            block=index,
            irrep=irrep,
            error=float(self.error[trial, index]),
            peak=float(self.peak[trial, index]),
            scale=float(self.scale[trial, index]),
            jitter=float(jitter.relative[index]),
            tolerance=tolerance,
            trial=trial,
            zero=bool(self.zero[index]),
        )


def zero_floor(jitter: Jitter, size: float, eps: float) -> Array:
    """Size up to which a block is zero: dust of its own round-off, and negligible beside everything around it.

    Round-off alone does not make a zero: where the output jumps, a 1-ulp change moves it by its whole size.

    Args:
        jitter: round-off of the blocks.
        size: largest RMS of the inputs and of all outputs.
        eps: unit round-off of the dtype.

    Returns:
        (blocks,) floors.
    """
    return np.asarray(np.minimum(ZERO_FACTOR * jitter.absolute, size * eps**NEGLIGIBLE))


def rms(values: Array) -> float:
    """Root mean square of an array; 0 when it is empty."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _reduce(values: Array, starts: Sequence[int], sizes: Array) -> Array:
    """Mean of (n, rows, dim) over rows and over the columns of each block: (n, blocks)."""
    if values.shape[1] == 0:
        return np.zeros((len(values), len(starts)))
    return np.asarray(np.add.reduceat(values.mean(axis=1), starts, axis=1) / sizes)


def _stack(trials: Sequence[Array]) -> Array | None:
    """One array when all trials have the same shape, else None."""
    return np.stack(trials) if len({t.shape for t in trials}) == 1 else None


def _layout(law: Representation, width: int) -> tuple[list[int], Array, np.ndarray]:
    blocks = law.blocks_of(width)
    starts = [b.start for b in blocks]
    sizes = np.array([b.stop - b.start for b in blocks], dtype=float)
    return starts, sizes, np.array([b.centred or law.kind == "points" for b in blocks])


def block_scales(left: Array, right: Array, law: Representation) -> Array:
    """Scale s_b of every trial and block: the larger RMS of the two sides, and at least the median over the trials.

    Invariants (and points) are centred first, so that a large constant cannot hide an error.

    Args:
        left: (n, rows, dim).
        right: (n, rows, dim).
        law: how the output transforms.

    Returns:
        (n, blocks).
    """
    starts, sizes, centred = _layout(law, left.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.maximum(_reduce(left**2, starts, sizes), _reduce(right**2, starts, sizes)) ** 0.5
        if centred.any():
            axes = (0, 1) if law.kind != "points" else (1,)
            spread = [
                _reduce((side - side.mean(axis=axes, keepdims=True)) ** 2, starts, sizes) ** 0.5
                for side in (left, right)
            ]
            scale = np.where(centred, np.maximum(np.maximum(*spread), _OFFSET_FLOOR * scale), scale)
        return np.maximum(scale, np.median(scale, axis=0, keepdims=True))


def deviations(
    left: Sequence[Array], right: Sequence[Array], law: Representation, floor: Array | None = None
) -> Deviation:
    """Relative errors of one output.

    r_b = RMS(left - right) / s_b with the scale of :func:`block_scales`.

    Args:
        left: n arrays (rows, dim), the outputs at the transformed inputs.
        right: n arrays (rows, dim), the transformed outputs.
        law: how the output transforms.
        floor: (blocks,) size up to which a block is zero, see :func:`zero_floor`; None for exact zeros only.

    Returns:
        Errors per trial and block.
    """
    a, b = _stack(left), _stack(right)
    if a is None or b is None or a.shape != b.shape:
        parts = [_single(x, y, law, floor) for x, y in zip(left, right, strict=True)]
        joined = [np.concatenate([getattr(p, name) for p in parts]) for name in ("error", "peak", "scale")]
        return Deviation(joined[0], joined[1], joined[2], np.all([p.zero for p in parts], axis=0))
    starts, sizes, _ = _layout(law, a.shape[-1])
    scale = block_scales(a, b, law)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        difference = np.abs(a - b)
        spread = _reduce(difference**2, starts, sizes) ** 0.5
        peak = np.maximum.reduceat(difference.max(axis=1, initial=0.0), starts, axis=1)
        zero = np.asarray((scale <= (0.0 if floor is None else floor)).all(axis=0))
        error, top = spread / scale, peak / scale
    finite = np.isfinite(spread)
    error = np.where(finite, np.where(scale > 0, error, 0.0), np.inf)
    top = np.where(finite, np.where(scale > 0, top, 0.0), np.inf)
    return Deviation(error, top, scale, zero)


def _single(left: Array, right: Array, law: Representation, floor: Array | None) -> Deviation:
    if left.shape == right.shape:
        return deviations([left], [right], law, floor)
    shape = (1, len(law.blocks_of(left.shape[-1])))
    return Deviation(np.full(shape, np.inf), np.full(shape, np.inf), np.ones(shape), np.zeros(shape[1], dtype=bool))


def relative_error(gap: float, *sizes: float, noise: float = 0.0) -> float:
    """Part of a gap above the noise, over the largest of the sizes.

    Args:
        gap: difference of two numbers, not negative.
        sizes: sizes that the gap is compared with.
        noise: part of the gap that round-off explains.

    Returns:
        The error, 0 without a gap; inf where anything is not finite, since ``max`` and ``>`` let NaN pass.
    """
    if not all(math.isfinite(value) for value in (gap, noise, *sizes)):
        return math.inf
    excess, scale = max(0.0, gap - noise), max(sizes)
    if excess == 0:
        return 0.0
    return excess / scale if scale > 0 else math.inf


def jitter_of(
    base: Sequence[Array], noisy: Sequence[Array], law: Representation, eps: float, largest: bool = False
) -> Jitter:
    """Round-off per block: median over the draws of the change under 1-ulp noise on the inputs.

    Args:
        base: m arrays (rows, dim).
        noisy: m arrays (rows, dim) at the inputs x (1 + eps N(0, 1)).
        law: how the output transforms.
        eps: unit round-off; a block is never taken to be more accurate than its own last digit.
        largest: True for the largest change instead of the median: how far a discontinuity can jump.

    Returns:
        Absolute and relative jitter; a changed number of rows counts as no draw.
    """
    pairs = [(x, y) for x, y in zip(base, noisy, strict=True) if x.shape == y.shape]
    width = base[0].shape[-1]
    starts, sizes, _ = _layout(law, width)
    if not pairs:
        infinite = np.full(len(starts), np.inf)
        return Jitter(infinite, infinite)
    absolute, relative = [], []
    for x, y in pairs:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            own = eps * _reduce(x[None] ** 2, starts, sizes)[0] ** 0.5
            change = np.maximum(_reduce((x - y)[None] ** 2, starts, sizes)[0] ** 0.5, own)
            s = block_scales(x[None], y[None], law)[0]
            relative.append(np.where(s > 0, change / np.where(s > 0, s, 1.0), 0.0))
        absolute.append(change)
    middle = np.max if largest else np.median
    return Jitter(np.asarray(middle(absolute, axis=0)), np.asarray(middle(relative, axis=0)))
