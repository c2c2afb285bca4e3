"""Fetching the published databases: find the archives, download, check, unpack, split.

The checksums of the published archives are taken from the repository's own metadata, or given by the user; where
neither is known, the one found is recorded in ``fetch.json`` and compared from then on. What that record does not list,
folders and a split file of the user's own, is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
from pooch.downloaders import doi_to_repository

from tracegrad.atomic import atomic_write
from tracegrad.data.archives import DamagedArchive, extract_zip
from tracegrad.data.databases import RELEASES, Archive, Database, database
from tracegrad.data.dataset import published_folder
from tracegrad.data.download import ResumingDownloader
from tracegrad.data.folders import RECORD_FILE, SPLIT_FILE, FolderSet, read_split, scan_folders, write_split
from tracegrad.data.splits import split_sha256
from tracegrad.errors import DataError, did_you_mean

GIVEN, STATED = "the checksum given", "the repository's checksum"  # what an archive is known to be right by
ArchiveProgress = Callable[[str, int, int], None]  # (archive, bytes on disk, bytes in all or 0)


@dataclass(frozen=True)
class Remote:
    """Where an archive is.

    Args:
        name: file name.
        url: address.
        checksum: ``md5:...`` or ``sha256:...``, None where it is not known.
        size: bytes, None where it is not known.
    """

    name: str
    url: str
    checksum: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Fetched:
    """What ``fetch`` left on disk.

    Args:
        folder: the folder of the database; ``load_dataset(key, folder)`` reads it.
        split_file: subsets with their hash.
        counts: structures per subset.
        split_sha256: hash of the subsets.
        archives: name -> url, sha256, bytes, what the checksum was compared with, and that it was unpacked.
    """

    folder: Path
    split_file: Path
    counts: dict[str, int]
    split_sha256: str
    archives: dict[str, dict[str, Any]]


def fetch(
    key: str,
    folder: str | Path | None = None,
    *,
    mirror: str | None = None,
    sha256: dict[str, str] | None = None,
    progress: ArchiveProgress | None = None,
    pause: float = 1.0,
) -> Fetched:
    """Download and unpack a published database and write its split file.

    Everything already done is kept: complete archives, partial ones, unpacked folders. A folder that was unpacked here
    from another version of its archive is replaced, and so is the split file that was written here. A damaged archive
    that was compared with no checksum is set aside.

    Args:
        key: MG, MM, BG, BB, BT or BS.
        folder: where to put it; default ``published_folder(key)``.
        mirror: address of a folder that holds the archives under their names, used instead of the DOIs.
        sha256: archive name -> expected checksum; the name "" stands for every archive.
        progress: called with (archive, bytes on disk, bytes in all or 0).
        pause: seconds before an interrupted transfer is taken up again, doubled each time.

    Raises:
        DataError: if an archive cannot be found, transferred or unpacked, or has another checksum; if a checksum is
            given for an archive that the database does not have; or if a folder or a split file is in the way that was
            not made here.
    """
    entry = database(key)
    names = [archive.name for archive in entry.archives]
    unknown = sorted(set(sha256 or {}) - {"", *names})
    if unknown:
        near = did_you_mean(unknown[0], names)
        raise DataError(f"found a checksum for the archive {unknown[0]!r}, which {key} does not have. {near}")
    root = Path(folder) if folder is not None else published_folder(key)
    record = _read_record(root / RECORD_FILE)
    _refuse_foreign(root, names, record)
    (root / "archives").mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    for archive in entry.archives:
        known = (sha256 or {}).get(archive.name) or (sha256 or {}).get("")
        remote = locate(archive, entry, mirror)
        earlier = record.get(archive.name, {})
        unpacked = earlier.get("sha256") if earlier.get("unpacked", True) else None  # of what is in the folder
        path, origin = _download(remote, root, known, unpacked, progress, pause)
        facts = {"url": remote.url, "sha256": _sha256(path), "bytes": path.stat().st_size, "checked": origin}
        if facts["sha256"] != unpacked or not (root / path.stem).is_dir():
            _unpack(path, root, record, facts)
        record[archive.name] = {**facts, "unpacked": True}
        _write_record(root, record)
    folders = scan_folders(root, key)
    split_file = _write_split(folders, record)
    counts = {subset: len(chosen) for subset, chosen in folders.split.items()}
    return Fetched(root, split_file, counts, split_sha256(folders.split), {name: record[name] for name in names})


def _unpack(path: Path, root: Path, record: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    """Unpack an archive. It is recorded before: however the run is stopped, the folder is known as made here."""
    _write_record(root, {**record, path.name: {**facts, "unpacked": False}})
    try:
        extract_zip(path, root / path.stem)
    except (DataError, OSError) as error:
        _write_record(root, record)  # nothing was unpacked
        if not isinstance(error, DamagedArchive):
            raise
        by_hand = "unpack it by hand and use --source PATH"
        if facts["checked"] in (GIVEN, STATED):
            raise DataError(f"{error}. It is kept, for it has {facts['checked']}; {by_hand}") from error
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        raise DataError(
            f"{error}. It is now {aside}: run again to fetch another copy; if that is no better, {by_hand}"
        ) from error


def _refuse_foreign(root: Path, names: list[str], record: dict[str, dict[str, Any]]) -> None:
    """Refuse, before any transfer, to replace what is not recorded as made here."""
    folders = [root / Path(name).stem for name in names if name not in record]
    own = [*folders, *([] if record else [root / SPLIT_FILE])]
    for path in own:
        if os.path.lexists(path):
            raise DataError(
                f"{path}: already there, and not listed as fetched in {root / RECORD_FILE}; it is left alone. Move it "
                "away or delete it and run again, or give another folder (--out)"
            )


def locate(archive: Archive, entry: Database, mirror: str | None = None) -> Remote:
    """Address, size and checksum of an archive, from a mirror or from the records of the release.

    Raises:
        DataError: if the records cannot be reached or hold no such file.
    """
    if mirror is not None:
        return Remote(archive.name, f"{mirror.rstrip('/')}/{archive.name}")
    seen: list[str] = []
    for doi in (archive.doi,) if archive.doi else RELEASES:
        try:
            repository: Any = doi_to_repository(doi)
            holder = SimpleNamespace(registry={})
            repository.populate_registry(holder)
            match = _match(archive, entry, holder.registry)
            if match is not None:
                url = repository.download_url(match)
                return Remote(archive.name, url, holder.registry[match], _size(repository, match))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"doi:{doi}: cannot read the record ({error}); try again later, give --mirror URL, or download the "
                "archive by hand and use --source PATH"
            ) from error
        seen += sorted(holder.registry)
    raise DataError(
        f"{entry.key}: no file {archive.name!r} in the records; found {', '.join(seen) or 'none'}. "
        "Download the archive by hand and use --source PATH"
    )


def _match(archive: Archive, entry: Database, names: dict[str, str]) -> str | None:
    """The archive's own name, else (where it is a guess) the one zip file named after the unpacked folder."""
    if archive.name in names:
        return archive.name
    if archive.confirmed:
        return None
    stems = {Path(archive.name).stem.lower(), *(folder.lower() for folder in entry.folders)}
    zips = [name for name in names if name.lower().endswith(".zip")]
    fitting = [name for name in zips if any(name.lower().startswith(stem) for stem in stems)]
    return fitting[0] if len(fitting) == 1 else None


def _size(repository: Any, name: str) -> int | None:
    files = repository.api_response.get("files", [])
    sizes = [item.get("size") for item in files if item.get("key", item.get("filename")) == name]
    return int(sizes[0]) if sizes and sizes[0] is not None else None


def _download(
    remote: Remote,
    root: Path,
    given: str | None,
    recorded: str | None,
    progress: ArchiveProgress | None,
    pause: float,
) -> tuple[Path, str]:
    """Download (or find complete) one archive; returns its path and what its checksum was compared with."""
    options = (
        (f"sha256:{given}" if given else None, GIVEN),
        (remote.checksum, STATED),
        (f"sha256:{recorded}" if recorded else None, "the checksum of the first download"),
    )
    known, origin = next(((c, o) for c, o in options if c), (None, "nothing: none is known, this one is recorded"))
    report = None if progress is None else lambda done, total: progress(remote.name, done, total)
    partial = root / "archives" / f"{remote.name}.part"
    downloader = ResumingDownloader(partial, remote.size, report, pause=pause)
    try:
        path = pooch.retrieve(remote.url, known, fname=remote.name, path=root / "archives", downloader=downloader)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"{remote.url}: wrong checksum, not kept ({error}). Fetch again; if it stays, mirror or checksum is wrong"
        ) from error
    return Path(path), origin


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged record of earlier downloads ({error}); delete it") from error
    if not isinstance(record, dict) or not all(isinstance(facts, dict) for facts in record.values()):
        raise DataError(f"{path}: expected facts per archive in the record of earlier downloads; move it away")
    return record


def _write_record(root: Path, record: dict[str, dict[str, Any]]) -> None:
    with atomic_write(root / RECORD_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_split(folders: FolderSet, record: dict[str, dict[str, Any]]) -> Path:
    """Write the split file and record its hash; one with the same subsets is kept, and one of the user's is refused."""
    path = folders.root / SPLIT_FILE
    if os.path.lexists(path):
        if _same_subsets(path, folders):
            return path
        if not path.is_file() or _sha256(path) != record.get(SPLIT_FILE, {}).get("sha256"):
            raise DataError(
                f"{path}: not written here, or changed since, and its subsets are not those of the release's rule; it "
                "is left alone. The data are complete: use it as it is, or move it away and run again"
            )
    write_split(folders)
    record[SPLIT_FILE] = {"sha256": _sha256(path)}
    _write_record(folders.root, record)
    return path


def _same_subsets(path: Path, folders: FolderSet) -> bool:
    try:
        found = read_split(path)
    except DataError:
        return False
    return found.paths == folders.paths and split_sha256(found.split) == split_sha256(folders.split)
