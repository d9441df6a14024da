"""Whether people can read the pages: contrast of the colours, light and dark, by the formula of WCAG 2."""

from __future__ import annotations

import re

import pytest

from torchlocks.pages.html import asset

STYLE = asset("style.css")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\n\s*\}", STYLE, re.DOTALL)[:2]
)

#: Text on what it stands on: 4.5 to 1 is asked for (WCAG 2.2, 1.4.3).
TEXT = [
    *((text, ground) for text in ("text", "muted", "accent") for ground in ("bg", "surface", "sunk", "accent-soft")),
    *((text, ground) for text in ("good", "bad", "warn") for ground in ("bg", "surface", "accent-soft")),
    ("on-accent", "accent"),
]
#: Parts of drawings, and frames of fields, on what they stand on: 3 to 1 (1.4.11).
SHAPES = [
    *((f"fill-{n}", ground) for n in range(1, 6) for ground in ("bg", "surface")),
    ("muted", "bg"),
    ("accent", "accent-soft"),
]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`. Source: WCAG 2.2, "relative luminance"."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT)
def test_text_can_be_read(colours: dict[str, str], text: str, ground: str) -> None:
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_shapes_can_be_seen(colours: dict[str, str], shape: str, ground: str) -> None:
    assert contrast(colours[shape], colours[ground]) >= 3


def test_dark_has_every_colour_that_light_has() -> None:
    assert DARK.keys() == LIGHT.keys()
    assert len(LIGHT) >= 15


def test_every_colour_that_is_used_is_one_of_them() -> None:
    style = STYLE + asset("site.css")
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) - {"mono", "shade", "edge"} == set(LIGHT) - {"shade"}
    outside = re.sub(r":root \{.*?\}", "", style, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-f]{6}\b", outside)
