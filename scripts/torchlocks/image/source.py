"""The files of an untrusted image layout, in a folder or a tar; regular files only, with limited headers."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from torchlocks.core.errors import ImageError
from torchlocks.core.reading import open_regular
from torchlocks.image import documents as oci
from torchlocks.image.blobs import BLOCK
from torchlocks.image.compression import guess


class Source(Protocol):
    """The files of an OCI layout."""

    @property
    def where(self) -> str:
        """The layout, for messages."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the layout. Raises OSError, KeyError."""
        ...


@dataclass(frozen=True)
class _Folder:
    folder: Path

    @property
    def where(self) -> str:
        return str(self.folder)

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self.folder / name)


@dataclass(frozen=True)
class _Archive:
    path: Path
    archive: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]

    @property
    def where(self) -> str:
        return str(self.path)

    def open(self, name: str) -> IO[bytes]:
        file = self.archive.extractfile(self.members[name])
        if file is None:
            raise OSError(f"{name} is no file")
        return file


@contextmanager
def opened(path: Path) -> Iterator[Source | None]:
    """Give the files of a layout; None for any other file."""
    if path.is_dir():
        if not (path / oci.LAYOUT_FILE).is_file():
            raise ImageError(
                "This folder is not an OCI image layout.",
                where=str(path),
                fix=f"for the tree of a file system, pack it first: tar -C {path} -cf base.tar .",
            )
        yield _Folder(path)
        return
    with readable(path) as file:
        if guess(file.read(6)) != "none":
            # A compressed tar is that of a file system: blobs are not found in one.
            yield None
            return
    with readable(path) as file:
        archive, members = _listed(path, file)
        yield _Archive(path, archive, members) if oci.LAYOUT_FILE in members else None


def _listed(path: Path, file: IO[bytes]) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    """Return a tar and those of its members that belong to an image layout. Raises ImageError for what is no tar."""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        archive = tarfile.open(fileobj=_Capped(file), mode="r:")  # type: ignore[call-overload] # noqa: SIM115
        for member in archive:
            archive.members = []
            name = member.name.removeprefix("./")
            if member.isreg() and (name in (oci.LAYOUT_FILE, oci.INDEX_FILE) or name.startswith("blobs/")):
                members[name] = member
            if len(members) > 10_000:
                raise ValueError("it has too many blobs")
    except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
        raise ImageError(
            f"The base is neither an OCI image layout nor a tar ({error or type(error).__name__}).",
            where=str(path),
            fix="name an OCI image layout (skopeo copy … oci:FOLDER:NAME) or the tar of a file system",
        ) from None
    return archive, members


@contextmanager
def readable(path: Path) -> Iterator[IO[bytes]]:
    """Give the bytes of a base that is a file. Raises ImageError where it cannot be read, or is no regular file."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise ImageError(f"The base cannot be read: {error.strerror or error}.", where=str(path)) from None
    with file:
        yield file


class _Capped:
    """A file that limits single reads: tarfile reads an extended header in one piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise ValueError("a header is too long")
        return self._file.read(size)
