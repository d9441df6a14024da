"""The cache of solved locks: what makes a cached result invalid."""

from __future__ import annotations

from pathlib import Path

import torchlocks
from torchlocks.locking import solve_cache


def test_every_module_that_a_lock_depends_on_invalidates_it() -> None:
    listed = {line.split()[0] for line in solve_cache._this_program()[1:]}
    root = Path(torchlocks.__file__).parent
    assert {"solve/executable.py", "lockfile/pixi.py", "matrix/render.py", "locking/cell.py"} <= listed
    assert listed == {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
