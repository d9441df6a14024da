"""URLs without their secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit


def mask(text: str) -> str:
    """`text` with the credentials of all its URLs hidden: `user:password@` and `/t/<token>/`."""
    text = re.sub(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@", r"\1***@", text)
    return re.sub(r"/t/[^/\s]+", "/t/***", text)


def strip_credentials(url: str) -> str:
    """`url` without user, password and token, as it may be written into an environment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, path=re.sub(r"^/t/[^/]+", "", parts.path)))
