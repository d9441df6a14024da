"""How packages are fetched, and which of a lock."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from torchlocks.core.errors import (
    FetchError,
    IntegrityError,
    LockfileError,
)
from torchlocks.core.progress import Progress
from torchlocks.core.urls import credential_variables
from torchlocks.core.urls import mask as mask
from torchlocks.lockfile.models import Lock, LockedPackage


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How packages are fetched.

    `cache` is the package cache folder (None: rattler's). `mirrors` maps a channel's URL to the URLs that are tried
    before it. `variables` maps the environment variables that may stand for credentials in URLs to their values.
    `retries` is how often one URL is tried again; `backoff_s` is the pause before the first retry in seconds, doubled
    each time. A connection without data for `stall_timeout_s` seconds is broken. `full_check` hashes all files of
    existing cache entries.
    """

    cache: Path | None = None
    offline: bool = False
    allow_md5: bool = False
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    retries: int = 3
    backoff_s: float = 0.5
    stall_timeout_s: float = 60
    connections: int = 8
    full_check: bool = False


def packages_for(lock: Lock, platform: str) -> tuple[LockedPackage, ...]:
    """Return the lock's packages for `platform`. Raises LockfileError if it has none, instead of an empty
    environment.
    """
    packages = lock.packages.get(platform)
    if not packages:
        held = [each for each in lock.platforms if lock.packages[each]]
        left = lock.pip.get(platform) or lock.sources.get(platform)
        raise LockfileError(
            f"The lock has no conda packages for {platform}"
            + (f", only {len(left)} that are left to pip or to be built" if left else "")
            + (f" in its environment {lock.environment}" if len(lock.environments) > 1 else "")
            + ".",
            where=str(lock.path),
            fix=f"it has some for {', '.join(held)}; take one of these, or lock again."
            if held
            else "see whether the file is complete, and lock again.",
        )
    return packages


def require_hashes(packages: Sequence[LockedPackage], *, allow_md5: bool) -> None:
    """Raise IntegrityError if a package has no hash to compare its bytes with."""
    for each in packages:
        if each.sha256 is not None or (allow_md5 and each.md5 is not None):
            continue
        if each.md5 is not None:
            raise IntegrityError(
                f"The lock has only an MD5 sum for {each.file_name}, and MD5 can be forged.",
                where=mask(each.url),
                fix="write an explicit file with SHA-256 where there is a conda-lock.yml (`torchlocks export "
                "conda-lock.yml --format explicit`),\nor lock again with a tool that writes SHA-256 (`conda list "
                "--explicit --sha256`),\nor accept MD5 with --allow-md5.",
            )
        raise IntegrityError(
            f"The lock has no hash for {each.file_name}.", where=mask(each.url), fix="lock again with SHA-256 sums."
        )


def with_variables(
    options: FetchOptions, lock: Lock, packages: Sequence[LockedPackage], progress: Progress
) -> FetchOptions:
    """Return the options with the values of the credential variables in the URLs of `packages`.

    Only variables that the lock names are read, and it is reported which host gets which. Raises FetchError if one has
    no value.
    """
    needed: dict[str, dict[str, None]] = {}
    for package in packages:
        for name in credential_variables(package.url):
            if name in lock.variables:
                host = urlsplit(package.url).hostname or package.url
                needed.setdefault(host, {})[name] = None
    if not needed or options.offline:
        return options
    values: dict[str, str] = {}
    for host, names in needed.items():
        for name in names:
            if not (value := os.environ.get(name)):
                raise FetchError(
                    f"The lock takes credentials for {host} from the environment variable {name}, which is not set.",
                    where=str(lock.path),
                    fix=f"set {name}, or name a lock without credentials.",
                )
            values[name] = value
        progress.say(f"{host} is sent the value of {' and '.join(names)} as credentials, since the lock names them")
    return replace(options, variables=values)
