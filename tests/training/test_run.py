"""Whole runs of a tiny network: same bits for the same seed, and for a resumed run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad import evaluation
from tracegrad.config import Config
from tracegrad.data import Dataset, Structure
from tracegrad.data.dataset import StructureSequence
from tracegrad.errors import ConfigError, DataError
from tracegrad.evaluation import run_and_record
from tracegrad.training import load_checkpoint, train
from tracegrad.training.callbacks import Supervisor
from tracegrad.training.checkpoint import read_tensors
from tracegrad.training.folder import open_run_folder
from tracegrad.training.resume import ResumeState
from tracegrad.training.run import Interrupted

Tiny = Callable[..., Config]
SETTINGS = ("DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad")


class Killed(Exception):
    """Stands for the end of the process."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a final checkpoint."""
    return dict(read_tensors(path)["state_dict"])


def differing(first: Path, second: Path) -> list[str]:
    """Return the names of the tensors that are not equal bit for bit."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process end after a step, once the state has been written, without any goodbye."""
    original = ResumeState.on_train_batch_end

    def end(self: ResumeState, trainer, *rest: object) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(ResumeState, "on_train_batch_end", end)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_trains_and_leaves_its_files(tiny: Tiny, dataset: Dataset, tmp_path: Path, setting: str) -> None:
    config = tiny(model={"setting": setting}, training={"epochs": 8, "learning_rate": 0.02})
    record = run_and_record(config, tmp_path / "run", quiet=True, dataset=dataset)
    assert record == json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record) >= {"dataset", "setting", "seed", "source", "preset", "metrics", "parameters", "train_seconds"}
    assert set(record) >= {"epochs", "git_commit", "split_sha256", "config", "versions", "device", "recipe"}
    assert (record["dataset"], record["setting"], record["seed"]) == ("toy", setting, 42)
    assert (record["epochs"], record["steps"]) == (8.0, 32)
    assert record["split_sha256"] == dataset.split_sha256
    assert set(record["metrics"]) == {"nt", "t"}
    assert set(record["metrics"]["nt"]["mae_block"]) == {"s1-s1", "s1-p1", "p1-s1", "p1-p1"}
    assert set(record["metrics"]["nt"]["per_structure"]) == {"test_0", "test_1"}
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    losses = [float(line.split(",")[6]) for line in history[1:] if line.split(",")[6]]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]


def test_same_seed_same_bits_and_another_seed_other_bits(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    first = train(tiny(), tmp_path / "a", quiet=True, dataset=dataset)
    torch.manual_seed(99)  # what ran before must not matter
    second = train(tiny(), tmp_path / "b", quiet=True, dataset=dataset)
    other = train(tiny(training={"seed": 1}), tmp_path / "c", quiet=True, dataset=dataset)
    assert differing(first, second) == []
    assert differing(first, other) != []


# 4 steps per epoch, 3 epochs: inside an epoch, at its end before and after a validation, and after the last step
@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_resumed_run_equals_the_uninterrupted_one(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = tiny(training={"checkpoint_seconds": 0.0, "ema_decay": 0.9, "select": "last", "batch_size": 1})
    whole = train(config, tmp_path / "whole", quiet=True, dataset=dataset)
    with monkeypatch.context() as patch:
        kill_after(patch, step)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", quiet=True, dataset=dataset)
    assert not (tmp_path / "parts" / "final.ckpt").exists()
    resumed = train(config, tmp_path / "parts", resume=True, quiet=True, dataset=dataset)
    assert differing(whole, resumed) == []
    steps = [int(line.split(",")[0]) for line in (tmp_path / "parts" / "history.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Supervisor, "load_state_dict"), (torch.optim.Adam, "load_state_dict")],
    ids=["mean of the weights", "optimiser"],
)
def test_a_resumed_run_differs_where_a_state_is_lost(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    config = tiny(training={"checkpoint_seconds": 0.0, "ema_decay": 0.9, "select": "last"})
    whole = train(config, tmp_path / "whole", quiet=True, dataset=dataset)
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", quiet=True, dataset=dataset)
    monkeypatch.setattr(owner, method, lambda self, state: None)
    resumed = train(config, tmp_path / "parts", resume=True, quiet=True, dataset=dataset)
    assert differing(whole, resumed) != []


@pytest.mark.parametrize(("select", "kept"), [("best", 8), ("last", 12)])
def test_the_weights_kept_are_those_of_the_step_that_the_choice_names(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, kept: int
) -> None:
    original = Supervisor._judge

    def judge(self: Supervisor, trainer, module, loss: float, step: int) -> dict[str, str]:  # type: ignore[no-untyped-def]
        return original(self, trainer, module, 0.5 if step == 8 else 0.9, step)

    monkeypatch.setattr(Supervisor, "_judge", judge)
    common = {"batch_size": 1, "schedule": "constant"}
    whole = train(tiny(training=common | {"select": select}), tmp_path / "whole", quiet=True, dataset=dataset)
    assert load_checkpoint(whole)[2]["info"]["selected_step"] == kept
    for steps in (8, 12):
        config = tiny(training=common | {"select": "last", "max_steps": steps})
        stopped = train(config, tmp_path / str(steps), quiet=True, dataset=dataset)
        assert (differing(whole, stopped) == []) == (steps == kept)


def test_a_run_is_not_resumed_with_another_split(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(training={"checkpoint_seconds": 0.0})
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", quiet=True, dataset=dataset)
    fewer = replace(dataset, val=dataset.train)
    state = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="began with the split"):
        train(config, tmp_path / "run", resume=True, quiet=True, dataset=fewer)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == state
    train(config, tmp_path / "run", resume=True, quiet=True, dataset=dataset)


@pytest.mark.parametrize(("second", "named"), [("one", "one"), ("another", "one, then another")])
def test_the_record_names_every_device_that_a_run_had(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, named: str
) -> None:
    config = tiny(training={"checkpoint_seconds": 0.0})
    monkeypatch.setattr("tracegrad.training.run.device_name", lambda _: "one")
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", quiet=True, dataset=dataset)
    monkeypatch.setattr("tracegrad.training.run.device_name", lambda _: second)
    checkpoint = train(config, tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    assert load_checkpoint(checkpoint)[2]["info"]["device"] == named


def test_resuming_without_a_state_starts_from_the_beginning(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    whole = train(tiny(), tmp_path / "whole", quiet=True, dataset=dataset)
    with pytest.raises(Killed), open_run_folder(tmp_path / "empty", tiny(), resume=False):
        raise Killed
    resumed = train(tiny(), tmp_path / "empty", resume=True, quiet=True, dataset=dataset)
    assert differing(whole, resumed) == []


def test_partial_files_of_a_killed_process_are_removed(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.0123456789abcdef.tmp.yaml").write_text("preset: sm")
    (tmp_path / "run" / ".last.0123456789abcdef.tmp.ckpt").write_bytes(b"PK")
    train(tiny(training={"epochs": 1}), tmp_path / "run", quiet=True, dataset=dataset)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [".lock", "config.yaml", "final.ckpt", "history.csv", "last.ckpt"]


def test_a_complete_run_is_not_repeated(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    first = run_and_record(tiny(), tmp_path / "run", quiet=True, dataset=dataset)
    modified = (tmp_path / "run" / "final.ckpt").stat().st_mtime_ns
    assert run_and_record(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset) == first
    assert (tmp_path / "run" / "final.ckpt").stat().st_mtime_ns == modified
    (tmp_path / "run" / "run.json").unlink()  # killed between the two files
    again = run_and_record(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    assert again["metrics"] == first["metrics"]


def test_a_folder_that_holds_something_else_is_refused(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run", quiet=True, dataset=dataset)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").iterdir())
    with pytest.raises(ConfigError, match="holds another run; continue it with --resume"):
        train(tiny(), tmp_path / "run", quiet=True, dataset=dataset)
    other = tiny(training={"learning_rate": 0.02})
    with pytest.raises(ConfigError, match=r"another configuration \(training.learning_rate: 0.01 -> 0.02\)"):
        train(other, tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "run").iterdir()) == before
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"expected an empty folder or a run, found thesis.tex"):
        train(tiny(), tmp_path / "stuff", quiet=True, dataset=dataset)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written to"):
        train(tiny(), tmp_path / "file", quiet=True, dataset=dataset)


def test_two_runs_in_one_folder_are_refused(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    refused = pytest.raises(DataError, match="another process trains in this folder")
    with open_run_folder(tmp_path / "run", tiny(), resume=False), refused:
        train(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    train(tiny(), tmp_path / "run", resume=True, quiet=True, dataset=dataset)  # the lock is gone with the first


def test_changes_that_do_not_matter_may_be_made_on_resume(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run", quiet=True, dataset=dataset)
    config = tiny(training={"checkpoint_seconds": 5.0})
    train(config, tmp_path / "run", resume=True, quiet=True, dataset=dataset)


def test_a_resumed_run_has_the_threads_of_its_beginning(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(training={"checkpoint_seconds": 0.0})
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", quiet=True, dataset=dataset)
    torch.set_num_threads(2)  # another machine, or another share of the cores
    with pytest.raises(ConfigError, match=r"began with 1 CPU threads, found training\.threads 2"):
        train(tiny(training={"threads": 2}), tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    used: list[int] = []
    original = Supervisor.on_train_start

    def note(self: Supervisor, *rest: object) -> None:
        used.append(torch.get_num_threads())
        original(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Supervisor, "on_train_start", note)
    train(config, tmp_path / "run", resume=True, quiet=True, dataset=dataset)
    train(config, tmp_path / "other", quiet=True, dataset=dataset)  # control: a new run takes what it finds
    assert used == [1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_leaves_the_caller_its_threads(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    used: list[int] = []
    original = Supervisor.on_train_start

    def note(self: Supervisor, *rest: object) -> None:
        used.append(torch.get_num_threads())
        original(self, *rest)  # type: ignore[arg-type]
        if fails:
            raise Killed

    monkeypatch.setattr(Supervisor, "on_train_start", note)
    torch.set_num_threads(2)
    with pytest.raises(Killed) if fails else contextlib.nullcontext():
        train(tiny(training={"threads": 1}), tmp_path / "run", quiet=True, dataset=dataset)
    assert used == [1]
    assert torch.get_num_threads() == 2


def test_the_metrics_of_a_run_are_measured_with_its_threads(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def note(model: torch.nn.Module, data: Dataset) -> dict[str, dict[str, object]]:
        used.append(torch.get_num_threads())
        return {}

    monkeypatch.setattr(evaluation, "evaluate_dataset", note)
    torch.set_num_threads(2)
    for threads in (1, 0):
        config = tiny(training={"threads": threads, "max_steps": 1})
        run_and_record(config, tmp_path / str(threads), quiet=True, dataset=dataset)
    assert used == [1, 2]  # the second is the control


def test_first_signal_saves_and_stops(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(), tmp_path / "whole", quiet=True, dataset=dataset)
    original = Supervisor.on_train_batch_end

    def interrupt(self: Supervisor, trainer, *rest: object) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, *rest)
        if trainer.global_step == 5:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, "on_train_batch_end", interrupt)
        with pytest.raises(Interrupted, match="stopped after step 5; continue with --resume"):
            train(tiny(), tmp_path / "parts", quiet=True, dataset=dataset)
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = train(tiny(), tmp_path / "parts", resume=True, quiet=True, dataset=dataset)
    assert differing(whole, resumed) == []


def test_batches_are_the_same_for_every_setting(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {}
    original = Supervisor.on_train_batch_start

    def note(self: Supervisor, trainer, module, batch, index: int) -> None:  # type: ignore[no-untyped-def]
        seen.setdefault(setting, []).extend(batch.names)
        original(self, trainer, module, batch, index)

    monkeypatch.setattr(Supervisor, "on_train_batch_start", note)
    for setting in SETTINGS:
        train(tiny(model={"setting": setting}), tmp_path / setting, quiet=True, dataset=dataset)
    assert len(seen[SETTINGS[0]]) == 12
    assert all(names == seen[SETTINGS[0]] for names in seen.values())


def test_time_budget_ends_a_run(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(training={"epochs": 0, "max_seconds": 0.5})
    started = time.monotonic()
    record = run_and_record(config, tmp_path / "run", quiet=True, dataset=dataset)
    assert 0.5 <= record["train_seconds"] < 5.0
    assert time.monotonic() - started < 30.0
    assert record["steps"] > 3


def test_not_hermitian_network_trains_on_both_directions(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(model={"hermitian": False}, training={"epochs": 8, "learning_rate": 0.02})
    run_and_record(config, tmp_path / "run", quiet=True, dataset=dataset)
    rows = [line.split(",") for line in (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]]
    losses = [float(row[6]) for row in rows if row[6]]
    assert losses[-1] < 0.9 * losses[0]


def test_harmose_meets_rotated_batches_late_and_resumes_bit_for_bit(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"setting": "HarmoSE+TraceGrad", "harmose_width": 8, "harmose_blocks": 1, "harmose_heads": 2}
    config = tiny(model=model, training={"rotate_after": 0.6, "checkpoint_seconds": 0.0})
    whole = train(config, tmp_path / "whole", quiet=True, dataset=dataset)
    with monkeypatch.context() as patch:
        kill_after(patch, 9)
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", quiet=True, dataset=dataset)
    assert differing(whole, train(config, tmp_path / "parts", resume=True, quiet=True, dataset=dataset)) == []
    never = tiny(model=model, training={"rotate_after": 1.0})
    assert differing(whole, train(never, tmp_path / "never", quiet=True, dataset=dataset)) != []
    equivariant = [tiny(training={"rotate_after": part}) for part in (0.6, 1.0)]
    paths = [train(c, tmp_path / str(k), quiet=True, dataset=dataset) for k, c in enumerate(equivariant)]
    pairs = zip(weights(paths[0]).values(), weights(paths[1]).values(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in pairs), "it cannot matter to these networks"


def test_float32_and_batches(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    path = train(tiny(training={"dtype": "float32", "batch_size": 3}), tmp_path / "run", quiet=True, dataset=dataset)
    model, config, rest = load_checkpoint(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (config.training.batch_size, rest["info"]["steps"]) == (3, 6)


@pytest.mark.slow
def test_run_killed_with_signal_9_is_resumed_bit_for_bit(tiny: Tiny, data_file: Path, tmp_path: Path) -> None:
    config = tiny(
        data={"source": str(data_file)},
        training={"checkpoint_seconds": 0.0, "epochs": 12, "select": "last", "ema_decay": 0.9},
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "tracegrad", "train", "--quiet", "--resume", "--config"]
    command += [str(tmp_path / "config.yaml"), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    state = tmp_path / "parts" / "last.ckpt"
    process = subprocess.Popen([*command, str(tmp_path / "parts")], env=environment)
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "parts" / "final.ckpt").exists()
    subprocess.run([*command, str(tmp_path / "parts")], check=True, env=environment)
    assert differing(tmp_path / "whole" / "final.ckpt", tmp_path / "parts" / "final.ckpt") == []


@pytest.mark.slow
def test_two_processes_train_one_network(tiny: Tiny, data_file: Path, tmp_path: Path) -> None:
    config = tiny(data={"source": str(data_file)}, training={"devices": 2, "checkpoint_seconds": 0.0, "epochs": 4})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "tracegrad", "train", "--json", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], check=True, env=environment, capture_output=True, text=True
    )
    record = json.loads(run.stdout)  # one process speaks
    assert record["steps"] == 8, "two structures per step"
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[6]) for line in lines if line.split(",")[6]]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_a_run_resumes_bit_for_bit_with_every_optimiser(
    tiny: Tiny, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    config = tiny(training={"optimizer": optimizer, "checkpoint_seconds": 0.0})
    whole = train(config, tmp_path / "whole", quiet=True, dataset=dataset)
    with monkeypatch.context() as patch:
        kill_after(patch, 7)
        with pytest.raises(Killed):
            train(config, tmp_path / "killed", quiet=True, dataset=dataset)
    resumed = train(config, tmp_path / "killed", resume=True, quiet=True, dataset=dataset)
    assert differing(whole, resumed) == []
    other = train(
        tiny(training={"optimizer": optimizer, "learning_rate": 0.02}), tmp_path / "other", quiet=True, dataset=dataset
    )
    assert differing(whole, other) != []  # control


def test_the_checkpoint_knows_the_longest_pair_that_was_trained_on(
    tiny: Tiny, dataset: Dataset, tmp_path: Path
) -> None:
    _, _, content = load_checkpoint(train(tiny(), tmp_path / "run", quiet=True, dataset=dataset))
    blocks = [(s, s.hamiltonian) for s in dataset.train if s.hamiltonian is not None]
    lengths = [np.linalg.norm(s.edge_vectors(hamiltonian), axis=1).max() for s, hamiltonian in blocks]
    longest = max(lengths)
    assert longest < content["data"].cutoff < longest * (1 + 1e-5)
    assert min(lengths) < longest  # control: not just any structure


def test_the_checkpoint_knows_the_pairs_that_end_before_though_the_data_are_gone(
    tiny: Tiny, dataset: Dataset, tmp_path: Path
) -> None:
    structures = {s.name: s for s in dataset.train}
    first = structures[dataset.train.names[0]]
    assert first.hamiltonian is not None
    lengths = np.linalg.norm(first.edge_vectors(first.hamiltonian), axis=1)
    kept = np.flatnonzero(lengths < lengths.max() - 0.01)
    structures[first.name] = replace(first, hamiltonian=first.hamiltonian.select(kept), overlap=None)
    started, original = False, Supervisor.on_train_start

    def read(name: str) -> Structure:
        assert not started, "training structures are read after the start"
        return structures[name]

    def start(self: Supervisor, *rest: object) -> None:
        nonlocal started
        started = True
        original(self, *rest)  # type: ignore[arg-type]

    data = replace(dataset, train=StructureSequence(dataset.train.names, read))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "on_train_start", start)
        _, _, content = load_checkpoint(train(tiny(), tmp_path / "cut", quiet=True, dataset=data))
    assert started
    elements = {
        tuple(sorted(first.numbers[first.hamiltonian.edge_index[:, k]].tolist())) for k in lengths.argsort()[-1:]
    }
    assert elements <= content["data"].pair_cutoffs.keys()
    _, _, content = load_checkpoint(train(tiny(), tmp_path / "whole", quiet=True, dataset=dataset))
    assert content["data"].pair_cutoffs == {}  # control
