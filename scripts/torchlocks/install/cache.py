"""The package cache, which rattler's clients share, and which of its entries are trusted.

An entry is a folder `name-version-build` with the extracted package and a `.lock` file beside it, in which rattler
stores a revision (8 bytes, big-endian) and the archive's sha256 (32 bytes). py-rattler can only fill the cache while it
links, so torchlocks adds entries itself after it has checked them; if the layout changed, rattler would not recognise
an entry and would fetch it again.

Verified entries are recorded in `.torchlocks/<entry>.json`: the archive's hashes, and a fingerprint of every file's
path, size, mode and modification time. The next run compares the fingerprint (some 10 µs a file). Hashing everything
instead (rattler's `ValidationMode.full`) would cost several times the installation, and rattler's `fast` mode compares
sizes only. A write to a file changes its time, also through a hard link of an environment; then, and for entries of
other tools, every file is hashed once. A disk that changes bytes without a write is only detected with `full=True`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import mkdtemp

from torchlocks.core.errors import IntegrityError
from torchlocks.core.files import remove_tree, write_whole
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.install.package_files import Walked, first_changed, info_digest, refuse_other, refuse_unsafe, walk
from torchlocks.lockfile.models import LockedPackage

_OWN = ".torchlocks"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An extracted, verified package in the cache; hashes and size (bytes) are those of its archive.

    `has_links` is whether there are symbolic links among its files.
    """

    folder: Path
    sha256: str
    md5: str | None
    size: int | None
    has_links: bool


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The result of a lookup: the entry, or why there is none that can be used."""

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
    # None in those of an older torchlocks.
    links: bool | None = None
    # Entries that an older torchlocks accepted are checked again with the present rules.
    rules: int = 0


_RULES = 2


class PackageStore:
    """The entries of one package cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _name(self, package: LockedPackage) -> str:
        """Return the name of a package's entry. Raises IntegrityError for one that would be outside of the cache."""
        name = f"{package.name}-{package.version}-{package.build}"
        if set("/\\\0") & set(name):
            raise IntegrityError(
                f"{name!r} is a path, and not the name of a package.",
                where=package.url,
                fix="do not use this lock or environment; ask where it came from.",
            )
        return name

    def _note_path(self, name: str) -> Path:
        return self.root / _OWN / f"{name}.json"

    def has(self, package: LockedPackage) -> bool:
        """Return whether the cache records this package, without checking its files."""
        name = self._name(package)
        held = _read_sha256(self.root / f"{name}.lock")
        return (
            held is not None
            and _is_asked_for(package, held, _read_note(self._note_path(name)))
            and (self.root / name / "info" / "index.json").is_file()
        )

    def recorded(self, package: LockedPackage) -> tuple[Entry, str] | None:
        """Return the entry of `package` and its fingerprint, as of its verification; None without such a record.

        Its files are not looked at: use it only together with `walk_unchanged`.
        """
        name = self._name(package)
        held = _read_sha256(self.root / f"{name}.lock")
        note = self._valid_note(name, held)
        if note is None or note.links is None or not _is_asked_for(package, note.sha256, note):
            return None
        entry = Entry(folder=self.root / name, sha256=note.sha256, md5=note.md5, size=note.size, has_links=note.links)
        return entry, note.fingerprint

    def _valid_note(self, name: str, held: str | None) -> _Note | None:
        """Return the record of an entry whose archive has the hash `held`, if it was verified with these rules."""
        note = _read_note(self._note_path(name))
        return note if note is not None and note.sha256 == held and note.rules == _RULES else None

    def find(self, package: LockedPackage, *, full: bool = False) -> Lookup:
        """Return the verified entry of `package`, or why there is none. Writes nothing but records of verification.

        With `full`, every file is hashed, whatever the fingerprint is.
        """
        name = self._name(package)
        folder = self.root / name
        if not folder.is_dir():
            return Lookup(entry=None, why="not in the cache")
        held = _read_sha256(self.root / f"{name}.lock")
        note = self._valid_note(name, held)
        if held is None or not _is_asked_for(package, held, note):
            return Lookup(entry=None, why="the cache has another package under this name")
        try:
            walked = walk(folder)
            entry = Entry(
                folder=folder,
                sha256=held,
                md5=note.md5 if note else package.md5,
                size=note.size if note else package.size,
                has_links=bool(walked.links),
            )
            seen = walked.fingerprint()
            if note is not None and note.fingerprint == seen and not full:
                if note.links is None:
                    self._write_note(name, entry, seen, note.shape, note.info)
                return Lookup(entry=entry)
            shape = walked.fingerprint(times=False)
            if note is not None and note.shape != shape:
                return Lookup(entry=None, why="damaged in the cache: files were added, removed or cut short")
            info = info_digest(folder)
            if note is not None and note.info != info:
                return Lookup(entry=None, why="damaged in the cache: its info folder was changed")
            if changed := first_changed(folder):
                return Lookup(entry=None, why=f"damaged in the cache: {changed}")
            refuse_unsafe(folder, walked, package.file_name)
            refuse_other(folder, package)
        except (OSError, ValueError, IntegrityError) as error:
            return Lookup(entry=None, why=f"damaged in the cache: {error}")
        self._write_note(name, entry, seen, shape, info)
        return Lookup(entry=entry)

    def place(
        self,
        staged: Path,
        package: LockedPackage,
        walked: Walked,
        *,
        sha256: str,
        md5: str | None,
        size: int | None,
        on_wait: Callable[[], None] | None = None,
    ) -> Entry:
        """Move the extracted and checked package `staged` into the cache; a damaged or different entry is replaced.

        An entry of the same archive that another process has added meanwhile is kept, since others may link from it.
        `staged` is a folder inside `staging()`, `walked` its contents. `on_wait` is called if another program holds
        the cache. Raises OSError if the move fails.
        """
        name = self._name(package)
        folder = self.root / name
        lock = self.root / f"{name}.lock"
        seen, shape = walked.fingerprint(), walked.fingerprint(times=False)
        info = info_digest(staged)
        with self.exclusive(on_wait):
            if _read_sha256(lock) == sha256 and (kept := self.find(package).entry) is not None:
                return kept
            # This order stays consistent if the process is killed: no folder is beside the hash of another archive.
            self._note_path(name).unlink(missing_ok=True)
            if folder.exists() or folder.is_symlink():
                folder.rename(staged.with_name(f"{staged.name}.old"))
            revision = _read_revision(lock) + 1
            lock.write_bytes(revision.to_bytes(8, "big") + bytes.fromhex(sha256))
            staged.rename(folder)
        entry = Entry(folder=folder, sha256=sha256, md5=md5, size=size, has_links=bool(walked.links))
        self._write_note(name, entry, seen, shape, info)
        return entry

    @contextmanager
    def exclusive(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold rattler's lock of the whole cache, as briefly as possible."""
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
        """Yield a folder for downloads and extraction on the cache's file system; remove those of killed runs.

        Raises OSError if it cannot be created.
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
                remove_tree(dead)
            yield folder
        finally:
            alive.release()
            remove_tree(folder)

    def _write_note(self, name: str, entry: Entry, fingerprint: str, shape: str, info: str) -> None:
        note = _Note(
            sha256=entry.sha256,
            md5=entry.md5,
            size=entry.size,
            fingerprint=fingerprint,
            shape=shape,
            info=info,
            links=entry.has_links,
            rules=_RULES,
        )
        target = self._note_path(name)
        # A cache that cannot be written to (shared, read-only) still serves: it is hashed each time.
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, json.dumps(asdict(note)))


def walk_unchanged(entry: Entry, fingerprint: str) -> Walked | None:
    """Return what is in the folder of an entry; None if any file of it has changed since it had that fingerprint."""
    try:
        walked = walk(entry.folder)
    except OSError:
        return None
    return walked if walked.fingerprint() == fingerprint else None


def _is_asked_for(package: LockedPackage, held: str, note: _Note | None) -> bool:
    if package.sha256 is not None:
        return held == package.sha256
    return note is not None and note.md5 is not None and note.md5 == package.md5


def _read_note(path: Path) -> _Note | None:
    try:
        raw = load_json(read_bytes(path, RECORD_BYTES))
        # A newer torchlocks may note more.
        return _Note(**{each.name: raw[each.name] for each in fields(_Note) if each.name in raw})
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
