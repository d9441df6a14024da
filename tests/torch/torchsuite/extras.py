"""Packages that some environments have beside torch: required where a lock or the environment has them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torchsuite import skips
from torchsuite.expect import Expectation


def need(name: str, expectation: Expectation) -> Any:
    """The imported package. Skips where neither the lock nor the environment has it; fails where it does not import."""
    if importlib.util.find_spec(name) is None:
        if expectation.package(name) is not None:
            raise AssertionError(f"the lock has {name}, and it is not there to import")
        skips.skip(skips.Reason.ABSENT, f"the environment has no {name}")
    return importlib.import_module(name)
