"""What an installation wrote, noted in the environment: `conda-meta/torchlocks-files`, a JSON file.

A package's record contains hashes of the package's files, but none of the record itself, and no modes. So the hash of
each record, its archive, the history and the modes of all files are noted when they are written. `fsck`
compares; the note's own hash is part of the provenance (`files_sha256`). Environments of other tools have no note.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchlocks.core.files import hash_file, write_new, write_whole
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.core.systems import here
from torchlocks.core.urls import strip_credentials
from torchlocks.install import up_to_date
from torchlocks.install.findings import Damage
from torchlocks.lockfile.models import LockedPackage

INVENTORY = Path("conda-meta") / "torchlocks-files"
_SCHEMA = 1
_KEPT = ("name", "version", "build", "subdir", "url", "sha256", "md5", "size")
_CORRECTED = ("depends", "constrains")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A package record as it was written: the hash of the file, and the package that it is of."""

    sha256: str
    package: LockedPackage


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What was written.

    `records` maps a record's name to what it was. `corrected` is True where records have the dependencies of the lock
    instead of the package's own. `modes` are the permission bits of files and folders by path, `file_mode` and
    `folder_mode` those of all that are not in it; None where the system has no such bits.
    """

    records: Mapping[str, Recorded]
    history: str
    corrected: bool = False
    file_mode: int | None = None
    folder_mode: int | None = None
    modes: Mapping[str, int] = field(default_factory=dict)

    def mode(self, path: str, *, folder: bool) -> int | None:
        """The permission bits that the file or folder `path` was installed with; None if unknown."""
        return self.modes.get(path, self.folder_mode if folder else self.file_mode)


def take_inventory(
    prefix: Path, packages: Sequence[LockedPackage], *, corrected: bool, modes: Mapping[int, int] | None = None
) -> Inventory:
    """Return the inventory of an environment that has just been linked into `prefix`, its history written.

    `modes` are those of files on the same disk by inode; a file that is a hard link of one is not looked at again.
    Raises OSError.
    """
    meta = prefix / "conda-meta"
    by_record = {f"{each.name}-{each.version}-{each.build}": each for each in packages}
    records = {
        name: Recorded(sha256=hash_file(meta / f"{name}.json"), package=by_record[name])
        for name in up_to_date.record_names(str(prefix))
    }
    files, folders = _modes(prefix, modes or {})
    file_mode, folder_mode = _usual(files), _usual(folders)
    unusual = {path: mode for mode, paths in files.items() if mode != file_mode for path in paths}
    unusual |= {path: mode for mode, paths in folders.items() if mode != folder_mode for path in paths}
    return Inventory(
        records=records,
        history=(meta / "history").read_text(encoding="utf-8"),
        corrected=corrected,
        file_mode=file_mode,
        folder_mode=folder_mode,
        modes=unusual,
    )


def write_inventory(prefix: Path, inventory: Inventory, *, new: bool = False) -> str:
    """Write the inventory into `prefix` and return the hash of the file. Raises OSError.

    `new` means that nobody else reads the environment yet.
    """
    kept = (*_KEPT, *_CORRECTED) if inventory.corrected else _KEPT
    by_mode: dict[str, list[str]] = {}
    for path, mode in sorted(inventory.modes.items()):
        by_mode.setdefault(f"{mode:o}", []).append(path)
    content = {
        "schema": _SCHEMA,
        "corrected": inventory.corrected,
        "history": inventory.history,
        "file_mode": inventory.file_mode,
        "folder_mode": inventory.folder_mode,
        "modes": by_mode,
        "records": {
            name: {"record_sha256": each.sha256, **{key: getattr(each.package, key) for key in kept}}
            | {"url": strip_credentials(each.package.url)}
            for name, each in sorted(inventory.records.items())
        },
    }
    text = json.dumps(content, indent=1) + "\n"
    (write_new if new else write_whole)(prefix / INVENTORY, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_inventory(prefix: Path) -> Inventory | None:
    """Return the inventory of an environment; None where there is none, or none that can be read."""
    try:
        raw = load_json(read_bytes(prefix / INVENTORY, RECORD_BYTES))
        if raw["schema"] != _SCHEMA:
            return None
        return Inventory(
            records={
                name: Recorded(sha256=each["record_sha256"], package=_package(each))
                for name, each in raw["records"].items()
            },
            history=raw["history"],
            corrected=raw["corrected"],
            file_mode=raw["file_mode"],
            folder_mode=raw["folder_mode"],
            modes={path: int(mode, 8) for mode, paths in raw["modes"].items() for path in paths},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def changed_in_meta(prefix: Path, inventory: Inventory | None) -> Iterator[Damage]:
    """Yield what in `conda-meta` is not as the installation wrote it, in an environment of torchlocks.

    A package that another tool has replaced since by another version counts as that tool's.
    """
    provenance = up_to_date.read_record(str(prefix))
    if provenance is None:
        if (prefix / INVENTORY).exists():
            yield _ours(up_to_date.RECORD, "it is missing or cannot be read", missing=True)
        return
    if not up_to_date.is_intact(provenance):
        yield _ours(up_to_date.RECORD, "it has another content")
        return
    wanted = provenance.get("files_sha256")
    if not wanted:
        return
    try:
        found = hash_file(prefix / INVENTORY)
    except OSError:
        yield _ours(str(INVENTORY), "it is not there", missing=True)
        return
    if found != wanted or inventory is None:
        yield _ours(str(INVENTORY), "it has another content")
        return
    yield from _changed_records(prefix, inventory)
    history = _read(prefix / "conda-meta" / "history")
    if history is None or not history.startswith(inventory.history.encode()):
        yield _ours("conda-meta/history", "its first part has another content", missing=history is None)


def repair_history(prefix: Path, inventory: Inventory) -> None:
    """Write the part of `conda-meta/history` that the installation wrote anew. Raises OSError."""
    path = prefix / "conda-meta" / "history"
    later = (_read(path) or b"")[len(inventory.history.encode()) :]
    write_whole(path, inventory.history + later.decode("utf-8", "replace"))


def with_records(inventory: Inventory, prefix: Path, names: Iterable[str]) -> Inventory:
    """Return the inventory with the hashes that the records `names` have now. Raises OSError."""
    meta = prefix / "conda-meta"
    fresh = {name: replace(inventory.records[name], sha256=hash_file(meta / f"{name}.json")) for name in names}
    return replace(inventory, records={**inventory.records, **fresh})


def other_mode(path: Path, mode: int | None) -> str | None:
    """Why the permission bits of a file or folder are not `mode`; None when they are, or `mode` is None."""
    if mode is None or (found := stat.S_IMODE(path.lstat().st_mode)) == mode:
        return None
    return f"its mode is {found:04o} instead of {mode:04o}"


def _changed_records(prefix: Path, inventory: Inventory) -> Iterator[Damage]:
    present = up_to_date.record_names(str(prefix))
    projects = {name.rsplit("-", 2)[0] for name in present}
    for name, recorded in inventory.records.items():
        path = prefix / "conda-meta" / f"{name}.json"
        if name not in present:
            if recorded.package.name not in projects:
                yield Damage(
                    path=f"conda-meta/{name}.json",
                    package=name,
                    kind="missing",
                    why="the package's record is not there",
                )
            continue
        try:
            same = hash_file(path) == recorded.sha256
        except OSError:
            same = False
        if not same:
            yield Damage(
                path=f"conda-meta/{name}.json",
                package=name,
                kind="changed",
                why="the package's record has another content",
            )


def _ours(path: str, why: str, *, missing: bool = False) -> Damage:
    path = path.replace(os.sep, "/")
    return Damage(path=path, package="torchlocks", kind="missing" if missing else "changed", why=why)


def _read(path: Path) -> bytes | None:
    try:
        return read_bytes(path, RECORD_BYTES)
    except OSError:
        return None


def _package(record: Mapping[str, Any]) -> LockedPackage:
    values: dict[str, Any] = {key: record.get(key) for key in _KEPT}
    values |= {key: tuple(record[key]) for key in _CORRECTED if record.get(key) is not None}
    return LockedPackage(**values)


def _modes(prefix: Path, known: Mapping[int, int]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The files, and the folders but the prefix itself, by their permission bits; nothing on Windows."""
    files: dict[int, list[str]] = {}
    folders: dict[int, list[str]] = {}
    waiting = [] if not here.UNIX else [(os.fspath(prefix), "")]
    while waiting:
        folder, below = waiting.pop()
        with os.scandir(folder) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    path = below + each.name
                    mode = each.stat(follow_symlinks=False).st_mode
                    folders.setdefault(stat.S_IMODE(mode), []).append(path)
                    waiting.append((each.path, f"{path}/"))
                elif each.is_file(follow_symlinks=False) and below != "conda-meta/":
                    found = known.get(each.inode())
                    mode = each.stat(follow_symlinks=False).st_mode if found is None else found
                    files.setdefault(stat.S_IMODE(mode), []).append(below + each.name)
    return files, folders


def _usual(modes: Mapping[int, Sequence[str]]) -> int | None:
    """Return the permission bits that most have; None where there are none."""
    return max(modes, key=lambda mode: len(modes[mode]), default=None)
