"""pixi.lock through py-rattler's own lockfile: it reads every version so far (to 7) and writes the newest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError
from torchlocks.lockfile.fields import channel_urls, parse_package_url
from torchlocks.lockfile.models import Lock, LockedPackage

if TYPE_CHECKING:
    from rattler import RepoDataRecord
    from rattler.lock import Environment, LockFile


def parse_pixi(text: str, path: Path, sha256: str) -> Lock:
    """The lock of the environment `default` (or the only one) in `text`.

    Raises LockfileError when py-rattler cannot read it, when it names several environments and none is
    `default`, or when it holds a conda package that is built from source.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import CondaLockedBinaryPackage, LockFile, PypiLockedPackage

    with _scratch_file() as scratch:
        scratch.write_bytes(text.encode())
        try:
            file = LockFile.from_path(scratch)
        except ParseCondaLockError as error:
            raise LockfileError(f"The pixi.lock cannot be read: {error}.", where=str(path)) from None
    environment = _environment(file, path)
    packages: dict[str, tuple[LockedPackage, ...]] = {}
    pip: dict[str, tuple[str, ...]] = {}
    virtual: dict[str, tuple[str, ...]] = {}
    for platform in environment.platforms():
        locked: list[LockedPackage] = []
        requirements: list[str] = []
        for package in environment.packages(platform) or ():
            if isinstance(package, CondaLockedBinaryPackage):
                locked.append(from_record(package.repo_data_record(), f"{path}, platform {platform.name}"))
            elif isinstance(package, PypiLockedPackage):
                requirements.append(f"{package.name}=={package.version}")
            else:
                raise LockfileError(
                    f"{package.name} is built from source ({package.location}); only built packages can be locked.",
                    where=f"{path}, platform {platform.name}",
                )
        packages[platform.name] = tuple(locked)
        if requirements:
            pip[platform.name] = tuple(requirements)
        if platform.virtual_packages:
            virtual[platform.name] = tuple(platform.virtual_packages)
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
    )


def read_pixi_records(data: bytes) -> dict[str, list[RepoDataRecord]]:
    """The records of a pixi.lock's default environment by platform, as it has them.

    Raises LockfileError when it cannot be read.
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
    """The locked package of a channel's record. Raises LockfileError, at `where`, when its URL is none."""
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


def _environment(file: LockFile, path: Path) -> Environment:
    environments = dict(file.environments())
    if "default" in environments:
        return environments["default"]
    if len(environments) == 1:
        return next(iter(environments.values()))
    raise LockfileError(
        f"The pixi.lock holds {len(environments)} environments and none is named default.",
        where=str(path),
        fix=f"write a lock of one of them: {', '.join(sorted(environments)) or 'none'}.",
    )


def format_pixi(
    records: Mapping[str, Sequence[RepoDataRecord]],
    channels: Sequence[str],
    virtual_packages: Mapping[str, Sequence[str]],
) -> str:
    """The pixi.lock of `records` by platform, in one environment named `default`.

    `channels` are names or URLs. The same input gives the same bytes, in whatever order it comes.
    """
    from rattler.lock import LockChannel, LockFile, LockPlatform

    platforms = {
        name: LockPlatform(name, virtual_packages=sorted(virtual_packages.get(name, ()))) for name in sorted(records)
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
