"""A lock's packages → the package cache: downloaded, compared with the lock, extracted, and checked again.

No package enters the cache before its size and hash are the lock's, its own index is that of the locked package, and
no file of it is outside of its folder. `fetch_run.py` has the downloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.disk import disk_full_as_error, is_disk_full, require_space
from torchlocks.core.errors import (
    FetchError,
    IntegrityError,
)
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Progress
from torchlocks.core.urls import mask as mask
from torchlocks.install.cache import Entry, PackageStore, walk_unchanged
from torchlocks.install.fetch_options import FetchOptions, packages_for, require_hashes, with_variables
from torchlocks.lockfile.models import Lock, LockedPackage

EXTRACTED = 1.7
"""Bytes of files for each byte of archives, at least: 1.73 to 1.84 in wheels for CUDA, 4.3 in those for the CPU."""


class ChangedInCacheError(IntegrityError):
    """A cached package is not as it was when it was verified; `ensure_cached` finds out which, and fetches it again."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Cached packages as their records have them; `confirm` compares their files with that.

    `root` is the folder of the cache. `modes` maps the inode of each file to its mode, once they are confirmed.
    """

    root: Path
    entries: dict[LockedPackage, Entry]
    fingerprints: dict[LockedPackage, str]
    modes: dict[int, int] = field(default_factory=dict)

    def confirm(self) -> None:
        """Raise ChangedInCacheError if any file has changed since its package was verified."""
        for package, entry in self.entries.items():
            walked = walk_unchanged(entry, self.fingerprints[package])
            if walked is None:
                raise ChangedInCacheError(f"{package.file_name} has changed in the cache.", where=str(entry.folder))
            self.modes.update((found.st_ino, found.st_mode) for found in walked.status.values())


def recorded_packages(packages: Sequence[LockedPackage], options: FetchOptions) -> Recorded | None:
    """Return the packages by their records in the cache, without looking at their files; None if any has no record.

    This takes no time, so that comparing the files, which does, can be done beside other work.
    """
    require_hashes(packages, allow_md5=options.allow_md5)
    store = PackageStore(cache_folder(options.cache))
    entries, fingerprints = {}, {}
    for each in packages:
        found = None if options.full_check else store.recorded(each)
        if found is None:
            return None
        entries[each], fingerprints[each] = found
    return Recorded(root=store.root, entries=entries, fingerprints=fingerprints)


def ensure_cached(
    packages: Sequence[LockedPackage], options: FetchOptions, progress: Progress
) -> dict[LockedPackage, Entry]:
    """Bring every package into the cache, verified, and return the entries in the order of `packages`.

    Raises IntegrityError for wrong bytes or hostile packages, FetchError and ChannelUnreachableError if a package
    cannot be downloaded, DiskFullError. What was downloaded before an error stays in the cache.
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
    """Download the archives themselves, verified, and return their paths in the order of `packages`.

    Downloads go into `folder`, under unique names; a file of a local channel is hashed in place. The package cache
    contains no archives, so that offline only those of local channels are available. Raises as `ensure_cached` does.
    """
    import asyncio

    from torchlocks.install.fetch_run import FetchRun

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
            return await FetchRun(folder, PackageStore(folder), options, task, in_bytes, lambda: None).archives(
                packages
            )

        paths = asyncio.run(run())
    return dict(zip(packages, paths, strict=True))


def _fetch(
    packages: Sequence[LockedPackage], store: PackageStore, options: FetchOptions, progress: Progress
) -> dict[LockedPackage, Entry]:
    # Where all is cached, nothing of a download is needed.
    import asyncio

    from torchlocks.install.fetch_run import FetchRun

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
                return await FetchRun(stage, store, options, task, in_bytes, on_wait).all(packages)

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
    """Raise DiskFullError if there is no space for the extracted packages together with the largest archive."""
    archives = [each.size or 0 for each in packages]
    needed = round(sum(archives) * EXTRACTED) + max(archives, default=0)
    require_space(
        folder,
        needed,
        "The package cache needs about",
        "make room, or name another cache folder (TORCHLOCKS_CACHE).",
    )


def download_only(
    lock: Lock, platform: str, options: FetchOptions | None = None, *, progress: Progress
) -> tuple[Path, ...]:
    """Bring the packages of any platform into the package cache, for a later installation without a network.

    Returns the folders of the extracted packages. Raises as `ensure_cached` does.
    """
    packages = packages_for(lock, platform)
    options = with_variables(options or FetchOptions(), lock, packages, progress)
    entries = ensure_cached(packages, options, progress)
    return tuple(entry.folder for entry in entries.values())
