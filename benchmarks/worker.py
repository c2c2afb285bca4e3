"""One run in a process of its own, with a log, and never twice at the same time in one folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

ROOT = Path(__file__).resolve().parent.parent
LOG_FILE = "log.txt"
TRAINING_FOLDER = "train"  # what the training gets as its folder, inside that of the run
STOP_FILE = "stop"  # whoever makes it in the folder of a run asks the worker to stop
GRACE_SECONDS = 20.0  # between asking a training to stop and killing it
POLL_SECONDS = 0.2  # between two looks at the stop file


@dataclass(frozen=True)
class RunJob:
    """A callable that submitit can carry to another process or machine.

    Args:
        command: the training command; it must resume what it finds.
        folder: folder of the run; the training works in ``folder/train``.
        environment: variables to set; None removes one.
    """

    command: tuple[str, ...]
    folder: Path
    environment: tuple[tuple[str, str | None], ...] = ()

    def __call__(self) -> int:
        """Train until ``run.json`` is there.

        The training inherits the lock, so a worker that is killed leaves it locked as long as its training lives: a
        resumed sweep then waits for the orphan instead of starting a second training beside it.

        A request to stop is a file and no signal: a process started in the background may inherit that it ignores
        SIGINT, and submitit kills a worker that takes more than a second to end its training.

        Returns:
            exit code of the command; 0 without running it when the record is there already or it shall stop.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock, (self.folder / LOG_FILE).open("a", encoding="utf-8") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / TRAINING_FOLDER / "run.json").is_file() or (self.folder / STOP_FILE).exists():
                return 0
            print(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command)}", file=log, flush=True)
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._variables(),
                pass_fds=(lock.fileno(),),
            )
            try:
                code = self._wait(process)
            except BaseException:
                _stop(process)
                raise
            print(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} exit code {code}", file=log, flush=True)
            return code

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Exit code of the training, which is stopped on request."""
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if (self.folder / STOP_FILE).exists():
                    _stop(process)

    def checkpoint(self) -> DelayedSubmission:
        """Queue the run again when the cluster takes its node away; the training resumes by itself."""
        return DelayedSubmission(self)

    def _variables(self) -> dict[str, str]:
        """Environment of the training."""
        variables = dict(os.environ)
        for name, value in self.environment:
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
        return variables


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a training to stop; kill it when it does not."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
