"""The folder of a channel: its lock, its repodata, and its atomic replacement."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.files import write_whole
from torchlocks.core.progress import Progress

if TYPE_CHECKING:
    from torchlocks.local_channel.pack import Built


@contextlib.contextmanager
def channel_lock(channel: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a channel while it is built; waits for another process, with a message."""
    from filelock import FileLock, Timeout

    lock = FileLock(channel.with_name(f".{channel.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say("Another process is building this channel: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def work_folder(channel: Path) -> Iterator[Path]:
    """Yield an empty folder on the channel's file system; remains of a killed run are removed."""
    work = channel.with_name(f".{channel.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_repodata(channel: Path, packages: Iterable[Built]) -> None:
    """Write the channel's repodata from the packages' index files.

    rattler's indexer would read every package for this: a minute for a CUDA channel.
    """
    records: dict[str, dict[str, object]] = {"noarch": {}, subdir_here(): {}}
    for package in packages:
        hashes = {"md5": package.md5, "sha256": package.sha256, "size": package.size}
        records.setdefault(package.subdir, {})[package.file] = package.index | hashes
    for subdir, found in records.items():
        (channel / subdir).mkdir(exist_ok=True)
        document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": found, "repodata_version": 1}
        write_whole(channel / subdir / "repodata.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def swap_channel(following: Path, channel: Path) -> None:
    """Replace `channel` by `following`. If killed between the two renames, the next run completes it."""
    old = channel.with_name(f".{channel.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if channel.exists():
        channel.rename(old)
    following.rename(channel)
    shutil.rmtree(old, ignore_errors=True)


def subdir_here() -> str:
    from rattler import Subdir

    return str(Subdir.current())
