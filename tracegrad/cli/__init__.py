"""The command ``tracegrad``: each sub-command is a module with ``register(subparsers)``, imported when asked for."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tracegrad import __version__
from tracegrad.errors import TracegradError

Subparsers = Any  # argparse._SubParsersAction[argparse.ArgumentParser], which argparse does not name publicly

# name: (module, one line for the overview); the modules are not imported for it, so that --help is fast
COMMANDS = {
    "train": ("train", "train a network, leaving run.json and final.ckpt in a folder"),
    "evaluate": ("evaluate", "measure a checkpoint on test structures"),
    "predict": ("predict", "predict the Hamiltonian of a structure"),
    "bands": ("bands", "band structure and density of states from blocks"),
    "data": ("data", "list, fetch, generate, convert and check data"),
    "parity": ("parity", "compare the baseline with numbers of the public code"),
    "import-deephe3": ("import_deephe3", "read a checkpoint of DeepH-E3"),
    "info": ("info", "versions, devices, data, and all options of a configuration"),
    "completion": ("completion", "completion of commands and options by the shell"),
}

DESCRIPTION = """Electronic-structure Hamiltonians from SO(3)-equivariant networks with trace supervision and
gradient-induced features (TraceGrad, arXiv:2405.05722)."""

EXAMPLES = """examples:
  tracegrad train --dataset MG --setting DeepHE3+TraceGrad --preset smoke --out runs/first
  tracegrad evaluate runs/first/final.ckpt --data MG
  tracegrad info
  tracegrad COMMAND --help        examples and options of a command

Wrong input ends with a message and exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program name; by default those of this process.

    Returns:
        Exit code: that of the command, 2 for wrong input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or file without Å or μ is no reason to fail
    try:
        if "_ARGCOMPLETE" in os.environ:
            _complete()
        options = build_parser(words).parse_args(words)
        return int(options.run(options) or 0)
    except TracegradError as error:
        print(f"tracegrad: error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("tracegrad: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: say nothing at exit
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"tracegrad: error: {place}{error.strerror or error}", file=sys.stderr)
        return 2


def _complete() -> None:
    """Answer the shell, which asks for completions of the line it gives, and leave (``tracegrad completion``)."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()[1:]
    argcomplete.autocomplete(build_parser(words), exclude=("-h", "--version"))


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Parser of the command line; only the command named in `words` is imported, the others are known by name.

    Args:
        words: the command line; empty for all commands by name only.
    """
    parser = argparse.ArgumentParser(
        prog="tracegrad",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracegrad {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, (module, line) in COMMANDS.items():
        path = f"{__name__}.{module}"
        if find_spec(path) is None:
            continue
        if name == wanted:
            import_module(path).register(subparsers)
        else:
            subparsers.add_parser(name, help=line)
    return parser


def add_command(subparsers: Subparsers, name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Parser of a sub-command, with examples below its options and the options that every command has.

    Args:
        subparsers: of the main parser.
        name: of the command, a key of ``COMMANDS``.
        description: what it does, in one or two sentences.
        examples: one command per line.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=COMMANDS[name][1],
        description=description,
        epilog=examples_text(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    parser.add_argument("--quiet", action="store_true", help="no progress display, no text besides errors")
    return parser


def print_json(value: Any) -> None:
    """Print one JSON object; a number that is not finite, which JSON lacks, becomes null.

    Args:
        value: dictionaries, lists, texts and numbers.
    """
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def examples_text(examples: str) -> str:
    """What stands below the options of a command.

    Args:
        examples: one command per line.
    """
    return "examples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
