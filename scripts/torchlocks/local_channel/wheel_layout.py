"""Where the files of a wheel go in a package, and whether copying them is all that installing it does."""

from __future__ import annotations

import configparser
import posixpath
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

SCHEMES = ("purelib", "platlib", "data")
"""The folders of a wheel's `.data` whose files are copied as they are; installers change scripts and headers."""

MADE_BY_INSTALLERS = ("INSTALLER", "REQUESTED", "direct_url.json")

SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
"""Where wheels are installed in an environment of this Python, on POSIX systems."""


_TARGET = re.compile(r"([\w.]+):([\w.]+)")
"""The target of an entry point: a function in a module, without extras."""

_PIP = re.compile(r"pip(\d+(\.\d+)?)?")


@dataclass(frozen=True, kw_only=True)
class WheelLayout:
    """The files of a wheel, and what an installer adds.

    `site_packages` and `root` map paths below site-packages and below the prefix to the names of files in the wheel.
    `info` is the folder of its metadata, below site-packages. `scripts` are its programs by name, as `module:function`.
    """

    site_packages: Mapping[str, str]
    root: Mapping[str, str]
    info: str
    scripts: Mapping[str, str]


def wheel_layout(archive: zipfile.ZipFile) -> WheelLayout | None:
    """Return the layout of a wheel; None if installing it is more than copying files and writing its programs."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    info = {name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")}
    if len(info) != 1 or len(set(names)) != len(names):
        return None
    folder = info.pop()
    data = f"{folder.removesuffix('.dist-info')}.data"
    site_packages: dict[str, str] = {}
    root: dict[str, str] = {}
    for name in names:
        if _is_unusual(name, folder):
            return None
        first, *rest = name.split("/")
        if first != data:
            site_packages[name] = name
        elif len(rest) < 2 or rest[0] not in SCHEMES:
            return None
        else:
            (root if rest[0] == "data" else site_packages)["/".join(rest[1:])] = name
    # Programs and libraries that are no modules are adapted to the prefix when they are packaged.
    if f"{folder}/RECORD" not in site_packages or any(path.split("/")[0] != "share" for path in root):
        return None
    try:
        scripts = dict(_scripts(archive, f"{folder}/entry_points.txt"))
    except (ValueError, configparser.Error):
        return None
    if len(site_packages) + len(root) != len(names):
        return None
    return WheelLayout(site_packages=site_packages, root=root, info=folder, scripts=scripts)


def _is_unusual(name: str, info: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        posixpath.normpath(name) != name
        or parts[0] in ("/", "..")
        or "\\" in name
        or "__pycache__" in parts
        or name.endswith((".pyc", ".pyo"))
        or name in {f"{info}/{made}" for made in MADE_BY_INSTALLERS}
    )


def _scripts(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, str]]:
    """Yield the programs that pip writes for a wheel. Raises ValueError for those that are not written alike."""
    if name not in archive.namelist():
        return
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(archive.read(name).decode("utf-8"))
    if parser.has_section("gui_scripts"):
        raise ValueError("programs for a desktop")
    for script, target in parser.items("console_scripts") if parser.has_section("console_scripts") else ():
        if script.startswith("easy_install") or "/" in script or not _TARGET.fullmatch(target):
            raise ValueError(f"an unusual program: {script}")
        if script == "pip":
            # As pip installs itself, whatever versions the wheel names.
            major, minor = sys.version_info[:2]
            yield from ((name, target) for name in ("pip", f"pip{major}", f"pip{major}.{minor}"))
        elif not _PIP.fullmatch(script):
            yield script, target


def script_text(target: str, python: str) -> bytes:
    """Return the text of the program for an entry point, as pip writes it, for the interpreter `python`."""
    module, function = target.split(":")
    return (
        f"#!{python}\n"
        "import sys\n"
        f"from {module} import {function.split('.')[0]}\n"
        "if __name__ == '__main__':\n"
        "    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n"
        f"    sys.exit({function}())\n"
    ).encode()


def in_order(paths: Iterable[str]) -> list[str]:
    """Sort paths as the engine does, folder by folder."""
    return sorted(paths, key=lambda path: path.encode().split(b"/"))
