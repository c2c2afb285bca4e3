"""Datasets: named subsets of structures, read from disk one by one when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pooch
from ase.data import chemical_symbols

from tracegrad.data.compact import CompactSet, open_compact
from tracegrad.data.databases import BUNDLED_FOLDER as BUNDLED_FOLDER
from tracegrad.data.databases import DATABASES, database
from tracegrad.data.folders import FolderSet, open_folders
from tracegrad.data.splits import SUBSETS, split_sha256
from tracegrad.data.structure import Orbitals, Structure
from tracegrad.errors import DataError


@dataclass(frozen=True)
class StructureSequence(Sequence[Structure]):
    """A subset: structures are read, and checked, each time they are indexed; nothing is kept in memory.

    Args:
        names: identifiers in order.
        read: reads one structure by its identifier.
    """

    names: tuple[str, ...]
    read: Callable[[str], Structure]

    @overload
    def __getitem__(self, index: int) -> Structure: ...

    @overload
    def __getitem__(self, index: slice) -> StructureSequence: ...

    def __getitem__(self, index: int | slice) -> Structure | StructureSequence:
        """One structure, or a part of the subset."""
        if isinstance(index, slice):
            return StructureSequence(self.names[index], self.read)
        return self.read(self.names[index])

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.names)

    def __iter__(self) -> Iterator[Structure]:
        """Read the structures one after the other."""
        return (self.read(name) for name in self.names)


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test structures of one system.

    Args:
        key: MG, MM, BG, BB, BT, BS, or a name of one's own.
        source: ``bundled``, ``published`` or the path it was read from.
        orbitals: atomic number -> angular momenta of the shells.
        spinful: whether Hamiltonians have spin blocks.
        train: structures to learn from.
        val: structures to choose settings with.
        test: structures of the same kind as the training ones.
        test_twisted: twisted bilayers, never trained on.
        manifest: engine, settings, licence and so on, as far as known.
    """

    key: str
    source: str
    orbitals: Orbitals
    spinful: bool
    train: StructureSequence
    val: StructureSequence
    test: StructureSequence
    test_twisted: StructureSequence
    manifest: Mapping[str, Any]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols by atomic number."""
        return tuple(chemical_symbols[z] for z in sorted(self.orbitals))

    @property
    def subsets(self) -> dict[str, StructureSequence]:
        """All four subsets by name."""
        return {"train": self.train, "val": self.val, "test": self.test, "test_twisted": self.test_twisted}

    @cached_property
    def split_sha256(self) -> str:
        """Hash of the sorted identifiers per subset."""
        return split_sha256({name: subset.names for name, subset in self.subsets.items()})


def load_dataset(key: str, source: str | Path = "bundled") -> Dataset:
    """Load one of the six databases, bundled with the package or from a path.

    Args:
        key: MG, MM, BG, BB, BT or BS; with a path also a name of one's own.
        source: ``bundled``, ``published`` (what ``tracegrad data fetch`` left), or a compact file, a folder of DeepH
            folders, or a split file.

    Returns:
        The dataset; its structures are read and checked when they are indexed.

    Raises:
        DataError: if the key or the path is unknown, or the files cannot be right.
    """
    if str(source) == "bundled":
        return _from_compact(key, "bundled", database(key).bundled_paths)
    path = published_folder(key) if str(source) == "published" else Path(source)
    if str(source) == "published" and not path.is_dir():
        raise DataError(f"{path}: not found; fetch the published data first: tracegrad data fetch {database(key).key}")
    if not path.exists():
        raise DataError(f"{path}: not found; expected a compact .h5 file, a folder of DeepH folders or a split file")
    if path.suffix in (".h5", ".hdf5"):
        return _of_its_database(_from_compact(key, str(source), (path,)))
    return _of_its_database(_from_folders(key, str(source), open_folders(path, key)))


def _of_its_database(dataset: Dataset) -> Dataset:
    """The dataset; refused where it has the key of a known database and cannot be of it."""
    known = DATABASES.get(dataset.key)
    if known is None:
        return dataset
    named = str(dataset.manifest.get("key", dataset.key))
    expected = _contents(sorted(known.elements), known.spinful)
    found = _contents(sorted(dataset.elements), dataset.spinful)
    other = f"those of {named}, " if named != dataset.key and named in DATABASES else ""
    if other or found != expected:
        raise DataError(
            f"{dataset.source}: expected data of {dataset.key} ({known.system}; {expected}), found {other}{found}; "
            "give the key of the database that they are of, or a name of your own"
        )
    return dataset


def _contents(elements: Sequence[str], spinful: bool) -> str:
    return f"{', '.join(elements)} with{'' if spinful else 'out'} spin-orbit coupling"


def published_folder(key: str) -> Path:
    """Where ``tracegrad data fetch`` puts a published database: $TRACEGRAD_DATA/KEY, or the user's cache folder."""
    return Path(os.environ.get("TRACEGRAD_DATA") or pooch.os_cache("tracegrad")) / key


def _from_compact(key: str, source: str, paths: Sequence[Path]) -> Dataset:
    contents = CompactSet(tuple(open_compact(path) for path in paths))
    first = contents.parts[0]
    subsets = {name: StructureSequence(ids, contents.read) for name, ids in contents.subsets.items()}
    return Dataset(key, source, first.orbitals, first.spinful, manifest=first.manifest, **subsets)


def _from_folders(key: str, source: str, folders: FolderSet) -> Dataset:
    orbitals, spinful = folders.header()
    subsets = {name: StructureSequence(folders.split[name], folders.read) for name in SUBSETS}
    manifest = {"split_rule": folders.rule, "note": "DeepH folders; engine and licence are those of the files"}
    return Dataset(key, source, orbitals, spinful, manifest=manifest, **subsets)
