"""Our SOAP against that of a package: ``python -m benchmarks.optimizers`` trains one network with each of three.

The SOAP of pytorch-optimizer sees parameters as they are, a flat vector per equivariant layer, or, through
:class:`OnMatrices`, every matrix of every pair of irreps as a parameter of its own. Ours handles the same matrices, all
of one shape as one batch. Same network, data, schedule and steps; only validation data are looked at.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_optimizer import SOAP as PackageSOAP
from torch import Tensor, nn

from benchmarks.arguments import count
from benchmarks.environment import environment
from benchmarks.ledger import finite, write_json
from tracegrad.atomic import atomic_write
from tracegrad.config import Config, load_config
from tracegrad.data import Dataset, load_dataset
from tracegrad.errors import TracegradError
from tracegrad.training.run import fit, prepare
from tracegrad.training.soap import SOAP, weight_matrices

MatrixShapes = dict[nn.Parameter, list[tuple[int, int]]]


class OnMatrices(torch.optim.Optimizer):
    """An optimiser of a package, given the matrices inside the parameters as parameters of their own.

    Args:
        shapes: trained parameters and the shapes of the matrices they hold.
        make: builds the optimiser from a list of parameters.
    """

    def __init__(self, shapes: MatrixShapes, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
        super().__init__(list(shapes), {"lr": 0.0})
        self.pieces: list[tuple[nn.Parameter, int, nn.Parameter]] = []
        for parameter, matrices in shapes.items():
            first, parts = 0, list[tuple[int, ...]](matrices) or [(parameter.numel(),)]
            for shape in parts:
                part = parameter.detach().flatten()[first : first + math.prod(shape)]
                self.pieces.append((parameter, first, nn.Parameter(part.view(shape))))  # shares the memory
                first += math.prod(shape)
        self.inner = make([piece for _, _, piece in self.pieces])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Hand gradients and rate on and let the optimiser of the package step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter, first, piece in self.pieces:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            piece.grad = gradient.flatten()[first : first + piece.numel()].view_as(piece)
        for group in self.inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self.inner.step()
        return loss


def of_package(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SOAP of pytorch-optimizer with the constants of ours."""
    return PackageSOAP(parameters, lr=0.0, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=10)


OPTIMIZERS: dict[str, Callable[[MatrixShapes], torch.optim.Optimizer]] = {
    "ours": lambda shapes: SOAP(shapes, 0.0),
    "package, parameters as they are": lambda shapes: of_package(list(shapes)),
    "package, on the matrices": lambda shapes: OnMatrices(shapes, of_package),
}


class Timed:
    """Processor time inside the steps of an optimiser, without that of the closure, which runs the network.

    Args:
        optimizer: what is measured.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seconds, self.steps, self._start = 0.0, 0, 0.0
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        self._start = time.process_time()
        if closure is None:
            return args, kwargs

        def then_start() -> Any:
            loss = closure()
            self._start = time.process_time()
            return loss

        return args[:1], {**kwargs, "closure": then_start}

    def _after(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._start
        self.steps += 1


def train_with(make: Callable[[MatrixShapes], torch.optim.Optimizer], config: Config, data: Dataset) -> dict[str, Any]:
    """Train a network with an optimiser.

    Args:
        make: builds the optimiser.
        config: everything else.
        data: database.

    Returns:
        last validation MAE_all in meV (None: not finite), time per optimiser step in ms, and the whole time in s.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(config, data, torch.device("cpu"), Path(folder))
        optimizer = make(weight_matrices(run.module.model))
        timed = Timed(optimizer)
        run.module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
        fit(run, config, Path(folder))
        maes: list[Tensor | float] = [row["val_mae"] for row in run.supervisor.history if row.get("val_mae")]
    return {
        "val_mae_mev": finite(float(maes[-1])),
        "optimizer_ms": 1000 * timed.seconds / timed.steps,
        "seconds": run.supervisor.seconds,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with each, print a table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("--dataset", default="MG", help="key of the database (default MG)")
    parser.add_argument("--setting", default="DeepHE3", help="setting (default DeepHE3)")
    parser.add_argument("--preset", default="bundled", help="preset that names the network (default bundled)")
    parser.add_argument("--steps", type=count, default=400, help="training steps (default 400)")
    parser.add_argument("--rates", default="0.05,0.1", help="learning rates, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("reports/convergence"), help="folder of the result")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        compare(options)
    except (TracegradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    """Train with each, print a table and write the record, as the options say.

    Raises:
        TracegradError: no such database, or a configuration that does not exist.
        OSError: the folder of the result cannot be made or written.
    """
    shared = [f"training.max_steps={options.steps}", "training.epochs=0", "training.validate_mae=true"]
    configs = [
        load_config(
            preset=options.preset,
            dataset=options.dataset,
            setting=options.setting,
            overrides=[*shared, f"training.learning_rate={rate}"],
        )
        for rate in options.rates.split(",")
    ]
    data = load_dataset(options.dataset)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"optimizer": name, "rate": config.training.learning_rate, **train_with(make, config, data)}
        for name, make in OPTIMIZERS.items()
        for config in configs
    ]
    text = table(rows)
    record = {
        "dataset": options.dataset,
        "setting": options.setting,
        "steps": options.steps,
        "environment": environment(),
        "rows": rows,
    }
    target = options.out / f"optimizers_{options.dataset}.json"
    write_json(target, record)
    with atomic_write(target.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, end="")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table of the runs."""
    lines = ["| SOAP | rate | ms in the optimiser per step | validation MAE_all (meV) |", "|---|---|---|---|"]
    for row in rows:
        error = "not finite" if row["val_mae_mev"] is None else f"{row['val_mae_mev']:.3f}"
        lines.append(f"| {row['optimizer']} | {row['rate']:g} | {row['optimizer_ms']:.1f} | {error} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
