"""The history of the locks: git's commits, and the packages that each of them changed."""

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

#: The largest number of commits per environment, the newest first.
MOST = 30

#: Packages whose versions are shown for each commit.
KEY_PACKAGES = ("pytorch", "python", "cuda-version", "cudatoolkit", "cudnn", "nccl", "mkl", "libopenblas", "numpy")


@dataclass(frozen=True)
class Commit:
    """One commit. An empty `hash` means uncommitted changes."""

    hash: str
    date: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One state of an environment's lock on one platform, and its changes; `first` is the oldest state."""

    commit: Commit
    first: bool
    packages: int
    changes: tuple[Change, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class History:
    """The states of the locks, newest first, by `env/platform`; `note` lists what is missing, and why."""

    steps: Mapping[str, tuple[Step, ...]]
    note: str | None


def revision(root: Path) -> str | None:
    """Return the commit of a checkout, or None without git or repository.

    A folder that is not tracked, such as a virtual environment in another repository, has none.
    """
    if _git(root, "ls-files", "--error-unmatch", "matrix.yml") is None:
        return None
    head = _git(root, "rev-parse", "HEAD")
    return head.decode().strip() if head is not None else None


def committed_revision(root: Path) -> str | None:
    """Return the commit of a checkout; None if its matrix or locks differ from it, or it is not known."""
    found = revision(root)
    changed = _git(root, "status", "--porcelain", "--", "matrix.yml", "locks")
    return found if changed == b"" else None


def read_history(layout: Layout, current: Mapping[str, Mapping[str, Sequence[LockedPackage]]]) -> History:
    """Return the history of environments; `current` maps environment and platform to the current packages.

    Only commits that changed packages count. Missing commits and unreadable old files are listed in `note`.
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
    """Return the states, newest first, without commits in which there was no lock."""
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
    log = _git(root, "log", f"-{MOST}", "--format=%h%x1f%cs%x1f%s", "--", f"locks/{env}") or b""
    return [Commit(*line.split("\x1f", 2)) for line in log.decode(errors="replace").splitlines()]


def _files(
    root: Path, env: str, commits: list[Commit], platforms: list[str]
) -> list[dict[str, tuple[LockedPackage, ...] | None]]:
    """Return the packages of every commit, by platform, from the explicit files; None if there is no such file."""
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
    """Return the contents of git objects, in one call; None for missing ones."""
    if not names:
        return []
    output = _git(root, "cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode())
    rest, found = output or b"", list[bytes | None]()
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
    """Return git's output, or None when it fails or is not installed."""
    try:
        return git(*arguments, cwd=root, given=given)
    except GitError:
        return None
