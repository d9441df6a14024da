"""What releases of torch have, and the oldest that the checks support."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, NoReturn

from torchsuite import skips

#: The oldest torch that the checks are for: 2.1 is the first for Python 3.11 whose compiler and CUDA builds they cover.
OLDEST = (2, 1)


def older(version: str, than: tuple[int, ...]) -> bool:
    """Whether a version's release is older than another; false for a text that is no version."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found is not None and tuple(int(part) for part in found[0].split(".")[: len(than)]) < than


def module(name: str, since: str) -> Any:
    """The module `name`, which torch has from the release `since` on; skips the check where there is none."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        _skip(name, since)


def attribute(owner: Any, name: str, since: str) -> Any:
    """The attribute `name` of a module, which torch has from the release `since` on; skips the check otherwise."""
    if not hasattr(owner, name):
        _skip(f"{owner.__name__}.{name}", since)
    return getattr(owner, name)


def _skip(what: str, since: str) -> NoReturn:
    # torch-verify itself takes nothing but the standard library.
    import torch

    skips.skip(skips.Reason.RELEASE, f"torch {torch.__version__} has no {what}, which came with torch {since}")
