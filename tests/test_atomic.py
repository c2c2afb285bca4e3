"""A reader of an atomically written file sees the old content or the new one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracegrad.atomic import atomic_write
from tracegrad.errors import DataError


class Interrupted(BaseException):
    """Stands for Ctrl-C in the middle of writing."""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a file with old content, alone in its folder."""
    path = tmp_path / "run.json"
    path.write_text("old")
    return path


def state(target: Path) -> tuple[str, list[str]]:
    """Content of the file, and all names in its folder."""
    return target.read_text(), sorted(os.listdir(target.parent))


def test_old_content_stays_until_the_end_and_nothing_is_left_over(target: Path) -> None:
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert not temporary.exists()
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert state(target) == ("new", ["run.json"])


def test_a_new_file_appears_complete(tmp_path: Path) -> None:
    with atomic_write(str(tmp_path / "new.txt")) as temporary:
        temporary.write_text("all")
        assert not (tmp_path / "new.txt").exists()
    assert state(tmp_path / "new.txt") == ("all", ["new.txt"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interrupted])
def test_failure_leaves_the_old_file_and_no_other(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_write(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert state(target) == ("old", ["run.json"])


def test_plain_writing_would_leave_half_a_file(target: Path) -> None:
    with pytest.raises(RuntimeError), target.open("w") as file:  # noqa: PT012
        file.write("half")
        raise RuntimeError
    assert state(target) != ("old", ["run.json"])


def test_suffix_is_kept_for_writers_that_add_their_own(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "blocks.npz") as temporary:
        np.savez(temporary, a=np.arange(3))
    with np.load(tmp_path / "blocks.npz") as stored:
        assert stored["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["blocks.npz"]


def test_a_full_disk_is_named_whatever_the_writer_makes_of_it(target: Path) -> None:
    code = f"""
import resource, sys
import numpy, torch
from tracegrad.atomic import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
writers = {{
    "torch": lambda path: torch.save(torch.zeros(100_000), path),
    "numpy": lambda path: path.write_bytes(numpy.zeros(100_000)),
    "text": lambda path: path.write_text("x" * 100_000),
    "small": lambda path: path.write_text("new"),
}}
for name, write in writers.items():
    try:
        with atomic_write({str(target)!r}) as temporary:
            write(temporary)
        print(name, "written")
    except OSError as error:
        print(name, error.errno, error.filename)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == [
        *(f"{name} {errno.EFBIG} {target}" for name in ("torch", "numpy", "text")),
        "small written",
    ]
    assert state(target) == ("new", ["run.json"])


def test_an_error_of_another_file_keeps_its_name(target: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(target) as temporary:
        temporary.write_text((tmp_path / "input").read_text())
    assert caught.value.filename == str(tmp_path / "input")
    assert state(target) == ("old", ["run.json"])


def test_two_writers_do_not_share_a_temporary_file(target: Path) -> None:
    with atomic_write(target) as first, atomic_write(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert state(target) == ("first", ["run.json"])


def test_file_is_on_disk_before_it_takes_the_place(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source: Path, destination: Path) -> None:
        calls.append("replace")
        real_replace(source, destination)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with atomic_write(target) as temporary:
        temporary.write_text("new")
    assert calls == ["file", "replace", "folder"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_nothing_written_raises_and_changes_nothing(target: Path) -> None:
    with pytest.raises(DataError, match="found no file; nothing"), atomic_write(target):
        pass
    assert state(target) == ("old", ["run.json"])


def test_a_missing_folder_or_a_folder_in_the_place_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; create it first"), atomic_write(tmp_path / "no" / "run.json"):
        pass
    with pytest.raises(DataError, match="expected a file name, found a folder"), atomic_write(tmp_path):
        pass
