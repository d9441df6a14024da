"""pixi.lock, read and written by py-rattler, which reads all versions to 7 and writes the newest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError
from torchlocks.lockfile.fields import channel_urls, parse_package_url
from torchlocks.lockfile.models import Lock, LockedPackage, PipPackage, pip_package

if TYPE_CHECKING:
    from rattler import RepoDataRecord
    from rattler.lock import Environment, PypiLockedPackage


DEFAULT = "default"
"""The environment that pixi takes where none is named."""


def parse_pixi(text: str, path: Path, sha256: str) -> tuple[Lock, ...]:
    """Parse the environments in `text`, one lock each: `default` first, the others by name.

    The order does not depend on the process. Raises LockfileError if py-rattler cannot read it.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import LockFile

    with _scratch_file() as scratch:
        scratch.write_bytes(text.encode())
        try:
            file = LockFile.from_path(scratch)
        except ParseCondaLockError as error:
            raise LockfileError(f"The pixi.lock cannot be read: {error}.", where=str(path)) from None
    # py-rattler returns environments and platforms in an order that differs between processes.
    found = dict(file.environments())
    names = sorted(found, key=lambda name: (name != DEFAULT, name))
    return tuple(_lock(name, tuple(names), found[name], path, sha256) for name in names)


def _lock(name: str, names: tuple[str, ...], environment: Environment, path: Path, sha256: str) -> Lock:
    from rattler.lock import CondaLockedBinaryPackage, PypiLockedPackage

    packages: dict[str, tuple[LockedPackage, ...]] = {}
    pip: dict[str, tuple[PipPackage, ...]] = {}
    sources: dict[str, tuple[str, ...]] = {}
    virtual: dict[str, tuple[str, ...]] = {}
    subdirs: dict[str, str] = {}
    for platform in sorted(environment.platforms(), key=lambda platform: platform.name):
        locked: list[LockedPackage] = []
        left_to_pip: list[PipPackage] = []
        built: list[str] = []
        for package in environment.packages(platform) or ():
            if isinstance(package, CondaLockedBinaryPackage):
                locked.append(from_record(package.repo_data_record(), f"{path}, platform {platform.name}"))
            elif isinstance(package, PypiLockedPackage):
                left_to_pip.append(pip_package(package.name, package.version, package.location, _sha256_of(package)))
            else:
                built.append(f"{package.name} ({package.location})")
        packages[platform.name] = tuple(locked)
        if left_to_pip:
            pip[platform.name] = tuple(left_to_pip)
        if built:
            sources[platform.name] = tuple(sorted(built))
        if platform.virtual_packages:
            virtual[platform.name] = tuple(platform.virtual_packages)
        if str(platform.subdir) != platform.name:
            subdirs[platform.name] = str(platform.subdir)
    return Lock(
        path=path,
        kind="pixi",
        sha256=sha256,
        channels=tuple(str(channel).rstrip("/") for channel in environment.channels()),
        packages=packages,
        content_hash={},
        virtual_packages=virtual,
        metadata={},
        pip=pip,
        sources=sources,
        environment=name,
        environments=names,
        subdirs=subdirs,
        selection=name if len(names) > 1 else "",
    )


def _sha256_of(package: PypiLockedPackage) -> str | None:
    try:
        hashes = package.hashes
        return hashes.sha256.hex() if hashes and hashes.sha256 else None
    except AttributeError:  # py-rattler's own, where a package has no hashes (a folder, a git repository)
        return None


def select_environment(locks: tuple[Lock, ...], name: str | None, path: Path) -> Lock:
    """Return the environment `name` of a pixi.lock; without a name `default`, or the only one with packages.

    Raises LockfileError with the existing names if it is missing, or if a name is required.
    """
    by_name = {lock.environment: lock for lock in locks}
    if name is not None:
        if name in by_name:
            return by_name[name]
        raise LockfileError(
            f"The pixi.lock contains no environment called {name!r}.",
            where=str(path),
            fix=f"it has: {', '.join(by_name) or 'none'}",
        )
    if len(locks) == 1:
        return locks[0]
    held = [lock for lock in locks if any(lock.packages.values()) or any(lock.pip.values())]
    if DEFAULT in by_name and (by_name[DEFAULT] in held or not held):
        return by_name[DEFAULT]
    if len(held) == 1:
        return held[0]
    why = f"{DEFAULT} is empty" if DEFAULT in by_name else f"none is named {DEFAULT}"
    raise LockfileError(
        f"The pixi.lock contains {len(locks)} environments and {why}.",
        where=str(path),
        fix=f"name one with --environment: {', '.join(lock.environment for lock in held) or 'there is none'}",
    )


def read_pixi_records(data: bytes) -> dict[str, list[RepoDataRecord]]:
    """Return the records of a pixi.lock's default environment by platform. Raises LockfileError if it cannot be
    read.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import LockFile

    with _scratch_file() as scratch:
        scratch.write_bytes(data)
        try:
            environment = LockFile.from_path(scratch).default_environment()
        except ParseCondaLockError as error:
            raise LockfileError(f"The pixi.lock cannot be read: {error}.", fix="remove it, and lock again") from error
        found = environment.conda_repodata_records() if environment else None
    return {str(name): records for name, records in (found or {}).items()}


def from_record(record: RepoDataRecord, where: str) -> LockedPackage:
    """Convert a channel's record to a locked package. Raises LockfileError, at `where`, for an invalid URL."""
    url = parse_package_url(record.url, where)
    timestamp = record.timestamp
    return LockedPackage(
        name=record.name.source,
        version=str(record.version),
        build=str(record.build),
        subdir=url.subdir,
        url=record.url,
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        size=record.size,
        depends=tuple(record.depends),
        constrains=tuple(record.constrains),
        license=record.license,
        timestamp_ms=round(timestamp.timestamp() * 1000) if timestamp else None,
    )


def write_pixi(
    records: Mapping[str, Sequence[RepoDataRecord]],
    channels: Sequence[str],
    virtual_packages: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Format `records` by platform as a pixi.lock with one environment named `default`.

    `channels` are names or URLs, the first with the highest priority; `virtual_packages` are `__name=version[=build]`
    strings by platform. The same input gives the same bytes in any order.
    """
    from rattler.lock import LockChannel, LockFile, LockPlatform

    platforms = {
        name: LockPlatform(name, virtual_packages=sorted((virtual_packages or {}).get(name, ())))
        for name in sorted(records)
    }
    file = LockFile(list(platforms.values()))
    file.set_channels("default", [LockChannel(f"{url}/") for channel in channels for url in channel_urls(channel)])
    for name, platform in platforms.items():
        for record in sorted(records[name], key=lambda record: record.url):
            file.add_conda_package("default", platform, record)
    with _scratch_file() as scratch:
        file.to_path(scratch)
        return scratch.read_bytes().decode("utf-8")


@contextmanager
def _scratch_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as folder:
        yield Path(folder) / "pixi.lock"
