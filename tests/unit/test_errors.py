"""Errors as a list of all the ways to fail: scripts tell them apart by exit code."""

from __future__ import annotations

import torchlocks.errors
from torchlocks.errors import TorchlocksError


def test_every_kind_of_failure_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(torchlocks.errors).values()
        if isinstance(kind, type) and issubclass(kind, TorchlocksError) and kind is not TorchlocksError
    ]
    codes = {kind.exit_code: kind.__name__ for kind in kinds}
    assert len(codes) == len(kinds) >= 20
    # 0 is success; 1 and 2 are those of Python and click.
    assert not codes.keys() & {0, 1, 2}
    assert all(kind.__doc__ for kind in kinds)
