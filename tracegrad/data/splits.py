"""Training, validation and test subsets: the release's rule, and hashes of what was chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from tracegrad.errors import DataError

SUBSETS = ("train", "val", "test", "test_twisted")
RELEASE_SEED = 42

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
        sizes: train, val, test; ratios (floats <= 1 that sum to at most 1, int(ratio * N) each) or counts.
        twisted: identifiers that are test structures only.
        seed: of the shuffle; the release uses 42.

    Returns:
        Identifiers per subset.

    Raises:
        DataError: if the sizes ask for more structures than there are.
    """
    ratios = all(0 <= size <= 1 for size in sizes) and sum(sizes) <= 1 + 1e-9
    counts = [int(size * len(names)) if ratios else int(size) for size in sizes]
    if sum(counts) > len(names):
        raise DataError(
            f"split {counts} needs {sum(counts)} structures, found {len(names)}; give smaller counts or ratios"
        )
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
