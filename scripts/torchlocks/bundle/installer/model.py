"""The fields of a bundle's manifest as tuples, and the error for invalid bundles."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class BundleError(Exception):
    """An invalid bundle: the message, and `fix`, what to do. Nothing was installed."""

    def __init__(self, what: str, fix: str = "copy the bundle again; if the error remains, make it again.") -> None:
        super().__init__(what)
        self.fix = fix


class Package(NamedTuple):
    """One package of the bundle: its archive and its fields in the lock.

    `sha256`, `md5` and `size` (bytes) are those of the locked archive; `file_sha256` is that of the file in the bundle,
    which differs if the bundle is portable.
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
    """An unpacked bundle; `packages` are in an order in which they can be linked.

    `portable`: its archives were repacked, so that they do not have the lock's hashes. `manifest` is bundle.json, which
    has their own.
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
    """An extracted package: its folder, and the sha256 of each file by path."""

    folder: Path
    hashes: dict[str, str]
