"""Work on one prefix: its final path, the lock that one process holds, and a clean end on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import BusyError, InstallError, InterruptedByUserError
from torchlocks.core.progress import Progress
from torchlocks.install import swap


def final_path(prefix: Path) -> Path:
    """The path that is patched into an environment's files: absolute, and not a link itself.

    Raises InstallError for what can be no environment: the top of a disk, a loop of links, a name that is too long.
    """
    try:
        final = prefix.resolve() if prefix.is_symlink() else prefix.absolute()
        # Hidden siblings have the name and a suffix of up to 20 characters.
        long = len(os.fsencode(final.name)) > 230
        os.path.lexists(final)
        final.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InstallError(f"This path can be no environment: {reason}.", where=str(prefix)[:500]) from None
    if not final.name or long:
        what = "it is the top of a disk" if not final.name else "its name is too long"
        raise InstallError(
            f"This path can be no environment: {what}.", where=str(final)[:500], fix="name a folder below it."
        )
    return final


@contextmanager
def prefix_lock(prefix: Path, wait_s: float | None, progress: Progress) -> Iterator[None]:
    """Hold the lock of all work on `prefix`; reports when it has to wait.

    Raises BusyError when it was not free within `wait_s` seconds (None: waits until it is), InstallError when the
    folder above cannot be written to.
    """
    from filelock import FileLock, Timeout

    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(swap.hidden(prefix, "lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"Another process is at work on {prefix}; waiting for it to finish.")
            try:
                lock.acquire(timeout=-1 if wait_s is None else wait_s)
            except Timeout as error:
                raise BusyError(
                    "Another process is at work on this environment.",
                    where=str(prefix),
                    fix="wait for it to finish, or stop it, and run this again.",
                ) from error
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InstallError(
            f"The folder for the environment cannot be used: {error.strerror or error}.", where=str(prefix.parent)
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work within, through all its clean-up, as InterruptedByUserError."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if in_main else None
    if in_main and before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedByUserError("Interrupted; what was installed before is untouched.") from error
    finally:
        if in_main and before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
