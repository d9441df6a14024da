"""Open a lockfile by path or URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.errors import FetchError
from torchlocks.core.http import download_small
from torchlocks.core.reading import LOCK_BYTES
from torchlocks.core.urls import file_path, mask
from torchlocks.lockfile.formats import PIXI, merge, parse_lock, read_environments, read_file, read_lock
from torchlocks.lockfile.models import Lock


def open_lock(name: str, environment: str | None = None) -> Lock:
    """Read the lock `name`: a path, or an http(s) or file URL; of a pixi.lock one environment (see `parse_lock`).

    A conda-lock.yml is completed from the pixi.lock beside it, which has sizes and licences. Raises FetchError if the
    URL cannot be read, and what `read_lock` raises.
    """
    if "://" in name:
        return parse_lock(read_bytes(name), path_of(name), environment)
    path = Path(name)
    lock = read_lock(path, environment)
    beside = path.with_name(PIXI)
    if lock.kind == "conda-lock" and beside.is_file():
        lock = merge(lock, *read_environments(beside))
    return lock


def read_bytes(name: str) -> bytes:
    """Return the bytes of the file `name`, a path or URL.

    Raises FetchError if the URL cannot be read, MissingFileError if the file does not exist, LockfileError if it cannot
    be read.
    """
    if "://" not in name or name.startswith("file://"):
        return read_file(path_of(name), "file")
    import asyncio

    try:
        return asyncio.run(download_small(name, LOCK_BYTES))
    except (RuntimeError, OSError) as error:
        raise FetchError(
            "The file cannot be fetched.",
            where=mask(name),
            fix="check the address and the network, or fetch it yourself and name the file",
            details=mask(str(error)),
        ) from error


def path_of(name: str) -> Path:
    """Return the path of the file `name`; for a URL its last segment, for messages."""
    if "://" not in name:
        return Path(name)
    if name.startswith("file://"):
        return file_path(name)
    return Path(Path(urlsplit(name).path).name or "lock")
