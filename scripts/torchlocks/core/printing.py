"""Make untrusted text safe to print: no terminal escapes, line breaks or changes of direction."""

from __future__ import annotations

from collections.abc import Sequence

from torchlocks.core.urls import mask


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` with secrets of URLs hidden and escapes (`\\x1b`) for what is not printable.

    `lines` keeps line feeds and tabs. Not printable are control characters, line separators, marks that turn the
    direction of text, and characters that Unicode does not have.
    """
    if not text.isprintable():
        kept = "\n\t" if lines else ""
        text = "".join(each if each.isprintable() or each in kept else _escaped(each) for each in text)
    return mask(text)


def aligned(rows: Sequence[Sequence[str]], gap: int = 2) -> str:
    """Return rows of equal length as lines, with columns as wide as their longest text and `gap` spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join((" " * gap).join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
