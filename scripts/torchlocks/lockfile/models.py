"""The values that pass between stages: frozen, plain, and independent of any file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from torchlocks.core.errors import LockfileError

LockKind = Literal["conda-lock", "explicit", "pixi"]


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """One package of a lock, as far as its format tells.

    `subdir` is the folder of the channel that the file is in (`noarch` or a platform). `depends` and
    `constrains` are None where the format does not say (explicit files; conda-lock v1 has no
    `constrains`). `size` is in bytes. Hashes are lower-case hexadecimal.
    """

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    depends: tuple[str, ...] | None = None
    constrains: tuple[str, ...] | None = None
    license: str | None = None
    timestamp_ms: int | None = None

    @property
    def file_name(self) -> str:
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def channel(self) -> str:
        """The channel's URL: the package's, less the subdir and the file."""
        return self.url.rsplit("/", 2)[0]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lockfile that was read: its packages by platform, and what it says of itself.

    `sha256` is that of the file's bytes: the identity that environments and reports record.
    `virtual_packages` maps a platform to `__name=version[=build]` strings, where the file says.
    `pip` maps a platform to the `name==version` of packages that are no conda packages; torchlocks
    neither writes nor installs those.
    """

    path: Path
    kind: LockKind
    sha256: str
    channels: tuple[str, ...]
    packages: Mapping[str, tuple[LockedPackage, ...]]
    content_hash: Mapping[str, str]
    virtual_packages: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, str]
    pip: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(self.packages)


def split_file_name(file_name: str) -> tuple[str, str, str]:
    """(name, version, build) of a package file such as `numpy-2.3.0-py311_0.conda`.

    The convention is conda's: the last two dashes separate, since versions and builds hold none.
    Raises LockfileError when the name is not of that form.
    """
    for extension in (".conda", ".tar.bz2"):
        if file_name.endswith(extension):
            parts = file_name[: -len(extension)].rsplit("-", 2)
            if len(parts) == 3 and all(parts):
                return parts[0], parts[1], parts[2]
    raise LockfileError(f"{file_name!r} is not the name of a conda package (name-version-build.conda or .tar.bz2).")
