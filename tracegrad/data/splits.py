"""Training, validation and test subsets: the release's rule, and hashes of what was chosen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from tracegrad.errors import DataError

SUBSETS = ("train", "val", "test", "test_twisted")
RELEASE_SEED = 42
ROUND_OFF = 1e-9  # of a sum of ratios

Split = dict[str, tuple[str, ...]]


def split_sha256(split: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the sorted identifiers per subset, independent of order within a subset."""
    table = {subset: sorted(split.get(subset, ())) for subset in SUBSETS}
    return hashlib.sha256(json.dumps(table, separators=(",", ":")).encode()).hexdigest()


def release_split(
    names: Sequence[str],
    sizes: tuple[float, float, float],
    twisted: Sequence[str] = (),
    seed: int = RELEASE_SEED,
) -> Split:
    """Split structures by the rule of the DeepH-E3 release.

    The indices of ``names`` are shuffled by numpy's legacy generator; then [:train], [train:train+val],
    [train+val:train+val+test].

    Args:
        names: identifiers of the bulk structures, in the order of the release (sorted folders).
        sizes: train, val, test; three floats are ratios that sum to at most 1, int(ratio * N) each, and three integers
            are counts.
        twisted: identifiers that are test structures only.
        seed: of the shuffle; the release uses 42.

    Returns:
        Identifiers per subset.

    Raises:
        DataError: if the sizes are neither, negative or not finite, or ask for more structures than there are.
    """
    counts = _counts(sizes, len(names))
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    shuffled = [names[int(k)] for k in order]
    ends = np.cumsum(counts).tolist()
    return {
        "train": tuple(shuffled[: ends[0]]),
        "val": tuple(shuffled[ends[0] : ends[1]]),
        "test": tuple(shuffled[ends[1] : ends[2]]),
        "test_twisted": tuple(twisted),
    }


def _counts(sizes: Sequence[Any], available: int) -> list[int]:
    """Structures per subset: the sizes themselves, or their share of what is there."""
    integers = all(not isinstance(size, bool) and isinstance(size, Integral) for size in sizes)
    floats = all(isinstance(size, Real) and not isinstance(size, Integral) for size in sizes)
    sound = all(math.isfinite(size) and size >= 0 for size in sizes) if integers or floats else False
    if len(sizes) != 3 or not sound:
        raise DataError(
            f"split {list(sizes)}: expected train, val and test as three counts (integers) or as three ratios (floats, "
            "0.0 for none), none of them negative"
        )
    if floats and sum(sizes) > 1 + ROUND_OFF:
        raise DataError(
            f"split {list(sizes)}: the ratios sum to {sum(sizes):g}, expected at most 1; counts are integers"
        )
    counts = [int(size * available) if floats else int(size) for size in sizes]
    if sum(counts) > available:
        raise DataError(
            f"split {counts} needs {sum(counts)} structures, found {available}; give smaller counts or ratios"
        )
    return counts
