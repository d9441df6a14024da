"""Write files atomically, and hash them; the fixed time of files in archives."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchlocks.core.reading import open_regular

EARLIEST_TIME_S = 315532800
"""1980-01-01 UTC in seconds since 1970: the earliest time that every archive format can express."""


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old or the new content, never a part.

    Raises OSError when it cannot be written; an existing file is then unchanged.
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
    """Write the text files whose content differs, and return their names. Raises OSError.

    `files` maps a name in `folder` to its text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)
            changed.append(name)
    return changed


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a regular file's bytes, in lower-case hexadecimal. Raises OSError, also for a device."""
    return hash_file_with(path, algorithm)[0]


def hash_file_with(path: Path, *algorithms: str) -> tuple[str, ...]:
    """Return several hashes of a file's bytes, in lower-case hexadecimal; the file is read once.

    Raises OSError for what cannot be read or is no regular file: a FIFO blocks, and some devices never end.
    """
    digests = [hashlib.new(algorithm) for algorithm in algorithms]
    raw: Any = open_regular(path, buffering=0)
    with raw as stream:
        # Most files are small, and a buffer is cleared before it is used.
        size = os.fstat(stream.fileno()).st_size
        buffer = memoryview(bytearray(min(max(size + 1, 1 << 12), 1 << 20)))
        while count := stream.readinto(buffer):
            for digest in digests:
                digest.update(buffer[:count])
    return tuple(digest.hexdigest() for digest in digests)


def remove_tree(folder: Path) -> None:
    """Remove a folder of unknown content as far as possible; links are not followed. Raises nothing.

    Before Python 3.13 `shutil.rmtree` recurses, and fails in folders of some 1000 levels.
    """
    import shutil

    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
        return
    found, waiting = [], [str(folder)]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError), os.scandir(found[-1]) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    waiting.append(each.path)
                else:
                    with suppress(OSError):
                        os.unlink(each.path)  # noqa: PTH108
    for each_folder in reversed(found):
        with suppress(OSError):
            os.rmdir(each_folder)  # noqa: PTH106
