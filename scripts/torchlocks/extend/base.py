"""A base: the lock that another repository's lock is built on, by name, by revision, by path or by URL.

    gpu-cu118              the lock of that environment in this torchlocks (checkout or installed package)
    gpu-cu118@v1.4         the same as of a tag, branch or commit of a torchlocks repository
    ../locks/conda-lock.yml, or its folder
    https://…/conda-lock.yml

A lock that was built on a base says in its metadata which one it was, and the hash of the base's bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.errors import BaseLockError, LockfileError, TorchlocksError
from torchlocks.core.git import COMMIT, GitError, fetch_commit, in_repository, is_local, repository_of
from torchlocks.core.reading import LOCK_BYTES, read_bytes
from torchlocks.core.urls import mask
from torchlocks.lockfile.fields import is_secret
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge, parse_lock
from torchlocks.lockfile.models import Lock

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# In the query of a link to a private file, and of one that was signed for a while.
_SECRET = re.compile(r"(token|sig|signature|password|secret)=", re.IGNORECASE)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")

Read = Callable[[str], bytes]
"""From the name of a file beside the base's conda-lock.yml, itself among them, to its bytes."""


@dataclass(frozen=True, kw_only=True)
class BaseName:
    """How a base is named: all that is needed to find it again.

    `text` is an environment's name, `name@revision`, a URL, or a path relative to the folder of the lock that is built
    on it. `repository` is the URL, or such a path, of the repository that has the revision; None for the checkout of
    this torchlocks. `commit` is what the revision was when the lock was made.
    """

    text: str
    repository: str | None = None
    commit: str | None = None

    @property
    def is_url(self) -> bool:
        return "://" in self.text

    @property
    def is_revision(self) -> bool:
        return not self.is_url and "@" in self.text and _ENVIRONMENT.fullmatch(self.text.partition("@")[0]) is not None

    @property
    def is_environment(self) -> bool:
        return _ENVIRONMENT.fullmatch(self.text) is not None

    @property
    def is_path(self) -> bool:
        return not (self.is_url or self.is_revision or self.is_environment)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base that was found.

    `lock` is its conda-lock.yml as it stands, `data` its bytes. `complete` is the lock with what the pixi.lock beside
    it knows besides (constraints, sizes); `pixi` are that file's bytes, None where there is none.
    """

    name: BaseName
    lock: Lock
    complete: Lock
    data: bytes
    pixi: bytes | None


def virtual_packages(lock: Lock, platform: str) -> dict[str, str]:
    """What a lock was solved with on a platform, as it says itself: name → "version" or "version build"."""
    pairs = (text.split("=", 1) for text in lock.virtual_packages.get(platform, ()))
    return {pair[0]: pair[1].replace("=", " ") if len(pair) > 1 else "0" for pair in pairs}


def name_base(text: str, repository: str | None, folder: Path) -> BaseName:
    """The base that a user names in the current folder, as a lock in `folder` records it.

    A plain name is an environment, also where a folder is called so: `./cpu` is the folder. Raises BaseLockError for a
    repository with a base that has no revision, and for a URL with a secret in it.
    """
    for url in (text, repository or ""):
        must_hold_no_secret(url)
    name = BaseName(text=text, repository=repository)
    if repository is not None and not name.is_revision:
        raise BaseLockError(
            f"A repository is named, but the base {text!r} names no revision of it.",
            fix="name the base as ENVIRONMENT@TAG or ENVIRONMENT@COMMIT, or leave --repository out",
        )
    if repository is not None and "://" not in repository and Path(repository).is_dir():
        name = replace(name, repository=relative_path(Path(repository), folder))
    return replace(name, text=relative_path(Path(text), folder)) if name.is_path else name


def must_hold_no_secret(url: str) -> None:
    """Raise BaseLockError for a URL with a password, a token, or (over http) a user name in it."""
    parts = urlsplit(url) if "://" in url else None
    # The user of ssh://git@host is no secret; over http a token often stands in its place.
    web = parts is not None and parts.scheme in ("http", "https")
    token = re.search(r"/t/([^/]+)", parts.path) if parts else None
    secret = parts is not None and (
        is_secret(parts.password)
        or (web and (is_secret(parts.username) or is_secret(token and token[1]) or bool(_SECRET.search(parts.query))))
    )
    if parts and secret:
        raise BaseLockError(
            "The URL carries a user name, password or token, and the lock would record it for all to see.",
            where=f"{parts.scheme}://…@{parts.hostname}",
            fix="name it without, and leave the secret to ssh or a netrc file",
        )


def needs_network(name: BaseName) -> bool:
    """Whether a base is on another machine: behind a URL, in a repository there, or on a share of Windows."""
    if name.is_url:
        return not is_local(name.text)
    if name.is_revision:
        return name.repository is not None and not is_local(name.repository)
    return name.is_path and name.text.replace("\\", "/").startswith("//")


def relative_path(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, with forward slashes; absolute where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def open_base(name: BaseName, folder: Path, *, as_recorded: bool = False) -> Base:
    """Find a base and read it; paths are relative to `folder`.

    With `as_recorded`, a revision is the commit that it was when it was recorded, wherever its tag or branch is now.
    Raises BaseLockError when it cannot be found or cannot be a base.
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
            "The base holds pip packages, which nothing that is built on it can keep.",
            where=name.text,
            fix="use a base of conda packages alone",
        )
    silent = [platform for platform in lock.platforms if not lock.virtual_packages.get(platform)]
    if silent:
        raise BaseLockError(
            f"The base does not say for which machines it was solved on {', '.join(silent)} (glibc, driver).",
            where=name.text,
            fix="use a lock made by torchlocks: its metadata says so, as `virtual-packages PLATFORM`",
        )


# --- where the bytes are --------------------------------------------------------------------------


def _reader(name: BaseName, folder: Path, as_recorded: bool, stack: contextlib.ExitStack) -> tuple[Read, str | None]:
    """How the files of a base are read, and the commit that they are of."""
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
    """Reads from disk; `lock_file` is what the conda-lock.yml is called there."""

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
    """A repository of our own that holds `commit`; `top` is the folder in it (with a slash, or empty) with `locks`."""

    path: Path
    commit: str
    top: str

    def git(self, *arguments: str) -> bytes:
        return in_repository(self.path, *arguments)


@contextlib.contextmanager
def _repository(name: BaseName, folder: Path, revisions: tuple[str, ...]) -> Iterator[_Repository]:
    """The first of `revisions` that the repository has, fetched into a new one."""
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
        said = ""
        for number, revision in enumerate(revisions):
            place = Path(scratch) / str(number)
            place.mkdir()
            try:
                path, commit = fetch_commit(url, revision, place)
            except GitError as error:
                said = str(error)
                continue
            yield _Repository(path=path, commit=commit, top=top)
            return
        raise _not_fetched(revisions[0], url, said)


def _not_fetched(revision: str, url: str, said: str) -> BaseLockError:
    return BaseLockError(
        f"git cannot get {revision} of the base.",
        where=mask(url),
        fix="name a tag, a branch or a full commit hash that the repository has, and see that it can be reached",
        details=mask(said),
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


# --- what a lock says of its base -------------------------------------------------------------------

_BASE, _REPOSITORY, _COMMIT, _SHA256 = "base", "base repository", "base commit", "base sha256"
_MOVES, _CHANNELS, _INPUT = "base moves", "added channels", "environment"


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the lock of another repository says of how it was made; kept in its custom metadata.

    `moves` are base packages that were allowed to move. `channels` are those of the additions where they were given
    instead of the environment file's, else None. `environment` is the path of the environment file, relative to the
    lock's folder.
    """

    base: BaseName
    sha256: str
    moves: tuple[str, ...]
    channels: tuple[str, ...] | None
    environment: str

    def metadata(self) -> dict[str, str]:
        """As it is written into the lock."""
        found = {
            _BASE: self.base.text,
            _REPOSITORY: self.base.repository,
            _COMMIT: self.base.commit,
            _SHA256: self.sha256,
            _MOVES: " ".join(self.moves),
            _CHANNELS: None if self.channels is None else " ".join(self.channels),
            _INPUT: self.environment,
        }
        return {key: value for key, value in found.items() if value}


def is_built_on_base(metadata: Mapping[str, str]) -> bool:
    """Whether a lock's metadata says anything of a base."""
    return any(key in metadata for key in (_BASE, _REPOSITORY, _COMMIT, _SHA256, _MOVES))


def read_built(metadata: Mapping[str, str]) -> Built | None:
    """What a lock's metadata says of its base; None for a lock that is built on none.

    Raises LockfileError where it says only part of it: somebody took the rest out.
    """
    base, sha256, environment = metadata.get(_BASE), metadata.get(_SHA256), metadata.get(_INPUT)
    if not is_built_on_base(metadata):
        return None
    if not (base and sha256 and environment):
        missing = [key for key in (_BASE, _SHA256, _INPUT) if not metadata.get(key)]
        raise LockfileError(
            f"The lock was built on a base, and does not say all of it any more: {', '.join(missing)}.",
            where=f"{CONDA_LOCK}, metadata.custom_metadata",
            fix="run `torchlocks extend` again and name the base",
        )
    channels = metadata.get(_CHANNELS)
    return Built(
        base=BaseName(text=base, repository=metadata.get(_REPOSITORY), commit=metadata.get(_COMMIT)),
        sha256=sha256,
        moves=tuple(metadata.get(_MOVES, "").split()),
        channels=tuple(channels.split()) if channels is not None else None,
        environment=environment,
    )
