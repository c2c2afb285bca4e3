"""``tracegrad train``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tracegrad.cli import Subparsers, add_command, print_json
from tracegrad.config import PRESETS, SETTINGS, Config, load_config
from tracegrad.errors import ConfigError

EXAMPLES = """
tracegrad train --dataset MG --setting DeepHE3+TraceGrad --preset smoke --out runs/mg
tracegrad train --config my.yaml --set learning_rate=0.002 --set hidden_irreps=32x0e+16x1o+8x2e --out runs/mine
tracegrad train --dataset MG --setting DeepHE3 --preset smoke --out runs/base --resume
tracegrad train --dataset MG --preset smoke --print-config
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "train",
        "Train one network and measure it on the test structures. Leaves in the folder: run.json (errors in meV, and "
        "what is needed to repeat the run), final.ckpt (the network), config.yaml, history.csv, last.ckpt (to resume).",
        EXAMPLES,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (see `tracegrad info --options`)")
    parser.add_argument("--preset", choices=PRESETS, help="configuration that comes with the package")
    parser.add_argument("--dataset", metavar="KEY", help="MG, MM, BG, BB, BT, BS, or any name with --source PATH")
    parser.add_argument("--source", metavar="WHERE", help="bundled (default), published, or a path")
    parser.add_argument("--setting", metavar="NAME", help=", ".join(SETTINGS))
    parser.add_argument("--seed", type=int, help="initial weights and order of the data")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one option; repeatable",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; must not hold another one")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, or start it if there is none")
    parser.add_argument(
        "--baseline", type=Path, metavar="RUN.json", help="record of DeepHE3 for the challenging metrics"
    )
    parser.add_argument("--print-config", action="store_true", help="print the complete configuration and stop")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train as asked."""
    config = _configuration(options)
    if options.print_config:
        print(json.dumps(config.to_dict(), indent=1) if options.json else config.to_yaml(), end="")
        return 0
    if options.out is None:
        raise ConfigError("tracegrad train: --out DIR is needed: the folder of the run")
    from tracegrad.evaluation import read_record, run_and_record

    baseline = read_record(options.baseline) if options.baseline else None
    quiet = options.quiet or options.json
    record = run_and_record(config, options.out, resume=options.resume, quiet=quiet, baseline=baseline)
    if not record:  # not the first process of the run
        return 0
    if options.json:
        print_json(record)
    elif not options.quiet:
        print(summary(record))
    return 0


def _configuration(options: argparse.Namespace) -> Config:
    """Configuration from the options of the command line."""
    if options.config is None and options.preset is None:
        raise ConfigError(f"tracegrad train: expected --config FILE or --preset {{{','.join(PRESETS)}}}, found neither")
    seed = [] if options.seed is None else [f"training.seed={options.seed}"]
    return load_config(
        options.config,
        preset=options.preset,
        dataset=options.dataset,
        setting=options.setting,
        source=options.source,
        overrides=[*seed, *options.overrides],
    )


def summary(record: dict[str, Any]) -> str:
    """A run in a few lines."""
    first = "{dataset} ({source}), {setting}, seed {seed}, recipe {recipe}: {steps} steps, {epochs:.1f} epochs, "
    first += "{train_seconds:.0f} s, {parameters} parameters"
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("tracegrad", "torch", "e3nn", "python"))
    commit = f", commit {record['git_commit'][:10]}" if record.get("git_commit") else ""
    return "\n".join([first.format(**record), f"  {versions}{commit}", *metric_lines(record["metrics"])])


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    """Metrics of every subset, one line each, in meV, and one line on energies, states and gap where they are known."""
    lines = [
        f"  {name:>3}: MAE_all {m['mae_all']:.3f}  MAE_cha_sample {m['mae_cha_sample']:.3f}  "
        f"MAE_cha_block {m['mae_cha_block']:.3f} meV (challenging: worst of {m['cha_reference']}), "
        f"{len(m['per_structure'])} structures"
        for name, m in metrics.items()
    ]
    for name, m in metrics.items():
        physics = m.get("physics", {})
        if "state_similarity" in physics:
            gaps = [f"{physics[key]:.3f}" for key in ("gap_dft", "gap_predicted") if key in physics]
            lines.append(
                f"  {name:>3}: {physics['structure']}: occupied energies {physics['occupied_energy_mae']:.1f} meV "
                f"({physics['occupied_energy_mae_aligned']:.1f} without the shift μ), states "
                f"{physics['state_similarity']:.4f}, gap {' -> '.join(gaps) or 'unknown'} eV"
            )
    return lines
