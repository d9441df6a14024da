"""Read and write the records of a repository, and find the locks that they name, now and in git's history."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.disk import written_to
from torchlocks.core.errors import EvidenceError, LockfileError
from torchlocks.core.files import hash_file, write_whole
from torchlocks.core.git import GitError, git
from torchlocks.core.layout import Layout
from torchlocks.core.reading import LOCK_BYTES, TEXT_BYTES, load_json, read_bytes
from torchlocks.evidence.claims import Table, parse_table, table_hash
from torchlocks.evidence.model import Evidence, evidence_json
from torchlocks.evidence.record import package_lines, parse_record
from torchlocks.lockfile.formats import CONDA_LOCK, parse_lock
from torchlocks.lockfile.models import LockedPackage

_MOST = 1000
"""The largest number of past states of one file that is looked at."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file below `evidence/`: its record, or why it has none."""

    path: Path
    record: Evidence | None
    error: EvidenceError | None


def stored(layout: Layout) -> Iterator[Stored]:
    """Yield every record of a repository, sorted by path."""
    for path in sorted(layout.evidence.rglob("*.json")) if layout.evidence.is_dir() else ():
        try:
            yield Stored(path=path, record=read_record(path), error=None)
        except EvidenceError as error:
            yield Stored(path=path, record=None, error=error)


def strangers(layout: Layout) -> list[Path]:
    """Return the files below `evidence/` that are neither records nor signatures of one, sorted."""
    files = sorted(path for path in layout.evidence.rglob("*") if not path.is_dir()) if layout.evidence.is_dir() else []
    known = {layout.evidence / "README.md", *(path for path in files if path.suffix == ".json")}
    return [path for path in files if path not in known and path.with_name(path.name.removesuffix(".sig")) not in known]


def records(layout: Layout) -> tuple[Evidence, ...]:
    """Return the valid records of a repository; `check` is what reports the others."""
    return tuple(each.record for each in stored(layout) if each.record is not None)


def read_record(path: Path) -> Evidence:
    """Read one record. Raises EvidenceError."""
    try:
        document = load_json(read_bytes(path, TEXT_BYTES))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvidenceError(f"The evidence record cannot be read: {reason}.", where=str(path)) from None
    return parse_record(document, str(path))


def write_record(layout: Layout, record: Evidence) -> Path | None:
    """Write a record to its place and return the path; None if a newer one of the same kind is there.

    A record of the same lock, platform, kind of machine and client is replaced. Raises EvidenceError or DiskFullError.
    """
    path = layout.evidence / record.name
    if path.is_file() and read_record(path).date > record.date:
        return None
    with written_to(path, EvidenceError, "The record", "make the folder writable"):
        write_whole(path, evidence_json(record))
        path.with_name(path.name + ".sig").unlink(missing_ok=True)
    return path


class Past:
    """The states that locks and the required set have had: those in the folder, and those in git's history.

    `unknown` is why the history cannot be read, None where it can.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._locks: dict[str, dict[str, bytes]] = {}
        self._read: dict[tuple[str, str], Mapping[str, tuple[LockedPackage, ...]] | None] = {}
        self._tables: dict[str, Table] | None = None
        self.unknown = _no_history(layout)

    def is_current(self, record: Evidence) -> bool:
        """Return whether the record is on the lock that is in the folder now."""
        path = self._layout.locks / record.env / CONDA_LOCK
        return path.is_file() and hash_file(path) == record.lock_sha256

    def packages(self, record: Evidence) -> tuple[str, ...] | None:
        """Return the packages of the lock that a record names, as records have them; None if it never existed.

        A lock that cannot be read any more, or is not for the platform, has none.
        """
        # Many kinds of machines and clients prove the same lock.
        key = (record.env, record.lock_sha256)
        if key not in self._read:
            self._read[key] = self._read_lock(record)
        locked = self._read[key]
        return None if locked is None else package_lines(locked.get(record.platform, ()))

    def _read_lock(self, record: Evidence) -> Mapping[str, tuple[LockedPackage, ...]] | None:
        """Return the packages of each platform of the lock that a record names; None if it never existed."""
        if self.is_current(record):
            data: bytes | None = _bytes_of(self._layout.locks / record.env / CONDA_LOCK, LOCK_BYTES)
        else:
            data = self._past_locks(record.env).get(record.lock_sha256)
        if data is None:
            return None
        try:
            return parse_lock(data, Path(CONDA_LOCK)).packages
        except LockfileError:
            return {}

    def table(self, hash: str) -> Table | None:
        """Return the required set of a hash, as the suite has it or had it; None if it never had."""
        if self._tables is None:
            path = self._layout.suite / "torchsuite" / "required.py"
            current = _bytes_of(path, TEXT_BYTES)
            texts = [] if current is None else [current]
            if not self.unknown:
                texts += self._history("tests/torch/torchsuite/required.py")
            self._tables = {}
            for text in texts:
                try:
                    table = parse_table(text.decode())
                except ValueError:
                    continue
                self._tables.setdefault(table_hash(table), table)
        return self._tables.get(hash)

    def _past_locks(self, env: str) -> dict[str, bytes]:
        if env not in self._locks:
            texts = [] if self.unknown else self._history(f"locks/{env}/{CONDA_LOCK}")
            self._locks[env] = {hashlib.sha256(text).hexdigest(): text for text in texts}
        return self._locks[env]

    def _history(self, path: str) -> list[bytes]:
        """Return every committed content of a file, the newest first."""
        root = self._layout.root
        try:
            log = git("log", f"-{_MOST}", "--format=", "--raw", "--no-abbrev", "--no-renames", "--", path, cwd=root)
            blobs = dict.fromkeys(line.split()[3] for line in log.decode(errors="replace").splitlines() if line)
            named = "\n".join(blob for blob in blobs if set(blob) != {"0"}).encode()
            sizes = git("cat-file", "--batch-check=%(objectname) %(objectsize)", cwd=root, given=named).decode()
            # git unpacks a file of any size into some KB.
            small = (blob for blob, size in map(str.split, sizes.splitlines()) if int(size) <= LOCK_BYTES)
            return [git("cat-file", "blob", blob, cwd=root) for blob in small]
        except (GitError, ValueError):
            return []


def _bytes_of(path: Path, limit: int) -> bytes | None:
    """Return the bytes of a file; None for one that cannot be read, or is larger than `limit`."""
    try:
        return read_bytes(path, limit)
    except OSError:
        return None


def _no_history(layout: Layout) -> str | None:
    if layout.packaged:
        return "an installed torchlocks has no git history"
    try:
        git("ls-files", "--error-unmatch", "matrix.yml", cwd=layout.root)
        shallow = git("rev-parse", "--is-shallow-repository", cwd=layout.root).strip() == b"true"
    except GitError:
        return "this is no git repository, or git is not installed"
    return "this clone does not have all commits (git fetch --unshallow)" if shallow else None
