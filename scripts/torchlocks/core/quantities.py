"""Format sizes, times and lists of names for people."""

from __future__ import annotations

from collections.abc import Iterable


def size(count: int | None) -> str:
    """Return a number of bytes in decimal units, such as `1.2 GB`; `unknown` for None."""
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit in ("B", "kB") else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def shortened(names: Iterable[str], most: int = 8) -> str:
    """Return unique, sorted names joined by commas; only the number of those beyond the first `most`."""
    known = sorted(set(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def seconds(amount: float) -> str:
    """Return a time in seconds as text: `0.4 ms`, `35 ms`, `2.1 s`, `3 min 20 s`."""
    if amount >= 99.5:
        minutes, rest = divmod(round(amount), 60)
        return f"{minutes} min {rest} s"
    if amount >= 0.9995:
        return f"{amount:.1f} s"
    return f"{amount * 1000:.0f} ms" if amount >= 0.0095 else f"{amount * 1000:.1f} ms"
