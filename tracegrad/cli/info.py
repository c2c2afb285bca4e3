"""``tracegrad info``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tracegrad.cli import Subparsers, add_command, print_json

EXAMPLES = """
tracegrad info
tracegrad info --json
tracegrad info --options        every key of a configuration, with its default and meaning
tracegrad info --preset smoke   a preset file, with the reason of each line
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers, "info", "Versions, devices, data that are at hand, and the options of a configuration.", EXAMPLES
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--options", action="store_true", help="list every option of a configuration")
    choice.add_argument("--preset", metavar="NAME", help="print a preset file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what was asked for."""
    from tracegrad.config import option_rows, read_preset

    if options.preset:
        from tracegrad.config.load import PRESET_FOLDER

        content = read_preset(options.preset)
        text = (PRESET_FOLDER / f"{options.preset}.yaml").read_text(encoding="utf-8")
        print(json.dumps(content) if options.json else text, end="")
    elif options.options:
        rows = option_rows()
        if options.json:
            print_json([dict(zip(("key", "type", "default", "meaning"), row, strict=True)) for row in rows])
        else:
            print("\n".join(f"{key}: {kind} = {default!r}\n    {meaning}" for key, kind, default, meaning in rows))
    else:
        facts = collect()
        print(json.dumps(facts) if options.json else _as_text(facts))
    return 0


def collect() -> dict[str, Any]:
    """Versions, devices and data at hand."""
    import torch

    from tracegrad.data.dataset import BUNDLED_FOLDER, published_folder
    from tracegrad.training.checkpoint import versions
    from tracegrad.training.device import git_commit

    cache = published_folder("MG").parent
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "git_commit": git_commit(),
        "devices": {"cpu_threads": torch.get_num_threads(), "gpus": gpus},
        "bundled_data": sorted(path.stem for path in Path(BUNDLED_FOLDER).glob("*.h5")),
        "data_cache": str(cache),
        "fetched_data": sorted(path.name for path in cache.glob("*") if path.is_dir()),
    }


def _as_text(facts: dict[str, Any]) -> str:
    lines = [f"{name:>16} {version}" for name, version in facts["versions"].items()]
    lines += [
        f"{'commit':>16} {facts['git_commit'] or 'not a checkout'}",
        f"{'CPU threads':>16} {facts['devices']['cpu_threads']}",
        f"{'GPUs':>16} {', '.join(facts['devices']['gpus']) or 'none'}",
        f"{'bundled data':>16} {', '.join(facts['bundled_data']) or 'none'}",
        f"{'fetched data':>16} {', '.join(facts['fetched_data']) or 'none'} (in {facts['data_cache']})",
    ]
    return "\n".join(lines)
