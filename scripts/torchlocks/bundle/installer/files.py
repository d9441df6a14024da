"""Read, hash and write single files; check that paths stay inside a folder."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .model import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO


BLOCK = 1 << 20
LISTING_BYTES = 64 << 20
"""Largest list of the files of a package that is read."""
MOST_VALUES = 2000000
"""Most values of a JSON document; each takes up to 300 bytes of memory."""
HEADER_BYTES = 1 << 20
"""Largest extended header of a tar that is read; a path has at most some thousand bytes."""
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
DEEPEST = 256
"""Most folders of a path; deeper ones cannot be removed by all Pythons, which recurse."""


class Member(tarfile.TarInfo):
    """A member of an untrusted tar: tarfile reads an extended header in one piece, however large it is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        """Parse a header. Raises tarfile.ReadError if it announces an extended header of more than HEADER_BYTES."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTENDED and member.size > HEADER_BYTES:
            raise tarfile.ReadError("an extended header is too long")
        return member


def read_file(path: Path, limit: int = 256 << 20) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes. Raises OSError for others, such as a FIFO or a
    device.
    """
    _require_file(path)
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is too large")
    return data


def _require_file(path: Path) -> None:
    """Raise OSError for what is not a regular file: a FIFO would block, and some devices never end."""
    if not stat.S_ISREG(os.stat(str(path)).st_mode):  # noqa: PTH116
        raise OSError(f"{path.name} is not a file")


def shown(text: str) -> str:
    """Escape what is not printable: names in a bundle could control a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


class Counted:
    """Reports the progress of a loop, at most every `every` seconds."""

    def __init__(self, what: str, total: int, say: Callable[[str], None], every: float = 5.0) -> None:
        self._what, self._total, self._say, self._every = what, total, say, every
        self._done, self._last = 0, time.monotonic()

    def advance(self) -> None:
        """Count one as done."""
        self._done += 1
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._say(f"{self._what}: {self._done} of {self._total}")


def load_json(data: bytes) -> Any:
    """Parse JSON. Raises ValueError also if it is nested too deeply, or has more than MOST_VALUES values."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError("it has too many values")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def hash_file(path: Path) -> str:
    """Return the file's SHA-256 sum, hexadecimal. Raises OSError also for what is not a file, such as a FIFO."""
    _require_file(path)
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def leaves(path: str) -> bool:
    """Return whether `path` is absolute, has a drive, or leads out of the folder that it is relative to."""
    plain = path.replace("\\", "/")
    return not plain or plain.startswith("/") or plain[1:2] == ":" or posixpath.normpath(plain).split("/", 1)[0] == ".."


def workers() -> int:
    return min(os.cpu_count() or 1, 4)


def write_hashed(source: BinaryIO, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as file:
        for block in iter(lambda: source.read(BLOCK), b""):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def make_folder(folder: Path, root: Path) -> None:
    """Create `folder` below `root`; no link on the way may lead out of `root`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BundleError(f"{folder.relative_to(root)} is a folder and a file") from None
    real, inside = os.path.realpath(str(folder)), os.path.realpath(str(root))
    if real != inside and not real.startswith(inside + os.sep):
        raise BundleError(f"{folder.relative_to(root)} leads outside of the environment")


def write_new(path: Path, text: str) -> None:
    """Write one of the installer's files. Raises BundleError if a package contains it, since it could be a link."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BundleError(f"A package contains conda-meta/{path.name}, which the installer writes itself.") from None
