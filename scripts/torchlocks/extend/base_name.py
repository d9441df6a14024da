"""How a base is named: an environment, a revision of one, a path or a URL.

gpu-cu118              the lock of that environment in this torchlocks (checkout or installed package)
gpu-cu118@v1.4         the same at a tag, branch or commit of a torchlocks repository
../locks/conda-lock.yml, or its folder
https://…/conda-lock.yml
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.errors import BaseLockError
from torchlocks.core.git import is_local
from torchlocks.lockfile.fields import is_secret

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


# In the query of a link to a private file, and of one that was signed for a while.
_SECRET = re.compile(r"(token|sig|signature|password|secret)=", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BaseName:
    """How a base is named: all that is needed to find it again.

    `text` is an environment's name, `name@revision`, a URL, or a path relative to the folder of the lock that is built
    on it. `repository` is the URL or path of the repository with the revision; None for the checkout of this
    torchlocks. `commit` is the revision's commit when the lock was made.
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


def name_base(text: str, repository: str | None, folder: Path) -> BaseName:
    """Return the base that a user names in the current folder, as a lock in `folder` records it.

    A plain name is an environment even if a folder has that name: `./cpu` is the folder. Raises BaseLockError for a
    repository with a base that has no revision, and for a URL that contains a secret.
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
    # The user of ssh://git@host is no secret; over http it is often a token.
    web = parts is not None and parts.scheme in ("http", "https")
    token = re.search(r"/t/([^/]+)", parts.path) if parts else None
    secret = parts is not None and (
        is_secret(parts.password)
        or (web and (is_secret(parts.username) or is_secret(token and token[1]) or bool(_SECRET.search(parts.query))))
    )
    if parts and secret:
        raise BaseLockError(
            "The URL contains a user name, password or token, and the lock would record it, readable for all.",
            where=f"{parts.scheme}://…@{parts.hostname}",
            fix="name it without, and leave the secret to ssh or a netrc file",
        )


def needs_network(name: BaseName) -> bool:
    """Return whether a base is on another machine: a URL, a repository there, or a share of Windows."""
    if name.is_url:
        return not is_local(name.text)
    if name.is_revision:
        return name.repository is not None and not is_local(name.repository)
    return name.is_path and name.text.replace("\\", "/").startswith("//")


def relative_path(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder`, with forward slashes; absolute if there is no such path (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
