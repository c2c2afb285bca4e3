"""Fetching from a local server: interruptions, partial files, wrong checksums, a full disk, hostile archives."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tracegrad.data import DATABASES, Structure, load_dataset, write_deeph
from tracegrad.data import fetch as fetch_module
from tracegrad.data.archives import DamagedArchive, extract_zip
from tracegrad.data.databases import Archive
from tracegrad.data.download import ResumingDownloader
from tracegrad.data.fetch import fetch, locate
from tracegrad.data.folders import read_split, write_split
from tracegrad.errors import DataError

NAME = "Monolayer_graphene_dataset.zip"


@dataclass
class Site:
    """A server on this machine and how it misbehaves."""

    content: dict[str, bytes]
    port: int = 0
    ranges: bool = True
    etag: str = '"one"'
    obeys_if_range: bool = True
    length: str = "stated"  # or "chunked", or "none": the answer ends with the connection
    drop_after: list[int] = field(default_factory=list)  # bytes sent before the connection is cut, per request
    status: list[int] = field(default_factory=list)  # answers that come before the real one
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of every request

    @property
    def url(self) -> str:
        """Address of the folder that is served."""
        return f"http://127.0.0.1:{self.port}"


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            name, wanted = self.path.strip("/"), self.headers.get("Range")
            site.seen.append((name, wanted))
            if site.status:
                return self.send_error(site.status.pop(0))
            if name not in site.content:
                return self.send_error(404)
            body, start = site.content[name], 0
            same = not site.obeys_if_range or self.headers.get("If-Range", site.etag) == site.etag
            if wanted and site.ranges and same:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", site.etag)
            part, end = body[start:], b"0\r\n\r\n"
            if site.length == "stated":
                self.send_header("Content-Length", str(len(part)))
            elif site.length == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if site.drop_after:
                part, end = part[: site.drop_after.pop(0)], b""
                self.close_connection = True
            if site.length == "chunked":
                pieces = [part[k : k + 500] for k in range(0, len(part), 500)]
                part = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end
            self.wfile.write(part)
            return None

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    """A running server; the test fills its content."""
    state = Site({})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive(tmp_path: Path, make_structure: Callable[..., Structure]) -> bytes:
    """A zip archive like the published ones, made of ten structures of our own."""
    for k in range(10):
        write_deeph(
            make_structure(seed=k, numbers=(6, 6, 6)), tmp_path / "made" / "Monolayer_graphene_dataset" / f"{k}"
        )
    path = shutil.make_archive(str(tmp_path / "made"), "zip", tmp_path / "made")
    return Path(path).read_bytes()


def test_a_database_is_fetched_unpacked_split_and_loaded(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    reported: list[tuple[str, int, int]] = []
    result = fetch("MG", tmp_path / "MG", mirror=site.url, progress=lambda *state: reported.append(state))
    assert reported[-1] == (NAME, len(archive), len(archive))
    assert result.counts == {"train": 6, "val": 2, "test": 2, "test_twisted": 0}
    assert result.archives[NAME]["sha256"] == hashlib.sha256(archive).hexdigest()
    assert "none is known" in result.archives[NAME]["checked"]
    dataset = load_dataset("MG", tmp_path / "MG")
    assert dataset.split_sha256 == result.split_sha256
    assert dataset.train[0].hamiltonian is not None
    requests = len(site.seen)
    again = fetch("MG", tmp_path / "MG", mirror=site.url)
    assert len(site.seen) == requests  # nothing is downloaded twice
    assert again.archives[NAME]["checked"] == "the checksum of the first download"


def test_the_published_source_is_found_by_name(
    site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEGRAD_DATA", str(tmp_path / "cache"))
    site.content[NAME] = archive
    assert fetch("MG", mirror=site.url).folder == tmp_path / "cache" / "MG"
    assert len(load_dataset("MG", "published").train) == 6


@pytest.mark.parametrize("length", ["stated", "chunked"])
def test_an_interrupted_transfer_goes_on_where_it_stopped(
    length: str, site: Site, archive: bytes, tmp_path: Path
) -> None:
    site.content[NAME] = archive
    site.length, site.drop_after = length, [1000, 2000]
    fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)
    assert [wanted for _, wanted in site.seen] == [None, "bytes=1000-", "bytes=3000-"]
    assert (tmp_path / "MG" / "archives" / NAME).read_bytes() == archive


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_of_no_stated_length_is_complete_at_the_size_of_the_record(
    known: bool, site: Site, archive: bytes, tmp_path: Path
) -> None:
    site.content[NAME] = archive
    site.length, site.drop_after = "none", [1000]
    size = len(archive) if known else None  # control: nothing tells that more was to come
    ResumingDownloader(tmp_path / "a.part", size, pause=0)(f"{site.url}/{NAME}", tmp_path / "a.zip")
    assert [wanted for _, wanted in site.seen] == ([None, "bytes=1000-"] if known else [None])
    assert (tmp_path / "a.zip").read_bytes() == (archive if known else archive[:1000])


@pytest.mark.parametrize("times", [1, 4])
def test_a_fault_of_the_encryption_is_an_interruption(
    times: int, site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content[NAME] = archive
    read, faults = http.client.HTTPResponse.read, [ssl.SSLError(1, "bad record mac")] * times

    def breaks(self: http.client.HTTPResponse, amount: int | None = None) -> bytes:
        if faults:
            raise faults.pop()
        return read(self, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaks)
    downloader = ResumingDownloader(tmp_path / "a.part", pause=0)
    if times == downloader.attempts:
        with pytest.raises(DataError, match=rf"{site.url}/{NAME}: interrupted after 0 bytes \(.*bad record mac"):
            downloader(f"{site.url}/{NAME}", tmp_path / "a.zip")
    downloader(f"{site.url}/{NAME}", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == archive


def test_a_partial_file_of_an_earlier_run_is_used(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    site.drop_after = [700, 0, 0, 0]  # every attempt of the first run ends early
    with pytest.raises(DataError, match=r"interrupted after 700 bytes .* Run the same command again"):
        fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)
    assert not (tmp_path / "MG" / "split.json").exists()
    assert (tmp_path / "MG" / "archives" / f"{NAME}.part").stat().st_size == 700
    site.seen.clear()
    fetch("MG", tmp_path / "MG", mirror=site.url)
    assert site.seen == [(NAME, "bytes=700-")]
    assert [p.name for p in (tmp_path / "MG" / "archives").iterdir()] == [NAME]


@pytest.mark.parametrize("server", ["no ranges", "changed file", "changed file, ranges forced", "too long", "complete"])
def test_a_partial_file_never_spoils_the_result(server: str, site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    partial = tmp_path / "MG" / "archives" / f"{NAME}.part"
    partial.parent.mkdir(parents=True)
    state = {"url": f"{site.url}/{NAME}", "validator": '"one"', "total": len(archive)}
    partial.write_bytes(b"x" * 900)
    if server == "no ranges":
        site.ranges = False
    elif server.startswith("changed file"):
        site.etag, site.obeys_if_range = '"two"', server == "changed file"
    elif server == "too long":
        partial.write_bytes(archive + b"more")
    else:
        partial.write_bytes(archive)
    partial.with_name(partial.name + ".json").write_text(json.dumps(state))
    fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)
    assert (tmp_path / "MG" / "archives" / NAME).read_bytes() == archive


def test_a_partial_file_of_unknown_origin_is_replaced(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    partial = tmp_path / "MG" / "archives" / f"{NAME}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"something else")
    fetch("MG", tmp_path / "MG", mirror=site.url)
    assert site.seen == [(NAME, None)]


def test_another_version_of_an_archive_is_unpacked_anew(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    fetch("MG", tmp_path / "MG", mirror=site.url)
    stream = io.BytesIO(archive)
    with zipfile.ZipFile(stream, "a") as content:
        content.writestr("NEW", "another version")
    site.content[NAME] = stream.getvalue()
    fetch("MG", tmp_path / "MG", mirror=site.url, sha256={"": hashlib.sha256(stream.getvalue()).hexdigest()})
    assert (tmp_path / "MG" / Path(NAME).stem / "NEW").is_file()


def test_a_folder_that_was_not_fetched_is_left_alone(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    notes = tmp_path / "MG" / Path(NAME).stem / "mine" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("weeks of work")
    with pytest.raises(
        DataError, match=r"_dataset: already there, and not listed as fetched in .*fetch\.json; .*Move it"
    ):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    assert site.seen == []
    assert [path.name for path in (tmp_path / "MG").iterdir()] == [Path(NAME).stem]
    assert notes.read_text() == "weeks of work"
    notes.parent.parent.rename(tmp_path / "elsewhere")
    assert fetch("MG", tmp_path / "MG", mirror=site.url).counts["train"] == 6


def test_a_split_file_that_was_not_fetched_is_left_alone(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    path = tmp_path / "MG" / "split.json"
    path.parent.mkdir()
    path.write_text('{"my": "own split"}')
    with pytest.raises(DataError, match=r"split\.json: already there, and not listed as fetched"):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    assert site.seen == []
    assert path.read_text() == '{"my": "own split"}'
    path.unlink()
    fetch("MG", tmp_path / "MG", mirror=site.url)
    plain = json.dumps(json.loads(path.read_text()))  # the same subsets, written another way
    path.write_text(plain)
    fetch("MG", tmp_path / "MG", mirror=site.url)
    assert path.read_text() == plain
    folders = read_split(path)
    write_split(replace(folders, split={**folders.split, "train": folders.split["val"], "val": folders.split["train"]}))
    own = path.read_bytes()
    with pytest.raises(DataError, match=r"split\.json: not written here, or changed since, .* The data are complete"):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    assert path.read_bytes() == own
    assert len(load_dataset("MG", tmp_path / "MG").train) == 2


def test_a_split_file_of_another_version_is_written_anew(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    fetch("MG", tmp_path / "MG", mirror=site.url)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            if f"{Path(NAME).stem}/9/" not in member.filename:
                new.writestr(member, old.read(member))
    site.content[NAME] = stream.getvalue()
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    result = fetch("MG", tmp_path / "MG", mirror=site.url, sha256={"": sha256})
    assert sum(result.counts.values()) == 9
    assert load_dataset("MG", tmp_path / "MG").split_sha256 == result.split_sha256


@pytest.mark.parametrize("content", ["[]", '{"a.zip": "text"}'])
def test_a_record_that_is_none_is_refused(content: str, site: Site, tmp_path: Path) -> None:
    (tmp_path / "fetch.json").write_text(content)
    with pytest.raises(DataError, match=r"fetch\.json: expected facts per archive"):
        fetch("MG", tmp_path, mirror=site.url)
    assert site.seen == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):  # not a word about a damaged record
        fetch("MG", tmp_path / "file", mirror=site.url)


@pytest.mark.parametrize("source", ["published", "path"])
def test_a_database_that_is_fetched_in_part_is_not_loaded(
    source: str, site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEGRAD_DATA", str(tmp_path))
    place = tmp_path / "MG" if source == "path" else source
    first = DATABASES["MG"].archives[0]
    monkeypatch.setitem(DATABASES, "MG", replace(DATABASES["MG"], archives=(first, Archive("twisted.zip"))))
    site.content[NAME] = archive
    with pytest.raises(DataError, match="answered 404"):
        fetch("MG", mirror=site.url)
    with pytest.raises(DataError, match=r"run it again: tracegrad data fetch MG --out .*MG, or delete fetch\.json"):
        load_dataset("MG", place)
    record = (tmp_path / "MG" / "fetch.json").rename(tmp_path / "fetch.json")
    assert len(load_dataset("MG", place).train) == 6  # control: folders of one's own need no split file
    record.rename(tmp_path / "MG" / "fetch.json")
    site.content["twisted.zip"] = _zip({"note": b"twisted structures"})
    fetch("MG", mirror=site.url)
    assert len(load_dataset("MG", place).train) == 6


@pytest.mark.parametrize("note", ["written", "of an older release", "of nothing unpacked"])
def test_a_fetch_stopped_between_unpacking_and_recording_goes_on(
    note: str, site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content[NAME] = archive
    folder = tmp_path / "MG" / Path(NAME).stem

    def unpacked_and_stopped(*arguments: Path) -> None:
        extract_zip(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module, "extract_zip", unpacked_and_stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    monkeypatch.undo()
    (folder / "half").touch()
    record = tmp_path / "MG" / "fetch.json"
    facts = json.loads(record.read_text())
    assert facts[NAME].pop("unpacked") is False
    if note == "of an older release":  # which wrote it after unpacking only
        record.write_text(json.dumps(facts))
    elif note == "of nothing unpacked":  # control
        record.unlink()
        with pytest.raises(DataError, match="already there, and not listed"):
            fetch("MG", tmp_path / "MG", mirror=site.url)
        return
    result = fetch("MG", tmp_path / "MG", mirror=site.url)
    assert result.counts["train"] == 6
    assert result.archives[NAME]["unpacked"] is True
    assert len(site.seen) == 1  # the archive was complete
    assert (folder / "half").exists() is (note == "of an older release")


def test_an_archive_that_cannot_be_unpacked_is_fetched_again(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    site.length, site.drop_after = "none", [len(archive) // 2]
    archives = tmp_path / "MG" / "archives"
    with pytest.raises(DataError, match=r"damaged or no zip archive .*zip\.damaged: run again to fetch another copy"):
        fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)
    assert [path.name for path in archives.iterdir()] == [f"{NAME}.damaged"]
    assert fetch("MG", tmp_path / "MG", mirror=site.url).counts["train"] == 6
    assert len(site.seen) == 2


def test_an_archive_with_the_right_checksum_is_kept_though_it_cannot_be_unpacked(site: Site, tmp_path: Path) -> None:
    site.content[NAME] = b"not what the release holds"
    sha256 = hashlib.sha256(site.content[NAME]).hexdigest()
    for _ in range(2):
        with pytest.raises(DataError, match=r"damaged .* It is kept, for it has the checksum given; unpack it by hand"):
            fetch("MG", tmp_path / "MG", mirror=site.url, sha256={"": sha256})
        assert [path.name for path in (tmp_path / "MG" / "archives").iterdir()] == [NAME]
    assert len(site.seen) == 1


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_what_could_not_be_unpacked_is_not_listed(
    fault: int, site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content[NAME] = archive

    def fails(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(zipfile.ZipFile, "extract", fails)
    with pytest.raises((DataError, OSError), match=r"disk full|Input/output"):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    monkeypatch.undo()
    own = tmp_path / "MG" / Path(NAME).stem
    own.mkdir()
    with pytest.raises(DataError, match="already there, and not listed"):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    own.rmdir()
    fetch("MG", tmp_path / "MG", mirror=site.url)
    assert len(site.seen) == 1


def test_a_wrong_checksum_leaves_nothing(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    right = hashlib.sha256(archive).hexdigest()
    with pytest.raises(DataError, match=f"(?s)wrong checksum.*{right}"):
        fetch("MG", tmp_path / "MG", mirror=site.url, sha256={"": "0" * 64})
    assert list((tmp_path / "MG" / "archives").iterdir()) == []
    result = fetch("MG", tmp_path / "MG", mirror=site.url, sha256={NAME: right})
    assert result.archives[NAME]["checked"] == "the checksum given"
    # A damaged copy is noticed by the recorded checksum, and replaced.
    (tmp_path / "MG" / "archives" / NAME).write_bytes(archive[:-1] + b"?")
    fetch("MG", tmp_path / "MG", mirror=site.url)
    assert (tmp_path / "MG" / "archives" / NAME).read_bytes() == archive


def test_a_checksum_for_an_unknown_archive_stops_before_any_transfer(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"grafene.*, which MG does not have. Did you mean '{NAME}'"):
        fetch("MG", tmp_path / "MG", mirror=site.url, sha256={"Monolayer_grafene_dataset.zip": "0" * 64})
    assert site.seen == []
    assert not (tmp_path / "MG").exists()


@pytest.mark.parametrize("words", [["--quiet"], []], ids=["quiet", "control"])
def test_quiet_is_quiet(words: list[str], site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    command = ["data", "fetch", "MG", "--mirror", site.url, "--out", str(tmp_path / "MG"), *words]
    code = f"import sys\nfrom tracegrad.cli import main\nsys.exit(main({command!r}))"  # loggers keep the first stderr
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stderr == ""
    assert (run.stdout == "") is bool(words)


class _FullDisk(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_the_partial_file_is_kept(
    site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content[NAME] = archive
    downloader = ResumingDownloader(tmp_path / "a.part", pause=0)
    site.drop_after = [500]
    copy = ResumingDownloader._copy

    def fills_up(self: ResumingDownloader, response: object, handle: object, done: int, total: int) -> None:
        copy(self, response, _FullDisk() if done else handle, done, total)  # type: ignore[arg-type]

    monkeypatch.setattr(ResumingDownloader, "_copy", fills_up)
    with pytest.raises(DataError, match="disk full after 500 bytes; make space and run the same command again"):
        downloader(f"{site.url}/{NAME}", tmp_path / "out.zip")
    monkeypatch.undo()
    assert (tmp_path / "a.part").read_bytes() == archive[:500]
    downloader(f"{site.url}/{NAME}", tmp_path / "out.zip")
    assert (tmp_path / "out.zip").read_bytes() == archive


def test_a_disk_too_small_is_noticed_before_the_transfer(
    site: Site, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content[NAME] = archive
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(DataError, match=f"disk full, {len(archive)} bytes are needed and 10 are free"):
        fetch("MG", tmp_path / "MG", mirror=site.url)
    assert list((tmp_path / "MG" / "archives").iterdir()) == []


def test_a_full_disk_while_unpacking_leaves_no_half_folder(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(archive)
    (tmp_path / "work").mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(DataError, match=r"disk full while unpacking a\.zip"):
        extract_zip(tmp_path / "a.zip", tmp_path / "work" / "a")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("status", "message"), [([404], "answered 404"), ([503] * 4, "interrupted after 0 bytes .*503")]
)
def test_a_refusal_of_the_server_is_passed_on(
    status: list[int], message: str, site: Site, archive: bytes, tmp_path: Path
) -> None:
    site.content[NAME] = archive
    site.status = list(status)
    with pytest.raises(DataError, match=message):
        fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)
    site.status = [503]  # a passing fault is overcome
    fetch("MG", tmp_path / "MG", mirror=site.url, pause=0)


def test_addresses_and_servers_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="starts with http"):
        ResumingDownloader(tmp_path / "a.part")("file:///etc/hostname", tmp_path / "a")
    with pytest.raises(DataError, match="interrupted after 0 bytes"):
        ResumingDownloader(tmp_path / "a.part", attempts=1)("http://127.0.0.1:9/a.zip", tmp_path / "a")
    with pytest.raises(DataError, match="unknown database 'MC'"):
        fetch("MC", tmp_path)


def test_another_size_than_the_record_states_is_refused(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.content[NAME] = archive
    with pytest.raises(DataError, match=f"expected 12 bytes, the server offers {len(archive)}"):
        ResumingDownloader(tmp_path / "a.part", size=12)(f"{site.url}/{NAME}", tmp_path / "a.zip")


def _zip(members: dict[str, bytes], mode: int = 0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            content.writestr(info, data)
    return stream.getvalue()


HOSTILE = {
    "parent folder": (_zip({"a/../../evil": b"x"}), "points outside"),
    "absolute path": (_zip({"/tmp/evil": b"x"}), "points outside"),
    "windows path": (_zip({"C:\\evil": b"x"}), "points outside"),
    "backslashes": (_zip({"..\\..\\evil": b"x"}), "points outside"),
    "link": (_zip({"a": b"/etc/hostname"}, mode=0o120777), "points outside"),
    "bomb": (_zip({"a": bytes(10**7)}), "would unpack to 10000000"),
    "no archive": (b"<html>not found</html>", "damaged or no zip archive"),
    "truncated": (_zip({"a": b"some content"})[:-30], "damaged or no zip archive"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_damaged_archives_write_nothing(kind: str, tmp_path: Path) -> None:
    content, message = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        extract_zip(tmp_path / "in" / "a.zip", tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_byte_is_named_or_does_no_harm(method: int, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.zip"
    content = {"a": rng.bytes(30) + b"text" * 5, "b": rng.bytes(20)}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    sound, refusals = path.read_bytes(), []
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            extract_zip(path, tmp_path / "out")
        except DataError as error:
            refusals.append(error)
        else:  # the name, the time or the attributes of a member
            assert {file.read_bytes() for file in (tmp_path / "out").iterdir()} <= set(content.values())
    assert sum(isinstance(error, DamagedArchive) for error in refusals) > 100
    assert all("a.zip" in str(error) for error in refusals)
    path.write_bytes(sound)  # control
    extract_zip(path, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == content


def test_a_harmless_archive_replaces_an_older_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "a.zip").write_bytes(_zip({"b/new": b"x"}))
    extract_zip(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["new"]
    assert not (tmp_path / "a" / "old").exists()


def test_a_link_is_replaced_and_what_it_names_is_not(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").touch()
    (tmp_path / "a").symlink_to(tmp_path / "far")
    (tmp_path / "a.zip").write_bytes(_zip({"new": b"x"}))
    extract_zip(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.zip", "far"]


def test_an_older_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "a").mkdir(parents=True)
    (work / "a" / "old").touch()
    (tmp_path / "a.zip").write_bytes(_zip({"new": b"x"}))
    rename, done = os.rename, []

    def fails_the_second_time(source: Path, target: Path) -> None:
        done.append(target)
        if len(done) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_the_second_time)
    with pytest.raises(OSError, match="Input/output error"):
        extract_zip(tmp_path / "a.zip", work / "a")
    assert [path.name for path in work.iterdir()] == ["a"]
    assert [path.name for path in (work / "a").iterdir()] == ["old"]
    extract_zip(tmp_path / "a.zip", work / "a")
    assert [path.name for path in (work / "a").iterdir()] == ["new"]


@dataclass
class Record:
    """A record of the repository as pooch presents it."""

    doi: str
    files: dict[str, str]

    def populate_registry(self, holder: SimpleNamespace) -> None:
        """Checksums of all files."""
        holder.registry.update({name: "md5:" + md5 for name, md5 in self.files.items()})

    def download_url(self, name: str) -> str:
        """Address of one file."""
        return f"http://example.invalid/{self.doi}/{name}"

    @property
    def api_response(self) -> dict[str, list[dict[str, object]]]:
        """What the repository says about its files."""
        return {"files": [{"key": name, "size": 7} for name in self.files]}


def test_archives_are_located_in_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        "10.5281/zenodo.7553640": {"Bilayer_graphene_dataset.zip": "aa", "Bismuth_twisted.zip": "bb"},
        "10.5281/zenodo.7553827": {"Bi2Se3.zip": "cc", "Monolayer_graphene_dataset_v2.zip": "dd"},
        "10.5281/zenodo.7553843": {"Bi2Te3_dataset_soc.zip": "ee"},
    }
    monkeypatch.setattr(fetch_module, "doi_to_repository", lambda doi: Record(doi, records[doi]))
    found = {key: [locate(a, DATABASES[key]) for a in DATABASES[key].archives] for key in ("MG", "BG", "BT", "BS")}
    assert found["BG"][0].url.endswith("7553640/Bilayer_graphene_dataset.zip")
    assert (found["BT"][0].checksum, found["BT"][0].size) == ("md5:ee", 7)
    assert found["BS"][0].url.endswith("7553827/Bi2Se3.zip")
    assert found["MG"][0].url.endswith("Monolayer_graphene_dataset_v2.zip")  # a guessed name finds the one that fits
    with pytest.raises(DataError, match=r"no file 'Monolayer_MoS2_dataset.zip' .*found Bi.*use --source PATH"):
        locate(DATABASES["MM"].archives[0], DATABASES["MM"])
    with pytest.raises(DataError, match=r"no file 'Bilayer\.zip'"):
        locate(Archive("Bilayer.zip", "10.5281/zenodo.7553640", confirmed=True), DATABASES["BG"])

    def offline(doi: str) -> Record:
        raise OSError("no route")

    monkeypatch.setattr(fetch_module, "doi_to_repository", offline)
    with pytest.raises(DataError, match=r"cannot read the record \(no route\); .* --mirror URL"):
        locate(DATABASES["BT"].archives[0], DATABASES["BT"])
