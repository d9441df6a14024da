"""Where work is done: in this process, in processes of this machine, or on a fleet. One interface for all three.

That interface is `concurrent.futures.Executor`, of the standard library: whoever submits work does not know where
it runs. What is submitted is a function of a module and values; what comes back are values.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torchlocks.core.errors import SolveError

Result = TypeVar("Result")


class Here(Executor):
    """Does all work in this process, at once: for a single piece of it, which a pool would only make slower."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def processes(count: int, preload: Sequence[str]) -> Iterator[Executor]:
    """As many processes of this machine as it has cores, `count` at most.

    `preload` are modules to import once, before there are processes: each then starts with them. When the block is left
    by an exception, what is left to do is not begun, and the processes are ended: nobody waits for them any more.
    Raises SolveError when one of them was ended from outside.
    """
    # Forked from a process that has no threads, unlike this one; where there is no such thing, started anew.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() and _has_room() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(list(preload))
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(count, os.cpu_count() or 1), context, initializer=_leave_signals) as pool:
        try:
            yield pool
        except BrokenExecutor as error:
            raise SolveError(
                "A worker process has ended.",
                where=str(error),
                fix="this machine may be out of memory: free some, and run it again; nothing was lost",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # This process may end at once (`leave`), and idle workers would outlive it.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
                process.join(timeout=5)
            raise


def _has_room() -> bool:
    """Whether the path of the fork server's socket is short enough: `TMPDIR/pymp-XXXXXXXX/listener-XXXXXXXX`.

    `sun_path` holds 108 bytes on Linux and 104 on macOS (unix(7), unix(4)), the last of them zero.
    """
    return len(os.fsencode(tempfile.gettempdir())) + len("/pymp-XXXXXXXX/listener-XXXXXXXX") <= 103


def _leave_signals() -> None:
    """Ctrl-C reaches every process of the terminal; the one that submitted the work decides what becomes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
