"""Text of others, made safe to print: no terminal escapes, no line breaks, no text that reads backwards."""

from __future__ import annotations

import re

from torchlocks.core.urls import mask

# Control characters of ASCII and Latin-1, line and paragraph separators, and marks that turn the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with secrets of URLs hidden and control characters as escapes (`\\x1b`); `lines` keeps \\n and \\t."""
    unsafe = _UNSAFE_IN_LINES if lines else _UNSAFE
    return mask(unsafe.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
