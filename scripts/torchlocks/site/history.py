"""How the locks came to be what they are: git's commits, and which packages each of them moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.errors import LockfileError
from torchlocks.core.git import GitError, git
from torchlocks.core.layout import Layout
from torchlocks.diff.compare import Change, changes
from torchlocks.lockfile.formats import explicit_name, parse_lock
from torchlocks.lockfile.models import LockedPackage

#: As many commits of an environment are looked at, the newest first.
MOST = 30

#: Packages whose versions people ask for first; those that a lock has are shown by commit.
KEY_PACKAGES = ("pytorch", "python", "cuda-version", "cudatoolkit", "cudnn", "nccl", "mkl", "libopenblas", "numpy")


@dataclass(frozen=True)
class Commit:
    """One commit. An empty `hash` stands for what is not committed yet."""

    hash: str
    date: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One state of an environment's lock on one platform, and what it changed; `first` has nothing before it."""

    commit: Commit
    first: bool
    packages: int
    changes: tuple[Change, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class History:
    """The states of the locks, newest first, by `env/platform`; `note` says what is missing, and why."""

    steps: Mapping[str, tuple[Step, ...]]
    note: str | None


def revision(root: Path) -> str | None:
    """The commit of a checkout, or None where git or the repository is missing.

    A folder in somebody else's repository, such as a virtual environment in it, is not part of that.
    """
    if _git(root, "ls-files", "--error-unmatch", "matrix.yml") is None:
        return None
    said = _git(root, "rev-parse", "HEAD")
    return said.decode().strip() if said is not None else None


def committed_revision(root: Path) -> str | None:
    """The commit whose matrix and locks those of a checkout are; None where they are of none, or none is known."""
    found = revision(root)
    changed = _git(root, "status", "--porcelain", "--", "matrix.yml", "locks")
    return found if changed == b"" else None


def read_history(layout: Layout, current: Mapping[str, Mapping[str, Sequence[LockedPackage]]]) -> History:
    """The history of environments; `current` maps environment and platform to the packages that are there now.

    Only commits that changed packages count. A clone without all commits, and files of the past that cannot be read,
    are named in `note` and do no harm.
    """
    if revision(layout.root) is None:
        return History(steps={}, note="This is no git repository, or git is not installed, so there is no history.")
    notes = []
    if (_git(layout.root, "rev-parse", "--is-shallow-repository") or b"").strip() == b"true":
        notes.append("This clone does not have all commits, so older ones are missing.")
    steps: dict[str, tuple[Step, ...]] = {}
    for env, platforms in current.items():
        commits = _commits(layout.root, env)
        if len(commits) == MOST:
            notes.append(f"Of {env}, the last {MOST} commits are shown.")
        past = _files(layout.root, env, commits, list(platforms))
        for platform, packages in platforms.items():
            steps[f"{env}/{platform}"] = _steps(commits, [each[platform] for each in past], tuple(packages))
    return History(steps=steps, note=" ".join(notes) or None)


def _steps(
    commits: list[Commit], past: list[tuple[LockedPackage, ...] | None], now: tuple[LockedPackage, ...]
) -> tuple[Step, ...]:
    """The states from the oldest on, turned round at the end; commits in which the lock was not there are left out."""
    states = [(commit, packages) for commit, packages in zip(commits, past, strict=True) if packages]
    states.reverse()
    states.append((Commit("", "", "not committed yet"), now))
    found: list[Step] = []
    before: tuple[LockedPackage, ...] = ()
    for commit, packages in states:
        moved = changes(before, packages)
        if moved:
            versions = {package.name: package.version for package in packages}
            found.append(
                Step(
                    commit=commit,
                    first=not before,
                    packages=len(packages),
                    changes=moved if before else (),
                    versions={name: versions[name] for name in KEY_PACKAGES if name in versions},
                )
            )
        before = packages
    return tuple(reversed(found))


def _commits(root: Path, env: str) -> list[Commit]:
    said = _git(root, "log", f"-{MOST}", "--format=%h%x1f%cs%x1f%s", "--", f"locks/{env}") or b""
    return [Commit(*line.split("\x1f", 2)) for line in said.decode(errors="replace").splitlines()]


def _files(
    root: Path, env: str, commits: list[Commit], platforms: list[str]
) -> list[dict[str, tuple[LockedPackage, ...] | None]]:
    """The packages of every commit, by platform, from the explicit files; None where there is no such file."""
    names = [f"{commit.hash}:./locks/{env}/{explicit_name(platform)}" for commit in commits for platform in platforms]
    blobs = _cat(root, names)
    return [
        {platform: _parse(blobs[row * len(platforms) + column]) for column, platform in enumerate(platforms)}
        for row in range(len(commits))
    ]


def _parse(blob: bytes | None) -> tuple[LockedPackage, ...] | None:
    if blob is None:
        return None
    try:
        lock = parse_lock(blob, Path("explicit"))
    except LockfileError:
        return None
    return tuple(package for packages in lock.packages.values() for package in packages)


def _cat(root: Path, names: list[str]) -> list[bytes | None]:
    """The contents of git objects, in one call; None for what is not there."""
    if not names:
        return []
    said = _git(root, "cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode())
    rest, found = said or b"", list[bytes | None]()
    for _ in names:
        head, _, rest = rest.partition(b"\n")
        fields = head.split()
        if len(fields) == 3 and fields[1] == b"blob":
            size = int(fields[2])
            found.append(rest[:size])
            rest = rest[size + 1 :]
        else:
            found.append(None)
    return found


def _git(root: Path, *arguments: str, given: bytes | None = None) -> bytes | None:
    """What git says, or None when it fails or is not there."""
    try:
        return git(*arguments, cwd=root, given=given)
    except GitError:
        return None
