"""URLs without their secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote


def mask(text: str) -> str:
    """Return `text` with the credentials of all URLs hidden: `user:password@`, `/t/<token>/` and secrets in the query.

    A password may have an `@` in it: what comes before the last one of the authority is hidden. The token of a channel
    can be anywhere in the path.
    """
    if "://" not in text:
        return text
    return _WORD.sub(_masked, text)


def mask_malformed(text: str) -> str:
    """Return a text that may not be a URL, with whatever looks like a credential hidden."""
    if "@" in text:
        text = _WORD.sub(lambda word: f"***@{word[0].rpartition('@')[2]}" if "@" in word[0] else word[0], text)
    return _QUERY.sub(r"\1***", re.sub(r"/t/[^/\s]+", "/t/***", text))


def _masked(found: re.Match[str]) -> str:
    word: str = found[0]
    # Other URLs may be glued to the first one of a word.
    head, separator, tail = word.partition("://")
    if not separator:
        return word
    tail = _QUERY.sub(r"\1***", _TOKEN.sub("/t/***", tail))
    return head + _USER.sub("***@", separator + tail)


# These are applied to texts of any length: none may look far ahead from each of its letters.
_WORD = re.compile(r"\S+")
_USER = re.compile(r"(?<=://)[^\s/?#]*@")
_TOKEN = re.compile(r"/t/[^/\s?#]+")
_QUERY = re.compile(
    r"(?i)([?&][\w.-]{0,100}?(?:token|secret|password|signature|sig|credential|key|auth)[\w.-]{0,100}=)[^&\s#]+"
)

VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
"""An environment variable in a URL, `$NAME` or `${NAME}`, as conda-lock keeps secrets out of locks."""


def credential_variables(url: str) -> tuple[str, ...]:
    """Return the names of the environment variables in the user, password and token of a URL."""
    if "$" not in url:
        return ()
    return tuple(one or other for part in _CREDENTIALS.findall(url) for one, other in VARIABLE.findall("".join(part)))


def expand_credentials(url: str, values: Mapping[str, str]) -> str:
    """Return `url` with the variables in its user, password and token replaced; those without a value stay.

    Variables elsewhere in a URL are no credentials, and messages would show them: they stay, too. Values are quoted, so
    that none reaches into another part of the URL.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return quote(values[name], safe="%") if name in values else found[0]

    return _CREDENTIALS.sub(lambda part: VARIABLE.sub(value, part[0]), url)


_CREDENTIALS = re.compile(r"(?<=://)([^/\s@]+@)|(/t/[^/\s]+)")


def file_path(url: str) -> Path:
    """Return the path that a `file:` URL names on this system: `C:\\a b` for `file:///C:/a%20b` on Windows."""
    # Every error imports this module, and few have a path in them.
    from torchlocks.core.systems import here

    return Path(here.url_path(url))


def strip_credentials(url: str) -> str:
    """Return `url` without user, password, token, query and fragment, as environments and reports record it.

    A token is found as conda finds it, anywhere in the path. What is no URL is masked.
    """
    if "://" not in url:
        return mask_malformed(url) if "@" in url else url
    scheme, _, rest = url.partition("://")
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    path = slash + path
    if scheme != "file":
        authority = authority.rpartition("@")[2]
        path = re.sub(r"/t/[^/]+", "", path, count=1)
    return f"{scheme}://{authority}{path}"
