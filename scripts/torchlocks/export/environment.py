"""One platform of a lock: the input of exports and bills of materials."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.virtual import parse_virtual

if TYPE_CHECKING:
    from torchlocks.matrix.target import Target


_WORD = re.compile(r"[A-Za-z0-9_.+!-]+")
"""The characters of names, versions and build strings of conda packages."""


@dataclass(frozen=True, kw_only=True)
class LockedTarget:
    """The packages of one platform of a lock. `target` is its row in the matrix; None for a lock from elsewhere.

    `name` is the environment's; `packages` are sorted by name. `platforms` are all subdirs that the lockfile is for.
    """

    name: str
    platform: str
    lock: Lock
    packages: tuple[LockedPackage, ...]
    target: Target | None
    platforms: tuple[str, ...] = ()

    @property
    def virtual_packages(self) -> dict[str, str]:
        """The virtual packages that the lock was solved with: `__glibc` to `2.28`, `__archspec` to `1=x86_64`."""
        found = parse_virtual(self.lock.virtual_packages.get(self.platform, ()))
        return {name: package.text for name, package in found.items()}

    @property
    def cuda(self) -> str | None:
        """The lowest CUDA version that the driver must support: the `__cuda` solved with, or the packages' floor."""
        from torchlocks.cuda.packages import floor_of

        return self.virtual_packages.get("__cuda") or floor_of(self.packages, "__cuda")

    @property
    def glibc(self) -> str | None:
        """The oldest glibc that the packages run on; None off Linux."""
        from torchlocks.cuda.packages import floor_of

        return self.virtual_packages.get("__glibc") or floor_of(self.packages, "__glibc")

    def version_of(self, name: str) -> str | None:
        """Return the version of a package, None if it is not in the lock."""
        return next((package.version for package in self.packages if package.name == name), None)


def find_locked(
    name: str, platform: str | None, environment: str | None = None, *, lockfile: bool = False
) -> LockedTarget:
    """Return the environment `name` of the matrix, or the lockfile of that path or URL, on `platform`.

    Of a folder, the conda-lock.yml or pixi.lock in it is read; with `lockfile`, no environment is meant. `platform`
    defaults to this machine's, or to the lock's only one. `environment` is one of a pixi.lock's. Raises
    NoSuchRowError for unknown environments, MissingFileError if there is no lock, LockfileError if it has no such
    platform or environment.
    """
    from torchlocks.core.layout import find_layout
    from torchlocks.lockfile.formats import CONDA_LOCK
    from torchlocks.lockfile.open import open_lock
    from torchlocks.matrix.load import load_matrix

    if lockfile or is_lockfile(name):
        name = _file_in(name)
        lock = open_lock(name, environment)
        # It becomes part of file names and scripts, and a file may call its environments anything.
        shown = "-".join([_named(lock) or lock_name(name), *_WORD.findall(lock.selection)])
        return _of(lock, shown, platform or _default(lock, name), None)
    if environment is not None:
        raise LockfileError(
            f"{name} is an environment of the matrix; {environment!r} can be selected from a pixi.lock only.",
            where="--environment",
            fix="name the pixi.lock, or leave --environment out",
        )
    layout = find_layout()
    matrix = load_matrix(layout.matrix)
    row = matrix.environment(name)
    target = matrix.target(name, platform or _default_of(tuple(row.platforms), name))
    path = layout.locks / name / CONDA_LOCK
    if not path.is_file():
        raise MissingFileError(f"{name} is not locked.", where=str(path), fix=f"lock it: make lock ENV={name}")
    return _of(open_lock(str(path)), name, target.platform, target)


def is_lockfile(name: str) -> bool:
    """Return whether `name` is a file, or a folder with one, rather than an environment."""
    looks = "://" in name or "/" in name or "\\" in name or name.endswith((".yml", ".yaml", ".lock", ".txt"))
    return looks or name == "." or _file_in(name) != name or (os.path.lexists(name) and not Path(name).is_dir())


def _file_in(name: str) -> str:
    """Return the lockfile in the folder `name`; `name` itself if it is no folder, or has none."""
    if "://" in name or not os.path.isdir(name):  # noqa: PTH112
        return name
    return next((path for file in ("conda-lock.yml", "pixi.lock") if Path(path := f"{name}/{file}").is_file()), name)


def _of(lock: Lock, name: str, platform: str, target: Target | None) -> LockedTarget:
    whole = lock
    lock = whole.on(platform)
    platform = whole.subdir(platform)
    packages = lock.packages.get(platform)
    if not packages:
        raise LockfileError(
            f"The lock contains no conda packages for {platform}.",
            where=str(lock.path),
            fix=f"it has some for: {', '.join(each for each in whole.platforms if whole.packages.get(each)) or 'none'}",
        )
    for package in packages:
        # Exports write these into scripts, so other characters are refused.
        if not all(_WORD.fullmatch(word) for word in (package.name, package.version, package.build)):
            raise LockfileError(
                f"{package.file_name!r} is not the name of a conda package: it contains characters that none has.",
                where=str(lock.path),
                fix="see where this lock comes from, and do not install it.",
            )
    return LockedTarget(
        name=name,
        platform=platform,
        lock=lock,
        packages=tuple(sorted(packages, key=lambda package: (package.name, package.url))),
        target=target,
        platforms=tuple(dict.fromkeys(whole.subdir(each) for each in whole.platforms)),
    )


def _default(lock: Lock, where: str) -> str:
    """Return this machine's platform, or the lock's only one, by its name in the lock."""
    from torchlocks.host.detect import host_platform

    here = host_platform()
    if here in {lock.subdir(platform) for platform in lock.platforms}:
        return here
    return _default_of(lock.platforms, where)


def _default_of(platforms: Sequence[str], where: str) -> str:
    from torchlocks.host.detect import host_platform

    here = host_platform()
    if here in platforms:
        return here
    if len(platforms) == 1:
        return platforms[0]
    raise LockfileError(
        f"This machine's platform, {here}, is none of the lock's.",
        where=where,
        fix=f"name one with --platform: {', '.join(platforms) or 'none'}",
    )


def _named(lock: Lock) -> str:
    """Return the `name:` of the environment file beside a lockfile, without characters that no name has; else empty."""
    import yaml

    from torchlocks.core.reading import read_text, refuse_costly_yaml

    for file in ("environment.yml", "environment.yaml"):
        path = lock.path.with_name(file)
        if not path.is_file():
            continue
        try:
            text = read_text(path)
            refuse_costly_yaml(text)
            document = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        name = document.get("name") if isinstance(document, dict) else None
        return "-".join(_WORD.findall(name)) if isinstance(name, str) else ""
    return ""


def lock_name(name: str) -> str:
    """Return a name for a lock from its path or URL: the folder of a conda-lock.yml or pixi.lock, else the file."""
    from torchlocks.lockfile.open import path_of

    path = path_of(name)
    folder = path.absolute().parent.name if "://" not in name or name.startswith("file://") else ""
    shown = folder if path.name in ("conda-lock.yml", "pixi.lock") and folder else path.name.removesuffix(".lock")
    return "-".join(_WORD.findall(shown)) or "environment"
