"""Make a conda package reproducible: rewrite a .conda file without machine paths and build time.

py-rattler-build's packages differ from build to build in the time of the build, the channel, and the work folder (in
the placeholder of the prefix, which an installer replaces).
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
from pathlib import Path
from typing import IO, Any

import zstandard

from torchlocks.core.errors import RecipeError
from torchlocks.local_channel.package_file import (
    PLACEHOLDER,
    Readable,
    add_file,
    add_link,
    info_files,
    new_package,
    open_part,
)

IN_MEMORY = 1 << 24
"""Files up to this size (bytes) are read as a whole; larger ones, libraries of up to a gigabyte, in chunks."""

_SHELL_START = re.compile(
    rb"\A#!/bin/sh\n'{3}exec' (?P<quote>\"?)(?P<program>[^\"\n]+)(?P=quote) \"\$0\" \"\$@\"\n' '{3}\n"
)
"""The start of pip's scripts for long prefixes, and for prefixes with a space.

conda's convention is a plain shebang, which the installer adapts to the real prefix.
"""


def repack(
    package: Path, target: Path, *, newest: int, forbidden: Sequence[str], may_be_empty: bool = False
) -> dict[str, Any]:
    """Write `package` as `target`, and return its `info/index.json`.

    `newest` is the time of the package and of each file in it, in seconds since 1970. `forbidden` are texts that no
    file may contain, such as folders of this machine; raises RecipeError, with the file's name, if one does. Only a
    metapackage `may_be_empty`; any other empty package raises RecipeError.
    """
    with zipfile.ZipFile(package) as source:
        info, programs = _read_info(source)
        paths = json.loads(info["info/paths.json"])
        entries = {entry["_path"]: entry for entry in paths["paths"]}
        if not entries and not may_be_empty:
            raise RecipeError("The package would be empty.", fix="let the build script put files into $PREFIX.")
        placeholders = {name: str(e["prefix_placeholder"]) for name, e in entries.items() if "prefix_placeholder" in e}
        refused = [text.encode() for text in {*forbidden, *placeholders.values()}]
        large = sum(int(entry.get("size_in_bytes", 0)) for entry in entries.values()) > zipfile.ZIP64_LIMIT
        with new_package(target) as archive:
            with open_part(archive, "pkg", target, large=large) as tar:
                links: dict[str, str] = {}
                for member, contents in _read(source, "pkg"):
                    name = member.name
                    if member.issym():
                        links[name] = member.linkname
                        _refuse(refused, member.linkname.encode(), name)
                        add_link(tar, name, member.linkname, newest)
                        continue
                    executable = bool(member.mode & 0o100)
                    if member.size > IN_MEMORY and name not in placeholders:
                        watched = _Watched(contents, refused, name)
                        add_file(tar, name, watched, member.size, newest, executable=executable)
                        continue
                    data = contents.read()
                    changed = _canonical(name, data, placeholders, entries.keys())
                    if changed != data:
                        _describe(entries[name], changed)
                    _refuse(refused, changed, name)
                    add_file(tar, name, io.BytesIO(changed), len(changed), newest, executable=executable)
            _follow_links(entries, links)
            for name, placeholder in placeholders.items():
                entries[name]["prefix_placeholder"] = PLACEHOLDER[: len(placeholder)]
            final, index = info_files(info, paths, newest)
            with open_part(archive, "info", target) as tar:
                for name, data in final.items():
                    _refuse(refused, data, name)
                    add_file(tar, name, io.BytesIO(data), len(data), newest, executable=name in programs)
    return index


def read_info(package: Path) -> tuple[dict[str, bytes], set[str]]:
    """Return the files of a package's `info` part, and the names of those that are executable."""
    with zipfile.ZipFile(package) as source:
        return _read_info(source)


def _read_info(source: zipfile.ZipFile) -> tuple[dict[str, bytes], set[str]]:
    read = [(member, contents.read()) for member, contents in _read(source, "info")]
    return {member.name: data for member, data in read}, {member.name for member, _ in read if member.mode & 0o100}


def _read(source: zipfile.ZipFile, part: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield header and contents of each file of a part, in order; read the contents before the next step."""
    (name,) = (n for n in source.namelist() if n.startswith(f"{part}-") and n.endswith(".tar.zst"))
    with (
        source.open(name) as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            if member.isfile() or member.issym():
                yield member, (tar.extractfile(member) if member.isfile() else None) or io.BytesIO()


class _Watched:
    """A large file that is copied in chunks; reading raises RecipeError if it contains a refused text."""

    def __init__(self, contents: Readable, texts: Sequence[bytes], name: str) -> None:
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
    """Return the contents with a fixed placeholder instead of the engine's.

    Both have the same length, so that binaries stay valid and an installer's padding does not change.
    """
    if placeholder := placeholders.get(name):
        data = _SHELL_START.sub(rb"#!\g<program>\n", data)
        return data.replace(placeholder.encode(), PLACEHOLDER[: len(placeholder)].encode())
    if name.endswith(".dist-info/RECORD"):
        return blank_record(name, data, packaged - placeholders.keys())
    return data


def blank_record(name: str, data: bytes, fixed: Set[str]) -> bytes:
    """Return a wheel's RECORD in which only the `fixed` files have a hash and a size.

    An installer creates or changes the others: it writes its prefix into some, and the scripts of noarch packages.
    `name` and `fixed` are paths in the package. The format is that of PEP 376: path, hash and size, the last two
    optional; paths are relative to the folder with the .dist-info.
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
    """Set hash and size of each symbolic link to those of its target's final bytes."""
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
                f"The package would contain a path of this machine: {text.decode()} in {name}.",
                fix="let the build script write $PREFIX or a relative path instead.",
            )
