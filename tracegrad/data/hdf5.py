"""Opening HDF5 files so that every fault of the file becomes a message for the user."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from tracegrad.errors import DataError

HEAP_HEADER = struct.Struct("<4sB3xQ")  # global heap: signature, version, size of the whole
HEAP_OBJECT = struct.Struct("<HHIQ")  # object in it: index, references, nothing, size
KINDS = {"b": "truth values", "i": "integers", "u": "integers", "f": "real numbers", "c": "complex numbers"}
# attribute with one text: kind (1), dataspace (scalar; version 1 or 2), length; "." is a byte that may be anything
TEXT = re.compile(rb"\x19(.)..\x10\0{3}.{12}(?:.{4}\x01\0[\0-\7].{5}|\x02\0..)(.{4})", re.DOTALL)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; faults inside the block are reported with the name of the file.

    Raises:
        DataError: if the file is missing, is no HDF5 file, is truncated, or lacks a name that is asked for.
    """
    if not path.is_file():
        raise DataError(f"{path}: file not found; expected an HDF5 file")
    try:
        state = path.stat()
        _refuse_damaged_texts(path, state.st_size, state.st_mtime_ns)
        with h5py.File(path, "r") as handle:
            yield handle
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # the last two for types that numpy lacks
        raise DataError(f"{path}: not a readable HDF5 file ({error}); truncated? Copy or fetch it again") from error
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; expected the layout described in docs/data.md") from error


@lru_cache(maxsize=64)
def _refuse_damaged_texts(path: Path, size: int, changed: int) -> None:
    """Refuse texts that libhdf5 would trust: it would walk a heap forever, allocate gigabytes, or crash.

    Args:
        path: the file; it is read once per version.
        size: of the file.
        changed: when it was last changed.

    Raises:
        DataError: if a global heap (where texts lie) holds an object of no size, a text is longer than the file, or an
            attribute is neither text (kind 1) nor a sequence (kind 0).
    """
    if not size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL")
        while start >= 0:
            _refuse_endless_heap(path, content, start)
            start = content.find(b"GCOL", start + 1)
        for text in TEXT.finditer(content):
            kind, length = text[1][0] % 16, int.from_bytes(text[2], "little")
            if kind > 1 or length > size:
                raise DataError(
                    f"{path}: damaged (the attribute at byte {text.start()} is of kind {kind}, expected 0 or 1, "
                    f"and has {length} bytes, the file {size}); copy or fetch it again"
                )


def _refuse_endless_heap(path: Path, content: mmap.mmap, start: int) -> None:
    """Walk the global heap that begins at byte ``start`` as libhdf5 does, and refuse a step of no size."""
    place, end = start + HEAP_HEADER.size, len(content)
    if place <= end:
        _, version, size = HEAP_HEADER.unpack_from(content, start)
        end = min(end, start + size) if version == 1 else 0
    while place + HEAP_OBJECT.size <= end:
        index, _, _, size = HEAP_OBJECT.unpack_from(content, place)
        step = (-(-size // 8) * 8 + HEAP_OBJECT.size if index else size) % 2**64  # as the library counts
        if not step:
            raise DataError(f"{path}: damaged (global heap at byte {start}); copy or fetch it again")
        place += step


def read_array(group: h5py.Group, name: str, shape: tuple[int | None, ...], kinds: str, where: str) -> NDArray[Any]:
    """Read one dataset after checking its type and shape, so that no array larger than expected is ever allocated.

    Args:
        group: the open file or group.
        name: name of the dataset.
        shape: the expected shape; None for an axis of any length.
        kinds: numpy's letters of the types that it may have: b, i, u, f, c.
        where: file and structure for the message.

    Raises:
        DataError: if the dataset is missing, cannot be opened, or is of another type or shape.
    """
    item = None
    try:
        if name in group:  # group.get would be silent about the reason
            item = group[name]
    except KeyError as error:
        raise DataError(
            f"{where}: {name!r} is there and cannot be opened ({error.args[0]}); copy or fetch the file again, or "
            f"update h5py, which is {h5py.__version__} here"
        ) from error
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in KINDS:
        raise DataError(f"{where}: no numeric array {name!r}; found {', '.join(sorted(group)[:8]) or 'nothing'}")
    if item.dtype.kind not in kinds:
        expected = " or ".join(dict.fromkeys(KINDS[kind] for kind in kinds))
        raise DataError(f"{where}: expected {expected} in {name!r}, found {item.dtype}; write the file again")
    matches = len(item.shape) == len(shape) and all(e is None or e == f for e, f in zip(shape, item.shape, strict=True))
    if not matches:
        raise DataError(f"{where}: expected {name!r} of shape {shape}, found {item.shape}")
    array: NDArray[Any] = item[()]
    return array
