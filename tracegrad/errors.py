"""Errors that a user can cause and repair; the command line prints the message alone and exits with its code, 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TracegradError(ValueError):
    """Base of all errors in what a user gave; the message says what was expected, what was found and what to do."""


class DataError(TracegradError):
    """A file or an array does not hold what it must: missing, truncated, of a wrong shape, not finite."""


class ConfigError(TracegradError):
    """A setting is unknown, of a wrong type, or contradicts another one."""


class CheckpointError(TracegradError):
    """A checkpoint cannot be read, or was made for other data or another model."""


class VerificationError(TracegradError):
    """A verification cannot be carried out as asked, or its gate failed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Sentence that names the nearest known name, if one is near, and lists all known ones.

    Args:
        name: the unknown name.
        known: the names that would have been accepted.

    Returns:
        Text to append to an error message, such as ``Did you mean 'openmx'? Known: cp2k, openmx.``
    """
    names = sorted(known)
    near = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.5)
    hint = f"Did you mean {near[matches[0]]!r}? " if matches else ""
    return f"{hint}Known: {', '.join(names)}."
