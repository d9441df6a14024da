"""Find a base and read its lock: from this checkout, a git repository, a path or a URL."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.errors import BaseLockError, TorchlocksError
from torchlocks.core.git import COMMIT, GitError, fetch_commit, in_repository, is_local, repository_of
from torchlocks.core.reading import LOCK_BYTES, read_bytes
from torchlocks.core.urls import mask
from torchlocks.extend.base_name import BaseName
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge, parse_lock
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.virtual import parse_virtual

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")

Read = Callable[[str], bytes]
"""From the name of a file beside the base's conda-lock.yml, itself among them, to its bytes."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base and its files.

    `lock` is its conda-lock.yml, `data` that file's bytes. `complete` is the lock with what the pixi.lock beside it
    adds (constraints, sizes); `pixi` are that file's bytes, None without one.
    """

    name: BaseName
    lock: Lock
    complete: Lock
    data: bytes
    pixi: bytes | None


def virtual_packages(lock: Lock, platform: str) -> dict[str, str]:
    """Return the virtual packages that a lock was solved with on a platform: name → "version" or "version build"."""
    found = parse_virtual(lock.virtual_packages.get(platform, ()))
    return {name: package.value for name, package in found.items()}


def open_base(name: BaseName, folder: Path, *, as_recorded: bool = False) -> Base:
    """Find a base and read it; paths are relative to `folder`.

    With `as_recorded`, a revision is the recorded commit, wherever its tag or branch is now. Raises BaseLockError if
    the base cannot be found or cannot be a base.
    """
    with contextlib.ExitStack() as stack:
        read, commit = _reader(name, folder, as_recorded, stack)
        data = read(CONDA_LOCK)
        pixi: bytes | None = None
        with contextlib.suppress(BaseLockError):
            pixi = read(PIXI)
    shown = Path(name.text.rsplit("/", 1)[-1] if name.is_url else name.text)
    lock = parse_lock(data, shown)
    complete = merge(lock, parse_lock(pixi, shown.parent / PIXI)) if pixi else lock
    _must_be_a_base(lock, name)
    return Base(name=replace(name, commit=commit), lock=lock, complete=complete, data=data, pixi=pixi)


def _must_be_a_base(lock: Lock, name: BaseName) -> None:
    if lock.kind != "conda-lock":
        kind = "a pixi.lock" if lock.kind == "pixi" else "an explicit file"
        raise BaseLockError(
            f"Only a conda-lock.yml can be a base, and this is {kind}.",
            where=name.text,
            fix="name the conda-lock.yml beside this file",
        )
    if any(lock.pip.values()):
        raise BaseLockError(
            "The base contains pip packages, which nothing that is built on it can keep.",
            where=name.text,
            fix="use a base of conda packages alone",
        )
    silent = [platform for platform in lock.platforms if not lock.virtual_packages.get(platform)]
    if silent:
        raise BaseLockError(
            f"The base does not record for which machines it was solved on {', '.join(silent)} (glibc, driver).",
            where=name.text,
            fix="use a lock made by torchlocks: its metadata has them as `virtual-packages PLATFORM`",
        )


def _reader(name: BaseName, folder: Path, as_recorded: bool, stack: contextlib.ExitStack) -> tuple[Read, str | None]:
    """Return the function that reads the base's files, and the commit that they are of."""
    if name.is_url:
        return _url_reader(name.text), None
    if name.is_environment:
        return _environment_reader(name.text), None
    if name.is_path:
        path = (folder / name.text).resolve()
        return _folder_reader(path if path.is_dir() else path.parent, path.name if not path.is_dir() else None), None
    env, _, revision = name.text.partition("@")
    if not _REVISION.fullmatch(revision):
        raise BaseLockError(
            f"{revision!r} is not a revision.", where=name.text, fix="name a tag, a branch or a commit after the @"
        )
    if name.commit is not None and not COMMIT.fullmatch(name.commit):
        raise BaseLockError(
            f"{name.commit[:80]!r} is not a commit.",
            where=f"{CONDA_LOCK}, base commit",
            fix="run `torchlocks extend` again and name the base",
        )
    # A server may give out no commits by their hash: then the tag or branch, wherever it is now.
    revisions = (name.commit, revision) if as_recorded and name.commit else (revision,)
    repository = stack.enter_context(_repository(name, folder, revisions))
    return _git_reader(repository, env, name.text), repository.commit


def _environment_reader(env: str) -> Read:
    from torchlocks.core.layout import find_layout

    layout = find_layout()
    there = layout.locks / env
    if not (there / CONDA_LOCK).is_file():
        names = sorted(path.parent.name for path in layout.locks.glob(f"*/{CONDA_LOCK}"))
        raise BaseLockError(
            f"There is no environment called {env!r} to build on.",
            where=str(layout.locks),
            fix=f"name one of: {', '.join(names) or '(none)'}\nor a folder or file by its path: ./{env}",
        )
    return _folder_reader(there, None)


def _folder_reader(folder: Path, lock_file: str | None) -> Read:
    """Return a reader of files on disk; `lock_file` is the name of the conda-lock.yml there."""

    def read(file: str) -> bytes:
        path = folder / (lock_file if lock_file and file == CONDA_LOCK else file)
        try:
            return read_bytes(path, LOCK_BYTES)
        except OSError as error:
            raise BaseLockError(
                f"The base cannot be read: {error.strerror}.",
                where=str(path),
                fix="name an environment (gpu-cu118), a revision (gpu-cu118@TAG), a path or a URL",
            ) from None

    return read


def _url_reader(url: str) -> Read:
    from torchlocks.lockfile.open import read_bytes as read_any

    def read(file: str) -> bytes:
        parts = urlsplit(url)
        place = parts if file == CONDA_LOCK else parts._replace(path=parts.path.rsplit("/", 1)[0] + f"/{file}")
        try:
            return read_any(place.geturl())
        except TorchlocksError as error:
            raise BaseLockError(
                "The base cannot be fetched.", where=error.where, fix=error.fix, details=error.details
            ) from error

    return read


@dataclass(frozen=True, kw_only=True)
class _Repository:
    """A fetched repository that contains `commit`; `top` is the folder in it (with a slash, or empty) with `locks`."""

    path: Path
    commit: str
    top: str

    def git(self, *arguments: str) -> bytes:
        return in_repository(self.path, *arguments)


@contextlib.contextmanager
def _repository(name: BaseName, folder: Path, revisions: tuple[str, ...]) -> Iterator[_Repository]:
    """Yield the first of `revisions` that the repository has, fetched into a new one."""
    from torchlocks.core.layout import find_layout

    url, top = name.repository or "", ""
    try:
        if name.repository is None:
            layout = find_layout()
            if layout.packaged:
                raise BaseLockError(
                    f"{name.text} names a revision, and an installed torchlocks has no history.",
                    where=str(layout.locks),
                    fix="name the repository that has it: --repository URL",
                )
            there, top = repository_of(layout.root.resolve())
            url = str(there)
        elif is_local(name.repository) and "://" not in name.repository:
            there, top = repository_of((folder / name.repository).resolve(strict=True))
            url = str(there)
    except (GitError, OSError) as error:
        raise _not_fetched(revisions[0], url, str(error)) from None
    with tempfile.TemporaryDirectory(prefix="torchlocks-", ignore_cleanup_errors=True) as scratch:
        reason = ""
        for number, revision in enumerate(revisions):
            place = Path(scratch) / str(number)
            place.mkdir()
            try:
                path, commit = fetch_commit(url, revision, place)
            except GitError as error:
                reason = str(error)
                continue
            yield _Repository(path=path, commit=commit, top=top)
            return
        raise _not_fetched(revisions[0], url, reason)


def _not_fetched(revision: str, url: str, reason: str) -> BaseLockError:
    return BaseLockError(
        f"git cannot get {revision} of the base.",
        where=mask(url),
        fix="name a tag, a branch or a full commit hash that the repository has, and see that it can be reached",
        details=mask(reason),
    )


def _git_reader(repository: _Repository, env: str, named: str) -> Read:
    def read(file: str) -> bytes:
        blob = f"{repository.commit}:{repository.top}locks/{env}/{file}"
        try:
            if int(repository.git("cat-file", "-s", blob)) > LOCK_BYTES:
                raise BaseLockError(
                    f"The file is larger than the {LOCK_BYTES >> 20} MiB that are read of a lock.",
                    where=f"{named}, locks/{env}/{file}",
                )
            return repository.git("cat-file", "blob", blob)
        except GitError:
            names: list[str] = []
            with contextlib.suppress(GitError):
                listed = repository.git("ls-tree", "-d", "--name-only", repository.commit, f"{repository.top}locks/")
                names = [line.rsplit("/", 1)[-1] for line in listed.decode(errors="replace").splitlines()]
            raise BaseLockError(
                f"The revision has no locks/{env}/{file}.",
                where=f"{named}, commit {repository.commit[:12]}",
                fix=f"name one of its environments: {', '.join(names) or '(none)'}",
            ) from None

    return read
