"""The manifest of a local channel: each package's hash, and a fingerprint of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from torchlocks.core.files import hash_file, write_whole
from torchlocks.local_channel.pack import Built

FILE_NAME = "manifest.json"


class Record(Built):
    """A package of the channel. `fingerprint` is a hash of recipe, wheel, CPython and tools (see recipes.py)."""

    fingerprint: str


class Manifest(BaseModel):
    """A channel's content: packages by name, and the SHA-256 of each subdir's repodata.json once it is complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: Mapping[str, Record] = {}
    repodata: Mapping[str, str] = {}

    def write(self, channel: Path) -> None:
        """Replace the channel's manifest by this one, atomically."""
        write_whole(channel / FILE_NAME, self.model_dump_json(indent=2) + "\n")


def read_manifest(channel: Path) -> Manifest:
    """Return the channel's manifest; an empty one if it is missing or not valid, so that everything is built again."""
    try:
        return Manifest.model_validate_json((channel / FILE_NAME).read_bytes())
    except (OSError, ValidationError):
        return Manifest()


def intact_records(manifest: Manifest, channel: Path, fingerprints: Mapping[str, str]) -> dict[str, Record]:
    """Return the packages that need not be built: with a current fingerprint, and with the right hash on disk."""
    return {
        name: record
        for name, record in manifest.packages.items()
        if record.fingerprint == fingerprints.get(name) and _has_hash(channel / record.subdir / record.file, record)
    }


def _has_hash(path: Path, record: Record) -> bool:
    try:
        return path.stat().st_size == record.size and hash_file(path) == record.sha256
    except OSError:
        return False


def repodata_hashes(channel: Path) -> dict[str, str]:
    """Return the SHA-256 of each `repodata.json` in the channel, by subdir."""
    return {path.parent.name: hash_file(path) for path in sorted(channel.glob("*/repodata.json"))}


def package_files(channel: Path) -> set[str]:
    """Return all package files in the channel, as `<subdir>/<file>`."""
    return {f"{path.parent.name}/{path.name}" for path in channel.glob("*/*.conda")}
