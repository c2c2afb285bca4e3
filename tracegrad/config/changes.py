"""What differs between two configurations and decides the numbers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracegrad.config.schema import Config

# What may be asked for otherwise when a run goes on. The threads stay those of its beginning
# (``tracegrad.training.folder.threads_of``); another device gives other last digits, and the record names it.
FREE_ON_RESUME = ("training.checkpoint_seconds", "training.loggers", "training.device", "training.threads", "preset")


def changed_keys(before: Config, after: Config) -> list[str]:
    """Name the keys that one run must not change, such as ``training.max_steps: 1200 -> 3000``.

    Args:
        before: configuration of a run.
        after: configuration that it should have.

    Returns:
        the keys whose values differ, with both values; empty when the two give the same numbers.
    """
    return _differences(before.to_dict(), after.to_dict())


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key, old in before.items():
        name, new = f"{prefix}{key}", after[key]
        if isinstance(old, Mapping):
            changed += _differences(old, new, f"{name}.")
        elif old != new and name not in FREE_ON_RESUME:
            changed.append(f"{name}: {old!r} -> {new!r}")
    return changed
