"""Lockfiles in, `Lock` values out: the one door to conda-lock, explicit and pixi files.

The format is told by what the file holds, never by its name. Each format has a module of its own
(`lock_conda`, `lock_explicit`, `lock_pixi`); this one chooses between them, and turns locked
packages into py-rattler's records and back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.reading import LOCK_BYTES, read_bytes
from torchlocks.lockfile.models import Lock, LockedPackage, LockKind

if TYPE_CHECKING:
    from rattler import RepoDataRecord

CONDA_LOCK = "conda-lock.yml"
PIXI = "pixi.lock"
"""The files of an environment in `locks/`, beside one explicit file a platform."""


def explicit_name(platform: str) -> str:
    """The name of the explicit file of a platform."""
    return f"conda-{platform}.lock"


def read_lock(path: Path) -> Lock:
    """Read a lockfile of any of the three formats.

    Raises MissingFileError when there is no such file, LockfileError when it is not a lock.
    """
    try:
        data = read_bytes(path, LOCK_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(
            "There is no such lockfile.", where=str(path), fix="check the path, or make the lock with `make lock`."
        ) from None
    except OSError as error:
        fix = "name one of the files in it." if path.is_dir() else None
        raise LockfileError(
            f"The lockfile cannot be read: {error.strerror or error}.", where=str(path), fix=fix
        ) from None
    return parse_lock(data, path)


def parse_lock(data: bytes, path: Path) -> Lock:
    """The lock that `data` holds; `path` is what error messages call it (it need not exist).

    Raises LockfileError, with file, line and key, when the bytes are not a lock of a known format.
    """
    from torchlocks.lockfile import conda_lock, explicit, pixi

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockfileError(f"The lockfile is not UTF-8 text (byte {error.start}).", where=str(path)) from None
    parse = {
        "conda-lock": conda_lock.parse_conda_lock,
        "explicit": explicit.parse_explicit,
        "pixi": pixi.parse_pixi,
    }[detect_kind(text, path)]
    return parse(text, path, hashlib.sha256(data).hexdigest())


def detect_kind(text: str, path: Path) -> LockKind:
    """Which format `text` is in, by the keys and marks that only this format has.

    Raises LockfileError for anything else, and says what the file seems to be.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() == "@EXPLICIT":
            return "explicit"
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise LockfileError(
                "The lockfile has unresolved merge conflicts.",
                where=f"{path}, line {number}",
                fix="take one side, then make the lock again with `make lock`.",
            )
    keys = set(re.findall(r"^([A-Za-z_-]+)\s*:", text, flags=re.MULTILINE))
    if "environments" in keys:
        return "pixi"
    if "package" in keys or {"metadata", "version"} <= keys:
        return "conda-lock"
    if "dependencies" in keys:
        raise LockfileError(
            "This is an environment file, not a lockfile: it lists wishes, not packages.",
            where=str(path),
            fix="lock it first (`make lock`), then name the lock.",
        )
    what = "The file is empty." if not text.strip() else "This is not a lockfile of a known format."
    raise LockfileError(
        what,
        where=str(path),
        fix="name a conda-lock.yml (version 1), an explicit file (@EXPLICIT) or a pixi.lock.",
    )


def write_explicit(lock: Lock, platform: str) -> str:
    """The explicit file of one platform of `lock`, in an order in which packages can be linked.

    Raises LockfileError when the lock has no such platform, or a package has no hash.
    """
    from torchlocks.lockfile import explicit as lock_explicit

    return lock_explicit.format_explicit(lock, platform)


def write_pixi(
    records: Mapping[str, Sequence[RepoDataRecord]],
    channels: Sequence[str],
    virtual_packages: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The pixi.lock of complete records by platform, in the newest format that py-rattler writes.

    `channels` are names or URLs, the first with the highest priority; `virtual_packages` are
    `__name=version[=build]` strings by platform. The same input gives the same bytes.
    """
    from torchlocks.lockfile import pixi as lock_pixi

    return lock_pixi.format_pixi(records, channels, virtual_packages or {})


def merge(lock: Lock, other: Lock) -> Lock:
    """`lock` with what only `other` knows of the same packages: size, constrains, licence, hashes.

    Packages are the same when their URLs are. Nothing that `lock` says is replaced; a hash that
    the two give differently raises LockfileError.
    """
    known = {package.url: package for packages in other.packages.values() for package in packages}
    return replace(
        lock,
        packages={
            platform: tuple(_fill(package, known.get(package.url), lock, other) for package in packages)
            for platform, packages in lock.packages.items()
        },
        virtual_packages={**other.virtual_packages, **lock.virtual_packages},
    )


def _fill(package: LockedPackage, other: LockedPackage | None, lock: Lock, source: Lock) -> LockedPackage:
    if other is None:
        return package
    for kind, ours, theirs in (("sha256", package.sha256, other.sha256), ("md5", package.md5, other.md5)):
        if ours and theirs and ours != theirs:
            raise LockfileError(
                f"Two locks disagree on the {kind} of {package.file_name}: {ours} and {theirs}.",
                where=f"{lock.path} and {source.path}",
                fix="make the lock again with `make lock`; do not install from either.",
            )
    return replace(
        package,
        sha256=package.sha256 or other.sha256,
        md5=package.md5 or other.md5,
        size=package.size if package.size is not None else other.size,
        # conda-lock folds the dependencies of a package into a mapping, and so loses one of two specs of the
        # same name; the complete record is the better source.
        depends=other.depends if other.depends is not None else package.depends,
        constrains=package.constrains if package.constrains is not None else other.constrains,
        license=package.license or other.license,
        timestamp_ms=package.timestamp_ms if package.timestamp_ms is not None else other.timestamp_ms,
    )


def select_records(lock: Lock, pool: Iterable[RepoDataRecord]) -> dict[str, list[RepoDataRecord]]:
    """The records of `pool` that are the lock's packages, by platform and in the lock's order.

    Raises LockfileError when a package has no record, or one with other hashes.
    """
    by_url = {record.url: record for record in pool}
    selected: dict[str, list[RepoDataRecord]] = {}
    for platform, packages in lock.packages.items():
        selected[platform] = []
        for package in packages:
            record = by_url.get(package.url)
            if record is None:
                raise LockfileError(
                    f"There is no channel record of {package.file_name}.",
                    where=f"{lock.path}, platform {platform}",
                    fix="make the lock again with `make lock`.",
                )
            for kind, ours, theirs in (("sha256", package.sha256, record.sha256), ("md5", package.md5, record.md5)):
                if ours and theirs and ours != theirs.hex():
                    raise LockfileError(
                        f"The lock and the channel disagree on the {kind} of {package.file_name}: "
                        f"{ours} and {theirs.hex()}.",
                        where=f"{lock.path}, platform {platform}",
                        fix="make the lock again with `make lock`.",
                    )
            selected[platform].append(record)
    return selected


def to_record(package: LockedPackage) -> RepoDataRecord:
    """py-rattler's record of a locked package, with what the lock knows of it.

    Where the lock does not say, `depends` and `constrains` are empty. The build number is read off
    the build string (conda's convention: the digits after its last underscore), else 0.
    Raises LockfileError when the name or version is not one that conda knows.
    """
    from datetime import datetime, timezone

    from rattler import BuildString, NoArchType, PackageRecord, RepoDataRecord
    from rattler.exceptions import InvalidPackageNameError, InvalidVersionError

    number = re.search(r"(?:^|_)(\d{1,18})$", package.build)
    try:
        record = PackageRecord(
            name=package.name,
            version=package.version,
            build=BuildString(package.build),
            build_number=int(number[1]) if number else 0,
            subdir=package.subdir,
            # rattler's own convention where a lock does not say: builds of Python packages begin with "py".
            noarch=NoArchType("python" if package.build.startswith("py") else "generic")
            if package.subdir == "noarch"
            else NoArchType(None),
            depends=list(package.depends or ()),
            constrains=list(package.constrains or ()),
            sha256=bytes.fromhex(package.sha256) if package.sha256 else None,
            md5=bytes.fromhex(package.md5) if package.md5 else None,
            size=package.size,
            license=package.license,
        )
        if package.timestamp_ms is not None:
            record.timestamp = datetime.fromtimestamp(package.timestamp_ms / 1000, tz=timezone.utc)
        return RepoDataRecord(record, package.file_name, package.url, f"{package.channel}/")
    except (InvalidPackageNameError, InvalidVersionError, ValueError, TypeError, OverflowError) as error:
        raise LockfileError(
            f"{package.name!r} {package.version!r} {package.build!r} is not a conda package: {error}",
            where=package.url,
        ) from None
