"""Unpacking zip archives from the network without trusting them."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tracegrad.errors import DataError

MAX_RATIO = 200  # unpacked over packed bytes; matrices reach 5, text files 20
MAX_MEMBERS = 2_000_000
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError)
DAMAGE_CODES = (None, errno.EINVAL)  # of an OSError: bzip2 on a damaged stream, a seek before the start of the file


class DamagedArchive(DataError):
    """A file is no zip archive, or not all of it can be unpacked; what to do depends on where it came from."""


def extract_zip(archive: str | Path, folder: str | Path) -> Path:
    """Unpack a zip archive into a folder, whole or not at all.

    Everything is unpacked beside the folder; what has its name until then is removed once the new one is in its place.

    Refused before anything is written: absolute paths, paths with "..", links, encrypted members, more than
    2 million members, more than 200 times the size of the archive, more than the free space of the disk.

    Args:
        archive: the zip file.
        folder: the folder to make; one that is there is replaced, with all that is in it.

    Returns:
        The folder.

    Raises:
        DamagedArchive: if the archive cannot be read.
        DataError: if it must not be unpacked, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            _check_members(archive, members, folder.parent)
            for member in members:
                content.extract(member, temporary)
        temporary.chmod(0o755)
        _replace(folder, temporary)
    except (*DAMAGE, OSError) as error:
        if not isinstance(error, OSError) or error.errno in DAMAGE_CODES:
            raise DamagedArchive(f"{archive}: damaged or no zip archive ({error})") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{folder}: disk full while unpacking {archive.name}; make space and run again") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _replace(folder: Path, new: Path) -> None:
    """Give the folder ``new`` the name of ``folder``; the old one comes back if that fails, and is removed if not."""
    old = new.with_name(f"{new.name}.old")
    present = os.path.lexists(folder)
    if present:
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except BaseException:
        if present:
            os.rename(old, folder)
        raise
    if old.is_symlink() or old.is_file():
        old.unlink()
    elif present:
        shutil.rmtree(old)


def _check_members(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{archive}: {len(members)} members, expected at most {MAX_MEMBERS}; not unpacked")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(member.filename).drive
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: member {member.filename!r} points outside the archive; not unpacked")
        if member.flag_bits & 0x1:
            raise DataError(f"{archive}: member {member.filename!r} is encrypted; expected an open archive")
    total = sum(member.file_size for member in members)
    size = archive.stat().st_size
    if total > MAX_RATIO * size:
        raise DataError(
            f"{archive}: {size} bytes would unpack to {total}, over {MAX_RATIO} times as much; not unpacked"
        )
    free = shutil.disk_usage(folder).free
    if total > free:
        raise DataError(f"{folder}: disk full, unpacking {archive.name} needs {total} bytes and {free} are free")
