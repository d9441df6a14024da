"""Solved cells → the lockfiles of their environment.

Like solving, this runs in a worker, and returns texts that the main process writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError, TorchlocksError
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI
from torchlocks.lockfile.pixi import read_pixi_records
from torchlocks.locking.cell import Cell, packages_of
from torchlocks.locking.texts import LockContents, lock_texts, read_with_conda_lock
from torchlocks.matrix.target import Target

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import Lockfile

_TITLE = """\
# The lock of the environment {env}: every package, by URL and hash. Written by torchlocks with conda-lock;
# do not edit it, change environment-*.yml or matrix.yml and run `make lock`.
"""


@dataclass(frozen=True, kw_only=True)
class FilesTask:
    """The solved cells of one environment, in the order of its platforms.

    `conda_lock` and `pixi` are the contents of its files now: platforms that are not among the cells keep theirs.
    `metadata` is what the lock records of how it was made.
    """

    cells: tuple[Cell, ...]
    metadata: Mapping[str, str]
    conda_lock: str | None = None
    pixi: str | None = None

    @property
    def target(self) -> Target:
        return self.cells[0].target


def lock_files(task: FilesTask) -> dict[str, str] | TorchlocksError:
    """Return the texts of all files of one environment, by name; an expected failure is returned."""
    try:
        return _files(task)
    except TorchlocksError as error:
        return error


def _files(task: FilesTask) -> dict[str, str]:
    first = task.target
    solved = {cell.target.platform: cell for cell in task.cells}
    metadata = dict(task.metadata)
    packages = [package for cell in task.cells for package in packages_of(cell)]
    hashes = {platform: cell.content_hash for platform, cell in solved.items()}
    pool = [
        record for cell in task.cells for record in read_pixi_records(cell.pixi.encode()).get(cell.target.platform, [])
    ]
    kept = _kept(task, solved)
    if kept is not None:
        others = [p for p in kept.metadata.platforms if p not in solved and p in first.row_platforms]
        packages += [package for package in kept.package if package.platform in others]
        hashes.update({platform: kept.metadata.content_hash[platform] for platform in others})
        suffixes = tuple(f" {platform}" for platform in others)
        old = kept.metadata.custom_metadata or {}
        metadata.update({key: value for key, value in old.items() if suffixes and key.endswith(suffixes)})
        for platform in others:
            pool += read_pixi_records(_other_pixi(task, others).encode()).get(platform, [])
    contents = LockContents(
        title=_TITLE.format(env=first.env),
        path=Path(first.env) / CONDA_LOCK,
        source=f"../../{first.template}",
        channels=first.channels,
        packages=packages,
        hashes=hashes,
        metadata=metadata,
    )
    return lock_texts(contents, pool)


def _kept(task: FilesTask, solved: Mapping[str, Cell]) -> Lockfile | None:
    """Return the existing lock, parsed by conda-lock; None if no platform of it stays."""
    if task.conda_lock is None or set(task.target.row_platforms) <= set(solved):
        return None
    return read_with_conda_lock(task.conda_lock.encode())


def _other_pixi(task: FilesTask, others: list[str]) -> str:
    if task.pixi is None:
        raise LockfileError(
            f"{PIXI} is missing, and with it the records of {', '.join(others)}.",
            where=f"{task.target.env}/{PIXI}",
            fix="lock all platforms of the environment (leave PLATFORM unset)",
        )
    return task.pixi
