"""The values that pass between stages: frozen, and independent of any file format."""

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
    """One package of a lock, with the fields that its format has.

    `subdir` is the folder of the channel (`noarch` or a platform). `depends` and `constrains` are None if the format
    has none (explicit files; conda-lock v1 has no `constrains`). `size` is in bytes. Hashes are lower-case hexadecimal.
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
    def dependency_names(self) -> frozenset[str]:
        """The names of the packages that this one depends on, virtual packages among them."""
        return frozenset(spec.split()[0].rpartition("::")[2] for spec in self.depends or () if spec.strip())

    @property
    def channel(self) -> str:
        """The channel's URL: the package's without subdir and file."""
        return self.url.rsplit("/", 2)[0]


@dataclass(frozen=True, kw_only=True)
class PipPackage:
    """A package that a lock leaves to pip.

    `name` is the project's, normalized as on PyPI. `version` is None if it is known only after a build (a folder, a git
    repository). `location` is the lock's URL or path; None without one.
    """

    name: str
    version: str | None
    location: str | None = None
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """`name==version`, or name and location without a version."""
        if self.version is not None:
            return f"{self.name}=={self.version}"
        return f"{self.name} @ {self.location}" if self.location else self.name


def pip_package(name: str, version: str | None, location: str | None = None, sha256: str | None = None) -> PipPackage:
    """Create a pip package from a lockfile's fields. pixi writes `<dynamic>` for no version."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    known = version if version and version != "<dynamic>" else None
    return PipPackage(name=normal, version=known, location=location or None, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lockfile that was read: its packages by platform, and its metadata.

    `sha256` is that of the file's bytes: the identity that environments and reports record. `virtual_packages` maps a
    platform to `__name=version[=build]` strings, if the file has any. `pip` maps a platform to packages that are no
    conda packages; torchlocks neither writes nor installs those. `sources` maps a platform to conda packages that are
    built from source, as `name (location)`: they are not in `packages`, since they have no archive.

    A pixi.lock can contain several environments and name its platforms freely. `environment` is the name of this one,
    `environments` are all of the file (both empty for other formats). `subdirs` maps a platform's name to its subdir if
    the two differ. `selection` distinguishes selections from the same file: empty if there is nothing to select.

    `variables` are the environment variables in the URLs of the lock's channels, as conda-lock records them.
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
        """Return the subdir of a platform: its name, unless the file gives another."""
        return self.subdirs.get(platform, platform)

    def on(self, platform: str) -> Lock:
        """Return this lock for one platform, by its name or its subdir, keyed by the subdir.

        A lock without the platform has no packages for it. Raises LockfileError if several platforms have that subdir
        and none has its name.
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
        """Return this lock with every platform under its subdir; several platforms of one subdir keep their names."""
        count = Counter(self.subdir(platform) for platform in self.packages)
        return self._renamed(
            {name: self.subdir(name) if count[self.subdir(name)] == 1 else name for name in self.packages}
        )

    def _renamed(self, names: Mapping[str, str]) -> Lock:
        """Return this lock with the platforms in `names` under their new names, and without the others."""
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
    """Return (name, version, build) of a package file such as `numpy-2.3.0-py311_0.conda`.

    The convention is conda's: the last two dashes separate, since versions and builds contain none. Raises
    LockfileError for a name of another form.
    """
    for extension in (".conda", ".tar.bz2"):
        if file_name.endswith(extension):
            parts = file_name[: -len(extension)].rsplit("-", 2)
            if len(parts) == 3 and all(parts):
                return parts[0], parts[1], parts[2]
    raise LockfileError(f"{file_name!r} is not the name of a conda package (name-version-build.conda or .tar.bz2).")
