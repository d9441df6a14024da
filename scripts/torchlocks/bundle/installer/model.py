"""What a bundle contains: its manifest's fields as tuples, and the error of everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class BundleError(Exception):
    """What is wrong, and what to do about it. Nothing has been put in place."""

    def __init__(self, what: str, fix: str = "copy the bundle again; if it stays, make it again.") -> None:
        super().__init__(what)
        self.fix = fix


class Package(NamedTuple):
    """One package of the bundle: its archive, and what the lock says of it.

    `sha256`, `md5` and `size` (bytes) are those of the locked archive; `file_sha256` is that of the file in the
    bundle, which is another one where the bundle is portable.
    """

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str
    md5: str | None
    size: int | None
    file: str
    file_sha256: str

    @property
    def record_name(self) -> str:
        return "{}-{}-{}".format(self.name, self.version, self.build)  # noqa: UP032


class Bundle(NamedTuple):
    """An unpacked bundle; `packages` are in the order in which they can be linked.

    `portable` says that its archives were repacked, so that the lock's hashes do not hold for them; `manifest` is
    bundle.json, which has their own.
    """

    folder: Path
    name: str
    platform: str
    lock_name: str
    lock_kind: str
    lock_sha256: str
    torchlocks: str
    packages: tuple[Package, ...]
    portable: bool
    manifest: bytes

    @property
    def windows(self) -> bool:
        return self.platform.startswith("win-")


class Extracted(NamedTuple):
    """A package's files in a folder of its own, and the sha256 of each by its path."""

    folder: Path
    hashes: dict[str, str]
