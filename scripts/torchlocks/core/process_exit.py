"""End a process that has used py-rattler."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """Flush all output and end the process with exit code `code`, without the interpreter's shutdown.

    py-rattler's worker threads may still hold Python objects when `asyncio.run` returns, and the interpreter crashes
    when it shuts down at that time. To reproduce (py-rattler 0.28): run `torchlocks lock` with a plain `sys.exit` on
    two busy cores; about every second run crashes after its output is complete.
    """
    if "multiprocessing.forkserver" in sys.modules:
        # The folder of its sockets, which the interpreter's shutdown would remove.
        import shutil
        from multiprocessing.util import get_temp_dir

        shutil.rmtree(get_temp_dir(), ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        # The reader may be gone (`torchlocks … | head`).
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)
