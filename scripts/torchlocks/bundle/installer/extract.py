"""Extract a package archive into a folder; no member may be outside of it."""

from __future__ import annotations

import os
import posixpath
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from .files import DEEPEST, Member, leaves, make_folder, write_hashed
from .model import BundleError, Extracted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .zstd import Opener


def extract(archive: Path, folder: Path, zstd: Opener | None, sha256: str | None = None) -> Extracted:
    """Extract a package archive into the new folder `folder`.

    With `sha256`, the archive is copied first and the copy is hashed: the file may have changed since it was checked.
    Raises BundleError if it is damaged, is another file, or contains anything but files, folders and links that stay
    inside.
    """
    folder.mkdir()
    if sha256 is None:
        return _extract(archive, folder, zstd)
    private = folder.parent / f"{folder.name}.archive"
    private.mkdir(mode=0o700)
    try:
        copy = private / archive.name
        with archive.open("rb", buffering=0) as source:
            found = write_hashed(source, copy)
        if found != sha256:
            raise BundleError(f"{archive.name} changed while it was installed: its SHA-256 sum is {found} now.")
        return _extract(copy, folder, zstd)
    finally:
        shutil.rmtree(str(private), ignore_errors=True)


def _extract(archive: Path, folder: Path, zstd: Opener | None) -> Extracted:
    hashes: dict[str, str] = {}
    try:
        for stream in _tars(archive, zstd):
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Member) as members:
                for member in members:
                    _extract_member(members, member, folder, hashes)
    except BundleError as error:
        raise BundleError(
            f"{archive.name} is not a package that can be trusted: {error}.",
            "do not use this bundle; report the package to whoever runs its channel.",
        ) from error
    except Exception as error:
        # Each decompressor has its own exceptions; an OSError with a number is the system's, such as a full disk.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BundleError(f"{archive.name} is not a package that can be extracted: {error}.") from error
    return Extracted(folder, hashes)


def _tars(archive: Path, zstd: Opener | None) -> Iterator[BinaryIO]:
    if archive.name.endswith(".tar.bz2"):
        import bz2

        with bz2.open(archive) as stream:
            yield stream  # type: ignore[misc, unused-ignore]
        return
    if zstd is None:
        raise BundleError("there is nothing to read Zstandard with")
    stem = archive.name[: -len(".conda")]
    with zipfile.ZipFile(archive) as parts:
        for part in ("info", "pkg"):
            with parts.open(f"{part}-{stem}.tar.zst") as raw, zstd(raw) as stream:  # type: ignore[arg-type]
                yield stream


def _extract_member(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, hashes: dict[str, str]) -> None:
    if leaves(member.name):
        raise BundleError(f"it names {member.name!r}, which is outside of the environment")
    if member.name.count("/") > DEEPEST:
        raise BundleError(f"it names {member.name[:80]!r}…, which is in more than {DEEPEST} folders")
    name = posixpath.normpath(member.name)
    target = folder / name
    if member.isdir():
        make_folder(target, folder)
        return
    make_folder(target.parent, folder)
    try:
        if member.issym():
            if leaves(posixpath.join(posixpath.dirname(name), member.linkname)) or member.linkname.startswith("/"):
                raise BundleError(f"{name} is a link to {member.linkname!r}, which is outside of the environment")
            target.symlink_to(member.linkname)
        elif member.islnk():
            source = posixpath.normpath(member.linkname)
            if source not in hashes:
                raise BundleError(f"{name} is a hard link to {member.linkname!r}, which is not a file before it")
            os.link(str(folder / source), str(target))
            hashes[name] = hashes[source]
        elif member.isreg():
            hashes[name] = write_hashed(members.extractfile(member), target)  # type: ignore[arg-type]
            target.chmod(member.mode & 0o777 | 0o400)
            os.utime(str(target), (member.mtime, member.mtime))
        else:
            raise BundleError(f"{name} is neither a file, a folder nor a link")
    except FileExistsError:
        raise BundleError(f"it has {name} twice") from None
