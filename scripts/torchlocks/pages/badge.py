"""Badges as SVG for READMEs: a label, a message, and a colour that is not needed to read it."""

from __future__ import annotations

from typing import Literal

Tone = Literal["good", "warn", "bad", "muted"]

#: Backgrounds on which white text has a contrast of at least 4.5.
_COLOURS: dict[Tone, str] = {"good": "#1a7f37", "warn": "#8a5a00", "bad": "#b3261e", "muted": "#5c6670"}

_CHARACTER, _PADDING, _LONGEST = 6.7, 8, 60


def badge(label: str, message: str, tone: Tone) -> str:
    """Return a badge as an SVG document of 20 pixels height; long messages are shortened."""
    # It imports urllib.request, and so ssl, which whoever only picks an environment does not need.
    from xml.sax.saxutils import escape, quoteattr

    shown = message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1].rstrip(' ,;')}…"
    left, right = (round(len(text) * _CHARACTER) + 2 * _PADDING for text in (label, shown))
    alternative = f"{label}: {message}"

    def text(words: str, start: int, width: int) -> str:
        # textLength makes it fit with any font.
        return (
            f'<text x="{start + width / 2:g}" y="14" textLength="{width - 2 * _PADDING}" '
            f'lengthAdjust="spacingAndGlyphs">{escape(words)}</text>'
        )

    whole = left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" viewBox="0 0 {whole} 20" role="img" '
        f"aria-label={quoteattr(alternative)}><title>{escape(alternative)}</title>"
        f'<clipPath id="r"><rect width="{whole}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#333"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[tone]}"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{text(label, 0, left)}{text(shown, left, right)}</g></svg>\n"
    )
