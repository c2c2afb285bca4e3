"""What the speed of the core depends on besides its size: setting, precision, compilation, building of the graph."""

from __future__ import annotations

import shutil
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from benchmarks.networks import network, pairs_of, random_graph, random_positions, rounds, training_step
from tracegrad.graph import cast_graph
from tracegrad.model import DeepHE3, GradientInduction, Induction
from tracegrad.model.update import NodeUpdate

# The encoding modules of the recipe `fast` and of the paper: rank and widths of operator and trace decoder.
MODULES: dict[str, dict[str, Any]] = {
    "fast": {"form": "low_rank", "width": 64, "trace_width": 128},
    "paper": {"form": "packed", "width": 1024, "trace_width": 1024},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "DeepHE3": {},
    "DeepHE3+Trace": {"trace": True},
    "DeepHE3+Grad": {"operator": True},
    "DeepHE3+TraceGrad": {"operator": True, "trace": True},
}
COMPILE_ERRORS = (RuntimeError, AttributeError, NotImplementedError, TypeError, OSError)


def cost_of_settings(graph: Data, repeats: int, modules: str, device: str = "cpu") -> dict[str, float]:
    """Seconds of a training step of each setting over those of the baseline, minus one.

    Args:
        graph: on the device.
        repeats: rounds of timing.
        modules: a key of ``MODULES``.
        device: where the networks run.
    """
    steps = {}
    for setting, parts in SETTINGS.items():
        model = network(Induction(**parts, **MODULES[modules]) if parts else None).to(device)
        model.train()
        steps[setting] = training_step(model, graph)
    times = rounds(steps, repeats, device)
    return {name: times.ratio(name, "DeepHE3") - 1 for name in steps if name != "DeepHE3"}


def precisions(num_edges: int, repeats: int, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """Error of the outputs against float64 and time of inference, by precision.

    ``tf32`` exists on CUDA only. ``bfloat16`` is the whole network and its frames in bfloat16, ``bfloat16 autocast``
    float32 with matrix products in bfloat16.

    Returns:
        By precision ``max_rel_error`` (over the largest output), ``rms_rel_error`` and ``us_per_edge``; or ``skipped``
        with the reason.
    """
    exact = random_graph(num_edges, torch.float64)
    reference = _outputs(network(dtype=torch.float64).to(device), _at(exact, torch.float64, device))
    single, half = _at(exact, torch.float32, device), _at(exact, torch.bfloat16, device)
    model, model_half = network().to(device), network().to(device, torch.bfloat16)
    runs: dict[str, Any] = {
        "float32": lambda: _outputs(model, single),
        "bfloat16": lambda: _outputs(model_half, half),
        "bfloat16 autocast": lambda: _autocast(model, single, device),
    }
    if device == "cuda":
        runs["tf32"] = lambda: _tf32(model, single)
    found = {name: _try(run) for name, run in runs.items()}
    possible = {name: runs[name] for name, result in found.items() if isinstance(result, Tensor)}
    times = rounds(possible, repeats, device)
    figures: dict[str, dict[str, Any]] = {}
    for name, output in found.items():
        if isinstance(output, str):
            figures[name] = {"skipped": output}
        else:
            error = (output.double() - reference).abs()
            figures[name] = {
                "max_rel_error": float(error.max() / reference.abs().max()),
                "rms_rel_error": float((error.square().mean() / reference.square().mean()).sqrt()),
                "us_per_edge": 1e6 * times.median(name) / exact.edge_index.shape[1],
            }
    return figures


def graph_building(num_edges: int, repeats: int) -> dict[str, float]:
    """Time of building a graph on one core: pairs within the cutoff, then edges, frames and cast, µs per edge."""
    positions, side = random_positions(num_edges)
    pairs = pairs_of(positions, side, num_edges)
    times = rounds(
        {
            "neighbours": lambda: pairs_of(positions, side, num_edges),
            "graph": lambda: random_graph(num_edges, pairs=(positions, side, pairs)),
        },
        repeats,
    )
    edges = len(positions) + 2 * len(pairs[0])
    return {f"{name}_us_per_edge": 1e6 * times.median(name) / edges for name in times.seconds}


def compiled(num_edges: int, repeats: int, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """``torch.compile`` of the parts with many element-wise operations, at inference.

    Returns:
        By part: ``compile_s``, and ``ratio``, the time before over that after; or ``skipped`` with the reason.
    """
    model = network(Induction(operator=True, **MODULES["fast"])).to(device).eval()
    update, induction = model.node_updates[1], model.inductions[0]
    assert isinstance(update, NodeUpdate)
    assert isinstance(induction, GradientInduction)
    parts: dict[str, tuple[nn.Module, int]] = {
        "radial network": (update.conv.fc, model.sizes.num_radial),
        "invariant head": (induction.head, MODULES["fast"]["width"]),
    }
    if device == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return {name: {"skipped": "no C++ compiler"} for name in parts}
    found = {}
    for name, (part, width) in parts.items():
        rows = torch.randn(num_edges, width, device=device)
        found[name] = _compiled_part(part, rows, repeats, device)
    return found


def _compiled_part(part: nn.Module, rows: Tensor, repeats: int, device: str) -> dict[str, Any]:
    program = torch.compile(part)

    def run(module: Any) -> None:
        with torch.inference_mode():
            module(rows)

    started = perf_counter()
    try:
        run(program)
    except COMPILE_ERRORS as error:
        return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    seconds = perf_counter() - started
    times = rounds({"eager": lambda: run(part), "compiled": lambda: run(program)}, 10 * repeats, device)
    return {"compile_s": seconds, "ratio": times.ratio("eager", "compiled")}


def _at(graph: Data, dtype: torch.dtype, device: str) -> Data:
    copy: Data = cast_graph(graph.clone(), dtype).to(device)
    return copy


@torch.inference_mode()
def _outputs(model: DeepHE3, graph: Data) -> Tensor:
    model.eval()
    return model.in_frame(graph)["frame"]


def _autocast(model: DeepHE3, graph: Data, device: str) -> Tensor:
    with torch.autocast(device, torch.bfloat16):
        return _outputs(model, graph)


def _tf32(model: DeepHE3, graph: Data) -> Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return _outputs(model, graph)
    finally:
        torch.set_float32_matmul_precision(before)


def _try(run: Any) -> Tensor | str:
    """Outputs of a run; the reason where an operation does not exist in its precision."""
    try:
        output: Tensor = run()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return output
