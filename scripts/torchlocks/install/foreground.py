"""Programs that run in the foreground, in the place of this one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run_in_foreground(command: str | Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program, or a command line of the shell, with these variables.

    Returns its exit status, 128 + N after signal N. Ctrl-C is the program's to answer, and not a reason to leave it
    behind.
    """
    import signal
    import subprocess

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        # Before the program starts, or Ctrl-C could come in between. A handler and not SIG_IGN, which it would inherit.
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        status = subprocess.Popen(command, shell=isinstance(command, str), env=environment).wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status
