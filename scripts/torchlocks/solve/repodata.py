"""Read package records from a snapshot folder, a channel on disk, or a live channel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import ChannelUnreachableError, MissingFileError
from torchlocks.core.files import hash_file
from torchlocks.core.urls import file_path, mask
from torchlocks.solve import live

if TYPE_CHECKING:
    from rattler import RepoDataRecord, SparseRepoData

CHANNEL_HOST = "https://conda.anaconda.org"
"""The host of channels that are given by name."""

_SNAPSHOT, _AS_OF, _MIRROR = "TORCHLOCKS_SNAPSHOT", "TORCHLOCKS_AS_OF", "TORCHLOCKS_MIRROR"


@dataclass(frozen=True, kw_only=True)
class RecordSource:
    """The source of channel records in one run.

    `snapshot` is a folder of `<channel>/<subdir>/repodata.json` that is read instead of the channels, whose
    URLs stay the real ones. `as_of` ignores packages newer than that day (UTC). `mirror` is a URL that is
    used for live channels instead of conda.anaconda.org.
    """

    snapshot: Path | None = None
    as_of: date | None = None
    mirror: str | None = None
    _digests: dict[Path, str] = field(default_factory=dict, compare=False, repr=False)
    _opened: dict[tuple[str, str], list[SparseRepoData]] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Open handles are not pickled.
        return _source, (self.snapshot, self.as_of, self.mirror)

    @classmethod
    def from_environment(cls) -> RecordSource:
        """Return the source that a parent process passed with `environment()`."""
        snapshot, as_of = os.environ.get(_SNAPSHOT), os.environ.get(_AS_OF)
        return cls(
            snapshot=Path(snapshot) if snapshot else None,
            as_of=date.fromisoformat(as_of) if as_of else None,
            mirror=os.environ.get(_MIRROR) or None,
        )

    def environment(self) -> dict[str, str]:
        """Return environment variables that pass this source to the solver's process."""
        return {
            _SNAPSHOT: str(self.snapshot) if self.snapshot else "",
            _AS_OF: self.as_of.isoformat() if self.as_of else "",
            _MIRROR: self.mirror or "",
        }

    @property
    def cutoff(self) -> datetime | None:
        """The last instant of the `as_of` day."""
        return datetime.combine(self.as_of, time.max, tzinfo=timezone.utc) if self.as_of else None

    def folder(self, channel: str) -> Path | None:
        """Return the folder on disk of `channel` (a name or URL), or None for a live channel.

        Raises MissingFileError if the snapshot does not have the channel.
        """
        if channel.startswith("file://"):
            return file_path(channel)
        if self.snapshot is None:
            return None
        folder = self.snapshot / channel_name(channel)
        if not folder.is_dir():
            raise MissingFileError(
                f"The snapshot does not have the channel {channel_name(channel)}.",
                where=str(folder),
                fix="SNAPSHOT= must name a folder of <channel>/<subdir>/repodata.json",
            )
        return folder

    def sparse(self, channel: str, subdirs: Sequence[str]) -> list[SparseRepoData]:
        """Open the repodata of a channel; records are parsed on demand.

        Each subdir is opened once. A live channel's is downloaded into the cache first, so that all sources are solved
        the same way: the solver's solution can depend on the order of records. Missing subdirs are omitted. Raises
        MissingFileError for a folder that is not a channel, and ChannelUnreachableError for a live channel that cannot
        be read.
        """
        folder = self.folder(channel)
        new = [subdir for subdir in subdirs if (channel, subdir) not in self._opened]
        if new:
            found = live.fetch(channel, new, mirrors(self.mirror)) if folder is None else _open(folder, channel, new)
            for subdir in new:
                self._opened[channel, subdir] = [each for each in found if each.subdir == subdir]
        opened = [each for subdir in subdirs for each in self._opened[channel, subdir]]
        if opened:
            return opened
        what = f"The channel {channel} has no repodata.json for {' or '.join(subdirs)}."
        if folder is not None:
            raise MissingFileError(what, where=str(folder))
        raise ChannelUnreachableError(what, where=channel, fix="check its name; MIRROR=URL names a mirror")

    def identity(self, channels: Sequence[str], subdirs: Sequence[str]) -> str:
        """Return the identity of the records for a lock's metadata: a hash of the snapshot, a date, or "live"."""
        if self.snapshot is None:
            mirror = f" from the mirror {mask(self.mirror)}" if self.mirror else ""
            return f"live{mirror}" + (f", as of {self.as_of.isoformat()}" if self.as_of else "")
        sha = hashlib.sha256()
        for channel in channels:
            for subdir in sorted(subdirs):
                file = self.snapshot / channel_name(channel) / subdir / "repodata.json"
                digest = self._digest(file) if file.is_file() else "none"
                sha.update(f"{channel_name(channel)}/{subdir} {digest}\n".encode())
        as_of = f", as of {self.as_of.isoformat()}" if self.as_of else ""
        return f"snapshot sha256:{sha.hexdigest()}{as_of}"

    def _digest(self, file: Path) -> str:
        if file not in self._digests:
            self._digests[file] = hash_file(file)
        return self._digests[file]


def _source(snapshot: Path | None, as_of: date | None, mirror: str | None) -> RecordSource:
    return RecordSource(snapshot=snapshot, as_of=as_of, mirror=mirror)


def _open(folder: Path, channel: str, subdirs: Sequence[str]) -> list[SparseRepoData]:
    from rattler import Channel, SparseRepoData

    files = {subdir: folder / subdir / "repodata.json" for subdir in subdirs}
    return [SparseRepoData(Channel(channel), subdir, file) for subdir, file in files.items() if file.is_file()]


def mirrors(url: str | None) -> dict[str, tuple[str, ...]]:
    """Return the replacements of URLs: the user's mirror for the host of channels that are given by name."""
    return {CHANNEL_HOST: (url.rstrip("/"),)} if url else {}


def channel_name(channel: str) -> str:
    """Return the name of a channel given by name or URL: `https://conda.anaconda.org/conda-forge` → `conda-forge`."""
    return channel.rstrip("/").rsplit("/", 1)[-1] if "://" in channel else channel


def require_snapshot(folder: Path) -> None:
    """Raise MissingFileError unless `folder` looks like a snapshot: some `<channel>/<subdir>/repodata.json`."""
    if not next(folder.glob("*/*/repodata.json"), None):
        raise MissingFileError(
            "This is not a snapshot of channels: there is no <channel>/<subdir>/repodata.json in it.",
            where=str(folder),
            fix="name the folder above the channels, such as SNAPSHOT=snapshots/2026-07-15",
        )


def records_by_url(
    source: RecordSource, channels: Sequence[str], platform: str, packages: Mapping[str, str]
) -> dict[str, RepoDataRecord]:
    """Return the channels' complete records of `packages` (URL → name) on one platform, by URL.

    URLs that no channel has are omitted. Raises ChannelUnreachableError for a live channel that cannot be read.
    """
    from rattler import PackageName

    names = sorted(set(packages.values()))
    found: dict[str, RepoDataRecord] = {}
    for channel in channels:
        for repodata in source.sparse(channel, (platform, "noarch")):
            for name in names:
                for record in repodata.load_records(PackageName(name)):
                    if record.url in packages:
                        found[record.url] = record
    return found
