"""Where work is done: in this process, in processes of this machine, or on a fleet. One interface for all three.

That interface is `concurrent.futures.Executor`, of the standard library: whoever submits work does not know where
it runs. What is submitted is a function of a module and values; what comes back are values.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torchlocks.errors import SolveError

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

    `preload` are modules to import once, before there are processes: each then starts with them. What is left to do is
    not begun when the block is left by an exception.
    """
    # Forked from a process that has no threads, unlike this one; where there is no such thing, started anew.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(list(preload))
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
            raise


def _leave_signals() -> None:
    """Ctrl-C reaches every process of the terminal; the one that submitted the work decides what becomes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
