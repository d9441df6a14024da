"""A base and an `environment.yml` → the lock of another repository.

Every package of the base is in the new lock unchanged, except those that are allowed to move; only the additions are
solved. The lock records its base with its hash, so that `check` can compare the two and `update --base` can move the
lock to a newer base.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import BaseLockError, LockfileError, NoSuchRowError, TorchlocksError
from torchlocks.core.progress import Progress
from torchlocks.extend.base import Base
from torchlocks.extend.base_name import must_hold_no_secret, relative_path
from torchlocks.extend.built import Built, is_built_on_base
from torchlocks.extend.environment_file import EnvironmentFile
from torchlocks.extend.files import lock_files, write_files
from torchlocks.extend.solve import ExtendRequest, base_records, solve_on_base
from torchlocks.lockfile.fields import channel_urls
from torchlocks.lockfile.formats import (
    CONDA_LOCK,
    PIXI,
    read_lock,
)
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.pixi import read_pixi_records
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from rattler import RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class ExtendOptions:
    """How to build on a base.

    `platforms` are those to lock, empty for all of the environment file or of the base. `moves` names base packages
    that may move. `channels` replace the environment file's. With `stay`, additions keep the versions of the existing
    lock where possible.
    """

    source: RecordSource
    platforms: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    stay: bool = False


@dataclass(frozen=True, kw_only=True)
class Extended:
    """The result: the lock now and before (None for a first one), and the names of the files that changed."""

    path: Path
    base: Base
    lock: Lock
    before: Lock | None
    changed: tuple[str, ...]


def lock_file(output: Path) -> Path:
    """Return the conda-lock.yml that a path to it, or to its folder, names.

    Raises LockfileError for another file name: the files beside it (pixi.lock, conda-PLATFORM.lock) have fixed names.
    """
    if output.name == CONDA_LOCK:
        return output
    if output.suffix in (".yml", ".yaml", ".lock"):
        raise LockfileError(
            f"A lock on a base is called {CONDA_LOCK}; the files for other clients are written beside it.",
            where=str(output),
            fix=f"name a folder for it, such as {output.with_suffix('').name}/",
        )
    return output / CONDA_LOCK


def extend(
    environment_file: EnvironmentFile, base: Base, output: Path, options: ExtendOptions, progress: Progress
) -> Extended:
    """Lock the requirements of `environment_file` on `base` for each platform, and write the lock and its exports.

    `output` is the conda-lock.yml. Nothing is written unless every platform was solved. Raises ContradictionError if
    requirements and base have no common solution, SolveError if a requirement cannot be satisfied at all,
    NoSuchRowError for a platform that the base does not have, BaseLockError for a package to move that the base does
    not contain, and LockfileError if other files are at the output's place.
    """
    from torchlocks.extend.conflict import brought_by_base, explain

    before = _own_lock(output)
    _must_not_be_itself(base, output)
    platforms = _platforms(environment_file, base, options)
    _must_be_in_base(options.moves, base, platforms)
    channels = all_channels(base, environment_file.channels if options.channels is None else options.channels)
    prefer = _records_before(output) if options.stay and before is not None else {}
    solved: dict[str, tuple[ExtendRequest, list[RepoDataRecord]]] = {}
    failed: dict[str, tuple[ExtendRequest, TorchlocksError]] = {}
    with progress.task(f"Solving on {base.name.text}", total=len(platforms)) as task:
        for platform in platforms:
            request = ExtendRequest(
                base=base,
                platform=platform,
                channels=channels,
                requirements=environment_file.on(platform),
                records=base_records(base, platform, options.source),
                moves=frozenset(options.moves),
                prefer=tuple(prefer.get(platform, ())),
                source=options.source,
            )
            if (brought := brought_by_base(request)) is not None:
                raise brought
            try:
                solved[platform] = request, solve_on_base(request)
            except TorchlocksError as error:
                if not error.details:
                    raise
                failed[platform] = request, error
            task.advance(1, note=platform)
    if failed:
        (request, first), *others = failed.values()
        raise explain(request, first, [other for other, _ in others], progress)
    built = Built(
        base=base.name,
        sha256=base.lock.sha256,
        moves=tuple(sorted(options.moves)),
        channels=options.channels,
        environment=relative_path(environment_file.path, output.parent),
    )
    files = lock_files(environment_file, built, output, solved)
    changed = write_files(output.parent, files, before)
    return Extended(path=output, base=base, lock=read_lock(output), before=before, changed=changed)


def all_channels(base: Base, added: Sequence[str]) -> tuple[str, ...]:
    """Return the base's channels, then the added ones that are not among them.

    Raises BaseLockError for an added URL that contains a secret, since the lock would contain it.
    """
    known = {url for channel in base.lock.channels for url in channel_urls(channel)}
    new = [channel for channel in added if not known.issuperset(channel_urls(channel))]
    for channel in new:
        must_hold_no_secret(channel)
    return (*base.lock.channels, *dict.fromkeys(new))


def _must_not_be_itself(base: Base, output: Path) -> None:
    if not base.name.is_path:
        return
    named = (output.parent / base.name.text).resolve()
    if output.resolve() in (named, named / CONDA_LOCK):
        raise BaseLockError(
            "A lock cannot be built on itself.",
            where=str(output),
            fix="name the base, or another folder for the lock with --output",
        )


def _platforms(environment_file: EnvironmentFile, base: Base, options: ExtendOptions) -> tuple[str, ...]:
    wanted = options.platforms or environment_file.platforms or base.lock.platforms
    for platform in wanted:
        if platform not in base.lock.platforms:
            raise NoSuchRowError(
                f"The base {base.name.text} does not exist for {platform}.",
                where="--platform, or the lock's own" if options.platforms else f"{environment_file.path}: platforms",
                fix=f"name some of: {', '.join(base.lock.platforms)}\nor another base",
            )
    return tuple(sorted(dict.fromkeys(wanted)))


def _must_be_in_base(moves: Sequence[str], base: Base, platforms: Sequence[str]) -> None:
    held = {package.name for platform in platforms for package in base.lock.packages[platform]}
    for name in moves:
        if name not in held:
            near = difflib.get_close_matches(name, held, n=3)
            raise BaseLockError(
                f"The base contains no package called {name!r}, so it cannot move.",
                where=f"--allow-move {name}",
                fix=f"did you mean {' or '.join(near)}?" if near else "additions need no permission: leave it out",
            )


def _own_lock(output: Path) -> Lock | None:
    """Return the existing lock on a base, None without one. Raises LockfileError for files that are no such lock."""
    theirs = [output, output.with_name(PIXI), *sorted(output.parent.glob("conda-*.lock"))]
    there = [path for path in theirs if path.exists()]
    if not there:
        return None
    with suppress(TorchlocksError):
        lock = read_lock(output)
        if is_built_on_base(lock.metadata):
            return lock
    raise LockfileError(
        f"{there[0].name} exists, and is no lock that was built on a base: it is not replaced.",
        where=str(there[0]),
        fix="name another folder with --output, or move away " + ", ".join(path.name for path in there),
    )


def _records_before(output: Path) -> Mapping[str, list[RepoDataRecord]]:
    """Return the complete records of the existing lock; empty without its pixi.lock: additions are then solved anew."""
    try:
        return read_pixi_records(output.with_name(PIXI).read_bytes())
    except OSError:
        return {}
