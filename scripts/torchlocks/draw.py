"""Small drawings as SVG, readable without colour: every fill has a pattern, every bar its number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

#: Fills that can be told apart without colour; more parts than these share the last.
FILLS = 5
_MARKS = (
    "",
    '<path class="mark" d="M-2 2 2-2M0 8 8 0M6 10 10 6"/>',
    '<circle class="dot" cx="4" cy="4" r="1.6"/>',
    '<path class="mark" d="M0 4H8"/>',
    '<path class="mark" d="M0 0 8 8M8 0 0 8"/>',
)


@dataclass(frozen=True)
class Part:
    """One part of a whole: what it is called, how much it is, and the amount as people read it."""

    label: str
    amount: float
    said: str


def meter(amount: float, whole: float) -> Markup:
    """A bar that is `amount / whole` wide. The number must stand beside it: to readers of the page it is hidden."""
    from markupsafe import Markup

    share = 100 * amount / whole if whole else 0.0
    width = f"{max(share, 0.6):.1f}".removesuffix(".0") if amount else "0"
    return Markup(
        '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width}" height="8" rx="1"/></svg>'
    )


def shares(parts: Sequence[Part], title: str, prefix: str) -> Markup:
    """One bar cut into parts, with a legend that names each part, its amount and its share.

    `prefix` keeps the identifiers of several drawings on a page apart.
    """
    from markupsafe import Markup, escape

    whole = sum(part.amount for part in parts)
    patterns = "".join(
        f'<pattern id="{prefix}{fill}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" class="f{fill}"/>{_MARKS[fill - 1]}</pattern>'
        for fill in range(1, FILLS + 1)
    )
    bars, legend, x = [], [], 0.0
    for number, part in enumerate(parts):
        fill = min(number + 1, FILLS)
        width = 1000 * part.amount / whole if whole else 0.0
        bars.append(
            f'<rect x="{x:.1f}" width="{max(width - 2, 0.5):.1f}" height="34" fill="url(#{prefix}{fill})">'
            f"<title>{escape(part.label)}: {escape(part.said)}</title></rect>"
        )
        x += width
        share = f" ({100 * part.amount / whole:.0f} %)" if whole else ""
        swatch = (
            f'<svg viewBox="0 0 24 14" aria-hidden="true"><rect width="24" height="14" fill="url(#{prefix}{fill})"/>'
        )
        legend.append(f"<li>{swatch}</svg>{escape(part.label)}: {escape(part.said)}{share}</li>")
    said = "; ".join(f"{part.label} {part.said}" for part in parts)
    return Markup(
        '<svg class="drawing" viewBox="0 0 1000 34" width="1000" role="img" '
        f'aria-label="{escape(title)}: {escape(said)}">'
        f"<defs>{patterns}</defs>{''.join(bars)}</svg>"
        f'<ul class="legend">{"".join(legend)}</ul>'
    )
