"""Fields that the lockfile formats have in common: URLs and hashes, validated as they are read."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from torchlocks.core.errors import LockfileError
from torchlocks.core.urls import VARIABLE, mask, mask_malformed
from torchlocks.lockfile.models import split_file_name

_HEX = {"md5": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}


_MASKED = re.compile(r"<TOKEN>|\*+")
"""What conda and mamba write in the place of a token."""
_URLS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s\"']+")


def is_secret(part: str | None) -> bool:
    """Return whether a user name, password or token of a URL is a secret: neither a variable nor masked."""
    return bool(part) and not (VARIABLE.fullmatch(part or "") or _MASKED.fullmatch(part or ""))


def has_secret(url: str) -> bool:
    """Return whether a URL contains a user name, password, token or secret that is neither a variable nor masked."""
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
    except ValueError:
        return "@" in url
    segments = parts.path.split("/")
    # conda and mamba take what follows a /t/ for a token.
    tokens = [after for each, after in pairwise(segments[:-1]) if each == "t"]
    return any(is_secret(part) for part in (user, password, *tokens)) or mask(f"x://h?{parts.query}") != (
        f"x://h?{parts.query}"
    )


def secret_line(text: str) -> int | None:
    """Return the number of the first line of a text that has a URL with a secret; None if there is none."""
    for number, line in enumerate(text.splitlines(), 1):
        if (
            "://" in line
            and any(mark in line for mark in ("@", "/t/", "?"))
            and any(map(has_secret, _URLS.findall(line)))
        ):
            return number
    return None


class PackageUrl(NamedTuple):
    """A package's URL and its last two segments: `<subdir>/<name>-<version>-<build>.conda`."""

    url: str
    subdir: str
    name: str
    version: str
    build: str


def parse_package_url(url: str, where: str) -> PackageUrl:
    """Parse a package's URL. Raises LockfileError, at `where`, if it is invalid."""
    try:
        parts = urlsplit(url)
        if not parts.scheme or url.split() != [url]:
            raise ValueError
        if not parts.netloc and parts.scheme != "file":
            raise ValueError
    except ValueError:
        raise LockfileError(
            f"{mask_malformed(url)!r} is not a URL.",
            where=where,
            fix="a package is named by its full URL, with https:// or file://.",
        ) from None
    segments = parts.path.rsplit("/", 2)
    if len(segments) < 3 or not segments[1] or parts.query or parts.fragment:
        raise LockfileError(
            f"{mask_malformed(url)!r} is not the URL of a package in a channel.",
            where=where,
            fix="the URL must end in <subdir>/<name>-<version>-<build>.conda or .tar.bz2.",
        )
    file_name = unquote(segments[2])
    if {"/", "\\"} & set(file_name):
        raise LockfileError(
            f"{mask_malformed(url)!r} is not the URL of a package: the name of its file is a path.",
            where=where,
            fix="do not use this lock; ask where it came from.",
        )
    try:
        name, version, build = split_file_name(file_name)
    except LockfileError as error:
        raise LockfileError(error.what, where=where) from None
    return PackageUrl(url, unquote(segments[1]), name, version, build)


def parse_hash(kind: str, value: str | None, where: str) -> str | None:
    """Return a hash in lower case, or None without one. Raises LockfileError if it is not of this `kind`."""
    if value is None:
        return None
    lower = value.strip().lower()
    if not _HEX[kind].fullmatch(lower):
        raise LockfileError(
            f"{value!r} is not a {kind} hash ({'32' if kind == 'md5' else '64'} hexadecimal digits).",
            where=where,
            fix="lock again; do not edit hashes by hand.",
        )
    return lower


def channel_urls(channel: str) -> tuple[str, ...]:
    """Return the URLs of a channel's name, without a slash at the end; a URL is returned as it is.

    Conda's defaults apply (channel alias https://conda.anaconda.org; `defaults` is three channels), not one machine's
    configuration: a lock means the same everywhere.
    """
    if "://" in channel:
        return (channel.rstrip("/"),)
    if channel == "defaults":
        return tuple(f"https://repo.anaconda.com/pkgs/{part}" for part in ("main", "r", "msys2"))
    return (f"https://conda.anaconda.org/{channel.strip('/')}",)
