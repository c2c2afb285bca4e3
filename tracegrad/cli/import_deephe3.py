"""``tracegrad import-deephe3``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracegrad.cli import Subparsers, add_command, print_json
from tracegrad.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from tracegrad.config import Config
    from tracegrad.model.deephe3_description import DeepHE3Description

EXAMPLES = """
tracegrad import-deephe3 run/best_model.pkl --out imported.ckpt
tracegrad import-deephe3 best_model.pkl --src run/src --out imported.ckpt --json
tracegrad import-deephe3 best_model.pkl --parity recorded.npz --out imported.ckpt
tracegrad import-deephe3 best_model.pkl --out imported.ckpt --train-config tune.yaml
tracegrad train --config tune.yaml --dataset MM --source data --set epochs=50 --out runs/tuned
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "import-deephe3",
        "Read a checkpoint of the public DeepH-E3 code and write it as one of this package: the same function on "
        "the fast core. No code from the file or its folder is run.",
        EXAMPLES,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.pkl", help="best_model.pkl or model.pkl of a DeepH-E3 run")
    parser.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT", help="file to write")
    parser.add_argument("--src", type=Path, metavar="DIR", help="folder with build_model.py and dataset_info.json")
    parser.add_argument(
        "--parity",
        type=Path,
        metavar="CASE.npz",
        help="compare with what the public code computed with this checkpoint (see tests/reference/deephe3/README.md); "
        "above 1e-10 relative nothing is written and the exit code is 1",
    )
    parser.add_argument(
        "--train-config",
        type=Path,
        metavar="FILE",
        help="write a configuration of training that starts from CHECKPOINT",
    )
    parser.add_argument("--name", default="imported", help="name of the data it was trained on (default: imported)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read, convert, write."""
    from tracegrad.atomic import atomic_write
    from tracegrad.model.deephe3_description import description_beside
    from tracegrad.model.parity import compare_case, passed
    from tracegrad.training.checkpoint import DataSummary, make_network, read_tensors, save_checkpoint

    content = read_tensors(options.model)
    state = _state(content, options.model)
    description = description_beside(options.model, state, options.src)
    network = description.network(state)
    parity = compare_case(options.parity, checkpoint=(description, state)) if options.parity else None
    if parity is not None and not passed(parity):
        print(f"tracegrad: {options.parity}: not the same function, {parity['max_rel']}", file=sys.stderr)
        return 1
    config = _configuration(options, description, next(iter(state.values())).dtype)
    data = DataSummary(options.name, str(options.model), description.orbitals, description.spinful, "")
    model = make_network(config.model, data).to(next(network.parameters()).dtype)
    model.load_state_dict(network.state_dict())
    info = {
        "imported_from": "DeepH-E3",
        "epoch": _number(content.get("epoch")),
        "val_loss": _number(content.get("val_loss")),
    }
    save_checkpoint(options.out, model, config, data, info)
    if options.train_config:
        start = replace(config, training=replace(config.training, start_from=str(options.out.resolve())))
        with atomic_write(options.train_config) as temporary:
            temporary.write_text(start.to_yaml(), encoding="utf-8")
    result = {
        "checkpoint": str(options.out),
        "parameters": sum(p.numel() for p in network.parameters()),
        "orbitals": {str(Z): list(shells) for Z, shells in description.orbitals.items()},
        "spinful": description.spinful,
        "parity": None if parity is None else parity["max_rel"],
        **info,
    }
    if options.json:
        print_json(result)
    elif not options.quiet:
        print(f"{options.out}: {result['parameters']} parameters, shells {description.orbitals}")
        if parity is not None:
            print(f"largest relative difference from the public code: {max(parity['max_rel'].values()):.1e}")
    return 0


def _configuration(options: argparse.Namespace, description: DeepHE3Description, kind: dtype) -> Config:
    """Configuration of the network that the checkpoint holds."""
    from tracegrad.config import config_from_dict

    sizes = description.sizes()
    return config_from_dict(
        {
            "recipe": "paper",
            "data": {"dataset": options.name},
            "model": {
                "setting": "DeepHE3",
                "hidden_irreps": sizes.hidden_irreps,
                "embed_dim": sizes.embed_dim,
                "lmax_sh": sizes.lmax_sh,
                "num_blocks": sizes.num_blocks,
                "r_max": sizes.r_max,
                "num_radial": sizes.num_radial,
                "norm": "graph",
                "hermitian": False,
                "time_reversal": False,
            },
            "training": {"dtype": "float64" if str(kind) == "torch.float64" else "float32"},
        },
        str(options.model),
    )


def _state(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Floating-point tensors of the ``state_dict``."""
    from torch import Tensor

    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a DeepH-E3 checkpoint with a state_dict, found {sorted(content)[:5]}")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point() and v.numel()}
    if "embedding.weight" not in tensors:
        raise CheckpointError(f"{path}: expected the weights of a DeepH-E3 network, found no embedding.weight")
    return tensors


def _number(value: Any) -> float | None:
    """A number from a checkpoint, or None."""
    from torch import Tensor

    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) else None
