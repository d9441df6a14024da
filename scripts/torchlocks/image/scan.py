"""Scan an untrusted layer for the paths that matter for the layers above it.

Only headers are read, and nothing is extracted. Names outside of the image are refused.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torchlocks.core.errors import ImageError

MOST_BYTES = 64 << 30
"""Size limit of a base in bytes, all layers together, decompressed."""
MOST_MEMBERS = 5_000_000

_HEADER_BYTES = 1 << 20
"""Size limit of an extended header in bytes; a path has at most some thousand."""
WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass
class Contents:
    """Members of a base at the paths that matter: the prefix and the folders above it, shells, C libraries.

    `found` maps a path without a leading slash to the type of its member.
    """

    prefix: str
    found: dict[str, bytes] = field(default_factory=dict)
    members: int = 0
    size: int = 0

    def matters(self, name: str) -> bool:
        """Whether a path matters."""
        prefix = self.prefix
        if name == prefix or name.startswith(f"{prefix}/") or prefix.startswith(f"{name}/"):
            return True
        file = name.rpartition("/")[2]
        return name in _SHELLS or file.startswith(("ld-linux", "ld64.so", "ld.so.1", "ld-musl"))

    def layer(self, found: dict[str, bytes], removed: Iterable[str], opaque: Iterable[str]) -> None:
        """Add a layer: apply its whiteouts and opaque folders to the layers below, then add its members."""
        for gone in removed:
            self.found = {name: kind for name, kind in self.found.items() if not _within(name, gone)}
        for folder in opaque:
            self.found = {
                name: kind for name, kind in self.found.items() if name == folder or not _within(name, folder)
            }
        self.found |= found

    @property
    def shell(self) -> str | None:
        """The path of a shell for activation scripts, bash if there is one; None without one."""
        return next((f"/{name}" for name in _SHELLS if name in self.found), None)

    @property
    def glibc(self) -> bool:
        """Whether there is a dynamic loader of the GNU C library."""
        return any(name.rpartition("/")[2].startswith(("ld-linux", "ld64.so", "ld.so.1")) for name in self.found)

    def has_folder(self, path: str) -> bool:
        """Whether `path` is a folder of the base."""
        return self.found.get(path) == tarfile.DIRTYPE

    def refuse_taken(self) -> None:
        """Raise ImageError if the base has files at the environment's path, or a link above it."""
        fix = "name another folder (torchlocks image --prefix)"
        for name, kind in self.found.items():
            if self.prefix.startswith(f"{name}/") and kind != tarfile.DIRTYPE:
                raise ImageError(f"/{name} is no folder in the base.", where=f"/{self.prefix}", fix=fix)
            if name.startswith(f"{self.prefix}/") or (name == self.prefix and kind != tarfile.DIRTYPE):
                raise ImageError("The base has files where the environment is to be.", where=f"/{name}", fix=fix)


_SHELLS = ("bin/bash", "usr/bin/bash", "bin/sh", "usr/bin/sh")


def _within(name: str, folder: str) -> bool:
    return folder == "" or name == folder or name.startswith(f"{folder}/")


def scan(
    blocks: Iterator[bytes], contents: Contents, where: str, *, rootfs: bool, on_read: Callable[[int], None]
) -> str:
    """Read a layer or, with `rootfs`, the tar of a file system, add it to `contents`, and return its `sha256:…`.

    `blocks` is the decompressed tar; `on_read` is called with the number of bytes of each. Raises ImageError if it is
    not a tar, is too large, or has names outside of the image.
    """
    reader = _Forward(blocks, contents, where, on_read)
    found: dict[str, bytes] = {}
    removed: list[str] = []
    opaque: list[str] = []
    try:
        # Mode r: does not decompress a second time; the reader below has the limits.
        with tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
            for member in archive:
                # tarfile keeps all members otherwise, and a layer may have millions.
                archive.members = []
                contents.members += 1
                if contents.members > MOST_MEMBERS:
                    raise _refused(where, f"it has more than {MOST_MEMBERS} files")
                name = safe_name(member.name, where)
                if rootfs and name in ("oci-layout", "manifest.json"):
                    raise _refused(where, "it is an archive of images, and not an uncompressed OCI layout")
                if member.islnk():
                    safe_name(member.linkname, where)
                folder, _, file = name.rpartition("/")
                if file.startswith(WHITEOUT):
                    if rootfs:
                        raise _refused(where, f"{name} would remove a file, and a file system has no such name")
                    if file == _OPAQUE:
                        opaque.append(folder)
                    else:
                        removed.append(f"{folder}/{file[len(WHITEOUT) :]}".lstrip("/"))
                elif contents.matters(name):
                    # A hard link is a file like any other; the types of old and sparse files are files, too.
                    plain = member.isreg() or member.islnk()
                    found[name] = tarfile.REGTYPE if plain else member.type
        if not reader.tell():
            raise _refused(where, "it is empty")
        reader.drain()
    except (tarfile.TarError, ValueError, EOFError, RecursionError, OverflowError) as error:
        raise _refused(where, f"it is damaged or no tar ({error or type(error).__name__})") from None
    contents.layer(found, removed, opaque)
    return f"sha256:{reader.digest.hexdigest()}"


def safe_name(name: str, where: str) -> str:
    """Return a member's name without `./` and closing slashes. Raises ImageError if it leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise _refused(where, f"it has a file named {name[:200]!r}, which leads outside")
    return "/".join(parts)


def _refused(where: str, why: str) -> ImageError:
    return ImageError(
        f"The base cannot be used: {why}.",
        where=where,
        fix="name an OCI image layout (skopeo copy … oci:FOLDER:NAME) or the tar of a file system",
    )


class _Forward:
    """A forward-only file of blocks that hashes its bytes and limits sizes."""

    def __init__(self, blocks: Iterator[bytes], contents: Contents, where: str, on_read: Callable[[int], None]) -> None:
        self.digest = hashlib.sha256()
        self._blocks, self._contents, self._where, self._on_read = blocks, contents, where, on_read
        self._rest = memoryview(b"")
        self._position = 0

    def _next(self) -> bool:
        block = next(self._blocks, b"")
        self._rest = memoryview(block)
        self.digest.update(block)
        self._contents.size += len(block)
        self._on_read(len(block))
        if self._contents.size > MOST_BYTES:
            raise _refused(self._where, f"it has more than {MOST_BYTES >> 30} GiB")
        return bool(block)

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise ValueError("a header is too long")
        parts = []
        while size and (self._rest or self._next()):
            parts.append(bytes(self._rest[:size]))
            self._rest = self._rest[len(parts[-1]) :]
            size -= len(parts[-1])
            self._position += len(parts[-1])
        return b"".join(parts)

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position:
            raise ValueError("its members overlap")
        while self._position < position and (self._rest or self._next()):
            step = min(position - self._position, len(self._rest))
            self._rest = self._rest[step:]
            self._position += step
        return self._position

    def drain(self) -> None:
        """Read what follows the end of the archive, which its digest covers."""
        while self._next():
            pass
