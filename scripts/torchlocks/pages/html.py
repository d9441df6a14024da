"""HTML from templates: what the report of a verification and the catalogue site have in common."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from torchlocks.core.quantities import seconds

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates() -> Environment:
    """The Jinja templates of `templates/`: all values are escaped, and a name that is not given is an error."""
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
    """The text of a file of `templates/`, such as `style.css`."""
    return (resources.files("torchlocks.pages") / "templates" / name).read_text(encoding="utf-8")
