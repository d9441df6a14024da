"""A lockfile named by path or URL."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.errors import FetchError
from torchlocks.fetch import make_client, mask
from torchlocks.lockfile import PIXI, merge, read_lock
from torchlocks.models import Lock


def open_lock(name: str) -> Lock:
    """Read the lock `name`: a path, or an http(s) or file URL.

    A conda-lock.yml with a pixi.lock beside it is completed from that one, which knows sizes and licences.
    Raises FetchError when the URL cannot be read, and what `read_lock` raises.
    """
    if "://" not in name:
        path = Path(name)
        lock = read_lock(path)
        beside = path.with_name(PIXI)
        if lock.kind == "conda-lock" and beside.is_file():
            lock = merge(lock, read_lock(beside))
        return lock
    from rattler.package_streaming import download_bytes

    try:
        data = asyncio.run(download_bytes(make_client(), name))
    except (RuntimeError, OSError) as error:
        raise FetchError(
            "The lock cannot be fetched.",
            where=mask(name),
            fix="check the address and the network, or fetch it yourself and name the file",
            details=mask(str(error)),
        ) from error
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        # The reader tells formats apart by what is in the file; the name is for its messages.
        path = Path(scratch) / (Path(urlsplit(name).path).name or "lock")
        path.write_bytes(data)
        return read_lock(path)
