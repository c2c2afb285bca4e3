"""Two processes with half of a batch each do what one process does with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.config import Config
from tracegrad.data import Dataset, load_dataset
from tracegrad.data.compact import write_compact
from tracegrad.graph import TargetLayout, build_graph, collate
from tracegrad.loss import TraceGradLoss
from tracegrad.training import train
from tracegrad.training.checkpoint import DataSummary, make_network, read_tensors, save_checkpoint

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch with gloo")

# One process of two: gradients of the loss of its own structure, averaged by torch's DistributedDataParallel.
WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from tracegrad.data import load_dataset
from tracegrad.graph import build_graph
from tracegrad.loss import TraceGradLoss
from tracegrad.training import train
import tracegrad.loss
from tracegrad.training.checkpoint import load_checkpoint

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=100)
)
network = load_checkpoint(folder / "net.ckpt")[0].train()
structure = load_dataset("toy", source=str(folder / "data.h5")).train[rank]


class InFrame(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, graph):
        return self.network.in_frame(graph)


graph = build_graph(structure, network.targets)
for kind in ("shared", "naive"):
    if kind == "naive":  # the control: each process its own mean
        tracegrad.loss.num_processes = lambda: 1
    network.zero_grad()
    model = DistributedDataParallel(InFrame(network))
    terms = TraceGradLoss()(model(graph), graph)
    terms.total.backward()
    if rank == 0:
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
        torch.save({**gradients, "hamiltonian": terms.hamiltonian.detach()}, folder / f"{kind}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def environment() -> dict[str, str]:
    """Return the environment of a process that finds this checkout and shares the cores."""
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}


def two_processes(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the gradients with the shared loss and with one mean per process."""
    command = [sys.executable, "-c", WORKER, str(folder)]
    workers = [subprocess.Popen([*command, str(rank)], env=environment(), stderr=subprocess.PIPE) for rank in range(2)]
    errors = [worker.communicate(timeout=300)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    shared, naive = (dict(torch.load(folder / f"{kind}.pt", weights_only=True)) for kind in ("shared", "naive"))
    return shared, naive


def largest_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest number of each tensor."""
    assert ours.keys() == theirs.keys()
    scales = {name: float(theirs[name].abs().max()) for name in theirs}
    return max(float((ours[name] - theirs[name]).abs().max()) / scale for name, scale in scales.items() if scale)


def test_gradients_of_two_processes_are_those_of_the_joint_batch(
    tiny: Callable[..., Config], dataset: Dataset, tmp_path: Path
) -> None:
    config = tiny()
    model = make_network(config.model, DataSummary.of(dataset)).double().train()
    large = dataset.train[0]
    assert large.hamiltonian is not None
    lengths = np.linalg.norm(large.edge_vectors(large.hamiltonian), axis=1)
    small = replace(dataset.train[1], hamiltonian=dataset.train[1].hamiltonian)
    assert small.hamiltonian is not None
    near = np.linalg.norm(small.edge_vectors(small.hamiltonian), axis=1) < 2.2
    small = replace(small, hamiltonian=small.hamiltonian.select(near))
    assert near.sum() < 0.7 * len(lengths), "the two structures must have different weights in the joint batch"
    others = [("val", dataset.val[0]), ("test", dataset.test[0])]
    write_compact(tmp_path / "data.h5", [("train", large), ("train", small), *others])
    save_checkpoint(tmp_path / "net.ckpt", model, config, DataSummary.of(dataset), {})
    targets = model.targets
    assert isinstance(targets, TargetLayout)
    stored = load_dataset("toy", source=str(tmp_path / "data.h5"))
    batch = collate([build_graph(stored.train[k], targets) for k in range(2)])
    terms = TraceGradLoss()(model.in_frame(batch), batch)  # type: ignore[operator]
    terms.total.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    joint = {**expected, "hamiltonian": terms.hamiltonian.detach()}
    shared, naive = two_processes(tmp_path)
    assert largest_difference(shared, joint) < 1e-11
    assert largest_difference(naive, joint) > 1e-2


def test_a_run_of_two_processes_ends_with_the_weights_of_one(
    tiny: Callable[..., Config], data_file: Path, tmp_path: Path
) -> None:
    source = {"source": str(data_file)}
    config = tiny(data=source, training={"devices": 2})
    (tmp_path / "two.yaml").write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "tracegrad", "train", "--config", str(tmp_path / "two.yaml"), "--quiet"]
    command += ["--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    weights = {"two": dict(read_tensors(tmp_path / "two" / "final.ckpt")["state_dict"])}
    for name, batch_size in (("one", 2), ("half", 1)):
        final = train(tiny(data=source, training={"batch_size": batch_size}), tmp_path / name, quiet=True)
        weights[name] = dict(read_tensors(final)["state_dict"])
    assert largest_difference(weights["two"], weights["one"]) < 1e-7
    assert largest_difference(weights["half"], weights["one"]) > 1e-3
