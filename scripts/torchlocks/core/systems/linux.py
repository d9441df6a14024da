"""Linux, and what other systems of its kind share with it."""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

UNIX = True
BUILD_PYTHON = '"$PREFIX/bin/python"'
SCRIPTS = "bin"
ACTIVATE = "activate.sh"
SHELL = "bash"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2), since Linux 3.15


def python(prefix: Path) -> Path:
    return prefix / "bin" / "python"


def site_packages(minor: str) -> str:
    return f"lib/python{minor}/site-packages"


def program(name: str) -> str:
    return name


def url_path(url: str) -> str:
    return unquote(urlsplit(url).path)


def command_line(arguments: Sequence[str]) -> str:
    return shlex.join(arguments)


def runner(environ: Mapping[str, str]) -> list[str]:
    # Activation scripts are written for bash; a system without one gets by with sh in most cases.
    return [shutil.which("bash") or "/bin/sh"]


def bare(environ: Mapping[str, str], home: PurePath) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": os.fspath(home)}


def exchange(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    return exchanged(failed, one, other)


def exchanged(failed: int, one: Path, other: Path) -> bool:
    """Return the result of a system call that exchanges; False for what it does not support. Raises OSError."""
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def link_folder(link: Path, target: Path) -> None:
    link.symlink_to(target, target_is_directory=True)


def too_long(prefix: str, longest: int) -> str | None:
    # PATH_MAX, with the byte that ends a path.
    whole = len(os.fsencode(prefix)) + 1 + longest
    return None if whole < 4096 else f"a path in it would have {whole} bytes, and 4095 are possible"


def in_use(error: OSError) -> bool:
    # Running programs and open files can be renamed and removed; a program that is written to is an exception.
    return error.errno == errno.ETXTBSY
