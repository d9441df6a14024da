"""Decode text files of unknown origin, find the conflict markers of a failed merge, shorten output."""

from __future__ import annotations

import codecs
import re

TO_UTF8 = "in PowerShell `… | Out-File -Encoding utf8 FILE`, elsewhere `iconv -f UTF-16 -t UTF-8 FILE`"
"""Commands that convert a file to UTF-8."""

# diff3 and zdiff3 add a line of bars; `=======` alone can also underline a heading.
_CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7})( |$)")


class EncodingError(ValueError):
    """The bytes are not in a supported encoding; the message names what they are."""


def decode(data: bytes) -> str:
    """Return the text of UTF-8 with or without a BOM, or of UTF-16 with one (as PowerShell 5's `>` writes).

    Raises EncodingError for anything else.
    """
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise EncodingError("it is UTF-32")
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(f"it is not {error.encoding.upper()} at byte {error.start}") from None
    if "\0" in text:
        raise EncodingError("it contains zero bytes, as UTF-16 without a mark does")
    return text


def conflict_line(text: str) -> int | None:
    """Return the line number, from 1, of the first conflict marker of git; None if there is none."""
    return next((number for number, line in enumerate(text.splitlines(), start=1) if _CONFLICT.match(line)), None)


def last_lines(text: str, count: int = 30) -> str:
    """Return the last lines of a program's output, at most `count`."""
    return "\n".join(text.splitlines()[-count:])
