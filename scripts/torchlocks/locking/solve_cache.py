"""Cache of the hashes of inputs and outputs of locks, so that unchanged environments are not solved again.

A lock is a function of the rendered environment, the virtual packages, the records and the tools. When these are the
same as when the files were written, by their hashes, and the files still have the bytes that were written, solving
again would give the same. The cache is in the build folder and never in a lock; losing it costs a solve.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torchlocks
from torchlocks import __version__
from torchlocks.core.files import hash_file, write_whole
from torchlocks.core.reading import RECORD_BYTES, load_json, read_bytes
from torchlocks.locking.options import LockOptions
from torchlocks.matrix.target import Target

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Hashes of the inputs of an environment's lock, by platform, and of its files, by name."""

    made_from: Mapping[str, str]
    files: Mapping[str, str]


def is_cacheable(options: LockOptions) -> bool:
    """Return whether `made_from` covers all inputs; live channels and updates of single packages are not covered."""
    return (
        options.cache is not None
        and options.solver.own
        and options.move is None
        and options.source.snapshot is not None
    )


def made_from(target: Target, rendered: str, metadata: Mapping[str, str]) -> str:
    """Return a hash of all inputs of the lock of a target.

    `metadata` are the versions of the tools and the hash of the records, as the lock records them.
    """
    asked = (
        target.row_platforms,
        target.channels,
        target.template,
        sorted(target.virtual_packages.items()),
        rendered,
        sorted(metadata.items()),
        _this_program(),
    )
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def read_entry(folder: Path, env: str) -> CacheEntry | None:
    """Return the entry of an environment; None if there is none or it cannot be read."""
    try:
        raw: Any = load_json(read_bytes(folder / f"{env}.json", RECORD_BYTES))
        if raw["schema"] != SCHEMA:
            return None
        return CacheEntry(made_from=dict(raw["made_from"]), files=dict(raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_entry(folder: Path, env: str, entry: CacheEntry) -> None:
    """Write the entry of an environment. Errors are ignored, since they only cost a solve."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{env}.json", json.dumps({"schema": SCHEMA, **asdict(entry)}, indent=1) + "\n")
    except OSError:
        pass


def hashes(locks: Path) -> dict[str, str]:
    """Return the hashes of an environment's lockfiles on disk, by name."""
    names = sorted(os.listdir(locks)) if locks.is_dir() else []  # noqa: PTH208 - names are all that is needed
    return {name: hash_file(locks / name) for name in names if not name.startswith(".")}


def unchanged(entry: CacheEntry | None, wanted: Mapping[str, str], row: Sequence[str], locks: Path) -> bool:
    """Return whether the files in `locks` are those of `entry`, with the inputs `wanted`, by platform.

    `row` are the platforms of the environment: files with others have to be written again.
    """
    return (
        entry is not None
        and set(entry.made_from) <= set(row)
        and all(entry.made_from.get(platform) == made for platform, made in wanted.items())
        and entry.files == hashes(locks)
    )


@lru_cache(maxsize=1)
def _this_program() -> list[str]:
    """Return version, and path, size and time of every module of the tool: a changed tool may make another lock.

    All packages count, since a lock depends on many of them: solve, matrix, lockfile, core.
    """
    root = Path(torchlocks.__file__).parent
    modules = ((path.relative_to(root).as_posix(), path.stat()) for path in root.rglob("*.py"))
    return [__version__, *sorted(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in modules)]
