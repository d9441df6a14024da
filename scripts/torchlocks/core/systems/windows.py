"""Windows. What asks the system itself is imported when it is called, so that the rest is tested anywhere."""

from __future__ import annotations

import ntpath
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

UNIX = False
BUILD_PYTHON = "%PREFIX%\\python.exe"
SCRIPTS = "Scripts"
ACTIVATE = "activate.bat"
SHELL = "cmd"

_MAX_PATH = 260
# ERROR_ACCESS_DENIED is what renaming a folder with open files gives; the others name the reason.
_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION, _USER_MAPPED_FILE = 5, 32, 33, 1224


def python(prefix: Path) -> Path:
    return prefix / "python.exe"


def site_packages(minor: str) -> str:
    return "Lib/site-packages"


def program(name: str) -> str:
    return f"{name}.exe"


def url_path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc and parts.netloc.lower() != "localhost":
        # A drive in the place of the host, as people write it, or a server's share.
        drive = parts.netloc.replace("|", ":")
        return ntpath.normpath(f"{drive}{path}" if drive.endswith(":") else f"//{parts.netloc}{path}")
    if path[:1] == "/" and path[2:3] in (":", "|"):
        path = f"{path[1]}:{path[3:] or '/'}"
    return ntpath.normpath(path)


def command_line(arguments: Sequence[str]) -> str:
    # A batch file expands what is between percent signs.
    return subprocess.list2cmdline(arguments).replace("%", "%%")


def runner(environ: Mapping[str, str]) -> list[str]:
    # /D: no AutoRun commands of the user.
    return [environ.get("COMSPEC") or "cmd.exe", "/D", "/C"]


def bare(environ: Mapping[str, str], home: PurePath) -> dict[str, str]:
    root = environ.get("SYSTEMROOT") or environ.get("SystemRoot") or r"C:\Windows"
    return {"PATH": rf"{root}\System32;{root}", "USERPROFILE": os.fspath(home), "APPDATA": os.fspath(home)}


def exchange(one: Path, other: Path) -> bool:
    return False


def link_folder(link: Path, target: Path) -> None:
    # Symbolic links need a right that users do not have; junctions do not.
    import _winapi

    create = getattr(_winapi, "CreateJunction")  # noqa: B009 - mypy knows the module on Windows only
    create(os.path.abspath(target), os.path.abspath(link))  # noqa: PTH100


def too_long(prefix: str, longest: int) -> str | None:
    whole = len(prefix) + 1 + longest
    if whole < _MAX_PATH or long_paths():
        return None
    return (
        f"a path in it would have {whole} characters, and Windows takes {_MAX_PATH - 1}, "
        r"unless HKLM\SYSTEM\CurrentControlSet\Control\FileSystem\LongPathsEnabled is 1"
    )


def long_paths() -> bool:
    """Return whether this machine takes paths of more than 259 characters."""
    if sys.platform != "win32":
        return False
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


def in_use(error: OSError) -> bool:
    return getattr(error, "winerror", None) in (
        _ACCESS_DENIED,
        _SHARING_VIOLATION,
        _LOCK_VIOLATION,
        _USER_MAPPED_FILE,
    )
