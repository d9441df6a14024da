"""Validation of every lock, whatever its format: no text that controls a terminal or crashes a parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torchlocks.core.errors import LockfileError
from torchlocks.core.printing import printable
from torchlocks.core.reading import is_costly_spec
from torchlocks.lockfile.models import Lock, LockedPackage

_LONGEST = 255
"""Characters of a name, version or build: the name of the package's file has all three, and may not be longer."""


def require_sound(lock: Lock, path: Path) -> Lock:
    """Return the lock, with licence texts made printable.

    Raises LockfileError for control characters in names, versions, URLs and the like, for names that are paths, and for
    match specs that crash parsers and that no package has.
    """
    for text in (*lock.channels, *lock.platforms, *lock.environments):
        _require_printable(text, str(path))
    for text in (*lock.platforms, *lock.packages, *filter(None, lock.environments)):
        _require_name(text, str(path))
    packages = {}
    for platform, locked in lock.packages.items():
        where = f"{path}, platform {platform}"
        for each in locked:
            _check(each, where)
        packages[platform] = tuple(
            replace(each, license=printable(each.license)) if each.license and not each.license.isprintable() else each
            for each in locked
        )
    for platform, others in lock.pip.items():
        for other in others:
            for field in (other.name, other.version, other.location):
                _require_printable(field or "", f"{path}, platform {platform}, pip")
            for field in (other.name, other.version):
                _require_short(field or "", f"{path}, platform {platform}, pip")
    for platform, sources in lock.sources.items():
        for text in sources:
            _require_printable(text, f"{path}, platform {platform}")
    return replace(lock, packages=packages)


def _check(package: LockedPackage, where: str) -> None:
    for text in (package.name, package.version, package.build, package.subdir, package.url):
        _require_printable(text, where)
    for text in (package.name, package.version, package.build, package.subdir):
        _require_short(text, where)
        _require_name(text, where)
    for spec in _specs(package):
        _require_printable(spec, f"{where}, {package.name}")
        if is_costly_spec(spec):
            raise LockfileError(
                f"{package.name} depends on what is no match spec: it has {len(spec)} characters.",
                where=where,
                fix="make the lock again.",
            )


def _specs(package: LockedPackage) -> Iterator[str]:
    yield from package.depends or ()
    yield from package.constrains or ()


def _require_printable(text: str, where: str) -> None:
    if not text.isprintable():
        raise LockfileError(
            f"{text[:200]!r} has control characters, which no name, version or URL has.",
            where=where,
            fix="do not use this lock; ask where it came from.",
        )


def _require_short(text: str, where: str) -> None:
    if len(text) > _LONGEST:
        raise LockfileError(
            f"{text[:80]!r}… has {len(text)} characters, which no name, version or build has.",
            where=where,
            fix="do not use this lock; ask where it came from.",
        )


def _require_name(text: str, where: str) -> None:
    """Raise LockfileError for a name, version, platform or the like that is a path: files are named by them."""
    if not text or text in (".", "..") or set("/\\:") & set(text):
        raise LockfileError(
            f"{text!r} is a path, or empty; no name, version, build, platform or environment is.",
            where=where,
            fix="do not use this lock; ask where it came from.",
        )
