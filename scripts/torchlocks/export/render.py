"""What all exports share: their input besides the lock, the explicit file, and the templates."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torchlocks.core.urls import strip_credentials
from torchlocks.export.environment import LockedTarget

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an export has besides the lock: where the environment is installed, for those that start programs in it.

    `left_out` are the Python packages whose versions PyPI's torch contradicts (see `pypi`); None if nobody asked, or if
    PyPI has no such torch.
    """

    prefix: str
    left_out: tuple[str, ...] | None = ()


def explicit_text(locked: LockedTarget) -> str:
    """Return the explicit file, as it is committed beside the lock, but without credentials."""
    from torchlocks.lockfile.explicit import write_explicit

    packages = tuple(replace(each, url=strip_credentials(each.url)) for each in locked.lock.packages[locked.platform])
    return write_explicit(replace(locked.lock, packages={locked.platform: packages}), locked.platform)


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("torchlocks.pages", "templates/export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # No output is HTML; the templates quote values for their language.
        autoescape=False,
    )
    environment.filters["quoted"] = json.dumps
    return environment


def render(template: str, locked: LockedTarget, **values: Any) -> str:
    # The file's name is written into scripts, so other characters are removed.
    file = "-".join(re.findall(r"[A-Za-z0-9_.+-]+", locked.lock.path.name)) or "the-lock"
    path = locked.lock.path.as_posix()
    if locked.target is not None:
        # In a clone; where this one is means nothing on the machine that the script is for.
        path = f"locks/{locked.name}/{file}"
    elif not re.fullmatch(r"[A-Za-z0-9_./+-]+", path):
        path = file
    return _templates().get_template(template).render(locked=locked, lock_file=file, lock_path=path, **values)
