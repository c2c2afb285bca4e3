"""Downloading one file over HTTP so that an interrupted transfer goes on where it stopped."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tracegrad.errors import DataError

CHUNK = 2**20  # bytes
TIMEOUT = 30.0  # seconds without an answer
Progress = Callable[[int, int], None]  # (bytes on disk, bytes in all or 0)


class _Interrupted(Exception):
    """The transfer stopped early; what arrived is kept."""


@dataclass(frozen=True)
class ResumingDownloader:
    """A downloader for pooch that keeps ``<name>.part`` between runs and asks for the rest (HTTP Range).

    Args:
        partial: where the incomplete file is kept, ``<folder>/<name>.part``.
        size: expected size in bytes; None where it is not known beforehand.
        progress: called with (bytes on disk, bytes in all or 0).
        attempts: how often the transfer is taken up again within one run.
        pause: seconds before the second attempt, doubled each time.
    """

    partial: Path
    size: int | None = None
    progress: Progress | None = None
    attempts: int = 4
    pause: float = 1.0

    @property
    def state(self) -> Path:
        """The file that remembers which version of the remote file the partial one belongs to."""
        return self.partial.with_name(self.partial.name + ".json")

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: object = None) -> None:
        """Download ``url`` to ``output_file`` (the signature is pooch's).

        Raises:
            DataError: if the server refuses, the size is wrong, the disk is full, or the transfer keeps stopping.
        """
        del pooch
        if not url.startswith(("http://", "https://")):
            raise DataError(f"{url}: expected an address that starts with http:// or https://")
        for attempt in range(self.attempts):
            try:
                self._transfer(url)
                break
            except _Interrupted as reason:
                if attempt == self.attempts - 1:
                    raise DataError(
                        f"{url}: interrupted after {self._have()} bytes ({reason}); they are kept in {self.partial}. "
                        "Run the same command again to go on"
                    ) from reason
                time.sleep(self.pause * 2**attempt)
        os.replace(self.partial, output_file)
        self.state.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def _transfer(self, url: str) -> None:
        have = self._have()
        known = self._read_state(url) if have else {}
        headers = {"User-Agent": "tracegrad", "Accept-Encoding": "identity"}
        if have and known:
            headers["Range"] = f"bytes={have}-"
            if known.get("validator"):
                headers["If-Range"] = known["validator"]
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
                self._receive(url, response, have, known)
        except urllib.error.HTTPError as error:
            error.close()
            self._refused(url, error, have, known)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _receive(self, url: str, response: Any, have: int, known: dict[str, Any]) -> None:
        length = int(response.headers.get("Content-Length") or 0)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        resumed = response.status == 206
        start = have if resumed else 0
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            self._restart("the server sent another part than asked for")
        if resumed and known.get("validator", "") != validator:
            self._restart("the file on the server has changed")
        total = start + length if length else self.size or 0
        if self.size is not None and total and total != self.size:
            raise DataError(f"{url}: expected {self.size} bytes, the server offers {total}; is the mirror up to date?")
        self._check_space(total - start)
        self.state.write_text(json.dumps({"url": url, "validator": validator, "total": total}), encoding="utf-8")
        with self.partial.open("ab" if resumed else "wb") as handle:
            self._copy(response, handle, start, total)
        if total and self._have() < total:
            raise _Interrupted("the server closed the connection early")

    def _copy(self, response: Any, handle: BinaryIO, done: int, total: int) -> None:
        while True:
            try:
                chunk = response.read(CHUNK)
            except http.client.IncompleteRead as error:
                self._write(handle, error.partial)
                raise _Interrupted("the server closed the connection early") from error
            if not chunk:
                return
            self._write(handle, chunk)
            done += len(chunk)
            if self.progress is not None:
                self.progress(done, total)

    def _write(self, handle: BinaryIO, chunk: bytes) -> None:
        try:
            handle.write(chunk)
        except OSError as error:
            raise self._disk_error(error) from error

    def _refused(self, url: str, error: urllib.error.HTTPError, have: int, known: dict[str, Any]) -> None:
        """Judge an error status; returns only if the partial file is already complete."""
        if error.code == 416:
            if have and have == known.get("total"):
                return
            self._restart("the partial file is longer than the file on the server")
        if error.code >= 500 or error.code == 429:
            raise _Interrupted(f"status {error.code}") from error
        raise DataError(
            f"{url}: the server answered {error.code} {error.reason}; give --mirror URL, or download the file by hand "
            "and use --source PATH"
        ) from error

    def _read_state(self, url: str) -> dict[str, Any]:
        """What is known about the partial file; empty (start again) if it is not of this address."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("url") == url else {}

    def _restart(self, reason: str) -> None:
        self.partial.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)
        raise _Interrupted(reason)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if needed > free:
            raise DataError(f"{self.partial.parent}: disk full, {needed} bytes are needed and {free} are free")

    def _disk_error(self, error: OSError) -> Exception:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        return DataError(
            f"{self.partial}: disk full after {self._have()} bytes; make space and run the same command again, "
            "the transfer goes on from there"
        )
