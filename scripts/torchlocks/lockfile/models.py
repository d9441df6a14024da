"""The values that pass between stages: frozen, plain, and independent of any file format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
class PipPackage:
    """A package that a lock leaves to pip.

    `name` is the project's, as PyPI normalizes it. `version` is None where it is known only when the package is built
    (a folder, a git repository). `location` is the URL or path that the lock gives; None where it gives none.
    """

    name: str
    version: str | None
    location: str | None = None
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """`name==version`, or the name and where it comes from where there is no version."""
        if self.version is not None:
            return f"{self.name}=={self.version}"
        return f"{self.name} @ {self.location}" if self.location else self.name


def pip_package(name: str, version: str | None, location: str | None = None, sha256: str | None = None) -> PipPackage:
    """A package of pip's as a lockfile has it. `<dynamic>` is how pixi writes that there is no version."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    known = version if version and version != "<dynamic>" else None
    return PipPackage(name=normal, version=known, location=location or None, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lockfile that was read: its packages by platform, and what it says of itself.

    `sha256` is that of the file's bytes: the identity that environments and reports record.
    `virtual_packages` maps a platform to `__name=version[=build]` strings, where the file says.
    `pip` maps a platform to packages that are no conda packages; torchlocks neither writes nor installs those.
    `sources` maps a platform to conda packages that are built from source, as `name (location)`: they are in no lock's
    `packages`, since they have no archive.

    A pixi.lock can hold several environments and name its platforms freely. `environment` is the one that this is,
    `environments` are all that the file holds (both empty for other formats). `subdirs` maps a platform's name to its
    subdir where that is another. `selection` tells apart what was selected from the same file: it is empty where there
    is nothing to select.

    `variables` are the environment variables that the URLs of the lock's channels may hold, as conda-lock records them.
    """

    path: Path
    kind: LockKind
    sha256: str
    channels: tuple[str, ...]
    packages: Mapping[str, tuple[LockedPackage, ...]]
    content_hash: Mapping[str, str]
    virtual_packages: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, str]
    pip: Mapping[str, tuple[PipPackage, ...]] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: str = ""
    environments: tuple[str, ...] = ()
    subdirs: Mapping[str, str] = field(default_factory=dict)
    selection: str = ""
    variables: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(self.packages)

    def subdir(self, platform: str) -> str:
        """The subdir of a platform: its name, unless the file gives another."""
        return self.subdirs.get(platform, platform)

    def on(self, platform: str) -> Lock:
        """This lock for one platform, by its name or its subdir, keyed by the subdir.

        A lock that does not have the platform has no packages for it. Raises LockfileError where several platforms are
        of that subdir and none has its name.
        """
        names = [platform] if platform in self.packages else [p for p in self.packages if self.subdir(p) == platform]
        if len(names) > 1:
            raise LockfileError(
                f"The lock has several platforms for {platform}: {', '.join(sorted(names))}.",
                where=str(self.path),
                fix="name one of them with --platform",
            )
        name = names[0] if names else platform
        if not self.subdirs:
            return self
        chosen = "" if name == self.subdir(name) else name
        only = self._renamed({name: self.subdir(name)} if names else {})
        return replace(only, selection=" ".join(part for part in (self.selection, chosen) if part))

    def by_subdir(self) -> Lock:
        """This lock with every platform under its subdir; those of which several are of one subdir keep their names."""
        count = Counter(self.subdir(platform) for platform in self.packages)
        return self._renamed(
            {name: self.subdir(name) if count[self.subdir(name)] == 1 else name for name in self.packages}
        )

    def _renamed(self, names: Mapping[str, str]) -> Lock:
        """This lock with the platforms in `names` under other names, and without the others."""
        return replace(
            self,
            packages={new: self.packages[old] for old, new in names.items()},
            pip={new: self.pip[old] for old, new in names.items() if old in self.pip},
            sources={new: self.sources[old] for old, new in names.items() if old in self.sources},
            virtual_packages={
                new: self.virtual_packages[old] for old, new in names.items() if old in self.virtual_packages
            },
            content_hash={new: self.content_hash[old] for old, new in names.items() if old in self.content_hash},
            subdirs={new: self.subdirs[old] for old, new in names.items() if self.subdirs.get(old, new) != new},
        )


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
