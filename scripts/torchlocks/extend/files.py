"""A solution on a base → the text of the lock and of its exports, written only where they change."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import BaseLockError, EnvironmentFileError, LockfileError, TorchlocksError
from torchlocks.core.files import write_changed
from torchlocks.extend.base import Base, virtual_packages
from torchlocks.extend.built import Built
from torchlocks.extend.environment_file import EnvironmentFile
from torchlocks.extend.solve import ExtendRequest
from torchlocks.lockfile.formats import explicit_name
from torchlocks.lockfile.models import Lock
from torchlocks.locking.texts import (
    LockContents,
    lock_texts,
    platform_metadata,
    read_with_conda_lock,
    tool_metadata,
)

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency
    from rattler import RepoDataRecord


def input_hash(environment_file: EnvironmentFile, like: Lock, platform: str, channels: tuple[str, ...]) -> str:
    """Return conda-lock's hash of a platform's inputs: requirements, channels, virtual packages.

    `like` is a lock that was solved with these virtual packages: the base, or the lock on it. Raises
    EnvironmentFileError for a match spec that conda-lock cannot parse.
    """
    from torchlocks.locking.cell import content_hash

    try:
        return content_hash(environment_file.rendered(platform, channels), platform, virtual_packages(like, platform))
    except TorchlocksError:
        raise
    except Exception as error:  # conda-lock has no common base class for what it may raise here
        raise EnvironmentFileError(
            f"conda-lock cannot read the file: {error}", where=str(environment_file.path)
        ) from error


def lock_files(
    environment_file: EnvironmentFile,
    built: Built,
    output: Path,
    solved: Mapping[str, tuple[ExtendRequest, list[RepoDataRecord]]],
) -> dict[str, str]:
    """Return the texts of the lock and its exports, by file name."""
    base = next(request.base for request, _ in solved.values())
    channels = next(request.channels for request, _ in solved.values())
    entries = _base_entries(base)
    metadata = {**tool_metadata(f"py-rattler {version('py-rattler')}"), **built.metadata()}
    packages: list[LockedDependency] = []
    hashes: dict[str, str] = {}
    for platform, (request, records) in solved.items():
        packages += [entries.get((platform, record.url)) or _entry(record, platform) for record in records]
        hashes[platform] = input_hash(environment_file, base.lock, platform, channels)
        identity = request.source.identity(channels, [platform, "noarch"])
        metadata |= platform_metadata(platform, virtual_packages(base.lock, platform), identity)
    contents = LockContents(
        title=_TITLE.format(name=environment_file.name, base=built.base.text, environment=built.environment),
        path=output,
        source=built.environment,
        channels=channels,
        packages=packages,
        hashes=hashes,
        metadata=metadata,
    )
    return lock_texts(contents, [record for _, records in solved.values() for record in records])


_TITLE = """\
# The lock of {name}: the base {base} as it is, and on top of it what {environment} asks for.
# Written by torchlocks with conda-lock; do not edit it, change {environment} and run `torchlocks extend` again.
"""


def _base_entries(base: Base) -> dict[tuple[str, str], LockedDependency]:
    """Return the base's own entries, as conda-lock reads them, by platform and URL."""
    from pydantic import ValidationError

    try:
        content = read_with_conda_lock(base.data)
    except (ValidationError, ValueError) as error:
        raise BaseLockError(
            "conda-lock cannot read the base.", where=base.name.text, details=str(error).splitlines()[0]
        ) from error
    return {(entry.platform, entry.url): entry for entry in content.package}


def _entry(record: RepoDataRecord, platform: str) -> LockedDependency:
    """Return the entry of an addition, as conda-lock writes it: specs of one name are merged."""
    from conda_lock.interfaces.vendored_conda import MatchSpec
    from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency

    specs: dict[str, list[MatchSpec]] = {}
    for depends in record.depends:
        spec = MatchSpec(depends)
        specs.setdefault(spec.name, []).append(spec)
    merged = {name: found[0] if len(found) == 1 else MatchSpec.merge(found)[0] for name, found in specs.items()}
    return LockedDependency(
        name=record.name.normalized,
        version=str(record.version),
        manager="conda",
        platform=platform,
        dependencies={name: spec.version.spec_str if spec.version else "" for name, spec in merged.items()},
        url=record.url,
        hash=HashModel(
            md5=record.md5.hex() if record.md5 else None, sha256=record.sha256.hex() if record.sha256 else None
        ),
        categories={"main"},
    )


def write_files(folder: Path, files: Mapping[str, str], before: Lock | None) -> tuple[str, ...]:
    """Write each file that changed; remove the explicit files of platforms that the lock no longer has."""
    try:
        changed = write_changed(folder, files)
        for platform in before.platforms if before else ():
            if explicit_name(platform) not in files and (folder / explicit_name(platform)).is_file():
                (folder / explicit_name(platform)).unlink()
                changed.append(explicit_name(platform))
    except OSError as error:
        raise LockfileError(
            f"The lock cannot be written: {error.strerror}.",
            where=str(error.filename or folder),
            fix="see that this folder can be written to, or name another with --output",
        ) from error
    return tuple(changed)
