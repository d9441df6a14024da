"""Run git without a terminal: in this checkout, or in a new repository with one commit of another.

git takes commands to run from the configuration of the repository that it works in, and fetches what a partial clone
lacks when an object is read. So it never runs in a repository that an argument or a lock names: `fetch_commit` brings
the commit into a new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torchlocks.core.reading import read_bytes
from torchlocks.core.urls import file_path

COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 600
_REFS = 100_000
"""The largest number of refs that is copied from a repository on disk."""

# Also in the user's own checkout: a bare repository inside it could be committed by anybody.
_CHECKOUT = ("-c", "safe.bareRepository=explicit", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
_FETCH = (
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "protocol.allow=never"),
    *("-c", "protocol.https.allow=always"),
    *("-c", "protocol.ssh.allow=always"),
    *("-c", "protocol.file.allow=always"),
    *("-c", "http.lowSpeedLimit=1000"),
    *("-c", "http.lowSpeedTime=60"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
)
_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_EXEC_PATH")
_SCP = re.compile(r"(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9][A-Za-z0-9.-]+:(?!//).+")


class GitError(Exception):
    """git failed; the message is its stderr."""


class GitMissingError(GitError):
    """There is no git that can be run."""


def git(*arguments: str, cwd: Path | None = None, given: bytes | None = None) -> bytes:
    """Return the output of `git ARGUMENTS`, run in `cwd` (default: the current folder), with `given` as its input.

    For the user's own checkout only. Raises GitError when git fails, GitMissingError when it is not installed.
    """
    # Without this, git would prompt for a password.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return _run([*_CHECKOUT, *arguments], environment, cwd=cwd, given=given)


def is_local(repository: str) -> bool:
    """Return whether `repository` is a path or file URL of this machine, which is read without a network."""
    if "://" in repository:
        parts = urlsplit(repository)
        return parts.scheme == "file" and parts.netloc in ("", "localhost")
    return not repository.replace("\\", "/").startswith("//") and (
        _SCP.fullmatch(repository) is None or Path(repository).exists()
    )


def fetch_commit(repository: str, revision: str, scratch: Path) -> tuple[Path, str]:
    """Fetch one commit of a repository into a new one below the empty folder `scratch`.

    `repository` is a https, ssh or file URL, `user@host:path`, or an absolute path; `revision` a tag, branch or commit.
    Returns (the new repository, the commit's hash), for `in_repository`. No git runs inside a repository on this
    machine: its refs are copied, and its objects are read with a configuration of our own. Raises GitError.
    """
    if revision.startswith("-") or not revision.isprintable():
        raise GitError(f"{revision!r} is not a revision")
    new = scratch / "fetched.git"
    _isolated("init", "-q", "--bare", "--template=", "--", str(new))
    source = repository
    if is_local(repository):
        mirror = scratch / "mirror.git"
        _mirror(file_path(repository) if "://" in repository else Path(repository), mirror)
        output = in_repository(mirror, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        source, revision = str(mirror), _commit(output)
    elif "://" in repository and urlsplit(repository).scheme not in ("https", "ssh"):
        raise GitError(f"{urlsplit(repository).scheme}:// is not fetched from; use https, ssh or file")
    in_repository(new, "fetch", "-q", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", source, revision)
    commit = _commit(in_repository(new, "rev-parse", "--verify", "--end-of-options", "FETCH_HEAD^{commit}"))
    return new, commit


def in_repository(repository: Path, *arguments: str) -> bytes:
    """Return the output of `git ARGUMENTS` in a repository that `fetch_commit` made. Raises GitError."""
    return _isolated(f"--git-dir={repository}", *arguments)


def repository_of(folder: Path) -> tuple[Path, str]:
    """Return (the git repository that contains `folder`, the folder's path inside it with a final slash, or empty).

    The repository is a checkout's top folder or a bare repository. Raises GitError if there is none.
    """
    for place in (folder, *folder.parents):
        if os.path.lexists(place / ".git") or _is_git_dir(place):
            below = folder.relative_to(place).as_posix()
            return place, "" if below == "." else f"{below}/"
    raise GitError("not a git repository (or any of the parent directories)")


def _is_git_dir(folder: Path) -> bool:
    return (folder / "objects").is_dir() and (folder / "refs").is_dir() and (folder / "HEAD").is_file()


def _mirror(path: Path, mirror: Path) -> None:
    """Create the bare repository `mirror` with the refs and objects of `path`, without its configuration."""
    try:
        own, common = _git_dirs(path)
        _isolated("init", "-q", "--bare", "--template=", "--", str(mirror))
        for name in ("packed-refs", "shallow"):
            if (common / name).is_file():
                (mirror / name).write_bytes(read_bytes(common / name, 64 << 20))
        (mirror / "HEAD").write_bytes(read_bytes(own / "HEAD", 4096))
        for number, ref in enumerate(_refs(common / "refs")):
            if number == _REFS:
                raise GitError(f"the repository has more than {_REFS} refs")
            target = mirror / ref.relative_to(common)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_bytes(ref, 4096))
        objects = str((common / "objects").resolve())
        if "\n" in objects:
            raise GitError("the path of the repository has a line break")
        (mirror / "objects" / "info").mkdir(exist_ok=True)
        (mirror / "objects" / "info" / "alternates").write_text(objects + "\n", encoding="utf-8")
        in_repository(mirror, "config", "uploadpack.allowAnySHA1InWant", "true")
    except OSError as error:
        raise GitError(f"{error.strerror or error} ({error.filename or path})") from None


def _git_dirs(path: Path) -> tuple[Path, Path]:
    """Return (the folder with HEAD, the folder with refs and objects), which differ in a linked worktree only."""
    own = path / ".git" if os.path.lexists(path / ".git") else path
    if own.is_file():
        pointer = read_bytes(own, 4096).decode(errors="replace").strip()
        own = (path / pointer.removeprefix("gitdir:").strip()).resolve()
    common = own
    if (own / "commondir").is_file():
        common = (own / read_bytes(own / "commondir", 4096).decode(errors="replace").strip()).resolve()
    if not _is_git_dir(common):
        raise GitError(f"{path} does not appear to be a git repository")
    return own, common


def _refs(folder: Path) -> list[Path]:
    """Return all regular files below `folder`; links are not followed."""
    found: list[Path] = []
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            with contextlib.suppress(OSError):
                if stat.S_ISREG((Path(here) / name).lstat().st_mode):
                    found.append(Path(here) / name)
    return found


def _commit(output: bytes) -> str:
    text = output.decode(errors="replace").strip()
    if not COMMIT.fullmatch(text):
        raise GitError(f"{text[:80]!r} is not a commit")
    return text


def _isolated(*arguments: str) -> bytes:
    """Run git with our own configuration only; the user's ssh, certificates and netrc are used."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in _KEPT}
    environment |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "LC_ALL": "C",
    }
    return _run([*_FETCH, *arguments], environment)


def _run(
    arguments: list[str], environment: dict[str, str], *, cwd: Path | None = None, given: bytes | None = None
) -> bytes:
    # Without `given`, git must not read the caller's terminal or pipe.
    source: Any = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            capture_output=True,
            check=False,
            env=environment,
            timeout=_TIMEOUT_S,
            **source,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"it was not done within {_TIMEOUT_S} s") from None
    except OSError as error:
        reason = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run: {error.strerror}"
        raise GitMissingError(f"git {reason}.") from None
    if done.returncode:
        raise GitError(done.stderr.decode(errors="replace").strip().removeprefix("fatal: "))
    printed: bytes = done.stdout
    return printed
