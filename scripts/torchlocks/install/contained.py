"""Whether what packages bring stays inside the environment, symbolic links followed as the system follows them.

Paths and links of one package can be harmless alone and lead out together (`s -> .`, then `t -> s/..`), also across
packages. So all links of all packages are put into one tree, and every path is resolved in it before anything is
linked. The files that torchlocks and rattler write themselves may not be brought by a package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torchlocks.core import systems
from torchlocks.core.errors import IntegrityError
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes

_FOLLOWED = 40
"""Links in one path, as on Linux; a path with more cannot be opened."""
_STEPS = 1_000_000
_DEEP = 100
"""Folders in a path; those of packages have up to 20."""
_NO_NAMES = ("", ".", "..")
_OURS = ("history", "torchlocks", "torchlocks-files")


def leaves(path: str) -> bool:
    """Whether a path is absolute, has a drive, or leads out of its folder by its text alone."""
    plain = path.replace("\\", "/")
    return (
        "\0" in plain
        or plain.startswith("/")
        or plain[1:2] == ":"
        # Normalizing every path of an environment takes longer than all other checks of it.
        or (".." in plain and Path(os.path.normpath(plain)).parts[:1] == ("..",))
    )


def site_packages(index: Mapping[str, Any], version: str, platform: str) -> str:
    """Where the Python package with this `info/index.json` has its modules, relative to the prefix.

    Raises IntegrityError for a path outside of the prefix, or one that is no text.
    """
    path = index.get("python_site_packages_path")
    if path is not None:
        if not isinstance(path, str) or leaves(path) or path.strip("/. ") == "":
            raise IntegrityError(
                f"python {version} has its modules outside of the environment: {path!r}.",
                where="info/index.json, python_site_packages_path",
                fix="do not use this channel; report the package to whoever runs it.",
            )
        return path
    minor = re.match(r"\d+\.\d+", version)
    return systems.of(platform).site_packages(minor[0] if minor else version)


class Tree:
    """The symbolic links of an environment that is to be made; resolves paths in it."""

    def __init__(self) -> None:
        # Compared without case: on macOS and Windows `A` and `a` are one, elsewhere this only checks more.
        self._links: dict[tuple[str, ...], set[str]] = {}
        self._folders: dict[str, frozenset[tuple[str, ...]] | None] = {}
        self._names: dict[tuple[str, ...], set[str]] = {}
        self._plain: dict[str, frozenset[str]] = {}
        self._keys: dict[str, tuple[str, ...] | None] = {"": ()}
        self._steps = 0

    def add(self, path: str, target: str) -> None:
        """Note the link `path`. Its folder is not resolved yet: all links are added first."""
        key = _key(path.split("/"))
        self._links.setdefault(key, set()).add(target.replace("\\", "/"))
        self._names.setdefault(key[:-1], set()).add("".join(key[-1:]))

    def resolve(self, path: str) -> frozenset[tuple[str, ...]] | None:
        """All places, as parts below the prefix, that `path` can stand for; None when one is outside.

        There is more than one where packages have different links of the same name.
        """
        places, name = self._folder_of(path)
        return None if places is None else self._walk([(place, (name,), 0) for place in places])

    def entries(self, path: str) -> frozenset[tuple[str, ...]] | None:
        """As `resolve`, of the directory entry itself: where the last part is a link, that link is not followed."""
        places, name = self._folder_of(path)
        return None if places is None else frozenset((*place, name) for place in places)

    def doubtful(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the paths that must be resolved: all but those in a folder other than `conda-meta` that are no link.

        Nearly all paths of an environment are such; resolving each of them takes as long as linking them.
        """
        plain = self._plain
        for path in paths:
            folder, _, name = path.rpartition("/")
            links = plain.get(folder)
            if links is None:
                links = plain[folder] = self._links_in(folder)
            if name in _NO_NAMES or "\\" in name or (links and ("*" in links or name.casefold() in links)):
                yield path

    def _links_in(self, folder: str) -> frozenset[str]:
        """Return the names of links in a folder, without case; `*` among them for a folder where more can be wrong."""
        if folder and "\\" not in folder and folder.count("/") < _DEEP and (key := self._key_of(folder)) is not None:
            return frozenset("*" if key[0] == "conda-meta" else self._names.get(key, ()))
        places = self._walk([((), tuple(folder.split("/")), 0)]) if folder and "\\" not in folder else None
        if places is None or any(not place or _key(place[:1]) == ("conda-meta",) for place in places):
            return frozenset("*")
        return frozenset().union(*(self._names.get(_key(place), ()) for place in places))

    def _key_of(self, folder: str) -> tuple[str, ...] | None:
        """Return the parts of a folder, without case, if none of them is a link, `.` or `..`; else None.

        Nearly all folders of an environment are such, and then the one above has been looked at before.
        """
        if folder not in self._keys:
            above, _, name = folder.rpartition("/")
            parent = self._key_of(above)
            key = None if parent is None or name in _NO_NAMES else (*parent, name.casefold())
            self._keys[folder] = None if key in self._links else key
        return self._keys[folder]

    def _folder_of(self, path: str) -> tuple[frozenset[tuple[str, ...]] | None, str]:
        folder, _, name = path.replace("\\", "/").rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._walk([((), tuple(folder.split("/")), 0)])
        return self._folders[folder], name

    def _walk(self, waiting: list[tuple[tuple[str, ...], tuple[str, ...], int]]) -> frozenset[tuple[str, ...]] | None:
        found = set()
        while waiting:
            done, rest, followed = waiting.pop()
            self._steps += 1
            if self._steps > _STEPS:
                return None
            if not rest:
                found.add(done)
            elif rest[0] in ("", "."):
                waiting.append((done, rest[1:], followed))
            elif rest[0] == "..":
                if not done:
                    return None
                waiting.append((done[:-1], rest[1:], followed))
            else:
                here = (*done, rest[0])
                targets = self._links.get(_key(here))
                if targets is None:
                    waiting.append((here, rest[1:], followed))
                elif followed < _FOLLOWED:
                    for target in targets:
                        if target.startswith("/") or target[1:2] == ":":
                            return None
                        waiting.append((done, (*target.split("/"), *rest[1:]), followed + 1))
        return frozenset(found)


def _key(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts if part not in ("", "."))


def refuse_outside(
    packages: Mapping[str, tuple[Path, str, str]],
    paths: Mapping[str, list[str]],
    platform: str,
    without_links: Collection[str] = (),
) -> None:
    """Raise IntegrityError when packages, linked together, would write outside of the environment or over our files.

    `packages` maps a package's file name to (the folder with its extracted files, its name, its version), `paths` to
    the paths in its file list. The packages `without_links` are known to have no symbolic links, so that their files
    need not be looked at.
    """
    indexes = {file: _index(folder) for file, (folder, _, _) in packages.items()}
    modules = next(
        (
            site_packages(indexes[file], version, platform)
            for file, (_, name, version) in packages.items()
            if name == "python"
        ),
        "site-packages",
    )
    tree = Tree()
    placed: dict[str, list[str]] = {}
    for file, (folder, _, _) in packages.items():
        noarch = indexes[file].get("noarch") == "python"
        placed[file] = [_in_prefix(path, noarch, modules, platform) for path in paths[file]] if noarch else paths[file]
        for path in paths[file] if file not in without_links else ():
            source = os.path.join(folder, path)  # noqa: PTH118
            # A name can be too long for any file: the package then lacks it.
            if os.path.islink(source):  # noqa: PTH114
                tree.add(_in_prefix(path, noarch, modules, platform), os.readlink(source))  # noqa: PTH115
        if noarch:
            placed[file] = [
                *placed[file],
                *(f"{_scripts(platform)}/{name}" for name in _entry_points(folder, file)),
            ]
    for file, names in placed.items():
        for path in tree.doubtful(names):
            places, entries = tree.resolve(path), tree.entries(path)
            if places is None or entries is None:
                raise _refusal(file, f"{path!r} leads out of the environment")
            if any(_is_ours(place) for place in places | entries):
                raise _refusal(file, f"{path!r} is a file that the installer writes itself")


def _in_prefix(path: str, noarch: bool, modules: str, platform: str) -> str:
    top, _, rest = path.partition("/")
    if noarch and top == "site-packages":
        return f"{modules}/{rest}"
    if noarch and top == "python-scripts":
        return f"{_scripts(platform)}/{rest}"
    return path


def _scripts(platform: str) -> str:
    return systems.of(platform).SCRIPTS


def _is_ours(place: tuple[str, ...]) -> bool:
    key = _key(place)
    if key[:1] != ("conda-meta",):
        return False
    return len(key) == 1 or (len(key) == 2 and (key[1] in _OURS or key[1].endswith(".json")))


def _index(folder: Path) -> Mapping[str, Any]:
    try:
        index = load_json(read_bytes(folder / "info" / "index.json", RECORD_BYTES))
    except (OSError, ValueError):
        index = None
    return index if isinstance(index, dict) else {}


def _entry_points(folder: Path, file: str) -> Iterator[str]:
    """The names of the scripts that are written for a package of Python modules."""
    link = folder / "info" / "link.json"
    if not link.is_file():
        return
    try:
        document = load_json(read_bytes(link, RECORD_BYTES))
        lines = document.get("noarch", {}).get("entry_points") or ()
        names = [line.partition("=")[0].strip() for line in lines]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _refusal(file, "info/link.json cannot be read") from error
    for name in names:
        if not re.fullmatch(r"[\w.+-]+", name) or name in (".", ".."):
            raise _refusal(file, f"{name!r} is not the name of a script")
        yield name


def _refusal(file: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{file} is not a package that can be trusted: {reason}.",
        where=file,
        fix="do not use this channel; report the package to whoever runs it.",
    )
