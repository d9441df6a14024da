"""Ending a process that has used py-rattler."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process with `code`, at once, when all output is written.

    py-rattler's worker threads may still hold Python objects when `asyncio.run` returns, and an interpreter
    that shuts down under them crashes: with py-rattler 0.28 on two busy cores, in every second run, after the
    right answer was printed. Skipping the interpreter's shutdown avoids it.
    """
    if "multiprocessing.forkserver" in sys.modules:
        # Where its sockets are, which the interpreter's shutdown would remove.
        import shutil
        from multiprocessing.util import get_temp_dir

        shutil.rmtree(get_temp_dir(), ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        # A reader that went away (`torchlocks … | head`) is no reason to crash either.
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)
