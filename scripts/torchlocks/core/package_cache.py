"""Where the package cache is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(named: Path | None = None) -> Path:
    """The package cache: `named`, or `$TORCHLOCKS_CACHE`, or where rattler keeps its own.

    rattler's is `pkgs` in `$RATTLER_CACHE_DIR` or, by default, in `rattler/cache` in the user's cache folder.
    """
    if named is not None:
        return named.absolute()
    if own := os.environ.get("TORCHLOCKS_CACHE"):
        return Path(own).absolute()
    if shared := os.environ.get("RATTLER_CACHE_DIR"):
        return Path(shared).absolute() / "pkgs"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rattler" / "cache" / "pkgs"
