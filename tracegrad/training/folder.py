"""The folder of a run: one run per folder, one process per run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tracegrad.atomic import atomic_write
from tracegrad.config import Config, changed_keys, config_from_dict, read_yaml
from tracegrad.errors import ConfigError, DataError
from tracegrad.training.device import process_rank

CONFIG_FILE = "config.yaml"
FINAL_FILE = "final.ckpt"
LOCK_FILE = ".lock"
PARTIAL_FILES = ".*.tmp.*"  # names that tracegrad.atomic gives to files that are not complete


@contextmanager
def open_run_folder(folder: Path, config: Config, resume: bool) -> Iterator[None]:
    """Claim a folder for a run.

    Args:
        folder: created if it does not exist.
        config: of the run; ``write_config`` leaves it in the folder when the first step comes.
        resume: continue the run in the folder.

    Yields:
        while the folder is locked against other processes.

    Raises:
        ConfigError: the folder holds another run, or the one to continue has another configuration.
        DataError: the folder cannot be written to, or another process trains in it.
    """
    if process_rank(config.training) > 0:  # the first process of the run has the folder
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror}); give another --out") from None
    try:
        _lock(descriptor, folder)
        for partial in folder.glob(PARTIAL_FILES):  # of a process that was killed while it wrote
            partial.unlink()
        _check_run(folder, config, resume)
        yield
    finally:
        os.close(descriptor)


def write_config(folder: Path, config: Config) -> None:
    """Make the folder that of a run: from now on it takes no other one.

    Args:
        folder: of the run, claimed by ``open_run_folder``.
        config: of the run.
    """
    if process_rank(config.training) == 0:
        with atomic_write(folder / CONFIG_FILE) as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")


def threads_of(folder: Path, asked: int) -> int:
    """CPU threads of a run: those that it began with, since their number decides the order of sums.

    Args:
        folder: of the run, new or begun.
        asked: by the configuration; 0 leaves the choice to torch, or to the beginning of the run.

    Returns:
        The number of threads.

    Raises:
        ConfigError: the run began with another number than is asked for.
    """
    file = folder / CONFIG_FILE
    begun = config_from_dict(read_yaml(file), str(file)).training.threads if file.is_file() else 0
    if begun and asked not in (0, begun):
        raise ConfigError(
            f"{folder}: the run began with {begun} CPU threads, found training.threads {asked}, which would give other "
            f"numbers; leave it out, or give another --out"
        )
    return begun or asked or torch.get_num_threads()


def _lock(descriptor: int, folder: Path) -> None:
    """Lock that the system releases when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: the check of config.yaml remains
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{folder}: another process trains in this folder; wait for it or give another --out") from None


def _check_run(folder: Path, config: Config, resume: bool) -> None:
    """Refuse to mix two runs in one folder."""
    others = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK_FILE)
    if CONFIG_FILE not in others:
        if others:
            raise ConfigError(
                f"{folder}: expected an empty folder or a run, found {', '.join(others[:3])}; give another --out"
            )
        return
    if not resume:
        raise ConfigError(f"{folder}: holds another run; continue it with --resume or give another --out")
    before = config_from_dict(read_yaml(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    changed = changed_keys(before, config)
    if changed:
        raise ConfigError(
            f"{folder}: holds a run with another configuration ({', '.join(changed)}); "
            "continue it with the same one or give another --out"
        )
