"""The image layout while it is written: blobs by their hash, then the index, then one rename."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torchlocks.core.files import EARLIEST_TIME_S
from torchlocks.core.progress import Task
from torchlocks.image.documents import INDEX, INDEX_FILE, LAYOUT_FILE, descriptor, encode

BLOCK = 1 << 20


@dataclass
class Written:
    """A written blob: its digest (`sha256:…`) and size in bytes, set when the writer is closed."""

    digest: str = ""
    size: int = 0


class Layout:
    """An OCI image layout below `folder`, which is new and empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def path(self, digest: str) -> Path:
        """The file of a blob."""
        return self._blobs / digest.removeprefix("sha256:")

    def add(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Write a document and return its descriptor. Raises OSError."""
        made = descriptor(media_type, data)
        self.path(made["digest"]).write_bytes(data)
        return made

    @contextmanager
    def writer(self) -> Iterator[tuple[Callable[[bytes], object], Written]]:
        """Yield a function that writes bytes of a blob; the blob exists after the context. Raises OSError."""
        written = Written()
        digest = hashlib.sha256()
        beside = self._blobs / "writing"

        with beside.open("wb") as file:

            def write(data: bytes) -> None:
                digest.update(data)
                file.write(data)
                written.size += len(data)

            yield write, written
        written.digest = f"sha256:{digest.hexdigest()}"
        beside.replace(self.path(written.digest))

    def finish(self, manifests: list[dict[str, Any]]) -> None:
        """Write the index, which lists `manifests`, and the file that marks a layout. Raises OSError."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        (self.folder / INDEX_FILE).write_bytes(encode(index))
        (self.folder / LAYOUT_FILE).write_bytes(encode({"imageLayoutVersion": "1.0.0"}))


def pack_layout(folder: Path, target: IO[bytes], task: Task) -> None:
    """Write a layout as a tar, the same bytes for the same layout; its blobs are removed as they are packed."""
    blobs = sorted((folder / "blobs" / "sha256").iterdir())
    for name in ("blobs/", "blobs/sha256/"):
        target.write(header(name, kind=tarfile.DIRTYPE, mode=0o755))
    for path in (folder / LAYOUT_FILE, folder / INDEX_FILE, *blobs):
        target.write(header(path.relative_to(folder).as_posix(), size=path.stat().st_size))
        with path.open("rb") as file:
            copy_padded(file, target.write, task)
        path.unlink()
    target.write(bytes(1024))


def header(
    name: str,
    *,
    size: int = 0,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    time: int = EARLIEST_TIME_S,
    target: str = "",
) -> bytes:
    """Return the header of a member of a tar that belongs to root; `target` is that of a link, `time` in seconds."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.type, member.mtime, member.linkname = size, mode, kind, time, target
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def copy_padded(file: IO[bytes], write: Callable[[bytes], object], task: Task) -> int:
    """Write a file's bytes as a tar has them, in whole records; returns the file's size in bytes."""
    size = 0
    while block := file.read(BLOCK):
        write(block)
        size += len(block)
        task.advance(len(block))
    if size % 512:
        write(bytes(512 - size % 512))
    return size
