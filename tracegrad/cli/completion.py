"""``tracegrad completion``."""

from __future__ import annotations

import argparse
import json

from tracegrad.cli import Subparsers, add_command

SHELLS = ("bash", "zsh", "fish", "powershell")
EXAMPLES = """
tracegrad completion bash >> ~/.bashrc
tracegrad completion zsh >> ~/.zshrc
tracegrad completion fish > ~/.config/fish/completions/tracegrad.fish
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "completion",
        "Print what makes a shell complete commands, options and files of tracegrad with the tab key.",
        EXAMPLES,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the code for the shell."""
    from argcomplete.shell_integration import shellcode

    code = shellcode(["tracegrad"], shell=options.shell)
    print(json.dumps({"shell": options.shell, "code": code}) if options.json else code)
    return 0
