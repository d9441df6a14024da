"""Relock everything on the newest state of the channels and draft the pull request.

Everything is solved into a scratch folder first. Only environments whose packages changed are written; environments
that can no longer be solved keep their lock.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchlocks.check.model import Report
from torchlocks.check.report import summary
from torchlocks.check.repository import check_repository
from torchlocks.core.errors import CheckError, InstallError, LockfileError, MissingFileError, TorchlocksError
from torchlocks.core.files import write_whole
from torchlocks.core.git import GitError, GitMissingError, git
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.diff.compare import Diff, diff
from torchlocks.diff.read import Row, Side, row_of
from torchlocks.evidence.tables import update_tables
from torchlocks.export.signatures import SUFFIX
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge, parse_lock
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.open import open_lock
from torchlocks.locking.environments import LockFailure, lock_environments
from torchlocks.locking.options import LockOptions
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.publish.metapackages import update_generated

PLAN = "refresh.txt"
"""File in `reports/` with the matrix changes of the last update."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The result of a report in `reports/` on exactly the lock that an environment now has."""

    platform: str
    ok: bool
    headline: str


@dataclass(frozen=True, kw_only=True)
class EnvironmentUpdate:
    """One environment whose lock changed. `diff` is None if it had no lock before; `unsigned` are files whose
    signature was removed because their content changed."""

    env: str
    lock: Lock
    diff: Diff | None
    unsigned: tuple[str, ...]
    verified: tuple[Verified, ...]


@dataclass(frozen=True, kw_only=True)
class Update:
    """The result of an update of all locks."""

    changed: tuple[EnvironmentUpdate, ...]
    unchanged: tuple[str, ...]
    failures: tuple[LockFailure, ...]
    recipes: tuple[str, ...]
    check: Report

    @property
    def same(self) -> bool:
        """Whether nothing changed and nothing failed."""
        return not (self.changed or self.failures or self.recipes)


def update_all(
    layout: Layout, matrix: Matrix, targets: Sequence[Target], options: LockOptions, progress: Progress
) -> Update:
    """Lock `targets` on the newest state of the channels, write the changed locks, and check the repository.

    Raises what `lock_environments` raises, and InstallError if a lock cannot be written. An environment that cannot be
    solved is among the failures, and its lock is unchanged.
    """
    before = {env: _committed(layout, env) for env in dict.fromkeys(target.env for target in targets)}
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        # Platforms that were not requested stay as they are committed.
        for env, lock in before.items():
            if lock is not None:
                unsigned_files = shutil.ignore_patterns(f"*{SUFFIX}")
                shutil.copytree(layout.locks / env, Path(scratch) / env, ignore=unsigned_files)
        results, failures = lock_environments(layout, targets, Path(scratch), options, progress)
        changed = [
            (result.env, _write(result.folder, layout.locks / result.env))
            for result in results
            if _moved(before[result.env], open_lock(str(result.folder / CONDA_LOCK)))
        ]
    generated: list[Path] = []
    if changed and not failures:
        # The tables show evidence, which is now on previous locks.
        generated = [*update_generated(layout, matrix), *update_tables(layout, matrix)]
    progress.say("Checking the locks")
    return Update(
        changed=tuple(_account(layout, matrix, env, before[env], unsigned) for env, unsigned in changed),
        unchanged=tuple(result.env for result in results if result.env not in dict(changed)),
        failures=tuple(failures),
        recipes=tuple(path.relative_to(layout.root).as_posix() for path in generated),
        check=check_repository(layout, matrix),
    )


def keep_plan(layout: Layout, lines: Sequence[str]) -> None:
    """Store the matrix changes (`lines`) for the text that is written after the verification."""
    file = layout.reports / PLAN
    if lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, "\n".join(lines) + "\n")
    else:
        file.unlink(missing_ok=True)


def kept_plan(layout: Layout) -> list[str]:
    """Return the lines that `keep_plan` stored, if any."""
    file = layout.reports / PLAN
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def account_since(layout: Layout, matrix: Matrix, revision: str, report: Report) -> Update:
    """Return the changes between a git revision and the current locks, including verifications since the update.

    `report` is the result of `check` on the current locks. Raises MissingFileError if there is no such revision, or no
    git.
    """
    _require_revision(layout, revision)
    changed, unchanged = [], []
    for env in matrix.environments:
        lock, old = _committed(layout, env), _lock_at(layout, env, revision)
        if lock is None:
            continue
        found = None
        if old is not None:
            found = diff(_side(matrix, env, revision, old.packages), _side(matrix, env, "now", lock.packages))
        if found is not None and found.same:
            unchanged.append(env)
        else:
            verified = _verified(layout, env, lock)
            changed.append(EnvironmentUpdate(env=env, lock=lock, diff=found, unsigned=(), verified=verified))
    return Update(changed=tuple(changed), unchanged=tuple(unchanged), failures=(), recipes=(), check=report)


def _require_revision(layout: Layout, revision: str) -> None:
    try:
        git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", cwd=layout.root)
    except GitMissingError:
        raise MissingFileError(
            "Comparing with an earlier revision requires git, which is not installed.", where="PATH", fix="install git"
        ) from None
    except GitError as error:
        raise MissingFileError(
            f"There is no git revision {revision!r} here.",
            where=str(layout.root),
            fix="name a commit, branch or tag of this checkout, such as HEAD",
            details=str(error) or None,
        ) from None


def _lock_at(layout: Layout, env: str, revision: str) -> Lock | None:
    """Return the lock of an environment at a git revision; None if there is none."""
    locks = []
    for name in (CONDA_LOCK, PIXI):
        try:
            data = git("show", f"{revision}:./locks/{env}/{name}", cwd=layout.root)
        except GitError:
            break
        locks.append(parse_lock(data, Path(f"{revision}:locks/{env}/{name}")))
    return merge(*locks) if len(locks) == 2 else locks[0] if locks else None


def _account(
    layout: Layout, matrix: Matrix, env: str, before: Lock | None, unsigned: tuple[str, ...]
) -> EnvironmentUpdate:
    after = open_lock(str(layout.locks / env / CONDA_LOCK))
    found = None
    if before is not None and set(before.platforms) & set(after.platforms):
        found = diff(_side(matrix, env, "before", before.packages), _side(matrix, env, "after", after.packages))
    return EnvironmentUpdate(env=env, lock=after, diff=found, unsigned=unsigned, verified=_verified(layout, env, after))


def _side(matrix: Matrix, env: str, name: str, packages: Mapping[str, tuple[LockedPackage, ...]]) -> Side:
    """Return a side of a comparison, with the rows of the matrix."""
    rows: dict[str, Row] = {
        platform: row_of(matrix.target(env, platform)) for platform in matrix.environment(env).platforms
    }
    return Side(name=name, packages=packages, rows=rows)


def _verified(layout: Layout, env: str, lock: Lock) -> tuple[Verified, ...]:
    """Return the result of the report of `env`, if it is about exactly this lock."""
    from torchlocks.verify.verdict import read_verdict

    verdict = read_verdict(layout.reports / f"{env}.json")
    if verdict is None or verdict.lock_sha256 != lock.sha256 or not verdict.complete:
        return ()
    return (Verified(platform=verdict.platform, ok=verdict.ok, headline=verdict.headline),)


def _moved(before: Lock | None, after: Lock) -> bool:
    """Return whether the content of a lock changed; its date and records do not count."""
    return before is None or (before.packages, before.content_hash, before.channels, before.virtual_packages) != (
        after.packages,
        after.content_hash,
        after.channels,
        after.virtual_packages,
    )


def _committed(layout: Layout, env: str) -> Lock | None:
    try:
        return open_lock(str(layout.locks / env / CONDA_LOCK))
    except (MissingFileError, LockfileError):
        # An unreadable lock is replaced, like a missing one.
        return None


def _write(new: Path, folder: Path) -> tuple[str, ...]:
    """Write the changed files of an environment; return those whose signature was removed as outdated."""
    unsigned = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in new.iterdir() if path.is_file()}
        for name in sorted(names):
            data, path = (new / name).read_bytes(), folder / name
            if path.is_file() and path.read_bytes() == data:
                continue
            parse_lock(data, path)
            write_whole(path, data.decode())
            if (signature := path.with_name(name + SUFFIX)).is_file():
                signature.unlink()
                unsigned.append(name)
        for stale in folder.glob("conda-*.lock"):
            if stale.name not in names:
                stale.unlink()
    except OSError as error:
        raise InstallError(
            f"The lock cannot be written: {error.strerror or error}.",
            where=str(folder),
            fix="make room, or make the folder writable, and run it again",
        ) from error
    return tuple(unsigned)


def first_error(update: Update) -> TorchlocksError | None:
    """Return the error of an update: the first environment that could not be locked, or the findings of `check`."""
    if update.failures:
        return update.failures[0].error
    if update.check.failed:
        which = "new locks" if update.changed else "locks, which are unchanged,"
        return CheckError(
            f"The {which} have errors: {summary(update.check)}.",
            fix="`torchlocks check` lists them"
            + ("; `git checkout locks` restores the old ones" if update.changed else ""),
        )
    return None
