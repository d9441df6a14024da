"""HTML from templates: what the report of a verification and the catalogue site have in common."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates() -> Environment:
    """The Jinja templates of `templates/`: all values are escaped, and a name that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from torchlocks.diff_report import size

    environment = Environment(
        loader=PackageLoader("torchlocks", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "seconds": seconds}
    return environment


def asset(name: str) -> str:
    """The text of a file of `templates/`, such as `style.css`."""
    return (resources.files("torchlocks") / "templates" / name).read_text(encoding="utf-8")


def seconds(amount: float) -> str:
    """A time for people: `0.4 ms`, `35 ms`, `2.1 s`, `3 min 20 s`."""
    if amount >= 99.5:
        minutes, rest = divmod(round(amount), 60)
        return f"{minutes} min {rest} s"
    if amount >= 0.9995:
        return f"{amount:.1f} s"
    return f"{amount * 1000:.0f} ms" if amount >= 0.0095 else f"{amount * 1000:.1f} ms"
