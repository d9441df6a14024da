"""Write `.conda` files whose bytes depend on their contents alone: no time, no owner, no folder of this machine."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import zstandard

COMPRESSION_LEVEL = 3
"""zstd: the highest level whose gain in size is worth its time (recipes/README.md)."""

COMPRESSION_THREADS = 2
"""zstd's output is the same for any number of threads from 1 on."""

PLACEHOLDER = "/torchlocks/" + "_placehold" * 30
"""Stands for the prefix in the files of a package, truncated to the length of the engine's own placeholder."""

NOT_KEPT = {"info/hash_input.json"}
"""Files of the engine that describe the build and not the package; they contain the folder of the wheels."""


class Readable(Protocol):
    """The contents of a file that is copied into a package."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def new_package(target: Path) -> Iterator[zipfile.ZipFile]:
    """Create a `.conda` file; its parts are written with `open_part`, the files first, then `info`."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        # A ZipInfo without a date has the first of 1980.
        archive.writestr(zipfile.ZipInfo("metadata.json"), json.dumps({"conda_pkg_format_version": 2}))
        yield archive


@contextmanager
def open_part(archive: zipfile.ZipFile, part: str, target: Path, *, large: bool = False) -> Iterator[tarfile.TarFile]:
    """Add a part, `pkg` or `info`, to the package `target`; `large` if it may have more than 2 GB."""
    entry = zipfile.ZipInfo(f"{part}-{target.name.removesuffix('.conda')}.tar.zst")
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, threads=COMPRESSION_THREADS)
    raw: IO[bytes]
    with (
        archive.open(entry, "w", force_zip64=large) as raw,
        compressor.stream_writer(raw, closefd=False) as stream,
        # Not mode `w|`, which copies all data through a small buffer.
        tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, copybufsize=1 << 20) as tar,
    ):
        yield tar


def add_file(tar: tarfile.TarFile, name: str, contents: Readable, size: int, newest: int, *, executable: bool) -> None:
    """Add a file of `size` bytes with the time `newest`, in seconds since 1970."""
    member = tarfile.TarInfo(name)
    member.mtime = newest
    member.mode = 0o755 if executable else 0o644
    member.size = size
    tar.addfile(member, contents)  # type: ignore[arg-type]  # it only calls read


def add_link(tar: tarfile.TarFile, name: str, target: str, newest: int) -> None:
    """Add a symbolic link."""
    member = tarfile.TarInfo(name)
    member.mtime = newest
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)


def info_files(info: Mapping[str, bytes], paths: object, newest: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the `info` part of a package, and its index, from the one that the engine made.

    `paths` replaces the engine's list of files. What differs from build to build goes: the time becomes `newest`, the
    channel is removed.
    """
    index: dict[str, Any] = json.loads(info["info/index.json"]) | {"timestamp": newest * 1000}
    about = json.loads(info["info/about.json"])
    about.pop("channels", None)
    rewritten = {"info/index.json": index, "info/about.json": about, "info/paths.json": paths}
    kept = {name: data for name, data in sorted(info.items()) if name not in NOT_KEPT}
    return {name: _json(rewritten[name]) if name in rewritten else data for name, data in kept.items()}, index


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
