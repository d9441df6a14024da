"""Solved cells → the lockfiles of their environment: conda-lock.yml, pixi.lock, and an explicit file for each
platform.

Like solving, this runs in a worker, and returns texts that the main process writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.errors import LockfileError, TorchlocksError
from torchlocks.lockfile.explicit import write_explicit
from torchlocks.lockfile.formats import (
    CONDA_LOCK,
    PIXI,
    explicit_name,
    parse_lock,
    select_records,
)
from torchlocks.lockfile.pixi import read_pixi_records, write_pixi
from torchlocks.locking.cell import Cell, packages_of
from torchlocks.matrix.target import Target

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import Lockfile

_HEADER = """\
# The lock of the environment {env}: every package, by URL and hash. Written by torchlocks with conda-lock;
# do not edit it, change environment-*.yml or matrix.yml and run `make lock`.
#
# Install it with torchlocks (`torchlocks install {file} PREFIX`) or with conda-lock
# (`conda-lock install -p PREFIX {file}`). conda, mamba and micromamba take the explicit file
# conda-PLATFORM.lock beside this one (`conda create -p PREFIX --file conda-PLATFORM.lock`); given this
# file, plain conda makes an empty environment without a word. pixi takes pixi.lock.
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


def tool_metadata(solver: str) -> dict[str, str]:
    """Return the metadata of every lock: the versions of the tools."""
    return {"torchlocks": __version__, "conda-lock": version("conda-lock"), "solver": solver}


def platform_metadata(target: Target, records: str) -> dict[str, str]:
    """Return what a platform was locked from; the keys end with the platform, so that others can stay unchanged."""
    virtual = " ".join(
        "=".join([name, *value.split(" ", 1)]) for name, value in sorted(target.virtual_packages.items())
    )
    return {f"virtual-packages {target.platform}": virtual, f"records {target.platform}": records}


def lock_files(task: FilesTask) -> dict[str, str] | TorchlocksError:
    """Return the texts of all files of one environment, by name; an expected failure is returned."""
    try:
        return _files(task)
    except TorchlocksError as error:
        return error


def _files(task: FilesTask) -> dict[str, str]:
    import yaml
    from conda_lock.lockfile.v1.models import LockMeta
    from conda_lock.lockfile.v2prelim.models import Lockfile
    from conda_lock.models.channel import Channel

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
    platforms = sorted(hashes)
    content = Lockfile(
        package=packages,
        metadata=LockMeta(
            content_hash={platform: hashes[platform] for platform in platforms},
            channels=[Channel.from_string(channel) for channel in first.channels],
            platforms=platforms,
            sources=[f"../../{first.template}"],
            custom_metadata=dict(sorted(metadata.items())),
        ),
    )
    # As conda-lock's own writer does it, but through libyaml, which gives the same text in a quarter of the time.
    content.alphasort_inplace()
    content.filter_virtual_packages_inplace()
    body = yaml.dump(content.to_v1().dict_for_output(), Dumper=yaml.CDumper, sort_keys=False)
    text = _HEADER.format(env=first.env, file=CONDA_LOCK) + body
    lock = parse_lock(text.encode(), Path(first.env) / CONDA_LOCK)
    found = select_records(lock, pool)
    records = {platform: found[platform] for platform in platforms}
    virtual = {platform: metadata[f"virtual-packages {platform}"].split() for platform in platforms}
    files = {CONDA_LOCK: text, PIXI: write_pixi(records, first.channels, virtual)}
    for platform in platforms:
        files[explicit_name(platform)] = write_explicit(lock, platform)
    return files


def _kept(task: FilesTask, solved: Mapping[str, Cell]) -> Lockfile | None:
    """Return the existing lock, parsed by conda-lock; None if no platform of it stays."""
    if task.conda_lock is None or set(task.target.row_platforms) <= set(solved):
        return None
    from conda_lock.lockfile import parse_conda_lock_file

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        path.write_text(task.conda_lock, encoding="utf-8")
        return parse_conda_lock_file(path)


def _other_pixi(task: FilesTask, others: list[str]) -> str:
    if task.pixi is None:
        raise LockfileError(
            f"{PIXI} is missing, and with it the records of {', '.join(others)}.",
            where=f"{task.target.env}/{PIXI}",
            fix="lock all platforms of the environment (leave PLATFORM unset)",
        )
    return task.pixi
