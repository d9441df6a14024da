"""Executors: in this process or in processes of this machine (`torchlocks.dask` has one for other machines).

All have the interface of `concurrent.futures.Executor`. Tasks are module-level functions with picklable arguments and
results.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from torchlocks.core.errors import SolveError

IN_FLIGHT = 256
"""Tasks that are submitted at once: enough for the workers of a large cluster. Those that wait are in memory, and an
executor works in the order of submission.
"""

Task = TypeVar("Task")
Result = TypeVar("Result")


class Here(Executor):
    """Runs calls synchronously in this process, for a single task that a pool would only slow down."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def temporary_files_in_scratch() -> Iterator[Path]:
    """Yield a new folder in which this process makes its temporary files meanwhile; it is deleted at the end.

    Libraries that delete theirs in `atexit` functions (conda-lock) leave them in processes that end otherwise.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="torchlocks-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def processes(count: int, preload: Sequence[str]) -> Iterator[Executor]:
    """Yield a pool of one process for each core, at most `count`.

    `preload` are modules that are imported once, before the processes are forked. If the block raises, pending tasks
    are cancelled and the processes terminated. All temporary files of the processes are deleted at the end, however
    the processes end. Raises SolveError when a worker process was killed.
    """
    # The fork server has no threads, unlike this process; where it is not available, processes are spawned.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() and _has_room() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(list(preload))
    others = set(multiprocessing.active_children())
    with (
        tempfile.TemporaryDirectory(prefix="torchlocks-", ignore_cleanup_errors=True) as scratch,
        ProcessPoolExecutor(
            min(count, os.cpu_count() or 1), context, initializer=_start_worker, initargs=(scratch,)
        ) as pool,
    ):
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
            # This process may end without a shutdown (`exit_process`), and idle workers would outlive it.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
                process.join(timeout=5)
            raise


def in_order(
    pool: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], at_once: int = IN_FLIGHT
) -> Iterator[tuple[Task, Result]]:
    """Call `function` with each task in `pool`, and yield each task with its result, in the order of the tasks.

    At most `at_once` tasks are submitted at a time. Raises what the first call that fails raises.
    """
    submitted = ((task, pool.submit(function, task)) for task in tasks)
    pending = deque(islice(submitted, at_once))
    while pending:
        task, future = pending.popleft()
        result = future.result()
        pending.extend(islice(submitted, 1))
        yield task, result


def _has_room() -> bool:
    """Return whether the path of the fork server's socket is short enough: `TMPDIR/pymp-XXXXXXXX/listener-XXXXXXXX`.

    `sun_path` holds 108 bytes on Linux and 104 on macOS (unix(7), unix(4)), the last of them zero.
    """
    return len(os.fsencode(tempfile.gettempdir())) + len("/pymp-XXXXXXXX/listener-XXXXXXXX") <= 103


def _start_worker(scratch: str) -> None:
    """Ignore Ctrl-C in a worker, which the submitting process handles, and make temporary files in `scratch`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = scratch
