"""Read and write lockfiles of every format.

The format is detected from the contents, never from the name. Each format has a module of its own (`conda_lock`,
`explicit`, `pixi`); this one chooses between them, and converts locked packages to py-rattler's records and back.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.reading import LOCK_BYTES, read_bytes, refuse_costly_yaml, refuse_many_lines
from torchlocks.core.text import TO_UTF8, EncodingError, conflict_line, decode
from torchlocks.lockfile.models import Lock, LockedPackage, LockKind
from torchlocks.lockfile.sound import require_sound

if TYPE_CHECKING:
    from rattler import RepoDataRecord

CONDA_LOCK = "conda-lock.yml"
PIXI = "pixi.lock"
"""The files of an environment in `locks/`, beside one explicit file a platform."""


def explicit_name(platform: str) -> str:
    """Return the name of the explicit file of a platform."""
    return f"conda-{platform}.lock"


def read_lock(path: Path, environment: str | None = None) -> Lock:
    """Read a lockfile of any of the three formats; of a pixi.lock one environment (see `parse_lock`).

    Raises MissingFileError if the file does not exist, LockfileError if it is not a lock.
    """
    return parse_lock(read_file(path), path, environment)


def read_environments(path: Path) -> tuple[Lock, ...]:
    """Read every environment of a lockfile: the only one of a conda-lock.yml or explicit file, all of a pixi.lock.

    Raises MissingFileError if the file does not exist, LockfileError if it is not a lock.
    """
    return parse_environments(read_file(path), path)


def read_file(path: Path, kind: Literal["file", "lockfile"] = "lockfile") -> bytes:
    """Return the bytes of a lockfile, or of a file that belongs to one.

    Raises MissingFileError if it does not exist, LockfileError if it cannot be read.
    """
    try:
        return read_bytes(path, LOCK_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        fix = "check the path, or make the lock with `make lock`." if kind == "lockfile" else "check the path."
        raise MissingFileError(f"There is no such {kind}.", where=str(path), fix=fix) from None
    except OSError as error:
        inside = "name one of the files in it." if os.path.isdir(path) else None  # noqa: PTH112
        raise LockfileError(
            f"The {kind} cannot be read: {error.strerror or error}.", where=str(path), fix=inside
        ) from None


def parse_lock(data: bytes, path: Path, environment: str | None = None) -> Lock:
    """Parse the lock in `data`; `path` is its name in error messages (it need not exist).

    `environment` names one of a pixi.lock's; without it, it is `default`, or the only one with packages. Raises
    LockfileError, with file, line and key, for an unknown format or a missing environment.
    """
    from torchlocks.lockfile.pixi import select_environment

    locks = parse_environments(data, path)
    if not locks or locks[0].kind == "pixi":
        return select_environment(locks, environment, path)
    if environment is not None:
        kind = "A conda-lock.yml" if locks[0].kind == "conda-lock" else "An explicit file"
        raise LockfileError(
            f"{kind} contains one environment without a name; {environment!r} cannot be selected from it.",
            where=str(path),
            fix="leave out --environment",
        )
    return locks[0]


def parse_environments(data: bytes, path: Path) -> tuple[Lock, ...]:
    """Parse every environment in `data`, as `read_environments` does. Raises LockfileError."""
    from torchlocks.lockfile import conda_lock, explicit, pixi

    try:
        text = decode(data)
    except EncodingError as error:
        raise LockfileError(
            f"The lockfile is not UTF-8 text: {error}.", where=str(path), fix=f"write it as UTF-8: {TO_UTF8}."
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        refuse_many_lines(text)
        kind = detect_kind(text, path)
        if kind != "explicit":
            refuse_costly_yaml(text)
    except ValueError as error:
        raise LockfileError(f"The lockfile is not one: {error}.", where=str(path)) from None
    if kind == "pixi":
        return tuple(require_sound(lock, path) for lock in pixi.parse_pixi(text, path, sha256))
    parse = conda_lock.parse_conda_lock if kind == "conda-lock" else explicit.parse_explicit
    return (require_sound(parse(text, path, sha256), path),)


def detect_kind(text: str, path: Path) -> LockKind:
    """Return the format of `text`, by the keys and marks that only this format has.

    Raises LockfileError for anything else, with what the file seems to be.
    """
    if (line := conflict_line(text)) is not None:
        raise LockfileError(
            "The lockfile has unresolved merge conflicts.",
            where=f"{path}, line {line}",
            fix="take one side, then make the lock again.",
        )
    if any(line.strip() == "@EXPLICIT" for line in text.splitlines()):
        return "explicit"
    keys = set(re.findall(r"^([A-Za-z_-]+)\s*:", text, flags=re.MULTILINE))
    if "environments" in keys:
        return "pixi"
    if "package" in keys or {"metadata", "version"} <= keys:
        return "conda-lock"
    if "dependencies" in keys:
        raise LockfileError(
            "This is an environment file, not a lockfile: it lists requirements, not packages.",
            where=str(path),
            fix="lock it first: `torchlocks extend` on a base, `conda-lock -f FILE`, or `make lock` for a template.",
        )
    if (listed := _listed(text)) is not None:
        raise LockfileError(
            f"This is the output of `{listed}`: it names versions and builds, but no URLs and no hashes.",
            where=str(path),
            fix="write an explicit file where the environment is installed: `conda list --explicit --sha256 > FILE`.",
        )
    what = "The file is empty." if not text.strip() else "This is not a lockfile of a known format."
    raise LockfileError(
        what,
        where=str(path),
        fix="name a conda-lock.yml (version 1), an explicit file (@EXPLICIT) or a pixi.lock.",
    )


def _listed(text: str) -> str | None:
    """Return the command whose output `text` seems to be; None if it is no list of packages."""
    lines = [line.strip() for line in text.splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        return None
    if all(re.fullmatch(r"[A-Za-z0-9_.-]+=[^=\s]+=[^=\s]+", entry) for entry in entries):
        return "conda list --export"
    if "# packages in environment at" in text or re.search(r"^#\s+Name\s+Version\s+Build", text, re.MULTILINE):
        return "conda list"
    if all(re.fullmatch(r"[A-Za-z0-9_.\[\]-]+(==\S+| @ \S+.*)", entry) for entry in entries):
        return "pip freeze"
    return None


def merge(lock: Lock, *others: Lock) -> Lock:
    """Return `lock` with the fields that only `others` have of the same packages: size, constraints, licence,
    hashes.

    Packages are the same if their URLs are. No field of `lock` is replaced; a hash that differs raises LockfileError.
    """
    for other in others:
        lock = _merge_one(lock, other)
    return lock


def _merge_one(lock: Lock, other: Lock) -> Lock:
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
    """Return the records of `pool` for the lock's packages, by platform and in the lock's order.

    Raises LockfileError if a package has no record, or one with other hashes.
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
    """Convert a locked package to py-rattler's record.

    Unknown `depends` and `constrains` are empty. The build number is the digits after the last underscore of the build
    string (conda's convention), else 0. Raises LockfileError for a name or version that conda cannot parse.
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
            # rattler's own convention for locks without it: builds of Python packages begin with "py".
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
