"""Sizes and times, as people read them."""

from __future__ import annotations

from collections.abc import Iterable


def size(count: int | None) -> str:
    """Bytes for people, in decimal units as channels count them."""
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit in ("B", "kB") else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def shortened(names: Iterable[str], most: int = 8) -> str:
    """Names for a sentence: sorted, each once, and beyond `most` of them only how many more there are."""
    known = sorted(set(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def seconds(amount: float) -> str:
    """A time for people: `0.4 ms`, `35 ms`, `2.1 s`, `3 min 20 s`."""
    if amount >= 99.5:
        minutes, rest = divmod(round(amount), 60)
        return f"{minutes} min {rest} s"
    if amount >= 0.9995:
        return f"{amount:.1f} s"
    return f"{amount * 1000:.0f} ms" if amount >= 0.0095 else f"{amount * 1000:.1f} ms"
