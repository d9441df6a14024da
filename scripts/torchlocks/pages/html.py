"""HTML templates of the verification report and of the catalogue site."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from torchlocks.core.quantities import seconds

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates() -> Environment:
    """Return the Jinja environment of `templates/`: values are escaped, and undefined names are errors."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from torchlocks.core.quantities import size

    environment = Environment(
        loader=PackageLoader("torchlocks.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "seconds": seconds}
    return environment


def asset(name: str) -> str:
    """Return the text of a file of `templates/`, such as `style.css`."""
    return (resources.files("torchlocks.pages") / "templates" / name).read_text(encoding="utf-8")
