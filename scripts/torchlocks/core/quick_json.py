"""JSON for what is counted in milliseconds: the standard library's scanner without its Python part.

The import of `json` compiles regular expressions, which takes as long as half a start of Python. The scanner in C needs
none of them; whatever it does not plainly accept is left to `json`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Options:
    """What the scanner is made with: the defaults of `json.loads`, but no NaN and Infinity."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None


def loads(data: bytes) -> Any:
    """Return the value of a JSON document, as `json.loads` does. Raises ValueError if it is none."""
    try:
        from _json import make_scanner

        text = data.decode()
        value, end = make_scanner(_Options())(text, 0)  # type: ignore[arg-type]
    except Exception:
        pass
    else:
        if not text[end:].strip(" \t\r\n"):
            return value
    import json

    return json.loads(data)
