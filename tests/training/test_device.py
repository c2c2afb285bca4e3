"""Where a process computes, and which process of a run it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tracegrad.config import Config, TrainingConfig
from tracegrad.data import Dataset
from tracegrad.errors import ConfigError
from tracegrad.evaluation import run_and_record
from tracegrad.training.device import choose_device, process_rank

LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in a process that nothing has launched."""
    for name in (*LAUNCHERS, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_every_process_of_a_run_has_a_gpu_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(TrainingConfig(devices=4)) == torch.device("cuda", 0)  # the one that launches the others
    monkeypatch.setenv(name, "3")
    assert choose_device(TrainingConfig(devices=4)) == torch.device("cuda", 3)
    assert choose_device(TrainingConfig(devices=4, device="cpu")) == torch.device("cpu")
    assert choose_device(TrainingConfig()) == torch.device("cuda")  # a run of one process has the current GPU


def test_a_gpu_that_is_not_there_is_asked_for_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(TrainingConfig(devices=4)) == torch.device("cpu")
    for training in (TrainingConfig(device="cuda"), TrainingConfig(cuda_graphs=True)):
        with pytest.raises(ConfigError, match="expected a CUDA GPU, found none"):
            choose_device(training)


SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}
LAUNCHED = {
    "torchrun": {"RANK": "1", "LOCAL_RANK": "0"},
    "srun": SRUN,
    "srun that names the local rank": {**SRUN, "LOCAL_RANK": "0"},
    "by the first process": {"LOCAL_RANK": "1"},
    "by the first process, in a shell of srun": {
        **SRUN,
        "SLURM_PROCID": "0",
        "SLURM_JOB_NAME": "bash",
        "LOCAL_RANK": "1",
    },
}


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_process_has_the_number_of_its_launcher_in_a_run_of_several(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = (TrainingConfig(devices=2), TrainingConfig(devices=1, nodes=2))
    assert [process_rank(training) for training in several] == [0, 0]
    for variable, value in LAUNCHED[name].items():
        monkeypatch.setenv(variable, value)
    assert process_rank(several[0]) == 1
    assert process_rank(TrainingConfig()) == 0


def test_processes_on_several_nodes_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    assert process_rank(TrainingConfig(nodes=2)) == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert process_rank(TrainingConfig(devices=4, nodes=2)) == 6


def test_one_of_many_runs_of_a_launcher_keeps_its_result(
    tiny: Callable[..., Config], dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    record = run_and_record(tiny(training={"epochs": 1}), tmp_path / "run", quiet=True, dataset=dataset)
    assert record["steps"] == 4
    assert {"final.ckpt", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
