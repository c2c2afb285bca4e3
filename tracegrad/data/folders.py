"""A dataset made of DeepH folders: which structure belongs to which subset, and the split file that records it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tracegrad.atomic import atomic_write
from tracegrad.data.databases import DATABASES
from tracegrad.data.deeph import find_deeph_folders, read_deeph, read_deeph_atoms
from tracegrad.data.splits import RELEASE_SEED, SUBSETS, Split, release_split, split_sha256
from tracegrad.data.structure import Orbitals, Structure, orbital_table
from tracegrad.errors import DataError

SPLIT_FILE = "split.json"
RECORD_FILE = "fetch.json"  # of a fetched database; the split file is written after it
SPLIT_FORMAT = "tracegrad-split"
TWISTED_MARK = "twist"  # in the path of a structure below the root: a test structure only
NOT_TWISTED = re.compile(r"(?<![a-z])(un|non|not)[-_ ]?twist")
FALLBACK_RATIOS = (0.6, 0.2)  # validation and test are the rest; only where the published counts do not fit


@dataclass(frozen=True)
class FolderSet:
    """DeepH folders with names and subsets.

    Args:
        root: the folder that holds them.
        paths: structure name -> path relative to ``root``.
        split: subset -> names.
        rule: how the subsets were made, in words.
    """

    root: Path
    paths: Mapping[str, str]
    split: Split
    rule: str

    def read(self, name: str, validate: bool = True) -> Structure:
        """Read one structure under its name in this set."""
        structure = read_deeph(self.root / self.paths[name], validate=validate)
        return structure if structure.name == name else Structure(**{**structure.fields(), "name": name})

    def header(self) -> tuple[Orbitals, bool]:
        """Orbitals of all elements and spin, from the headers of all structures.

        Raises:
            DataError: if two structures disagree.
        """
        orbitals: Orbitals = {}
        spins: dict[bool, str] = {}
        for name, path in self.paths.items():
            atoms = read_deeph_atoms(self.root / path)
            for number in sorted(set(atoms.numbers.tolist())):
                shells = atoms.orbitals.get(number, ())
                if orbitals.setdefault(number, shells) != shells:
                    raise DataError(
                        f"{self.root / path}: shells {orbital_table({number: shells})}, other structures of the set "
                        f"have {orbital_table({number: orbitals[number]})}; one dataset needs one basis"
                    )
            spins.setdefault(atoms.spinful, name)
        if len(spins) > 1:
            raise DataError(f"{self.root}: {spins[True]} is spinful, {spins[False]} is not; keep them apart")
        return orbitals, next(iter(spins))


def scan_folders(root: str | Path, key: str) -> FolderSet:
    """Find the structures below ``root`` and split them by the release's rule.

    Sorted folders are shuffled by numpy with seed 42 and cut at the published counts of ``key`` if exactly so many
    are there, else at 60 % and 80 %. Structures with "twist" in their path are twisted test structures; where no
    path says so, those of another size than the rest, if they are as many as were published.

    Raises:
        DataError: if there are none.
    """
    root = Path(root)
    relative = [PurePosixPath(folder.relative_to(root).as_posix()) for folder in find_deeph_folders(root)]
    basenames = [path.name or root.resolve().name for path in relative]
    count = Counter(basenames)
    paths: dict[str, str] = {}
    for path, basename in zip(relative, basenames, strict=True):
        name = basename if count[basename] == 1 else "__".join(path.parts)
        if name in paths:
            raise DataError(f"{root}: {paths[name]} and {path} would both be named {name}; rename one of them")
        paths[name] = str(path)
    twisted = [name for name, path in paths.items() if TWISTED_MARK in NOT_TWISTED.sub("", path.lower())]
    twisted = twisted or _published_twisted(root, paths, key)
    apart = set(twisted)
    bulk = [name for name in paths if name not in apart]
    published = DATABASES[key].counts_published[:3] if key in DATABASES else (0, 0, 0)
    if sum(published) == len(bulk):
        sizes, origin = published, "published counts"
    else:
        train, val = (int(ratio * len(bulk)) for ratio in FALLBACK_RATIOS)
        sizes, origin = (train, val, len(bulk) - train - val), "ratios 0.6 / 0.2 / rest"
    rule = f"sorted folders, numpy shuffle with seed {RELEASE_SEED}, {origin} {list(sizes)}; twisted ones only tested"
    return FolderSet(root, paths, release_split(bulk, sizes, twisted), rule)


def _published_twisted(root: Path, paths: Mapping[str, str], key: str) -> list[str]:
    """Structures with another number of atoms than most, if there are as many as the database has twisted ones."""
    expected = DATABASES[key].counts_published[3] if key in DATABASES else 0
    if not expected or len(paths) <= 2 * expected:
        return []
    sizes = {name: read_deeph_atoms(root / path).n_atoms for name, path in paths.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    others = [name for name, size in sizes.items() if size != usual]
    return others if len(others) == expected else []


def write_split(folders: FolderSet, path: str | Path | None = None) -> Path:
    """Write the split file (default ``root/split.json``) with its hash.

    Returns:
        The path of the split file.
    """
    target = Path(path) if path is not None else folders.root / SPLIT_FILE
    subsets = {s: {name: folders.paths[name] for name in sorted(folders.split[s])} for s in SUBSETS}
    content = {
        "format": SPLIT_FORMAT,
        "rule": folders.rule,
        "counts": {subset: len(names) for subset, names in subsets.items()},
        "sha256": split_sha256(folders.split),
        "subsets": subsets,
    }
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def read_split(path: str | Path) -> FolderSet:
    """Read a split file, which is one by its name or by what it says of itself.

    Raises:
        DataError: if it is no split file, is damaged, was changed without the hash that it holds, leaves its folder, or
            names missing structures or none.
    """
    path = Path(path)
    content: Any = None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        subsets = {subset: dict(content["subsets"].get(subset, {})) for subset in SUBSETS}
        stated = content.get("sha256")
        fault = ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
    if path.name != SPLIT_FILE and not (isinstance(content, dict) and content.get("format") == SPLIT_FORMAT):
        raise DataError(
            f"{path}: expected a compact .h5 file, a folder of DeepH folders or {SPLIT_FILE}, found a file that is "
            f"none of them ({fault or f'no format {SPLIT_FORMAT!r}'}); check the path"
        )
    if fault:
        raise DataError(f"{path}: no split file ({fault}); delete it to split anew")
    split: Split = {subset: tuple(sorted(names)) for subset, names in subsets.items()}
    if not any(split.values()):
        raise DataError(f"{path}: names no structures; expected at least one. Delete it to split anew")
    found = split_sha256(split)
    if stated is not None and found != stated:
        raise DataError(
            f"{path}: the subsets hash to {found}, the file says {stated}; delete the entry sha256 if "
            "the subsets were changed on purpose, or the file to split anew"
        )
    paths: dict[str, str] = {}
    for subset, names in subsets.items():
        for name, relative in names.items():
            inside = isinstance(relative, str) and not PurePosixPath(relative).is_absolute()
            if not inside or ".." in PurePosixPath(relative).parts:
                raise DataError(f"{path}: structure {name!r} has the path {relative!r}; expected one inside the folder")
            if paths.setdefault(name, relative) != relative or sum(name in n for n in subsets.values()) > 1:
                raise DataError(f"{path}: structure {name!r} is in more than one subset (one is {subset})")
            if not (path.parent / relative).is_dir():
                raise DataError(f"{path}: {relative} is missing; fetch the data again or delete the split file")
    return FolderSet(path.parent, paths, split, str(content.get("rule", "")))


def open_folders(path: str | Path, key: str) -> FolderSet:
    """The folder set of a split file, or of a folder with or without one.

    Raises:
        DataError: if the folder holds a part of a database only, or several sets; or as ``read_split`` and
            ``scan_folders`` say.
    """
    path = Path(path)
    if path.is_file():
        return read_split(path)
    if (path / SPLIT_FILE).is_file():
        return read_split(path / SPLIT_FILE)
    if (path / RECORD_FILE).is_file():
        raise DataError(
            f"{path}: expected a whole database, found {RECORD_FILE} and no {SPLIT_FILE}, which a fetch writes at its "
            f"end; run it again: tracegrad data fetch {key if key in DATABASES else 'KEY'} --out {path}, or delete "
            f"{RECORD_FILE} to use the part that is there"
        )
    inner = sorted(file.parent.name for file in path.glob(f"*/{SPLIT_FILE}"))
    if inner:
        raise DataError(
            f"{path}: expected one set of structures, found those of {', '.join(inner)}, each with a {SPLIT_FILE}; "
            "give the folder of one of them"
        )
    return scan_folders(path, key)
