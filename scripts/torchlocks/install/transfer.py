"""Resumable download of one file through py-rattler's client, with stalls detected and failures classified.

py-rattler moves the bytes, with its credentials, proxies and protocols (https, oci, s3, gcs). Its own retrying covers
only responses that are errors, not bodies that break off, and its time-out would also end a download that is slow but
alive; so both are dealt with here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal
from urllib.parse import urlsplit

from torchlocks.core.disk import is_disk_full
from torchlocks.core.progress import Task
from torchlocks.core.urls import mask
from torchlocks.lockfile.models import LockedPackage

if TYPE_CHECKING:
    from rattler import Client

_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})([^)]*)\)")
# The responses after which the same request may well succeed (RFC 9110 and 6585).
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

# Length in bytes of the prefix that detects a restarted response.
_HEAD = 64

LOWEST_RATE = 1000
"""Bytes a second, on average over the time that a stall may take: a slower download counts as broken."""
MOST = 16 << 30
"""Limit in bytes for a package whose size is not in the lock; the largest of conda-forge have about 2 GB."""

Kind = Literal["passing", "lasting", "unreachable", "wrong"]


class BrokenError(Exception):
    """One attempt at one URL failed.

    `passing`: the same request may succeed later; `lasting`: it will not; `unreachable`: nothing answered; `wrong`: the
    bytes are not those of the lock.
    """

    def __init__(self, why: str, kind: Kind, status: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.kind = kind
        self.status = status


class Download:
    """Resumable download of one package; received bytes are kept from one attempt to the next.

    `task` receives the number of bytes as they arrive, and a negative number for those that are discarded.
    """

    def __init__(self, package: LockedPackage, target: Path, task: Task | None) -> None:
        self._package = package
        self._target = target
        self._task = task
        # Bytes arrive in py-rattler's threads; the task is advanced in the loop's.
        self._loop = asyncio.get_running_loop()
        self._received = 0
        self._restart()
        self._target.write_bytes(b"")

    def _restart(self) -> None:
        self._advance(-self._received)
        self._received = 0
        self._head = b""
        self._digest = hashlib.sha256() if self._package.sha256 is not None else hashlib.md5(usedforsecurity=False)

    def _advance(self, amount: int) -> None:
        if self._task is not None and amount:
            self._loop.call_soon_threadsafe(self._task.advance, amount, self._package.name)

    async def fetch(
        self, client: Client, url: str, resume: dict[tuple[str, str], int], *, stall_timeout_s: float
    ) -> None:
        """Download the rest of the file from `url`, and compare it with the lock.

        Raises BrokenError, or OSError when the disk is full.
        """
        parts = urlsplit(url)
        start = self._received
        resume[parts.hostname or "", parts.path] = start
        try:
            await self._transfer(client, url, stall_timeout_s)
        except BrokenError as broken:
            # 416: no bytes from this offset on, so the earlier ones were of another file.
            if broken.kind != "wrong" and not (start and broken.status == 416):
                raise
            self._restart()
            if not start:
                raise
            # The earlier bytes may have been of another file: download it from the start.
            resume[parts.hostname or "", parts.path] = 0
            try:
                await self._transfer(client, url, stall_timeout_s)
            except BrokenError as again:
                if again.kind == "wrong":
                    self._restart()
                raise
        finally:
            del resume[parts.hostname or "", parts.path]

    async def _transfer(self, client: Client, url: str, stall_timeout_s: float) -> None:
        from rattler.package_streaming import download_to_writer

        with self._target.open("r+b", buffering=1 << 20) as file:
            file.seek(self._received)
            sink = _Sink(self, file)
            transfer = asyncio.ensure_future(download_to_writer(client, url, sink))
            try:
                # Of each span of time: when it began, and how many bytes had come by then.
                left, began, before = stall_timeout_s, time.monotonic(), sink.total
                while not (await asyncio.wait({transfer}, timeout=left))[0]:
                    now = time.monotonic()
                    left = min(sink.last, began) + stall_timeout_s - now
                    if sink.last + stall_timeout_s <= now:
                        kind: Kind = "passing" if self._received else "unreachable"
                        raise BrokenError(f"nothing came for {stall_timeout_s:g} s (time-out)", kind)
                    if began + stall_timeout_s <= now:
                        if sink.total - before < LOWEST_RATE * stall_timeout_s:
                            what = f"fewer than {LOWEST_RATE} bytes a second came for {stall_timeout_s:g} s"
                            raise BrokenError(what, "passing")
                        left, began, before = stall_timeout_s, now, sink.total
                    left = max(left, 0.01)
                transfer.result()
                file.truncate()
            except (RuntimeError, OSError) as error:
                cause = sink.error or error
                if is_disk_full(cause):
                    raise cause from None
                raise (cause if isinstance(cause, BrokenError) else classify(cause, self._received)) from error
            finally:
                transfer.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await transfer
        if (why := not_as_locked(self._package, self._received, self._digest.hexdigest())) is not None:
            raise BrokenError(why, "wrong")

    def take(self, chunk: bytes, file: BinaryIO, *, first: bool) -> None:
        """Write, hash and report a chunk; `first` is True for the first chunk of a response.

        Raises BrokenError if there are more bytes than in the lock, OSError if the disk is full.
        """
        if first and len(self._head) == _HEAD and chunk.startswith(self._head):
            # The server ignored the range and sends the whole file.
            self._restart()
            file.seek(0)
        file.write(chunk)
        self._head = self._head if len(self._head) == _HEAD else (self._head + chunk)[:_HEAD]
        self._received += len(chunk)
        self._digest.update(chunk)
        self._advance(len(chunk))
        if self._package.size is None and self._received > MOST:
            raise BrokenError(f"the server sends more than {MOST >> 30} GiB", "wrong")
        if self._package.size is not None and self._received > self._package.size:
            raise BrokenError("the server sends more than the lock's size", "wrong")


class _Sink:
    """The file object that py-rattler writes into from its threads; it passes on only the text of exceptions."""

    def __init__(self, download: Download, file: BinaryIO) -> None:
        self._download = download
        self._file = file
        self._first = True
        self.last = time.monotonic()
        self.total = 0
        self.error: Exception | None = None

    def write(self, chunk: bytes) -> int:
        self.last = time.monotonic()
        self.total += len(chunk)
        try:
            self._download.take(chunk, self._file, first=self._first)
        except Exception as error:
            self.error = error
            raise
        self._first = False
        return len(chunk)


def not_as_locked(package: LockedPackage, size: int, found: str) -> str | None:
    """How a file of `size` bytes with the hash `found` differs from the locked one; None when it does not."""
    if package.size is not None and size != package.size:
        return f"it has {size} bytes; the lock has {package.size}"
    wanted = package.sha256 or package.md5
    if found != wanted:
        return f"its {'SHA-256' if package.sha256 else 'MD5'} sum is {found}; the lock has {wanted}"
    return None


def classify(error: BaseException, received: int) -> BrokenError:
    """Return how an error of py-rattler's client affects retries; `received` is the number of bytes that arrived."""
    text = str(error)
    if status := _STATUS.search(text):
        code = int(status[1])
        return BrokenError(f"the server answered {code}{status[2]}", "passing" if code in _PASSING else "lasting", code)
    if received or isinstance(error, OSError):
        return BrokenError(f"the connection broke after {received} bytes", "passing")
    if "builder error" in text or "not supported" in text:
        return BrokenError(f"the URL cannot be used ({mask(text)})", "lasting")
    return BrokenError("no connection (refused, reset, unknown host or untrusted certificate)", "unreachable")
