"""Text of files that people and other programs wrote: encodings, and what a failed merge leaves in them."""

from __future__ import annotations

import codecs
import re

TO_UTF8 = "in PowerShell `… | Out-File -Encoding utf8 FILE`, elsewhere `iconv -f UTF-16 -t UTF-8 FILE`"
"""How a file that is no UTF-8 becomes one."""

# diff3 and zdiff3 add a line of bars; `=======` alone also underlines headings, and so proves nothing.
_CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7})( |$)")


class EncodingError(ValueError):
    """The bytes are not text that is read here; the message says what they are."""


def decode(data: bytes) -> str:
    """The text of a file: UTF-8, with or without a mark, or UTF-16 with one (what PowerShell 5's `>` writes).

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
        raise EncodingError("it holds zero bytes, as UTF-16 without a mark does")
    return text


def conflict_line(text: str) -> int | None:
    """The line, from 1, of the first mark that a failed merge of git left; None where there is none."""
    return next((number for number, line in enumerate(text.splitlines(), start=1) if _CONFLICT.match(line)), None)
