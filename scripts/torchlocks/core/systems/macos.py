"""macOS: as Linux, but for the call that exchanges folders and the length of paths."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from torchlocks.core.systems.linux import (
    ACTIVATE,
    BUILD_PYTHON,
    SCRIPTS,
    SHELL,
    UNIX,
    bare,
    command_line,
    exchanged,
    in_use,
    link_folder,
    program,
    python,
    runner,
    site_packages,
    url_path,
)

__all__ = [
    "ACTIVATE",
    "BUILD_PYTHON",
    "SCRIPTS",
    "SHELL",
    "UNIX",
    "bare",
    "command_line",
    "exchange",
    "in_use",
    "link_folder",
    "program",
    "python",
    "runner",
    "site_packages",
    "too_long",
    "url_path",
]

_RENAME_SWAP = 2  # renamex_np(2), on APFS


def exchange(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renamex_np"):
        return False
    failed = libc.renamex_np(os.fsencode(one), os.fsencode(other), ctypes.c_uint(_RENAME_SWAP))
    return exchanged(failed, one, other)


def too_long(prefix: str, longest: int) -> str | None:
    # PATH_MAX, with the byte that ends a path.
    whole = len(os.fsencode(prefix)) + 1 + longest
    return None if whole < 1024 else f"a path in it would have {whole} bytes, and 1023 are possible"
