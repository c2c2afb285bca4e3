"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """An integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: anything else; argparse prints it with the option's name.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text!r}")
    return value
