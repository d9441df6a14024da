"""Make a conda package reproducible: write a .conda file again with nothing in it of the machine or the moment.

What py-rattler-build leaves in a package that differs from build to build: the time of the build, the channel it was
given, and the folder it worked in (inside the placeholder that stands for the prefix, which an installer replaces).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from torchlocks.core.errors import RecipeError

COMPRESSION_LEVEL = 3
"""zstd: of the levels that keep a build short, the last whose gain in size is worth its time (recipes/README.md)."""

COMPRESSION_THREADS = 2
"""zstd's output is the same for any number of threads from 1 on."""

IN_MEMORY = 1 << 24
"""Files up to this size (bytes) are looked at as a whole; larger ones, libraries of up to a gigabyte, in pieces."""

PLACEHOLDER = "/torchlocks/" + "_placehold" * 30
"""Cut to the length of the engine's own placeholder, and put in its place."""

_SHELL_START = re.compile(
    rb"\A#!/bin/sh\n'{3}exec' (?P<quote>\"?)(?P<program>[^\"\n]+)(?P=quote) \"\$0\" \"\$@\"\n' '{3}\n"
)
"""How pip starts a script where the prefix is long, and in another way where it has a space.

conda's convention is a plain shebang: the installer, which knows the real prefix, does what is needed.
"""

NOT_KEPT = {"info/hash_input.json"}
"""What the engine adds that describes the build and not the package: it names the folder of the wheels."""


def repack(
    package: Path, target: Path, *, newest: int, forbidden: Sequence[str], may_be_empty: bool = False
) -> dict[str, Any]:
    """Write `package` as `target`, and return its `info/index.json`.

    `newest` is the time of the package and of each file in it, in seconds since 1970. `forbidden` are texts that no
    file may hold, such as folders of this machine: RecipeError, naming the file, if one does. A metapackage
    `may_be_empty`; for any other package that is an error.
    """
    with zipfile.ZipFile(package) as source:
        info = {member.name: (member, contents.read()) for member, contents in _read(source, "info")}
        paths = json.loads(info["info/paths.json"][1])
        entries = {entry["_path"]: entry for entry in paths["paths"]}
        if not entries and not may_be_empty:
            raise RecipeError("The package would be empty.", fix="let the build script put files into $PREFIX.")
        placeholders = {name: str(e["prefix_placeholder"]) for name, e in entries.items() if "prefix_placeholder" in e}
        refused = [text.encode() for text in {*forbidden, *placeholders.values()}]
        large = sum(int(entry.get("size_in_bytes", 0)) for entry in entries.values()) > zipfile.ZIP64_LIMIT
        with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
            # A ZipInfo without a date has the first of 1980. The libraries that write this format put today's there.
            archive.writestr(zipfile.ZipInfo("metadata.json"), json.dumps({"conda_pkg_format_version": 2}))
            with _part(archive, "pkg", target, large) as tar:
                links: dict[str, str] = {}
                for member, contents in _read(source, "pkg"):
                    name = member.name
                    if member.issym():
                        links[name] = member.linkname
                        _refuse(refused, member.linkname.encode(), name)
                    if member.size > IN_MEMORY and name not in placeholders:
                        _add(tar, member, _Watched(contents, refused, name), member.size, newest)
                        continue
                    data = contents.read()
                    changed = _canonical(name, data, placeholders, entries.keys())
                    if changed != data:
                        _describe(entries[name], changed)
                    _refuse(refused, changed, name)
                    _add(tar, member, io.BytesIO(changed), len(changed), newest)
            _follow_links(entries, links)
            for name, placeholder in placeholders.items():
                entries[name]["prefix_placeholder"] = PLACEHOLDER[: len(placeholder)]
            index: dict[str, Any] = json.loads(info["info/index.json"][1]) | {"timestamp": newest * 1000}
            about = json.loads(info["info/about.json"][1])
            about.pop("channels", None)
            rewritten = {"info/index.json": index, "info/about.json": about, "info/paths.json": paths}
            with _part(archive, "info", target, False) as tar:
                for name, (member, data) in sorted(info.items()):
                    if name not in NOT_KEPT:
                        final = _json(rewritten[name]) if name in rewritten else data
                        _refuse(refused, final, name)
                        _add(tar, member, io.BytesIO(final), len(final), newest)
    return index


def _read(source: zipfile.ZipFile, part: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Header and contents of each file of a part, in the order of the archive; read each before asking for the next."""
    (name,) = (n for n in source.namelist() if n.startswith(f"{part}-") and n.endswith(".tar.zst"))
    with (
        source.open(name) as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            if member.isfile() or member.issym():
                yield member, (tar.extractfile(member) if member.isfile() else None) or io.BytesIO()


@contextmanager
def _part(archive: zipfile.ZipFile, part: str, target: Path, large: bool) -> Iterator[tarfile.TarFile]:
    entry = zipfile.ZipInfo(f"{part}-{target.name.removesuffix('.conda')}.tar.zst")
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, threads=COMPRESSION_THREADS)
    raw: IO[bytes]
    with (
        archive.open(entry, "w", force_zip64=large) as raw,
        compressor.stream_writer(raw, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, old: tarfile.TarInfo, contents: IO[bytes] | _Watched, size: int, newest: int) -> None:
    member = tarfile.TarInfo(old.name)
    member.mtime = newest
    if old.issym():
        member.type, member.linkname = tarfile.SYMTYPE, old.linkname
    else:
        member.mode = 0o755 if old.mode & 0o100 else 0o644
        member.size = size
    tar.addfile(member, contents)  # type: ignore[arg-type]  # it reads, and asks for nothing else


class _Watched:
    """A large file on its way from one archive to the other, in pieces: RecipeError if it holds a refused text."""

    def __init__(self, contents: IO[bytes], texts: Sequence[bytes], name: str) -> None:
        self._contents, self._texts, self._name = contents, texts, name
        self._overlap = max(map(len, texts), default=1) - 1
        self._before = b""

    def read(self, size: int) -> bytes:
        data = self._contents.read(size)
        seen = self._before + data
        _refuse(self._texts, seen, self._name)
        self._before = seen[len(seen) - self._overlap :] if self._overlap else b""
        return data


def _canonical(name: str, data: bytes, placeholders: Mapping[str, str], packaged: Set[str]) -> bytes:
    """The contents with one fixed placeholder in the place of the engine's.

    Both have the same length, so that binaries stay valid and an installer pads as it would have.
    """
    if placeholder := placeholders.get(name):
        data = _SHELL_START.sub(rb"#!\g<program>\n", data)
        return data.replace(placeholder.encode(), PLACEHOLDER[: len(placeholder)].encode())
    if name.endswith(".dist-info/RECORD"):
        return blank_record(name, data, packaged - placeholders.keys())
    return data


def blank_record(name: str, data: bytes, fixed: Set[str]) -> bytes:
    """A wheel's RECORD in which only the `fixed` files have a hash and a size.

    An installer makes or changes the others: it puts its prefix into some, and writes the programs of noarch packages.
    `name` and `fixed` are paths in the package. The format is that of PEP 376: path, hash and size, the last two
    optional; paths are relative to the folder that holds the .dist-info.
    """
    site_packages = posixpath.dirname(posixpath.dirname(name))
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))
    for row in rows:
        if row and posixpath.normpath(posixpath.join(site_packages, row[0])) not in fixed:
            row[1:] = ["", ""]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8")


def _follow_links(entries: Mapping[str, dict[str, Any]], links: Mapping[str, str]) -> None:
    """Give each symbolic link the hash and size of the file it leads to, as the engine does, but of the final bytes."""
    for name in links:
        target = name
        while target in links:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(target), links[target]))
        if target in entries:
            for key in ("sha256", "size_in_bytes"):
                entries[name][key] = entries[target][key]


def _describe(entry: dict[str, Any], data: bytes) -> None:
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    entry["size_in_bytes"] = len(data)


def _refuse(texts: Sequence[bytes], data: bytes, name: str) -> None:
    for text in texts:
        if text in data:
            raise RecipeError(
                f"The package would hold a path of this machine: {text.decode()} in {name}.",
                fix="let the build script write $PREFIX or a relative path instead.",
            )


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
