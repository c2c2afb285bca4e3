"""Faults of the machine during a run: a clear message, nothing lost, nothing partial, and the run can go on."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tracegrad.cli import main
from tracegrad.config import Config
from tracegrad.data import Dataset, Structure, StructureSequence, write_deeph
from tracegrad.data.folders import FolderSet, write_split
from tracegrad.errors import DataError
from tracegrad.evaluation import run_and_record
from tracegrad.training.callbacks import Supervisor
from tracegrad.training.checkpoint import read_tensors
from tracegrad.training.folder import open_run_folder
from tracegrad.training.resume import AtomicCheckpointIO

Tiny = Callable[..., Config]
Train = Callable[..., int]
Refused = Callable[..., None]


@pytest.fixture
def config(tiny: Callable[..., Config], data_file: Path) -> Config:
    """Return a run of 12 steps that writes its state after each."""
    return tiny(data={"source": str(data_file)}, training={"checkpoint_seconds": 0.0, "select": "last"})


@pytest.fixture
def train(config: Config, tmp_path: Path) -> Train:
    """Return a function that runs the command: ``train(folder, "--resume")`` is its exit code."""
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    return lambda folder, *words: main(["train", "--quiet", "--config", str(path), "--out", str(folder), *words])


@pytest.fixture
def refused(train: Train, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that trains and sees that it ends as a user's error does, with some words."""

    def check(folder: Path, *words: str, options: tuple[str, ...] = ()) -> None:
        capsys.readouterr()
        assert train(folder, *options) == 2
        text = capsys.readouterr().err
        assert text.startswith("tracegrad: error: ")
        assert text.count("\n") == 1
        assert all(word in text for word in words), text

    return check


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a context in which no file outgrows 50 kB from the sixth state on, as on a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original, count = AtomicCheckpointIO.save_checkpoint, [0]

    def save(self: AtomicCheckpointIO, *arguments: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
        yield lambda: (patch.undo(), resource.setrlimit(resource.RLIMIT_FSIZE, limits))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights(folder: Path) -> torch.Tensor:
    """Return all final weights of a run in one row."""
    return torch.cat([t.double().reshape(-1) for t in read_tensors(folder / "final.ckpt")["state_dict"].values()])


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(
    train: Train, refused: Refused, full_disk: Callable[[], None], tmp_path: Path
) -> None:
    parts, whole, other = (tmp_path / name for name in ("parts", "whole", "other"))
    refused(parts, str(parts / "last.ckpt"), os.strerror(errno.EFBIG))
    full_disk()  # space again
    assert sorted(contents(parts)) == [".lock", "config.yaml", "history.csv", "last.ckpt"]
    assert read_tensors(parts / "last.ckpt")["global_step"] == 5  # the last state that fitted
    assert train(parts, "--resume") == train(whole) == train(other, "--seed", "43") == 0
    assert torch.equal(weights(parts), weights(whole))
    assert not torch.equal(weights(other), weights(whole))


def test_a_damaged_state_is_refused_and_left_alone(train: Train, refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder) == 0
    for name in ("final.ckpt", "run.json"):
        (folder / name).unlink()
    sound = (folder / "last.ckpt").read_bytes()
    for damaged in (sound[: len(sound) // 2], b"", b"not a checkpoint"):
        (folder / "last.ckpt").write_bytes(damaged)
        before = contents(folder)
        message = f"truncated or not a checkpoint ({len(damaged)} bytes)"
        refused(folder, str(folder / "last.ckpt"), message, options=("--resume",))
        assert contents(folder) == before
    (folder / "last.ckpt").write_bytes(sound)
    assert train(folder, "--resume") == 0


def test_a_second_process_in_the_folder_of_a_run_is_refused(train: Train, config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["train", "--quiet", "--config", str(tmp_path / "config.yaml"), "--out", str(folder), "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open_run_folder(folder, config, resume=False):
        before = contents(folder)
        process = subprocess.run(
            [sys.executable, "-m", "tracegrad", *words],
            env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert process.returncode == 2
        assert "another process trains in this folder; wait for it or give another --out" in process.stderr
        assert contents(folder) == before
    assert train(folder, "--resume") == 0


def test_damaged_blocks_of_the_data_are_named_before_the_first_step(
    train: Train, refused: Refused, data_file: Path, tmp_path: Path
) -> None:
    with h5py.File(data_file) as file:
        stored = file["structures/train_1/hamiltonian"]
        place, size = stored.id.get_offset(), stored.id.get_storage_size()
    content = bytearray(data_file.read_bytes())
    middle = place + size // 4
    content[middle : middle + size // 2] = np.random.default_rng(0).bytes(size // 2)
    damaged = tmp_path / "BG.h5"
    damaged.write_bytes(bytes(content))
    refused(tmp_path / "run", str(damaged), "train_1", options=("--source", str(damaged)))
    assert sorted(contents(tmp_path / "run")) == [".lock"]
    assert train(tmp_path / "run") == 0  # the folder is free for the corrected command


@pytest.mark.parametrize("subset", ["test", "test_twisted"])
def test_a_damaged_test_structure_is_named_before_the_first_step(
    subset: str, train: Train, refused: Refused, dataset: Dataset, tmp_path: Path
) -> None:
    folders, split = tmp_path / "data", {name: structures.names for name, structures in dataset.subsets.items()}
    for structure in itertools.chain(*dataset.subsets.values()):
        write_deeph(structure, folders / structure.name)
    paths = {name: name for name in itertools.chain(*split.values())}
    write_split(FolderSet(folders, paths, split, "as given"))
    damaged = folders / f"{subset}_0" / "hamiltonians.h5"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[: len(sound) // 2])
    refused(tmp_path / "run", str(damaged), "not a readable HDF5 file", options=("--source", str(folders)))
    assert not (tmp_path / "run").exists()
    damaged.write_bytes(sound)
    assert train(tmp_path / "run", "--source", str(folders)) == 0  # control: the folder is free, the data are right
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(record["metrics"]) == ["nt", "t"]


def without_hamiltonian(dataset: Dataset, name: str) -> Dataset:
    """Return the data with one test structure that has no Hamiltonian."""

    def read(wanted: str) -> Structure:
        structure = dataset.test.read(wanted)
        return replace(structure, hamiltonian=None) if wanted == name else structure

    return replace(dataset, test=StructureSequence(dataset.test.names, read))


def test_a_test_structure_without_a_hamiltonian_is_named_before_the_first_step(
    tiny: Tiny, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"test_1: expected a Hamiltonian to measure the network on, found none; add"):
        run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=without_hamiltonian(dataset, "test_1"))
    assert not (tmp_path / "run").exists()
    none = replace(dataset, test=dataset.test[:0], test_twisted=dataset.test_twisted[:0])
    with pytest.raises(DataError, match="expected test structures, found none; check the split"):
        run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=none)
    assert not (tmp_path / "run").exists()
    run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=without_hamiltonian(dataset, "train_1"))  # control


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_ends_with_exit_code_130(
    number: signal.Signals,
    train: Train,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Supervisor.on_train_batch_end

    def stop(self: Supervisor, trainer, *rest: object) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 5:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, "on_train_batch_end", stop)
        assert train(tmp_path / "run") == 130
    assert capsys.readouterr().err.endswith("run: stopped after step 5; continue with --resume\n")
    refused(tmp_path / "run", "holds another run; continue it with --resume")  # control: a mistake ends with 2
    assert train(tmp_path / "run", "--resume") == 0
