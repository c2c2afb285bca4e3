"""Opening HDF5 files so that every fault of the file becomes a message for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from tracegrad.errors import DataError


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; faults inside the block are reported with the name of the file.

    Raises:
        DataError: if the file is missing, is no HDF5 file, is truncated, or lacks a name that is asked for.
    """
    if not path.is_file():
        raise DataError(f"{path}: file not found; expected an HDF5 file")
    try:
        with h5py.File(path, "r") as handle:
            yield handle
    except DataError:
        raise
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}); truncated? Copy or fetch it again") from error
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; expected the layout described in docs/data.md") from error


def read_array(group: h5py.Group, name: str, shape: tuple[int | None, ...], where: str) -> NDArray[Any]:
    """Read one dataset after checking its shape, so that no array larger than expected is ever allocated.

    Args:
        group: the open file or group.
        name: name of the dataset.
        shape: the expected shape; None for an axis of any length.
        where: file and structure for the message.

    Raises:
        DataError: if the dataset is missing, is no numeric array or has another shape.
    """
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "iufcb":
        raise DataError(f"{where}: no numeric array {name!r}; found {', '.join(sorted(group)[:8]) or 'nothing'}")
    matches = len(item.shape) == len(shape) and all(e is None or e == f for e, f in zip(shape, item.shape, strict=True))
    if not matches:
        raise DataError(f"{where}: expected {name!r} of shape {shape}, found {item.shape}")
    array: NDArray[Any] = item[()]
    return array
