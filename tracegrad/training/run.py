"""One run from a configuration to ``final.ckpt``."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from tracegrad.config import Config, check_budget
from tracegrad.data import Dataset, load_dataset
from tracegrad.data.cutoffs import pair_cutoffs
from tracegrad.errors import ConfigError
from tracegrad.graph import TargetLayout
from tracegrad.model import frame_degree
from tracegrad.training.callbacks import Supervisor, ValidationSet, validation_interval
from tracegrad.training.checkpoint import DataSummary, make_network, save_checkpoint, start_from, weights_of_state
from tracegrad.training.data import (
    DTYPES,
    BatchOrder,
    BatchStream,
    build_graphs,
    calibrate,
    label_residual,
    longest_pair,
    output_of,
)
from tracegrad.training.device import choose_device, cpu_threads, device_name, git_commit, process_rank
from tracegrad.training.folder import FINAL_FILE, open_run_folder, threads_of, write_config
from tracegrad.training.guard import TrainingError, WeightAverage
from tracegrad.training.limits import Limits
from tracegrad.training.module import TrainingModule
from tracegrad.training.progress import ProgressDisplay
from tracegrad.training.recorded import CudaRecorder
from tracegrad.training.resume import RESUME_FILE, AtomicCheckpointIO, ResumeState
from tracegrad.training.schedule import Budget, RateSchedule


class Interrupted(TrainingError):
    """The run was asked to stop before its end; it can be continued."""

    exit_code = 130  # of the command line, as after Ctrl-C anywhere else


@dataclass(frozen=True)
class Run:
    """The parts of a run, before the first step.

    Args:
        module: network, loss and batches.
        supervisor: everything around the steps.
        resume: states to continue from.
        data: what the checkpoint says of the data; at the end of a long run they need not be there any more.
        limits: what of the training set the network cannot learn.
    """

    module: TrainingModule
    supervisor: Supervisor
    resume: ResumeState
    data: DataSummary
    limits: Limits


def train(
    config: Config, out: str | Path, *, resume: bool = False, quiet: bool = False, dataset: Dataset | None = None
) -> Path:
    """Train a network and leave ``final.ckpt`` in a folder.

    The CPU threads of the process are afterwards as many as before.

    Args:
        config: what to do.
        out: folder of the run; it must not hold another one.
        resume: continue the run in the folder from its last state; a complete run is left as it is.
        quiet: no progress display.
        dataset: the data; by default those that the configuration names.

    Returns:
        Path of the checkpoint.

    Raises:
        ConfigError: the folder holds another run.
        TrainingError: the loss was not a number in spite of returns to the best weights, or before there were any.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    folder = Path(out)
    with open_run_folder(folder, config, resume):
        if resume and (folder / FINAL_FILE).is_file():
            return folder / FINAL_FILE
        data = dataset or load_dataset(config.data.dataset, source=config.data.source)
        with cpu_threads(threads_of(folder, config.training.threads)):
            check_budget(config)
            run = prepare(config, data, choose_device(config.training), folder)
            fit(run, config, folder, quiet=quiet)
            return _save_final(run, config, folder)


def prepare(config: Config, data: Dataset, device: torch.device, folder: Path) -> Run:
    """Build the network and the graphs.

    The initial weights depend on the seed and the setting only; the order of the data on the seed only. A run that
    goes on has its weights, scales and reference from its state: what it started from may be gone.
    """
    training = config.training
    dtype = DTYPES[training.dtype]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = make_network(config.model, DataSummary.of(data))
    if dtype == torch.float64:
        model.double()  # before it is given numbers that float32 would round
    structures = data.train[: config.data.num_train or None]
    targets = cast(TargetLayout, model.targets)
    graphs, val_graphs = (
        build_graphs(part, targets, lmax=frame_degree(model), dtype=dtype, device=device)
        for part in (structures, data.val)
    )
    state = folder / RESUME_FILE
    if training.start_from and state.is_file():
        model.load_state_dict(weights_of_state(state))
    elif training.start_from:
        start_from(training.start_from, model, config.model, DataSummary.of(data))
    else:
        calibrate(model, config.model, graphs)
    model.to(dtype=dtype, device=device)
    if config.model.trace_of_residual:
        label_residual(graphs, output_of(model))
    order = BatchOrder(len(graphs), training.batch_size, training.seed, world_size=training.devices * training.nodes)
    steps = order.steps_per_epoch
    supervisor = Supervisor(
        training,
        Budget.from_config(training, steps),
        RateSchedule(training, steps),
        WeightAverage(model, training.ema_decay),
        ValidationSet(val_graphs, list(data.val) if training.validate_mae else ()),
        validation_interval(training, len(graphs), len(val_graphs)),
        folder,
    )
    recorder = CudaRecorder() if training.cuda_graphs else None
    module = TrainingModule(model, training, BatchStream(graphs, order), recorder)
    cutoff = longest_pair(graphs)
    summary = DataSummary.of(data, cutoff, pair_cutoffs(structures, cutoff))
    resume = ResumeState(folder, training.checkpoint_seconds, data.split_sha256, device_name(device))
    return Run(module, supervisor, resume, summary, Limits.of(config.model, targets, graphs))


def fit(run: Run, config: Config, folder: Path, *, quiet: bool = False) -> None:
    """Train to the end of the budget, from the last state in the folder if there is one.

    Raises:
        Interrupted: the run was asked to stop.
    """
    training = config.training
    callbacks: list[lightning.Callback] = [run.supervisor, run.resume]
    if not quiet:
        title = f"{config.data.dataset} {config.model.setting} seed {training.seed}"
        callbacks.append(ProgressDisplay(run.supervisor, title, run.limits.notes()))
    state = folder / RESUME_FILE
    with quiet_lightning():
        trainer = lightning.Trainer(
            accelerator=choose_device(training).type,
            devices=training.devices,
            num_nodes=training.nodes,
            strategy="ddp" if training.devices * training.nodes > 1 else "auto",
            max_epochs=1,
            gradient_clip_val=training.clip or None,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=make_loggers(config, folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        begun = replace(config, training=replace(training, threads=torch.get_num_threads()))
        write_config(folder, begun)  # not before: a run that cannot start leaves its folder free
        trainer.fit(run.module, ckpt_path=str(state) if state.is_file() else None, weights_only=True)
    if run.resume.interrupted:
        raise Interrupted(f"{folder}: stopped after step {trainer.global_step}; continue with --resume")


def _save_final(run: Run, config: Config, folder: Path) -> Path:
    """Choose the final weights and save them.

    Raises:
        TrainingError: the run went back to its initial weights, so that there are no others.
    """
    supervisor, model = run.supervisor, run.module.model
    if supervisor.nan_reverts and supervisor.held[0] == 0:
        raise TrainingError(
            f"{folder}: expected a validation with a finite loss, found none before the losses that are not: the run "
            f"went back to its initial weights {supervisor.nan_reverts} times and ends with them, so that nothing is "
            "saved; lower training.learning_rate, set training.clip, or validate sooner (training.validate_every)"
        )
    best, last = supervisor.best, supervisor.history[-1]
    if config.training.select == "best" and best is not None and best.step > 0:
        supervisor.take_best(model)
    step, loss = supervisor.held
    info = {
        "steps": int(last["step"]),
        "epochs": float(last["epoch"]),
        "train_seconds": float(supervisor.seconds),
        "selected_step": step,
        "val_loss": loss if math.isfinite(loss) else None,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": ", then ".join(run.resume.devices),
        "git_commit": git_commit(),
        **run.limits.record(),
    }
    if process_rank(config.training) == 0:
        with supervisor.average.applied():
            save_checkpoint(folder / FINAL_FILE, model, config, run.data, info)
    return folder / FINAL_FILE


def make_loggers(config: Config, folder: Path) -> list[Logger]:
    """Loggers of Lightning that the configuration asks for; ``history.csv`` is always written."""
    loggers: list[Logger] = []
    if "tensorboard" in config.training.loggers:
        loggers.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    if "wandb" in config.training.loggers:
        try:
            loggers.append(WandbLogger(project="tracegrad", save_dir=str(folder), config=config.to_dict()))
        except ModuleNotFoundError:
            raise ConfigError("training.loggers: 'wandb' needs the package wandb; pip install wandb") from None
    return loggers


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's hints, and what its versions do not yet know of torch, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # Lightning 2.6 asks for the class of pytree leaves that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
