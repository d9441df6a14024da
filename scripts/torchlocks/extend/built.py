"""What a lock records of the base that it was built on, in its custom metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchlocks.core.errors import LockfileError
from torchlocks.extend.base_name import BaseName
from torchlocks.lockfile.formats import CONDA_LOCK

_BASE, _REPOSITORY, _COMMIT, _SHA256 = "base", "base repository", "base commit", "base sha256"

_MOVES, _CHANNELS, _INPUT = "base moves", "added channels", "environment"


@dataclass(frozen=True, kw_only=True)
class Built:
    """How the lock of another repository was made; stored in its custom metadata.

    `moves` are base packages that were allowed to move. `channels` are those of the additions if they replaced the
    environment file's, else None. `environment` is the path of the environment file relative to the lock's folder.
    """

    base: BaseName
    sha256: str
    moves: tuple[str, ...]
    channels: tuple[str, ...] | None
    environment: str

    def metadata(self) -> dict[str, str]:
        """Return the fields as they are written into the lock."""
        found = {
            _BASE: self.base.text,
            _REPOSITORY: self.base.repository,
            _COMMIT: self.base.commit,
            _SHA256: self.sha256,
            _MOVES: " ".join(self.moves),
            _CHANNELS: None if self.channels is None else " ".join(self.channels),
            _INPUT: self.environment,
        }
        return {key: value for key, value in found.items() if value}


def is_built_on_base(metadata: Mapping[str, str]) -> bool:
    """Return whether a lock's metadata names a base."""
    return any(key in metadata for key in (_BASE, _REPOSITORY, _COMMIT, _SHA256, _MOVES))


def read_built(metadata: Mapping[str, str]) -> Built | None:
    """Return what a lock's metadata records of its base; None for a lock without a base.

    Raises LockfileError if only part of the fields is there.
    """
    base, sha256, environment = metadata.get(_BASE), metadata.get(_SHA256), metadata.get(_INPUT)
    if not is_built_on_base(metadata):
        return None
    if not (base and sha256 and environment):
        missing = [key for key in (_BASE, _SHA256, _INPUT) if not metadata.get(key)]
        raise LockfileError(
            f"The lock was built on a base, and its record of it is not complete; missing: {', '.join(missing)}.",
            where=f"{CONDA_LOCK}, metadata.custom_metadata",
            fix="run `torchlocks extend` again and name the base",
        )
    channels = metadata.get(_CHANNELS)
    return Built(
        base=BaseName(text=base, repository=metadata.get(_REPOSITORY), commit=metadata.get(_COMMIT)),
        sha256=sha256,
        moves=tuple(metadata.get(_MOVES, "").split()),
        channels=tuple(channels.split()) if channels is not None else None,
        environment=environment,
    )
