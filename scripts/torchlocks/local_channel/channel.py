"""The folder of a channel: locked, written beside the old one, and exchanged with it."""

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
    """Held by the one process that builds a channel; others wait for it, and say so."""
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
    """An empty folder on the channel's file system. What a killed run left in it is removed first."""
    work = channel.with_name(f".{channel.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_repodata(channel: Path, packages: Iterable[Built]) -> None:
    """Write the channel's repodata, from what is known of all its packages.

    rattler's indexer writes the same, but reads every package for that: a minute of work for a CUDA channel.
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
    """Let `following` take the channel's place. A run that ends between the two renames is completed by the next."""
    old = channel.with_name(f".{channel.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if channel.exists():
        channel.rename(old)
    following.rename(channel)
    shutil.rmtree(old, ignore_errors=True)


def subdir_here() -> str:
    from rattler import Subdir

    return str(Subdir.current())
