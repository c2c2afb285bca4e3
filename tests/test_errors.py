"""User errors are ValueErrors of one family, and name what was nearly right."""

from __future__ import annotations

import pytest

from tracegrad import errors
from tracegrad.errors import TracegradError, did_you_mean


@pytest.mark.parametrize("name", ["DataError", "ConfigError", "CheckpointError", "VerificationError"])
def test_all_errors_are_of_one_family(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, TracegradError)
    assert issubclass(error, ValueError)
    assert error.__doc__


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lerning_rate", "Did you mean 'learning_rate'? Known: epochs, learning_rate."),
        ("LEARNING_RATE", "Did you mean 'learning_rate'? Known: epochs, learning_rate."),
        ("zzz", "Known: epochs, learning_rate."),
    ],
)
def test_nearest_name_is_offered(name: str, hint: str) -> None:
    assert did_you_mean(name, {"learning_rate", "epochs"}) == hint
