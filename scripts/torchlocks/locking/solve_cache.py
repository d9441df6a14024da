"""What locks were made from, so that what has not changed need not be solved again.

A lock is a function of the rendered environment, the virtual packages, the records and the tools. When these are the
same as when the files were written, by their hashes, and the files still have the bytes that were written, solving
again would give the same. This is remembered in the build folder and never in a lock; losing it costs a solve.
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
from torchlocks.matrix.model import Target

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the files of an environment were made from, by platform, and their hashes, by name."""

    made_from: Mapping[str, str]
    files: Mapping[str, str]


def can_remember(options: LockOptions) -> bool:
    """Whether what is asked depends on nothing but what `made_from` hashes: live channels change, and so do moves."""
    return (
        options.remembered is not None
        and options.solver.own
        and options.move is None
        and options.source.snapshot is not None
    )


def made_from(target: Target, rendered: str, metadata: Mapping[str, str]) -> str:
    """A hash of all that the lock of a target depends on.

    `metadata` is what the lock will say of the tools and records: versions, and the hash of the records.
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


def recall(folder: Path, env: str) -> Memory | None:
    """What is remembered of an environment; None where there is nothing that can be read."""
    try:
        raw: Any = load_json(read_bytes(folder / f"{env}.json", RECORD_BYTES))
        if raw["schema"] != SCHEMA:
            return None
        return Memory(made_from=dict(raw["made_from"]), files=dict(raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(folder: Path, env: str, memory: Memory) -> None:
    """Write down what an environment was made from. Not being able to is no error: it only costs a solve."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{env}.json", json.dumps({"schema": SCHEMA, **asdict(memory)}, indent=1) + "\n")
    except OSError:
        pass


def hashes(locks: Path) -> dict[str, str]:
    """The hashes of an environment's lockfiles as they are on disk, by name."""
    names = sorted(os.listdir(locks)) if locks.is_dir() else []  # noqa: PTH208 - names are all that is needed
    return {name: hash_file(locks / name) for name in names if not name.startswith(".")}


def unchanged(memory: Memory | None, wanted: Mapping[str, str], row: Sequence[str], locks: Path) -> bool:
    """Whether the files in `locks` are those remembered, and were made from what is `wanted` now, by platform.

    `row` are the platforms that the environment exists for: what else the files hold has to go.
    """
    return (
        memory is not None
        and set(memory.made_from) <= set(row)
        and all(memory.made_from.get(platform) == made for platform, made in wanted.items())
        and memory.files == hashes(locks)
    )


@lru_cache(maxsize=1)
def _this_program() -> list[str]:
    """Version, and path, size and time of every module of the tool: a changed tool may make another lock.

    All packages count, since a lock depends on many of them: solve, matrix, lockfile, core.
    """
    root = Path(torchlocks.__file__).parent
    modules = ((path.relative_to(root).as_posix(), path.stat()) for path in root.rglob("*.py"))
    return [__version__, *sorted(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in modules)]
