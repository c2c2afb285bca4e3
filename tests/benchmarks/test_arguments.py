"""Counts on the command line are integers of at least 1, in every command that takes one."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.arguments import count

COMMANDS = {
    "conflict": ("--structures", "checkpoint"),
    "convergence": ("--threads",),
    "factors": ("--steps",),
    "gpu": ("--repeats",),
    "large": ("--chunk-edges",),
    "optimizers": ("--steps",),
    "overhead": ("--repeats",),
    "scaling": ("--edges",),
    "speed": ("--repeats",),
    "trials": ("--threads",),
}


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_count_that_counts_nothing_is_refused_by_name(
    command: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option, *others = COMMANDS[command]
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{command}").main([*others, f"{option}={text}"])
    assert f"argument {option}: expected an integer of at least 1, found '{text}'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("20000", 20000)])
def test_a_count_is_read(text: str, value: int) -> None:
    assert count(text) == value
