"""Writing a file so that readers see the old content or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracegrad.errors import DataError

PROBE = 1 << 16  # bytes that a disk with space takes


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it takes the place of `path`, on failure it is removed.

    Example::

        with atomic_write(folder / "run.json") as temporary:
            temporary.write_text(text, encoding="utf-8")

    The temporary file does not exist when the block starts, and keeps the suffix of `path`, so that any writer which
    takes a file name can be used. The data are on disk (fsync of the file and of its folder) when the block has ended.

    Args:
        path: the file to create or to replace; its folder must exist.

    Yields:
        the path to write to.

    Raises:
        DataError: the folder does not exist, `path` is a folder, or the block wrote nothing.
        OSError: the system does not let more be written, whatever the writer made of it; it names `path`.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise DataError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    if target.is_dir():
        raise DataError(f"cannot write {target}: expected a file name, found a folder; give another path")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}.tmp{target.suffix}")
    try:
        yield temporary
        if not temporary.is_file():
            raise DataError(
                f"cannot write {target}: expected new content in {temporary}, found no file; nothing is changed"
            )
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except Exception as error:
        reason = _reason(temporary, error)
        if reason is None:
            raise
        raise OSError(reason.errno, os.strerror(reason.errno or 0), str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(target.parent, os.O_RDONLY)


def _reason(temporary: Path, error: Exception) -> OSError | None:
    """What the system says about a file whose writer failed: torch and HDF5 hide that the disk is full."""
    if isinstance(error, OSError) and error.errno:
        return None if error.filename else error
    try:
        with temporary.open("ab") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found
    return None


def _sync(path: Path, flags: int) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
