"""The folder of the package cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(named: Path | None = None) -> Path:
    """Return the package cache: `named`, else `$TORCHLOCKS_CACHE`, else rattler's own.

    rattler's is `pkgs` in `$RATTLER_CACHE_DIR` or, by default, in `rattler/cache` in the user's cache folder.
    """
    if named is not None:
        return named.absolute()
    if own := os.environ.get("TORCHLOCKS_CACHE"):
        return Path(own).absolute()
    if shared := os.environ.get("RATTLER_CACHE_DIR"):
        return Path(shared).absolute() / "pkgs"
    from platformdirs import user_cache_path

    return user_cache_path("rattler", appauthor=False, opinion=False) / "cache" / "pkgs"
