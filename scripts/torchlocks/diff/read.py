"""Read a side of a comparison: a lockfile, an environment's folder of locks, a git revision, or a prefix."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError, MissingFileError, TorchlocksError
from torchlocks.core.git import GitError, GitMissingError, git
from torchlocks.core.reading import LOCK_BYTES, RECORD_BYTES, read_bytes, require_readable
from torchlocks.cuda.python_packages import as_conda
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge, parse_environments
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.pixi import from_record, select_environment

if TYPE_CHECKING:
    from torchlocks.matrix.target import Target


@dataclass(frozen=True, kw_only=True)
class Row:
    """The row of the matrix beside a lock for one platform: GPU architectures, oldest driver."""

    architectures: tuple[str, ...] = ()
    driver: str | None = None


def row_of(target: Target) -> Row:
    """Return the row of a target."""
    return Row(architectures=target.architectures, driver=target.driver_floor)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    `installed` is the size on disk in bytes, by platform, known for prefixes only. `whole` is false if the
    side has one platform by its nature (a prefix, an explicit file), so that others are not reported as
    removed. `environment` is that of a pixi.lock with several.
    """

    name: str
    packages: Mapping[str, tuple[LockedPackage, ...]]
    installed: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, Row] = field(default_factory=dict)
    whole: bool = True
    environment: str = ""


def read_side(named: str, environment: str | None = None) -> Side:
    """Read the side `named`.

    It is a path to a lockfile, a folder with a `conda-lock.yml`, a prefix (a folder with `conda-meta`), or
    `REV:PATH`: a lockfile or such a folder at a git revision, with PATH from the top of the repository.
    `environment` is one of a pixi.lock's; other formats have none to select. Raises MissingFileError or
    LockfileError.
    """
    path = Path(named)
    # These two raise nothing, not for a name that is too long either.
    is_folder, exists = os.path.isdir(path), os.path.exists(path)  # noqa: PTH110, PTH112
    if is_folder and (path / "conda-meta").is_dir():
        return read_prefix(path)
    if exists or ":" not in named:
        return _read_files(named, path, is_folder, _from_disk, environment)
    revision, _, inside = named.partition(":")
    inside = inside.rstrip("/")
    kind = _git("cat-file", "-t", f"{revision}:{inside}", named=named).decode().strip()
    return _read_files(
        named,
        Path(inside),
        kind == "tree",
        lambda each: _from_git(f"{revision}:{each.as_posix()}", named),
        environment,
    )


def read_prefix(prefix: Path) -> Side:
    """Return the packages of a conda environment from its `conda-meta` records. Raises what `read_side` raises."""
    from rattler import PrefixRecord

    packages: list[LockedPackage] = []
    size = 0
    files = sorted(path for path in (prefix / "conda-meta").glob("*.json") if path.name != "torchlocks.json")
    for path in files:
        try:
            require_readable(path, RECORD_BYTES)
            record = PrefixRecord.from_path(path)
            packages.append(from_record(record, str(path)))
            size += sum(entry.size_in_bytes or 0 for entry in record.paths_data.paths)
        except TorchlocksError:
            raise
        except Exception as error:  # py-rattler has no common base class for what a damaged record may raise
            raise LockfileError(
                f"The record of an installed package cannot be read: {error}",
                where=str(path),
                fix="install the environment again.",
            ) from error
    if not packages:
        raise MissingFileError("There are no packages in this environment.", where=str(prefix))
    subdirs = {package.subdir for package in packages} - {"noarch"}
    platform = min(subdirs) if subdirs else "noarch"
    return Side(name=str(prefix), packages={platform: tuple(packages)}, installed={platform: size}, whole=False)


def _from_disk(path: Path) -> bytes:
    try:
        return read_bytes(path, LOCK_BYTES)
    except OSError as error:
        raise MissingFileError(
            f"There is no such file: {error.strerror}.",
            where=str(path),
            fix="name a lockfile, a folder of locks, a prefix, or REV:PATH in a git repository.",
        ) from None


def _from_git(blob: str, named: str) -> bytes:
    # git unpacks a file of any size into some KB.
    if int(_git("cat-file", "-s", blob, named=named)) > LOCK_BYTES:
        raise LockfileError(f"It is larger than the {LOCK_BYTES >> 20} MiB that are read of a lock.", where=blob)
    return _git("cat-file", "blob", blob, named=named)


def _git(*arguments: str, named: str) -> bytes:
    if named.startswith("-"):
        raise MissingFileError("This is neither a file nor a git revision.", where=named)
    try:
        return git(*arguments)
    except GitMissingError:
        raise MissingFileError(
            "git is not installed, and this names no file.", where=named, fix="check the path, or install git."
        ) from None
    except GitError as error:
        raise MissingFileError(
            f"git has no such file: {error}.", where=named, fix="name it as REV:PATH, with both there."
        ) from None


def _read_files(
    named: str, path: Path, is_folder: bool, read: Callable[[Path], bytes], environment: str | None
) -> Side:
    main = path / CONDA_LOCK if is_folder else path
    shown = Path(f"{named}/{CONDA_LOCK}") if is_folder else Path(named)
    locks = parse_environments(read(main), shown)
    lock = locks[0] if locks and locks[0].kind != "pixi" else select_environment(locks, environment, shown)
    if lock.kind == "conda-lock":
        lock = _with_sizes(lock, main.with_name(PIXI), read)
    lock = lock.by_subdir()
    several = len(lock.environments) > 1
    return Side(
        name=f"{named} ({lock.environment})" if several else named,
        environment=lock.environment,
        packages={platform: _with_pip(lock, platform) for platform in lock.packages},
        rows=_rows(main, tuple(lock.packages), read),
        whole=lock.kind != "explicit",
    )


def _with_pip(lock: Lock, platform: str) -> tuple[LockedPackage, ...]:
    """Return the packages of a platform, including pip's, which are renamed if conda has one of the same name."""
    packages = lock.packages[platform]
    names = {package.name for package in packages}
    return (
        *packages,
        *(
            replace(package, name=f"{package.name} (pip)") if package.name in names else package
            for package in as_conda(lock.pip.get(platform, ()), platform)
        ),
    )


def _with_sizes(lock: Lock, pixi: Path, read: Callable[[Path], bytes]) -> Lock:
    """Return the lock with sizes and constraints of the pixi.lock beside it, if there is one."""
    try:
        return merge(lock, *parse_environments(read(pixi), pixi))
    except TorchlocksError:
        return lock


def _rows(main: Path, platforms: tuple[str, ...], read: Callable[[Path], bytes]) -> dict[str, Row]:
    """Return the rows of the matrix of the same checkout and revision, for a lock in its `locks/<env>/`."""
    from torchlocks.matrix.load import parse_matrix

    if main.parent.parent.name != "locks":
        return {}
    rows: dict[str, Row] = {}
    try:
        path = main.parent.parent.parent / "matrix.yml"
        matrix = parse_matrix(read(path).decode(), path)
        for platform in platforms:
            rows[platform] = row_of(matrix.target(main.parent.name, platform))
    except (TorchlocksError, UnicodeDecodeError):
        # The matrix has another format; it is optional here.
        return rows
    return rows
