"""The channel in a bundle: package files, repacked where the target cannot read Zstandard, and their index."""

from __future__ import annotations

import asyncio
import bz2
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import IntegrityError, InterruptedByUserError
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Progress
from torchlocks.install.fetch import fetch_archives
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.package_files import refuse_other, refuse_unsafe, walk
from torchlocks.install.unpack import Unpacker, UnpackError
from torchlocks.lockfile.models import LockedPackage


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """A package's file in the bundle, with its path relative to the folder."""

    file: str
    sha256: str


def write_channel(
    packages: Sequence[LockedPackage],
    channel: Path,
    platform: str,
    scratch: Path,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool,
) -> list[BundledFile]:
    """Create the bundle's channel and return each package's file in it."""
    downloads = scratch / "downloads"
    downloads.mkdir()
    subdirs = {platform, "noarch", *(each.subdir for each in packages)}
    for subdir in subdirs:
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    archives = fetch_archives(packages, downloads, fetch, progress)
    files = []
    if portable:
        names = [f"{each.name}-{each.version}-{each.build}.tar.bz2" for each in packages]
        targets = [channel / each.subdir / name for each, name in zip(packages, names, strict=True)]
        hashes = _repack(packages, [archives[each] for each in packages], targets, scratch, progress)
    else:
        targets = [channel / each.subdir / each.file_name for each in packages]
        for each, target in zip(packages, targets, strict=True):
            _move_or_link(archives[each], target, move=archives[each].parent == downloads)
        hashes = [each.sha256 or "" for each in packages]
    for target, sha256 in zip(targets, hashes, strict=True):
        files.append(BundledFile(file=target.relative_to(channel.parent).as_posix(), sha256=sha256))
    _index(packages, [target.name for target in targets], channel, subdirs)
    return files


def _move_or_link(source: Path, target: Path, *, move: bool) -> None:
    if move:
        source.replace(target)
        return
    try:
        # Safe although others may write to the file: its bytes are hashed again when they are packed.
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _index(packages: Sequence[LockedPackage], names: Sequence[str], channel: Path, subdirs: Set[str]) -> None:
    """Write the channel's repodata: the packages' own records, with the dependencies in the lock.

    Times and other files of rattler's index are removed, since they differ from run to run.
    """
    from rattler.index import index_fs

    try:
        asyncio.run(index_fs(channel, write_zst=False, write_shards=False))
    except Exception as error:
        # rattler has no common exception class; invalid archives make its indexer panic.
        if is_disk_full(error):
            raise
        raise IntegrityError(
            "A package has the locked hash, but cannot be read.", fix="lock again.", details=str(error)
        ) from error
    known = {(each.subdir, name): each for each, name in zip(packages, names, strict=True)}
    for subdir in sorted(channel.iterdir()):
        if subdir.name not in subdirs:
            shutil.rmtree(subdir) if subdir.is_dir() else subdir.unlink()
            continue
        file = subdir / "repodata.json"
        index: dict[str, Any] = json.loads(file.read_bytes())
        records = {kind: index.get(kind, {}) for kind in ("packages", "packages.conda")}
        for name, record in {**records["packages"], **records["packages.conda"]}.items():
            package = known.pop((subdir.name, name))
            record.pop("indexed_timestamp", None)
            # Only a lock with both fields has the channel's complete record (see `lockfile.merge`).
            if package.depends is not None and package.constrains is not None:
                record.update(depends=list(package.depends), constrains=list(package.constrains))
        content = {"info": {"subdir": subdir.name}, **records, "repodata_version": 1}
        file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if known:
        left = ", ".join(name for _, name in known)
        raise IntegrityError(f"These have the locked hash, but are not packages: {left}.", fix="lock again.")


def _repack(
    packages: Sequence[LockedPackage],
    archives: Sequence[Path],
    targets: Sequence[Path],
    scratch: Path,
    progress: Progress,
) -> list[str]:
    """Write each package as a `.tar.bz2` and return their hashes; the same contents give the same bytes."""

    async def unpack(archive: Path, folder: Path, package: LockedPackage, unpacker: Unpacker) -> None:
        try:
            sha256, _ = await unpacker.extract(archive, folder)
        except UnpackError as error:
            raise IntegrityError(
                f"{package.file_name} has the locked hash, but cannot be extracted.",
                where=package.url,
                details=str(error),
            ) from error
        if sha256 != package.sha256:
            raise IntegrityError(f"{package.file_name} was changed while it was read.", where=str(archive))
        refuse_unsafe(folder, walk(folder), package.file_name)
        refuse_other(folder, package)

    stop = threading.Event()

    def pack(number: int) -> str:
        folder = scratch / str(number)

        async def run() -> None:
            async with Unpacker(1) as unpacker:
                await unpack(archives[number], folder, packages[number], unpacker)

        asyncio.run(run())
        if archives[number].parent == scratch / "downloads":
            archives[number].unlink()
        _pack_bz2(folder, targets[number], stop)
        shutil.rmtree(folder)
        return hash_file(targets[number])

    with (
        progress.task(f"Repacking {len(packages)} packages", len(packages)) as task,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        hashes = []
        try:
            for package, sha256 in zip(packages, pool.map(pack, range(len(packages))), strict=True):
                task.advance(1, package.name)
                hashes.append(sha256)
        except BaseException:
            # The pool waits for running tasks, and one package may take minutes.
            stop.set()
            raise
    return hashes


class _Stoppable:
    """A file that accepts no more data once `stop` is set."""

    def __init__(self, file: IO[bytes], stop: threading.Event) -> None:
        self._file = file
        self._stop = stop

    def write(self, block: bytes) -> int:
        if self._stop.is_set():
            raise InterruptedByUserError("Interrupted.")
        return self._file.write(block)


def _pack_bz2(folder: Path, target: Path, stop: threading.Event) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(member.mtime)
        return member

    # The info folder comes first: clients read it first, and often only that.
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    with (
        target.open("wb") as file,
        bz2.open(_Stoppable(file, stop), "wb") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sorted(paths, key=lambda path: path.relative_to(folder).parts[0] != "info"):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)
