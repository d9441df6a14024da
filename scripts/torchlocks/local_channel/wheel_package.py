"""Make a conda package of a wheel: its files go from one archive into the other, without being installed first.

The engine makes the package's metadata from the recipe, and nothing else. The package has the same bytes as the one
that the engine builds by running pip and that is repacked (`repack.py`): tests compare them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlocks.core.errors import RecipeError
from torchlocks.local_channel.package_file import PLACEHOLDER, add_file, info_files, new_package, open_part
from torchlocks.local_channel.repack import blank_record, read_info
from torchlocks.local_channel.wheel_layout import SITE_PACKAGES, WheelLayout, in_order, script_text, wheel_layout

PREFIX = PLACEHOLDER[:255]
"""The engine pads every prefix to this length."""

_PIP = b"pip\n"
_CONDA = b"conda\n"
"""The contents of INSTALLER: as pip writes it, whose hash stays in RECORD, and as the engine replaces it."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The contents of a file of the package: a file in the wheel, or text."""

    member: zipfile.ZipInfo | None = None
    text: bytes = b""
    executable: bool = False
    has_prefix: bool = False


def package_wheel(metadata: Path, wheel: Path, target: Path, newest: int) -> dict[str, Any]:
    """Write the package `target` from a wheel, with the metadata of the package `metadata`; return its index.

    `newest` is the time of the package and of each file in it, in seconds since 1970. Raises RecipeError for a wheel
    that must be installed to be packaged.
    """
    info, _ = read_info(metadata)
    noarch = "info/link.json" in info
    with zipfile.ZipFile(wheel) as archive:
        layout = wheel_layout(archive)
        if layout is None:
            raise RecipeError(f"The wheel {wheel.name} cannot be packaged without being installed.", where=str(wheel))
        files = dict(_files(archive, layout, noarch))
        entries: list[dict[str, object]] = []
        size = sum(source.member.file_size for source in files.values() if source.member)
        with new_package(target) as package:
            with open_part(package, "pkg", target, large=size > zipfile.ZIP64_LIMIT) as tar:
                for name in in_order(files):
                    source = files[name]
                    length = source.member.file_size if source.member else len(source.text)
                    contents = _Hashed(archive.open(source.member) if source.member else io.BytesIO(source.text))
                    add_file(tar, name, contents, length, newest, executable=source.executable)
                    entries.append(_entry(name, contents.hexdigest(), length, source.has_prefix))
            final, index = info_files(info, {"paths": entries, "paths_version": 1}, newest)
            with open_part(package, "info", target) as tar:
                for name, data in final.items():
                    add_file(tar, name, io.BytesIO(data), len(data), newest, executable=False)
    return index


def _files(archive: zipfile.ZipFile, layout: WheelLayout, noarch: bool) -> Iterator[tuple[str, _Source]]:
    """Yield each file of the package by its path. A noarch package has no programs: installers make them."""
    base = "site-packages" if noarch else SITE_PACKAGES
    installed = {f"{base}/{path}": name for path, name in layout.site_packages.items()} | dict(layout.root)
    own = f"{base}/{layout.info}"
    fixed = {*installed, f"{own}/INSTALLER", f"{own}/REQUESTED"}
    for path, name in installed.items():
        member = archive.getinfo(name)
        mode = member.external_attr >> 16
        text = None
        # Also those of distributions that are vendored in this one.
        if path.endswith(".dist-info/INSTALLER"):
            text = _CONDA
        elif path.endswith(".dist-info/RECORD"):
            data = archive.read(name)
            text = blank_record(path, _record(data, layout) if path == f"{own}/RECORD" else data, fixed)
        executable = stat.S_ISREG(mode) and bool(mode & 0o111)
        yield path, _Source(member=member if text is None else None, text=text or b"", executable=executable)
    scripts = {} if noarch else {f"bin/{name}": target for name, target in layout.scripts.items()}
    for name, target in scripts.items():
        text = script_text(target, f"{PREFIX}/bin/python")
        yield name, _Source(text=text, executable=True, has_prefix=True)
    yield f"{own}/INSTALLER", _Source(text=_CONDA)
    yield f"{own}/REQUESTED", _Source()


def _record(data: bytes, layout: WheelLayout) -> bytes:
    """Return the RECORD that pip writes when it installs the wheel, for the wheel's own."""
    installed = {name: path for path, name in layout.site_packages.items()}
    installed |= {name: posixpath.relpath(path, SITE_PACKAGES) for path, name in layout.root.items()}
    rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8"), newline="")) if row]
    rows = [[installed.get(row[0], row[0]), *row[1:]] for row in rows]
    rows += [[posixpath.relpath(f"bin/{name}", SITE_PACKAGES), "", ""] for name in layout.scripts]
    rows += [
        [f"{layout.info}/{name}", *_hash_and_size(text)] for name, text in (("INSTALLER", _PIP), ("REQUESTED", b""))
    ]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode("utf-8")


def _hash_and_size(data: bytes) -> tuple[str, str]:
    from base64 import urlsafe_b64encode

    digest = urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}", str(len(data))


def _entry(name: str, sha256: str, size: int, has_prefix: bool) -> dict[str, object]:
    entry: dict[str, object] = {"_path": name, "path_type": "hardlink", "sha256": sha256, "size_in_bytes": size}
    return entry | ({"file_mode": "text", "prefix_placeholder": PREFIX} if has_prefix else {})


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, contents: Any) -> None:
        self._contents = contents
        self._digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data: bytes = self._contents.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
