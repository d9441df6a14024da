"""Remove or mask credentials in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit


def mask(text: str) -> str:
    """Return `text` with the credentials of all URLs masked: `user:password@` and `/t/<token>/`."""
    text = re.sub(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@", r"\1***@", text)
    return re.sub(r"/t/[^/\s]+", "/t/***", text)


VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
"""An environment variable in a URL, `$NAME` or `${NAME}`, as conda-lock keeps secrets out of locks."""


def credential_variables(url: str) -> tuple[str, ...]:
    """The names of the environment variables in the credentials of a URL: its user, password and token."""
    return tuple(one or other for part in _CREDENTIALS.findall(url) for one, other in VARIABLE.findall("".join(part)))


def expand_credentials(url: str, values: Mapping[str, str]) -> str:
    """`url` with the variables in its user, password and token replaced; those without a value stay.

    Variables elsewhere in a URL are no credentials, and messages would show them: they stay, too. Values are quoted, so
    that none reaches into another part of the URL.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return quote(values[name], safe="%") if name in values else found[0]

    return _CREDENTIALS.sub(lambda part: VARIABLE.sub(value, part[0]), url)


_CREDENTIALS = re.compile(r"(?<=://)([^/\s@]+@)|(/t/[^/\s]+)")


def strip_credentials(url: str) -> str:
    """Return `url` without user, password and token, as it may be written into an environment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, path=re.sub(r"^/t/[^/]+", "", parts.path)))
