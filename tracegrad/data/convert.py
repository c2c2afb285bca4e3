"""Conversion between DeepH folders (legacy and new) and the compact form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tracegrad.data.compact import CompactSet, open_compact, write_compact
from tracegrad.data.databases import DATABASES
from tracegrad.data.deeph import folder_form, read_deeph
from tracegrad.data.deeph_write import new_folder, write_deeph
from tracegrad.data.folders import FolderSet, open_folders, write_split
from tracegrad.data.splits import SUBSETS, Split
from tracegrad.data.structure import Structure
from tracegrad.errors import DataError

PART_FACTS = ("counts", "seeds", "kmeshes")  # of a manifest: true of its own file only, not of a set of several
TARGETS = {"deeph": "legacy", "deeph-new": "new", "compact": ""}

Item = tuple[str, str, Callable[[bool], Structure]]


def open_source(source: str | Path) -> tuple[list[Item], dict[str, object]]:
    """All structures of a key, a compact file, a DeepH folder, a folder of them or a split file, unread.

    Returns:
        items: (subset, name, reader of one structure; its argument says whether to validate), sorted by subset.
        manifest: facts that hold for all of them, as far as known.

    Raises:
        DataError: if there is nothing to read at ``source``.
    """
    bundled = DATABASES[source].bundled_paths if isinstance(source, str) and source in DATABASES else ()
    path = bundled[0] if bundled else Path(source)
    if not path.exists():
        raise DataError(f"{source}: not found; expected {', '.join(DATABASES)}, a .h5 file, a folder or a split file")
    if path.suffix in (".h5", ".hdf5"):
        contents = CompactSet(tuple(open_compact(part) for part in bundled or (path,)))
        items = [(s, name, _reader(contents.read, name)) for s in SUBSETS for name in contents.subsets[s]]
        return items, {k: v for k, v in contents.parts[0].manifest.items() if k not in PART_FACTS}
    if path.is_dir() and folder_form(path):
        return [("test", path.resolve().name, lambda validate: read_deeph(path, validate))], {}
    folders = open_folders(path, path.name)
    items = [(s, name, _reader(folders.read, name)) for s in SUBSETS for name in folders.split[s]]
    return items, {"split_rule": folders.rule}


def convert(source: str | Path, target: str | Path, to: str) -> int:
    """Write all structures of ``source`` in another form, whole or not at all; values are exact where the form allows.

    Exact: DeepH folders among each other, and layout 1 to 2 for H (the overlap is rounded to 1e-8). The compact
    form rounds to 1e-6 hartree and stores one direction of every pair; the new DeepH form groups atoms by element.

    Args:
        source: see ``open_source``.
        target: a new .h5 file for ``compact``, else a new folder, one sub-folder per subset and structure
            (one structure folder for one structure folder).
        to: ``deeph``, ``deeph-new`` or ``compact``.

    Returns:
        How many structures were written.

    Raises:
        DataError: if the form is unknown, the source cannot be right, or the target is already there.
    """
    if to not in TARGETS:
        raise DataError(f"unknown form {to!r}; expected one of {', '.join(TARGETS)}")
    target = Path(target)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DataError(f"{target}: already there; choose another name or remove it")
    items, manifest = open_source(source)
    if to == "compact":
        if target.suffix not in (".h5", ".hdf5"):
            raise DataError(f"{target}: the compact form is one file; expected a name ending in .h5")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_compact(target, ((subset, read(True)) for subset, _, read in items), manifest)
        return len(items)
    form = TARGETS[to]
    if str(source) not in DATABASES and Path(source).is_dir() and folder_form(Path(source)):
        write_deeph(items[0][2](True), target, form)
        return 1
    paths: dict[str, str] = {}
    split: Split = {subset: tuple(name for s, name, _ in items if s == subset) for subset in SUBSETS}
    rule = str(manifest.get("split_rule", f"subsets of {Path(source).name}"))
    with new_folder(target) as temporary:
        for subset, name, read in items:
            paths[name] = f"{subset}/{name}"
            write_deeph(read(True), temporary / paths[name], form)
        write_split(FolderSet(temporary, paths, split, rule))
    return len(items)


def _reader(read: Callable[[str, bool], Structure], name: str) -> Callable[[bool], Structure]:
    return lambda validate: read(name, validate)
