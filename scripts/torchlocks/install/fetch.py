"""A lock's packages → the package cache: fetched, checked against the lock, extracted, checked again.

Nothing enters the cache before its size and hash are the lock's, its own index is that of the locked package, and
no file of it reaches outside. Mirrors are tried in order, and what may pass is tried again with growing waits.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from torchlocks.core.disk import disk_full_as_error, is_disk_full, require_space
from torchlocks.core.errors import (
    ChannelUnreachableError,
    FetchError,
    IntegrityError,
    LockfileError,
    TorchlocksError,
)
from torchlocks.core.files import hash_file
from torchlocks.core.http import make_client as make_client
from torchlocks.core.http import retry_after
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Progress, Task
from torchlocks.core.urls import credential_variables, expand_credentials
from torchlocks.core.urls import mask as mask
from torchlocks.install.cache import Entry, PackageStore, refuse_misstated, refuse_other, refuse_unsafe
from torchlocks.install.transfer import BrokenError, Download, not_as_locked
from torchlocks.install.unpack import Unpacker, UnpackError
from torchlocks.lockfile.models import Lock, LockedPackage

if TYPE_CHECKING:
    pass

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How packages are fetched.

    `cache` is the package cache folder (None: rattler's). `mirrors` maps a channel's URL to the URLs that are
    tried before it. `variables` maps the environment variables that may stand for credentials in URLs to their values.
    `retries` is how often one URL is tried again; `backoff_s` is the wait before the first of
    these, doubled each time. A connection that brings nothing for `stall_timeout_s` seconds counts as broken.
    `full_check` hashes all that is in the cache already.
    """

    cache: Path | None = None
    offline: bool = False
    allow_md5: bool = False
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    retries: int = 3
    backoff_s: float = 0.5
    stall_timeout_s: float = 60
    connections: int = 8
    full_check: bool = False


def packages_for(lock: Lock, platform: str) -> tuple[LockedPackage, ...]:
    """The lock's packages for `platform`. Raises LockfileError when it has none: an empty environment helps nobody."""
    packages = lock.packages.get(platform)
    if not packages:
        held = [each for each in lock.platforms if lock.packages[each]]
        left = lock.pip.get(platform) or lock.sources.get(platform)
        raise LockfileError(
            f"The lock has no conda packages for {platform}"
            + (f", only {len(left)} that are left to pip or to be built" if left else "")
            + (f" in its environment {lock.environment}" if len(lock.environments) > 1 else "")
            + ".",
            where=str(lock.path),
            fix=f"it has some for {', '.join(held)}; take one of these, or lock again."
            if held
            else "see whether the file is complete, and lock again.",
        )
    return packages


def require_hashes(packages: Sequence[LockedPackage], *, allow_md5: bool) -> None:
    """Raise IntegrityError when a package has no hash that its bytes can be held against."""
    for each in packages:
        if each.sha256 is not None or (allow_md5 and each.md5 is not None):
            continue
        if each.md5 is not None:
            raise IntegrityError(
                f"The lock has only an MD5 sum for {each.file_name}, and MD5 can be forged.",
                where=mask(each.url),
                fix="write an explicit file with SHA-256 where there is a conda-lock.yml (`torchlocks export "
                "conda-lock.yml --format explicit`),\nor lock again with a tool that writes SHA-256 (`conda list "
                "--explicit --sha256`),\nor accept MD5 with --allow-md5.",
            )
        raise IntegrityError(
            f"The lock has no hash for {each.file_name}.", where=mask(each.url), fix="lock again with SHA-256 sums."
        )


def ensure_cached(
    packages: Sequence[LockedPackage], options: FetchOptions, progress: Progress
) -> dict[LockedPackage, Entry]:
    """Bring every package into the cache, verified, and return their entries, in the order given.

    Raises IntegrityError for wrong bytes or hostile packages, FetchError and ChannelUnreachableError where a
    package cannot be had, DiskFullError where there is no room. What was fetched until then stays in the cache.
    """
    require_hashes(packages, allow_md5=options.allow_md5)
    store = PackageStore(cache_folder(options.cache))
    found: dict[LockedPackage, Entry | None] = {}
    reasons: dict[LockedPackage, str] = {}
    for each in packages:
        lookup = store.find(each, full=options.full_check)
        found[each] = lookup.entry
        if lookup.entry is None:
            reasons[each] = lookup.why
            if lookup.why.startswith("damaged"):
                progress.warn(f"{each.file_name}: {lookup.why}; it is fetched again")
    if reasons and options.offline:
        raise FetchError(
            f"{len(reasons)} of {len(packages)} packages are not in the package cache, and fetching is off (offline).",
            where=str(store.root),
            fix="install once with the network, or bring the packages with `download` on another machine.",
            details="\n".join(f"  {each.file_name}: {why}" for each, why in reasons.items()),
        )
    if reasons:
        found.update(_fetch(tuple(reasons), store, options, progress))
    return {each: entry for each, entry in found.items() if entry is not None}


def fetch_archives(
    packages: Sequence[LockedPackage], folder: Path, options: FetchOptions, progress: Progress
) -> dict[LockedPackage, Path]:
    """Bring the archives themselves, verified, and return their paths, in the order given.

    Downloads go into `folder`, under names of their own; a file of a local channel is hashed where it is. The package
    cache keeps no archives, so that offline only those of local channels can be had. Raises as `ensure_cached` does.
    """
    require_hashes(packages, allow_md5=options.allow_md5)
    remote = [each for each in packages if urlsplit(each.url).scheme != "file"]
    if remote and options.offline:
        raise FetchError(
            f"{len(remote)} of {len(packages)} packages would have to be downloaded, and fetching is off (offline).",
            where=mask(remote[0].url),
            fix="the package cache keeps no archives: run it again with the network.",
        )
    in_bytes = all(each.size is not None for each in packages)
    total = sum(each.size or 0 for each in packages) if in_bytes else len(packages)
    title = f"Fetching {len(packages)} archives"
    with (
        disk_full_as_error(folder),
        progress.task(title, total, unit="bytes" if in_bytes else "items") as task,
    ):

        async def run() -> list[Path]:
            return await _Run(folder, PackageStore(folder), options, task, in_bytes, lambda: None).archives(packages)

        paths = asyncio.run(run())
    return dict(zip(packages, paths, strict=True))


def _fetch(
    packages: Sequence[LockedPackage], store: PackageStore, options: FetchOptions, progress: Progress
) -> dict[LockedPackage, Entry]:
    def on_wait() -> None:
        progress.say("Another program holds the package cache; waiting for it.")

    with _cache_errors(store.root), store.staging() as stage:
        _require_room(packages, stage)
        sizes = [each.size for each in packages]
        in_bytes = None not in sizes
        total = sum(size or 0 for size in sizes) if in_bytes else len(packages)
        title = f"Fetching {len(packages)} packages"
        with progress.task(title, total, unit="bytes" if in_bytes else "items") as task:

            async def run() -> list[Entry]:
                return await _Run(stage, store, options, task, in_bytes, on_wait).all(packages)

            entries = asyncio.run(run())
    return dict(zip(packages, entries, strict=True))


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    with disk_full_as_error(root):
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                raise
            raise FetchError(
                f"The package cache cannot be used: {error.strerror or error}.",
                where=str(error.filename or root),
                fix="see that it can be written to, or name another one (TORCHLOCKS_CACHE).",
            ) from error


def _require_room(packages: Sequence[LockedPackage], folder: Path) -> None:
    """Raise DiskFullError when the packages cannot fit: extracted they are no smaller than as archives."""
    needed = sum(each.size or 0 for each in packages) + max((each.size or 0 for each in packages), default=0)
    require_space(
        folder,
        needed,
        "The package cache needs at least",
        "make room, or name another cache folder (TORCHLOCKS_CACHE).",
    )


class _Run:
    """One round of fetching: what its downloads share."""

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
            archive = await self._archive(package, self._stage / f"{number}-{package.file_name}")
            try:
                sha256, md5 = await self._extract(archive, folder, package)
            finally:
                if archive.parent == self._stage:
                    archive.unlink(missing_ok=True)
            async with self._placing:
                entry = await asyncio.to_thread(self._place, folder, package, sha256, md5)
        if not self._in_bytes:
            self._task.advance(1, package.name)
        return entry

    def _place(self, folder: Path, package: LockedPackage, sha256: str, md5: str) -> Entry:
        refuse_unsafe(folder, package.file_name)
        refuse_other(folder, package)
        refuse_misstated(folder, package.file_name)
        return self._store.place(folder, package, sha256=sha256, md5=md5, size=package.size, on_wait=self._on_wait)

    async def _archive(self, package: LockedPackage, target: Path) -> Path:
        """A local file with exactly the locked bytes: the downloaded one, or the channel's own."""
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
        path = Path(url2pathname(urlsplit(url).path))
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
                f"{package.file_name} is not what the lock says: its hash is another.",
                where=mask(package.url),
                fix="lock again, if the channel has rebuilt it.",
            )
        return sha256, md5


def candidates(url: str, mirrors: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The URLs at which a package may be, in the order to try: its channel's mirrors, then `url` itself."""
    for channel, others in mirrors.items():
        base = channel.rstrip("/") + "/"
        if url.startswith(base):
            return (*(f"{other.rstrip('/')}/{url[len(base) :]}" for other in others), url)
    return (url,)


def on_anaconda(url: str) -> bool:
    """Whether a package is of the host of named channels, for which alone --mirror and the local channel stand in."""
    return urlsplit(url).hostname == "conda.anaconda.org"


def _as_error(package: LockedPackage, failures: Sequence[tuple[str, BrokenError]]) -> TorchlocksError:
    """The one error that says why no URL gave the package."""
    url, last = failures[-1]
    tried = list(dict.fromkeys(f"  {mask(each)}: {broken.why}" for each, broken in failures))
    details = "\n".join(tried) if len(tried) > 1 else None
    wrong = next((failure for failure in failures if failure[1].kind == "wrong"), None)
    if wrong is not None:
        return IntegrityError(
            f"{package.file_name} is not what the lock says: {wrong[1].why}.",
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
            fix="check the network and proxy settings, name a mirror, or use the local channel (CHANNEL=local)."
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


def with_variables(
    options: FetchOptions, lock: Lock, packages: Sequence[LockedPackage], progress: Progress
) -> FetchOptions:
    """The options with the values of the variables that stand for credentials in the URLs of `packages`.

    Only variables that the lock names as such are looked at, and it is reported which host is sent which. Raises
    FetchError when one has no value.
    """
    needed: dict[str, dict[str, None]] = {}
    for package in packages:
        for name in credential_variables(package.url):
            if name in lock.variables:
                host = urlsplit(package.url).hostname or package.url
                needed.setdefault(host, {})[name] = None
    if not needed or options.offline:
        return options
    values: dict[str, str] = {}
    for host, names in needed.items():
        for name in names:
            if not (value := os.environ.get(name)):
                raise FetchError(
                    f"The lock takes credentials for {host} from the environment variable {name}, which is not set.",
                    where=str(lock.path),
                    fix=f"set {name}, or name a lock without credentials.",
                )
            values[name] = value
        progress.say(f"{host} is sent the value of {' and '.join(names)} as credentials, as the lock says")
    return replace(options, variables=values)


def download_only(
    lock: Lock, platform: str, options: FetchOptions | None = None, *, progress: Progress
) -> tuple[Path, ...]:
    """Bring the packages of any platform into the package cache, for a later installation without the network.

    Returns the folders of the extracted packages. Raises as `ensure_cached` does.
    """
    packages = packages_for(lock, platform)
    options = with_variables(options or FetchOptions(), lock, packages, progress)
    entries = ensure_cached(packages, options, progress)
    return tuple(entry.folder for entry in entries.values())
