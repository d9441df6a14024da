"""The files of an extracted package: their list, their digests, and the refusal of unsafe or wrong packages."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from torchlocks.core.errors import IntegrityError
from torchlocks.core.files import hash_file
from torchlocks.core.reading import (
    LISTING_BYTES,
    RECORD_BYTES,
    is_costly_spec,
    load_json,
    read_bytes,
    read_text,
    refuse_costly_json,
)
from torchlocks.install.contained import Tree, leaves, site_packages
from torchlocks.lockfile.models import LockedPackage

DEEPEST_FOLDER = 256
"""Most folders in each other; what removes deeper ones recurses in Python before 3.13."""


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every entry below `folder` that is not a folder, with its relative path.

    Raises OSError, and IntegrityError for folders that are nested too deeply.
    """
    waiting = [(str(folder), "")]
    while waiting:
        here, below = waiting.pop()
        with os.scandir(here) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    if below.count("/") >= DEEPEST_FOLDER:
                        raise IntegrityError(
                            f"{folder.name} has more than {DEEPEST_FOLDER} folders in each other.", where=str(folder)
                        )
                    waiting.append((each.path, f"{below}{each.name}/"))
                else:
                    yield below + each.name, each


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What is on disk below a folder: the status of every entry that is no folder, and the targets of links.

    Read once a package, since a package can have 10,000 files and four checks look at all of them.
    """

    status: Mapping[str, os.stat_result]
    links: Mapping[str, str]

    def fingerprint(self, *, times: bool = True) -> str:
        """Return a digest of every file's path, mode, size, link target and, with `times`, modification time."""
        lines = [
            (path, found.st_mode, found.st_size, found.st_mtime_ns if times else 0, self.links.get(path, ""))
            for path, found in sorted(self.status.items(), key=itemgetter(0))
        ]
        return hashlib.blake2b(repr(lines).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def walk(folder: Path) -> Walked:
    """Return what is below `folder`. Raises OSError, and IntegrityError for folders that are nested too deeply."""
    status, links = {}, {}
    for path, each in _walk(folder):
        status[path] = found = each.stat(follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            links[path] = os.readlink(each.path)  # noqa: PTH115
    return Walked(status=status, links=links)


def info_digest(folder: Path) -> str:
    lines = sorted(
        (path, hash_file(Path(each.path)))
        for path, each in _walk(folder / "info")
        if each.is_file(follow_symlinks=False)
    )
    return hashlib.blake2b(repr(lines).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def read_paths(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the package's `info/paths.json`. Raises ValueError if it is invalid.

    Packages from before 2017 have only `info/files`: their entries are paths without size or hash.
    """
    listing = folder / "info" / "paths.json"
    if not listing.exists():
        return [{"_path": line} for line in read_text(folder / "info" / "files", LISTING_BYTES).splitlines()]
    try:
        # Only the paths are used: checking the depth of all else would take as long as parsing it.
        content: Any = json.loads(refuse_costly_json(read_bytes(listing, LISTING_BYTES)))
    except RecursionError:
        raise ValueError("info/paths.json is nested too deeply") from None
    paths = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(paths, list) or not all(isinstance(p, dict) and isinstance(p.get("_path"), str) for p in paths):
        raise ValueError("info/paths.json is not a list of paths")
    return paths


def first_changed(folder: Path, walked: Walked | None = None, *, contents: bool = True) -> str | None:
    """Return which file differs from `info/paths.json`; None if none does. Files are hashed only for `contents`.

    With `walked`, and without `contents`, files are not looked at again.
    """
    from concurrent.futures import ThreadPoolExecutor

    def changed(path: dict[str, Any]) -> str | None:
        name = path["_path"]
        file = folder / name
        try:
            if path.get("path_type") == "softlink" or file.is_symlink():
                return None if os.path.lexists(file) else f"{name} is missing"
            if path.get("path_type") == "directory":
                return None if file.is_dir() else f"{name} is missing"
            if not file.is_file():
                return f"{name} is missing"
            if (size := path.get("size_in_bytes")) is not None and file.stat().st_size != size:
                return f"{name} has another size"
            if contents and (sha256 := path.get("sha256")) is not None and hash_file(file) != sha256:
                return f"{name} has another content"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    def as_walked(path: dict[str, Any]) -> bool:
        """Whether a file is as listed; False also for what must be looked at."""
        found = walked.status.get(path["_path"]) if walked is not None else None
        if found is None or path.get("path_type") == "directory":
            return False
        return stat.S_ISLNK(found.st_mode) or (
            path.get("path_type") != "softlink"
            and stat.S_ISREG(found.st_mode)
            and path.get("size_in_bytes") in (None, found.st_size)
        )

    if not contents:
        return next(filter(None, (changed(path) for path in read_paths(folder) if not as_walked(path))), None)
    with ThreadPoolExecutor() as pool:
        return next(filter(None, pool.map(changed, read_paths(folder))), None)


def refuse_misstated(folder: Path, walked: Walked, what: str, *, contents: bool = False) -> None:
    """Raise IntegrityError if a file of the extracted package differs from the package's own file list.

    Files are hashed only for `contents`: the archive has the locked hash, so its file list is as trustworthy as its
    files, and reading all of them again takes longer than extracting them.
    """
    if changed := first_changed(folder, walked, contents=contents):
        raise IntegrityError(
            f"{what} differs from its own file list: {changed}.",
            where=what,
            fix="do not use this channel; report the package to whoever runs it.",
        )


def refuse_unsafe(folder: Path, walked: Walked, what: str) -> None:
    """Raise IntegrityError if the extracted package reaches outside of its folder.

    Paths must be relative and without `..`; symbolic links must stay inside; everything else must be a plain file.
    rattler refuses most of this too when it extracts and links; here the whole package is refused.
    """

    def refuse(reason: str) -> None:
        raise IntegrityError(
            f"{what} is not a package that can be trusted: {reason}.",
            where=what,
            fix="do not use this channel; report the package to whoever runs it.",
        )

    try:
        paths = read_paths(folder)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{what} has no list of its files that can be read.", where=what) from error
    tree = Tree()
    for name, target in walked.links.items():
        tree.add(name, target)
    names = [path["_path"] for path in paths]
    outside = next((name for name in names if leaves(name)), None)
    outside = outside or next((name for name in tree.doubtful(names) if not tree.resolve(name)), None)
    if outside is not None:
        refuse(f"its file list names {outside!r}, which is outside of the environment")
    for name, found in walked.status.items():
        if name in walked.links:
            target = walked.links[name]
            if leaves(str(PurePosixPath(name).parent / target)) or tree.resolve(name) is None:
                refuse(f"{name} is a link to {target!r}, which is outside of the environment")
        elif not stat.S_ISREG(found.st_mode):
            refuse(f"{name} is neither a file nor a link")


def refuse_other(folder: Path, package: LockedPackage) -> None:
    """Raise IntegrityError if the package's own `info/index.json` is not that of the locked package."""
    try:
        index: Any = load_json(read_bytes(folder / "info" / "index.json", RECORD_BYTES))
        recorded = {key: index.get(key) for key in ("name", "version", "build", "subdir")}
        site_packages(index, package.version, package.subdir)
        specs = [*(index.get("depends") or ()), *(index.get("constrains") or ())]
        if any(not isinstance(spec, str) or is_costly_spec(spec) for spec in specs):
            raise ValueError("a dependency is no match spec")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise IntegrityError(f"{package.file_name} has no readable info/index.json.", where=package.url) from error
    for key, value in recorded.items():
        locked = getattr(package, key)
        # Packages from before 2017 do not name their subdir.
        if value != locked and not (key == "subdir" and value is None):
            raise IntegrityError(
                f"The {key} inside {package.file_name} is {value!r}; the lock has {locked!r}.",
                where=package.url,
                fix="lock again; if it stays, the channel's index does not match its packages.",
            )
