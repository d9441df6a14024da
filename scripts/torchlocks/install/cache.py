"""The package cache that rattler shares between environments, and what is trusted in it.

An entry is a folder `name-version-build` with the extracted package beside a `.lock` file in which rattler keeps a
revision (8 bytes, big-endian) and the archive's sha256 (32 bytes). py-rattler can only fill the cache while it links,
so torchlocks places entries by itself, after it has looked at them; were the layout to change, rattler would not
recognise an entry, and would fetch and check it by itself.

What torchlocks has verified it notes in `.torchlocks/<entry>.json`: the archive's hashes, and a fingerprint of every
file's path, size, mode and modification time. The next run compares the fingerprint (about 3 µs a file). Hashing
everything instead (rattler's `ValidationMode.full`) would cost several times the installation itself, and rattler's
`fast` mode looks at sizes only. A write to a file changes its time, also through a hard link out of an environment;
then, and for entries that other tools made, every file is hashed once. What this does not see is a disk that
changes bytes by itself: `full=True` hashes everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

from torchlocks.core.errors import IntegrityError
from torchlocks.core.files import hash_file, write_whole
from torchlocks.core.reading import RECORD_BYTES, is_costly_spec, load_json, read_bytes
from torchlocks.install.contained import Tree, leaves, site_packages
from torchlocks.lockfile.models import LockedPackage

_OWN = ".torchlocks"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An extracted package in the cache, verified; hashes and size (bytes) are those of its archive."""

    folder: Path
    sha256: str
    md5: str | None
    size: int | None


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The answer to a look into the cache: the entry, or why there is none that can be used."""

    entry: Entry | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class _Note:
    sha256: str
    md5: str | None
    size: int | None
    fingerprint: str
    shape: str
    info: str
    # Entries that an older torchlocks accepted are looked at again with the rules of today.
    rules: int = 0


_RULES = 2


class PackageStore:
    """The entries of one package cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _name(self, package: LockedPackage) -> str:
        return f"{package.name}-{package.version}-{package.build}"

    def _note_path(self, name: str) -> Path:
        return self.root / _OWN / f"{name}.json"

    def has(self, package: LockedPackage) -> bool:
        """Whether the cache says that it has just this package, without a look at its files."""
        name = self._name(package)
        held = _read_sha256(self.root / f"{name}.lock")
        return (
            held is not None
            and _is_asked_for(package, held, _read_note(self._note_path(name)))
            and (self.root / name / "info" / "index.json").is_file()
        )

    def find(self, package: LockedPackage, *, full: bool = False) -> Lookup:
        """The verified entry of `package`, or why there is none. Writes nothing but notes.

        With `full`, every file is hashed, whatever the fingerprint says.
        """
        name = self._name(package)
        folder = self.root / name
        if not folder.is_dir():
            return Lookup(entry=None, why="not in the cache")
        held = _read_sha256(self.root / f"{name}.lock")
        note = _read_note(self._note_path(name))
        if note is not None and (note.sha256 != held or note.rules != _RULES):
            note = None
        if held is None or not _is_asked_for(package, held, note):
            return Lookup(entry=None, why="the cache has another package under this name")
        entry = Entry(
            folder=folder, sha256=held, md5=note.md5 if note else package.md5, size=note.size if note else package.size
        )
        try:
            seen = _fingerprint(folder)
            if note is not None and note.fingerprint == seen and not full:
                return Lookup(entry=entry)
            shape = _fingerprint(folder, times=False)
            if note is not None and note.shape != shape:
                return Lookup(entry=None, why="damaged in the cache: files were added, removed or cut short")
            info = _info_digest(folder)
            if note is not None and note.info != info:
                return Lookup(entry=None, why="damaged in the cache: its info folder was changed")
            if changed := _first_changed(folder):
                return Lookup(entry=None, why=f"damaged in the cache: {changed}")
            refuse_unsafe(folder, package.file_name)
            refuse_other(folder, package)
        except (OSError, ValueError, IntegrityError) as error:
            return Lookup(entry=None, why=f"damaged in the cache: {error}")
        self._write_note(name, entry, seen, shape, info)
        return Lookup(entry=entry)

    def place(
        self,
        staged: Path,
        package: LockedPackage,
        *,
        sha256: str,
        md5: str | None,
        size: int | None,
        on_wait: Callable[[], None] | None = None,
    ) -> Entry:
        """Move the extracted and checked package `staged` into the cache; a damaged or different entry makes way.

        An entry of the same archive that another process has placed meanwhile is kept, since others may be linking from
        it. `staged` is a folder inside `staging()`. `on_wait` is called when another program holds the cache. Raises
        OSError when the move fails.
        """
        name = self._name(package)
        folder = self.root / name
        lock = self.root / f"{name}.lock"
        seen, shape = _fingerprint(staged), _fingerprint(staged, times=False)
        info = _info_digest(staged)
        with self.exclusive(on_wait):
            if _read_sha256(lock) == sha256 and (kept := self.find(package).entry) is not None:
                return kept
            # Killed between any two of these, no folder ever stands beside the hash of another archive.
            self._note_path(name).unlink(missing_ok=True)
            if folder.exists() or folder.is_symlink():
                folder.rename(staged.with_name(f"{staged.name}.old"))
            revision = _read_revision(lock) + 1
            lock.write_bytes(revision.to_bytes(8, "big") + bytes.fromhex(sha256))
            staged.rename(folder)
        entry = Entry(folder=folder, sha256=sha256, md5=md5, size=size)
        self._write_note(name, entry, seen, shape, info)
        return entry

    @contextmanager
    def exclusive(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold rattler's own lock of the whole cache, as briefly as possible."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / ".cache.lock", preserve_lock_file=True)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if on_wait:
                on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for downloads and extraction, on the cache's own file system; what dead runs left is removed.

        Raises OSError when it cannot be made.
        """
        from filelock import FileLock, Timeout

        own = self.root / _OWN
        own.mkdir(parents=True, exist_ok=True)
        # Held from the new folder's creation until its lock is: in between, it looks like that of a dead run.
        with FileLock(own / "staging.lock"):
            for left in own.glob("stage-*"):
                # A living run holds the lock inside its folder; a killed one cannot.
                with suppress(Timeout, OSError), FileLock(left / "alive", timeout=0):
                    left.rename(left.with_name(f"dead-{left.name}"))
            folder = Path(mkdtemp(prefix="stage-", dir=own))
            alive = FileLock(folder / "alive")
            alive.acquire()
        try:
            for dead in own.glob("dead-*"):
                shutil.rmtree(dead, ignore_errors=True)
            yield folder
        finally:
            alive.release()
            shutil.rmtree(folder, ignore_errors=True)

    def _write_note(self, name: str, entry: Entry, fingerprint: str, shape: str, info: str) -> None:
        note = _Note(
            sha256=entry.sha256,
            md5=entry.md5,
            size=entry.size,
            fingerprint=fingerprint,
            shape=shape,
            info=info,
            rules=_RULES,
        )
        target = self._note_path(name)
        # A cache that cannot be written to (shared, read-only) still serves: it is hashed each time.
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, json.dumps(asdict(note)))


def _is_asked_for(package: LockedPackage, held: str, note: _Note | None) -> bool:
    if package.sha256 is not None:
        return held == package.sha256
    return note is not None and note.md5 is not None and note.md5 == package.md5


def _read_note(path: Path) -> _Note | None:
    try:
        return _Note(**load_json(read_bytes(path, RECORD_BYTES)))
    except (OSError, ValueError, TypeError):
        return None


def _read_sha256(lock: Path) -> str | None:
    try:
        content = lock.read_bytes()
    except OSError:
        return None
    return content[8:40].hex() if len(content) >= 40 else None


def _read_revision(lock: Path) -> int:
    try:
        return int.from_bytes(lock.read_bytes()[:8], "big")
    except OSError:
        return 0


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below `folder` that is not a folder itself, with its path below it."""
    waiting = [(str(folder), "")]
    while waiting:
        here, below = waiting.pop()
        with os.scandir(here) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    waiting.append((each.path, f"{below}{each.name}/"))
                else:
                    yield below + each.name, each


def _fingerprint(folder: Path, *, times: bool = True) -> str:
    """A digest of every file's path, mode, size, link target and, with `times`, time of last modification."""
    lines = []
    for path, each in _walk(folder):
        found = each.stat(follow_symlinks=False)
        # st_size of a link is the length of its target.
        target = os.readlink(each.path) if stat.S_ISLNK(found.st_mode) else ""  # noqa: PTH115
        lines.append((path, found.st_mode, found.st_size, found.st_mtime_ns if times else 0, target))
    lines.sort()
    return hashlib.blake2b(repr(lines).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def _info_digest(folder: Path) -> str:
    lines = sorted(
        (path, hash_file(Path(each.path)))
        for path, each in _walk(folder / "info")
        if each.is_file(follow_symlinks=False)
    )
    return hashlib.blake2b(repr(lines).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def read_paths(folder: Path) -> list[dict[str, Any]]:
    """The entries of the package's `info/paths.json`; ValueError when it is not what it should be.

    Packages from before 2017 have only `info/files`: their entries are paths without size or hash.
    """
    listing = folder / "info" / "paths.json"
    if not listing.exists():
        return [{"_path": line} for line in (folder / "info" / "files").read_text(encoding="utf-8").splitlines()]
    content: Any = load_json(read_bytes(listing, RECORD_BYTES))
    paths = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(paths, list) or not all(isinstance(p, dict) and isinstance(p.get("_path"), str) for p in paths):
        raise ValueError("info/paths.json is not a list of paths")
    return paths


def _first_changed(folder: Path) -> str | None:
    """Which file of the extracted package is not as `info/paths.json` says, hashing all of them; None when all are."""
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
            if (sha256 := path.get("sha256")) is not None and hash_file(file) != sha256:
                return f"{name} has another content"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    with ThreadPoolExecutor() as pool:
        return next(filter(None, pool.map(changed, read_paths(folder))), None)


def refuse_misstated(folder: Path, what: str) -> None:
    """Raise IntegrityError when a file of the extracted package is not as the package's own file list says."""
    if changed := _first_changed(folder):
        raise IntegrityError(
            f"{what} is not what its own file list says: {changed}.",
            where=what,
            fix="do not use this channel; report the package to whoever runs it.",
        )


def refuse_unsafe(folder: Path, what: str) -> None:
    """Raise IntegrityError when the extracted package reaches outside its own folder.

    Paths must be relative and without `..`; symbolic links must stay inside; everything else must be a plain
    file. rattler refuses most of this as well when it extracts and links; a package that tries is refused whole.
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
    links = {name: os.readlink(each.path) for name, each in _walk(folder) if each.is_symlink()}  # noqa: PTH115
    for name, target in links.items():
        tree.add(name, target)
    for path in paths:
        if leaves(path["_path"]) or tree.resolve(path["_path"]) is None:
            refuse(f"its file list names {path['_path']!r}, which is outside of the environment")
    for name, each in _walk(folder):
        if name in links:
            if leaves(str(PurePosixPath(name).parent / links[name])) or tree.resolve(name) is None:
                refuse(f"{name} is a link to {links[name]!r}, which is outside of the environment")
        elif not each.is_file(follow_symlinks=False):
            refuse(f"{name} is neither a file nor a link")


def refuse_other(folder: Path, package: LockedPackage) -> None:
    """Raise IntegrityError when the package's own `info/index.json` is not that of the locked package."""
    try:
        index: Any = load_json(read_bytes(folder / "info" / "index.json", RECORD_BYTES))
        said = {key: index.get(key) for key in ("name", "version", "build", "subdir")}
        site_packages(index, package.version, package.subdir)
        specs = [*(index.get("depends") or ()), *(index.get("constrains") or ())]
        if any(not isinstance(spec, str) or is_costly_spec(spec) for spec in specs):
            raise ValueError("a dependency is no match spec")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise IntegrityError(f"{package.file_name} has no readable info/index.json.", where=package.url) from error
    for key, value in said.items():
        locked = getattr(package, key)
        # Packages from before 2017 do not name their subdir.
        if value != locked and not (key == "subdir" and value is None):
            raise IntegrityError(
                f"{package.file_name} says of itself that its {key} is {value!r}; the lock says {locked!r}.",
                where=package.url,
                fix="lock again; if it stays, the channel's index does not match its packages.",
            )
