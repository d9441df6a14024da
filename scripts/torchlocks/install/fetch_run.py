"""Concurrent downloads with mirrors and retries, and the error for a package that failed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import (
    ChannelUnreachableError,
    FetchError,
    IntegrityError,
    TorchlocksError,
)
from torchlocks.core.files import hash_file, remove_tree
from torchlocks.core.http import make_client as make_client
from torchlocks.core.http import retry_after
from torchlocks.core.progress import Task
from torchlocks.core.urls import expand_credentials, file_path
from torchlocks.core.urls import mask as mask
from torchlocks.install.cache import Entry, PackageStore
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.package_files import refuse_misstated, refuse_other, refuse_unsafe, walk
from torchlocks.install.transfer import BrokenError, Download, not_as_locked
from torchlocks.install.unpack import Unpacker, UnpackError
from torchlocks.lockfile.models import LockedPackage

if TYPE_CHECKING:
    pass


_T = TypeVar("_T")


class FetchRun:
    """One run of downloads, with their shared client, limits and progress."""

    def __init__(
        self,
        stage: Path,
        store: PackageStore,
        options: FetchOptions,
        task: Task,
        in_bytes: bool,
        on_wait: Callable[[], None],
    ) -> None:
        self._on_wait = on_wait
        self._stage = stage
        self._store = store
        self._options = options
        self._task = task
        self._in_bytes = in_bytes
        self._connections = asyncio.Semaphore(options.connections)
        self._placing = asyncio.Lock()
        self._resume: dict[tuple[str, str], int] = {}
        self._client = make_client(self._resume)
        self._unpacker = Unpacker()

    async def all(self, packages: Sequence[LockedPackage]) -> list[Entry]:
        return await self._for_each(packages, self._one)

    async def archives(self, packages: Sequence[LockedPackage]) -> list[Path]:
        return await self._for_each(packages, self._one_archive)

    async def _for_each(
        self, packages: Sequence[LockedPackage], work: Callable[[int, LockedPackage], Coroutine[object, object, _T]]
    ) -> list[_T]:
        # The largest first: a big package that starts last is what everything waits for.
        tasks = {
            each: asyncio.ensure_future(work(number, each))
            for number, each in sorted(enumerate(packages), key=lambda item: -(item[1].size or 0))
        }
        async with self._unpacker:
            try:
                await asyncio.gather(*tasks.values())
            finally:
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
        return [tasks[each].result() for each in packages]

    async def _one_archive(self, number: int, package: LockedPackage) -> Path:
        async with self._connections:
            archive = await self._archive(package, self._stage / f"{number}-{package.file_name}")
        if not self._in_bytes:
            self._task.advance(1, package.name)
        return archive

    async def _one(self, number: int, package: LockedPackage) -> Entry:
        folder = self._stage / str(number)
        async with self._connections:
            # Another process with the same cache may have placed it meanwhile.
            if not self._options.full_check and self._store.has(package):
                found = (await asyncio.to_thread(self._store.find, package)).entry
                if found is not None:
                    self._task.advance(package.size or 0 if self._in_bytes else 1, package.name)
                    return found
            sums = await self._extract_local(folder, package)
            if sums is None:
                archive = await self._archive(package, self._stage / f"{number}-{package.file_name}")
                try:
                    sums = await self._extract(archive, folder, package)
                finally:
                    if archive.parent == self._stage:
                        archive.unlink(missing_ok=True)
            sha256, md5 = sums
            async with self._placing:
                entry = await asyncio.to_thread(self._place, folder, package, sha256, md5)
        if not self._in_bytes:
            self._task.advance(1, package.name)
        return entry

    def _place(self, folder: Path, package: LockedPackage, sha256: str, md5: str) -> Entry:
        walked = walk(folder)
        refuse_unsafe(folder, walked, package.file_name)
        refuse_other(folder, package)
        refuse_misstated(folder, walked, package.file_name, contents=self._options.full_check)
        return self._store.place(
            folder, package, walked, sha256=sha256, md5=md5, size=package.size, on_wait=self._on_wait
        )

    async def _archive(self, package: LockedPackage, target: Path) -> Path:
        """Return a local file with exactly the locked bytes: downloaded, or the channel's own."""
        failures: list[tuple[str, BrokenError]] = []
        download: Download | None = None
        urls = tuple(
            expand_credentials(url, self._options.variables) for url in candidates(package.url, self._options.mirrors)
        )
        wait_s = 0.0
        for attempt in range(self._options.retries + 1):
            if attempt:
                # Jitter: what broke for one download mostly broke for all of them at once.
                backoff_s = self._options.backoff_s * 2 ** (attempt - 1)
                await asyncio.sleep(max(backoff_s, wait_s) * random.uniform(1, 1.2))
            wait_s, again = 0.0, []
            for url in urls:
                try:
                    if urlsplit(url).scheme == "file":
                        return await self._local(url, package)
                    download = download or Download(package, target, self._task if self._in_bytes else None)
                    await download.fetch(self._client, url, self._resume, stall_timeout_s=self._options.stall_timeout_s)
                    return target
                except BrokenError as broken:
                    failures.append((url, broken))
                    if broken.status in (429, 503) and attempt < self._options.retries:
                        wait_s = max(wait_s, await asyncio.to_thread(retry_after, url))
                    # A file that was read is the same when it is read again.
                    if broken.kind != "lasting" and urlsplit(url).scheme != "file":
                        again.append(url)
            if not (urls := tuple(again)):
                break
        raise _as_error(package, failures)

    async def _local(self, url: str, package: LockedPackage) -> Path:
        path = file_path(url)
        try:
            size = path.stat().st_size
            algorithm = "sha256" if package.sha256 is not None else "md5"
            found = await asyncio.to_thread(hash_file, path, algorithm)
        except OSError as error:
            raise BrokenError(f"the file cannot be read ({error.strerror})", "lasting") from error
        if (why := not_as_locked(package, size, found)) is not None:
            raise BrokenError(why, "wrong")
        if self._in_bytes:
            self._task.advance(size, package.name)
        return path

    async def _extract_local(self, folder: Path, package: LockedPackage) -> tuple[str, str] | None:
        """Extract the package of a local channel and return its hashes, which are those that are locked.

        The file is read once: it is hashed while it is extracted, and what was extracted is used only if the hash is
        right. None for other packages, and for one with which anything is wrong: then it is hashed first, and the error
        is told by that.
        """
        url = candidates(package.url, self._options.mirrors)[0]
        if urlsplit(url).scheme != "file":
            return None
        try:
            path = file_path(url)
            size = path.stat().st_size
            if package.size not in (None, size):
                return None
            sums = await self._extract(path, folder, package)
        except (IntegrityError, FetchError, BrokenError, OSError) as error:
            if is_disk_full(error):
                raise
            await asyncio.to_thread(remove_tree, folder)
            return None
        if self._in_bytes:
            self._task.advance(size, package.name)
        return sums

    async def _extract(self, archive: Path, folder: Path, package: LockedPackage) -> tuple[str, str]:
        try:
            sha256, md5 = await self._unpacker.extract(archive, folder)
        except UnpackError as error:
            if is_disk_full(error):
                raise
            if error.crashed:
                raise FetchError(
                    f"{package.file_name} could not be extracted: {error}.",
                    where=str(archive),
                    fix="see that there is enough memory, and run it again.",
                ) from error
            raise IntegrityError(
                f"{package.file_name} has the locked hash, but is not a package that can be extracted.",
                where=mask(package.url),
                fix="the channel or the lock is at fault: lock again.",
                details=mask(str(error)),
            ) from error
        # A file of a local channel could have been replaced since it was hashed.
        if (package.sha256 or sha256) != sha256 or (package.md5 or md5) != md5:
            raise IntegrityError(
                f"{package.file_name} differs from the lock: it has another hash.",
                where=mask(package.url),
                fix="lock again, if the channel has rebuilt it.",
            )
        return sha256, md5


def candidates(url: str, mirrors: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the URLs of a package in the order to try: its channel's mirrors, then `url` itself."""
    for channel, others in mirrors.items():
        base = channel.rstrip("/") + "/"
        if url.startswith(base):
            return (*(f"{other.rstrip('/')}/{url[len(base) :]}" for other in others), url)
    return (url,)


def on_anaconda(url: str) -> bool:
    """Return whether a package is on the host of named channels, the only one that --mirror and the local channel
    replace.
    """
    return urlsplit(url).hostname == "conda.anaconda.org"


def _as_error(package: LockedPackage, failures: Sequence[tuple[str, BrokenError]]) -> TorchlocksError:
    """Return the error that explains why no URL had the package."""
    url, last = failures[-1]
    tried = list(dict.fromkeys(f"  {mask(each)}: {broken.why}" for each, broken in failures))
    details = "\n".join(tried) if len(tried) > 1 else None
    wrong = next((failure for failure in failures if failure[1].kind == "wrong"), None)
    if wrong is not None:
        return IntegrityError(
            f"{package.file_name} differs from the lock: {wrong[1].why}.",
            where=mask(wrong[0]),
            fix="the channel has been built anew since it was locked: lock again."
            if wrong[0].startswith("file:")
            else "run it again; if it stays, the channel or a proxy serves another file: lock again"
            + (", or name a mirror." if on_anaconda(package.url) else "."),
            details=details,
        )
    if all(broken.kind == "unreachable" for _, broken in failures):
        return ChannelUnreachableError(
            f"{package.file_name} cannot be fetched, the channel cannot be reached: {last.why}.",
            where=mask(url),
            fix="check the network and proxy settings, or name a mirror of the channel: MIRROR=URL."
            if on_anaconda(package.url)
            else "check the network and proxy settings, and whether this host is reachable from here (a VPN, a login).",
            details=details,
        )
    return FetchError(
        f"{package.file_name} cannot be fetched: {last.why}.",
        where=mask(url),
        fix="run it again later; where the file is gone from the channel, lock again.",
        details=details,
    )
