"""Programs that run in the foreground, in the place of this one."""

from __future__ import annotations

import signal
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def run_shell_command(command: str, environment: Mapping[str, str]) -> int:
    """Run a command line of the shell with these variables; return its exit status (128 + N after signal N)."""
    return status_of(subprocess.Popen(command, shell=True, env=environment))


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program in the foreground. Ctrl-C is the program's to answer, and not a reason to leave it behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status
