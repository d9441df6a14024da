"""Writing a file atomically, and hashing one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put a text file in place in one step: a reader sees the old one or the new one, never a part.

    Raises OSError when it cannot be written; what was there is then untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_new(beside, text)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_new(path: Path, text: str) -> None:
    """Write a text file that is new: what is at `path`, also a link or a hard link, is removed and not written through.

    Raises OSError.
    """
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(text)


def write_changed(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Put text files in place by name, those alone whose text is another; the names of these. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)
            changed.append(name)
    return changed


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's bytes, in lower-case hexadecimal."""
    digest = hashlib.new(algorithm)
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
