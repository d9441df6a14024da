"""Programs that run in the foreground, in the place of this one."""

# Importing pathlib takes longer than all that is done here.
# ruff: noqa: PTH208
from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

_IGNORED = (13, 25)
"""SIGPIPE and SIGXFSZ on Linux and macOS, which Python ignores and programs expect not to be."""


def run_shell_command(command: str, environment: Mapping[str, str]) -> int:
    """Run a command line of the shell with these variables; return its exit status (128 + N after signal N)."""
    inherited = _inherited() if sys.platform in ("linux", "darwin") else None
    if inherited is None:
        import subprocess

        return status_of(subprocess.Popen(command, shell=True, env=environment))
    # As `subprocess` does it, whose import takes longer than the start of the shell.
    process = os.posix_spawn(
        "/bin/sh",
        ["/bin/sh", "-c", command],
        environment,
        file_actions=[(os.POSIX_SPAWN_CLOSE, number) for number in inherited],
        setsigdef=_IGNORED,
    )
    while True:
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        except KeyboardInterrupt:
            # Ctrl-C is the program's to answer.
            continue
        return 128 - status if status < 0 else status


def _inherited() -> list[int] | None:
    """Return the open files, beside the standard ones, that a new program would inherit; None if unknown."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        return None
    found = []
    for number in numbers:
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:
            # The listing itself, which is closed by now.
            continue
    return found


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program in the foreground. Ctrl-C is the program's to answer, and not a reason to leave it behind."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status
