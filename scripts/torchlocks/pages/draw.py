"""Small drawings as SVG that are readable without colour: fills have patterns, and bars a number beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

#: The number of fills that can be distinguished without colour; further parts use the last one.
FILLS, _COLOURS = 9, 5
_MARKS = (
    "",
    '<path class="mark" d="M-2 2 2-2M0 8 8 0M6 10 10 6"/>',
    '<circle class="dot" cx="4" cy="4" r="1.6"/>',
    '<path class="mark" d="M0 4H8"/>',
    '<path class="mark" d="M0 0 8 8M8 0 0 8"/>',
    '<path class="mark" d="M4 0V8"/>',
    '<path class="mark" d="M0 4H8M4 0V8"/>',
    '<path class="mark" d="M-2 6 2 10M0 0 8 8M6-2 10 2"/>',
    '<circle class="dot" cx="2" cy="2" r="1.2"/><circle class="dot" cx="6" cy="6" r="1.2"/>',
)


@dataclass(frozen=True)
class Part:
    """One part of a whole: its label, its amount, and the amount as text."""

    label: str
    amount: float
    text: str


def meter(amount: float, whole: float) -> Markup:
    """Return a bar of width `amount / whole`. It is hidden from screen readers, so show the number too."""
    from markupsafe import Markup

    share = 100 * amount / whole if whole else 0.0
    width = f"{max(share, 0.6):.1f}".removesuffix(".0") if amount else "0"
    return Markup(
        '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width}" height="8" rx="1"/></svg>'
    )


def shares(parts: Sequence[Part], title: str, prefix: str) -> Markup:
    """Return a bar divided into parts, with a legend of each part's label, amount and share.

    `prefix` makes the identifiers of several drawings on a page distinct.
    """
    from markupsafe import Markup, escape

    whole = sum(part.amount for part in parts)
    patterns = "".join(
        f'<pattern id="{prefix}{fill}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" class="f{(fill - 1) % _COLOURS + 1}"/>{_MARKS[fill - 1]}</pattern>'
        for fill in range(1, min(len(parts), FILLS) + 1)
    )
    bars, legend, x = [], [], 0.0
    for number, part in enumerate(parts):
        fill = min(number + 1, FILLS)
        width = 1000 * part.amount / whole if whole else 0.0
        bars.append(
            f'<rect x="{x:.1f}" width="{max(width - 2, 0.5):.1f}" height="34" fill="url(#{prefix}{fill})">'
            f"<title>{escape(part.label)}: {escape(part.text)}</title></rect>"
        )
        x += width
        share = f" ({100 * part.amount / whole:.0f} %)" if whole else ""
        swatch = (
            f'<svg viewBox="0 0 24 14" aria-hidden="true"><rect width="24" height="14" fill="url(#{prefix}{fill})"/>'
        )
        legend.append(f"<li>{swatch}</svg>{escape(part.label)}: {escape(part.text)}{share}</li>")
    text = "; ".join(f"{part.label} {part.text}" for part in parts)
    return Markup(
        '<svg class="drawing" viewBox="0 0 1000 34" width="1000" role="img" '
        f'aria-label="{escape(title)}: {escape(text)}">'
        f"<defs>{patterns}</defs>{''.join(bars)}</svg>"
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


@dataclass(frozen=True)
class Node:
    """A box of a graph: its key, two lines of text, and whether it has a thick frame."""

    key: str
    title: str
    note: str
    marked: bool = False


_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 178, 40, 54, 12


def layered(nodes: Sequence[Node], edges: Mapping[str, Sequence[str]], root: str, title: str) -> Markup:
    """Return a dependency graph from left to right: each box is to the right of its dependents.

    Transitive edges and edges that would close a cycle are omitted. `edges` maps a key to its dependencies; all must be
    among `nodes`.
    """
    from markupsafe import Markup, escape

    order = _without_circles(edges, root)
    reduced = _reduced(order)
    depth = _depths(reduced)
    columns: dict[int, list[str]] = {}
    for key in order:
        columns.setdefault(depth[key], []).append(key)
    _untangle(columns, reduced)
    tallest = max(len(column) for column in columns.values())
    height = tallest * (_BOX_HEIGHT + _GAP_Y) + _GAP_Y
    width = len(columns) * (_BOX_WIDTH + _GAP_X) - _GAP_X + 4
    place: dict[str, tuple[float, float]] = {}
    for level, column in columns.items():
        step = height / len(column)
        for row, key in enumerate(column):
            place[key] = (2 + level * (_BOX_WIDTH + _GAP_X), step * (row + 0.5) - _BOX_HEIGHT / 2)
    by_key = {node.key: node for node in nodes}
    lines = []
    for start, ends in reduced.items():
        for end in ends:
            x1, y1 = place[start][0] + _BOX_WIDTH, place[start][1] + _BOX_HEIGHT / 2
            x2, y2 = place[end][0], place[end][1] + _BOX_HEIGHT / 2
            bend = (x2 - x1) / 2
            lines.append(
                f'<path class="edge" d="M{x1:.0f} {y1:.0f}'
                f'C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"/>'
            )
    boxes = []
    for key, (x, y) in place.items():
        node = by_key[key]
        kind = "box marked" if node.marked else "box"
        boxes.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6"/>'
            f'<text x="{x + 9:.0f}" y="{y + 17:.0f}">{escape(node.title)}</text>'
            f'<text class="quiet" x="{x + 9:.0f}" y="{y + 33:.0f}">{escape(node.note)}</text>'
        )
    return Markup(
        f'<svg class="graph drawing" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{escape(title)}">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def _without_circles(edges: Mapping[str, Sequence[str]], root: str) -> dict[str, list[str]]:
    """Return the edges reachable from `root` without those that close a cycle; keys in topological order."""
    kept: dict[str, list[str]] = {}
    done: list[str] = []
    walking: set[str] = set()

    def walk(key: str) -> None:
        walking.add(key)
        kept[key] = []
        for end in edges.get(key, ()):
            if end in walking:
                continue
            kept[key].append(end)
            if end not in kept:
                walk(end)
        walking.remove(key)
        done.append(key)

    walk(root)
    return {key: kept[key] for key in reversed(done)}


def _reduced(edges: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the transitive reduction of `edges`, whose keys are in topological order."""
    reach: dict[str, set[str]] = {}
    for key in reversed(list(edges)):
        reach[key] = set(edges[key]).union(*(reach[end] for end in edges[key]))
    return {
        key: [end for end in ends if not any(end in reach[other] for other in ends if other != end)]
        for key, ends in edges.items()
    }


def _depths(edges: Mapping[str, list[str]]) -> dict[str, int]:
    depth = dict.fromkeys(edges, 0)
    for key, ends in edges.items():
        for end in ends:
            depth[end] = max(depth[end], depth[key] + 1)
    return depth


def _untangle(columns: dict[int, list[str]], edges: Mapping[str, list[str]]) -> None:
    """Order each column by the position of its dependents, so that fewer edges cross."""
    needed_by: dict[str, list[str]] = {}
    for key, ends in edges.items():
        for end in ends:
            needed_by.setdefault(end, []).append(key)
    at: dict[str, float] = {}
    for level in sorted(columns):
        column = columns[level]
        column.sort(
            key=lambda key: (
                sum(at[each] for each in needed_by.get(key, ())) / max(len(needed_by.get(key, ())), 1),
                key,
            )
        )
        for row, key in enumerate(column):
            at[key] = (row + 0.5) / len(column)
