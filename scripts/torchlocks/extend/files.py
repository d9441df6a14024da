"""A solution on a base → the text of the lock and of its exports, written only where they change."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.errors import BaseLockError, EnvironmentFileError, LockfileError, TorchlocksError
from torchlocks.core.files import write_changed
from torchlocks.extend.base import Base, virtual_packages
from torchlocks.extend.built import Built
from torchlocks.extend.environment_file import EnvironmentFile
from torchlocks.extend.solve import ExtendRequest
from torchlocks.lockfile.explicit import write_explicit
from torchlocks.lockfile.formats import (
    CONDA_LOCK,
    PIXI,
    explicit_name,
    parse_lock,
)
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.pixi import write_pixi

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
    import conda_lock.lockfile as conda_lock_files
    from conda_lock.lockfile.v1.models import LockMeta
    from conda_lock.lockfile.v2prelim.models import Lockfile
    from conda_lock.models.channel import Channel

    metadata = {
        "torchlocks": __version__,
        "conda-lock": version("conda-lock"),
        "solver": f"py-rattler {version('py-rattler')}",
        **built.metadata(),
    }
    packages: list[LockedDependency] = []
    hashes: dict[str, str] = {}
    base: Base | None = None
    entries: dict[tuple[str, str], LockedDependency] = {}
    channels: tuple[str, ...] = ()
    for platform, (request, records) in solved.items():
        if base is None:
            base, channels = request.base, request.channels
            entries = _base_entries(base)
        packages += [entries.get((platform, record.url)) or _entry(record, platform) for record in records]
        hashes[platform] = input_hash(environment_file, base.lock, platform, channels)
        metadata[f"virtual-packages {platform}"] = " ".join(sorted(base.lock.virtual_packages[platform]))
        metadata[f"records {platform}"] = request.source.identity(channels, [platform, "noarch"])
    content = Lockfile(
        package=packages,
        metadata=LockMeta(
            content_hash=hashes,
            channels=[Channel.from_string(channel) for channel in channels],
            platforms=list(hashes),
            sources=[built.environment],
            custom_metadata=dict(sorted(metadata.items())),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        conda_lock_files.write_conda_lock_file(content, path, metadata_choices=None, include_help_text=False)
        body = path.read_text(encoding="utf-8")
    text = (
        _HEADER.format(name=environment_file.name, base=built.base.text, environment=built.environment, file=CONDA_LOCK)
        + body
    )
    lock = parse_lock(text.encode(), output)
    virtual = {platform: metadata[f"virtual-packages {platform}"].split() for platform in hashes}
    files = {CONDA_LOCK: text}
    files[PIXI] = write_pixi({platform: records for platform, (_, records) in solved.items()}, channels, virtual)
    for platform in hashes:
        files[explicit_name(platform)] = write_explicit(lock, platform)
    return files


_HEADER = """\
# The lock of {name}: the base {base} as it is, and on top of it what {environment} asks for.
# Written by torchlocks with conda-lock; do not edit it, change {environment} and run `torchlocks extend` again.
#
# Install it with torchlocks (`torchlocks install {file} PREFIX`) or with conda-lock
# (`conda-lock install -p PREFIX {file}`). conda, mamba and micromamba take the explicit file
# conda-PLATFORM.lock beside this one (`conda create -p PREFIX --file conda-PLATFORM.lock`); given this
# file, plain conda makes an empty environment without a word. pixi takes pixi.lock.
"""


def _base_entries(base: Base) -> dict[tuple[str, str], LockedDependency]:
    """Return the base's own entries, as conda-lock reads them, by platform and URL."""
    import conda_lock.lockfile as conda_lock_files
    from pydantic import ValidationError

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        path.write_bytes(base.data)
        try:
            content = conda_lock_files.parse_conda_lock_file(path)
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
