"""An executor that sends tasks to Dask's workers as JSON text, and parses their results."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from concurrent.futures import TimeoutError as NoAnswerYetError
from contextlib import suppress
from typing import Any

from torchlocks.core.errors import FleetError
from torchlocks.dask import messages
from torchlocks.dask.worker import perform


class Exchange(Executor):
    """Submits tasks as text to the workers of `client`, and parses their results.

    `versions` are required of a worker; `records` is the name of the snapshot that was sent to the workers.
    """

    def __init__(self, client: Any, versions: Mapping[str, str | None], records: str | None = None) -> None:
        self._client, self._versions, self._records = client, versions, records
        self._answers: weakref.WeakSet[_Answer] = weakref.WeakSet()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit one of the functions of `messages.KINDS` with its task."""
        return self.send(messages.KINDS[fn], args[0])

    def send(self, kind: messages.Kind, task: object, workers: Sequence[str] | None = None) -> Future[Any]:
        """Submit a task, to one of `workers` (addresses) if given; the future's result is the task's.

        The future raises FleetError if the answer is not valid, or the worker itself failed.
        """
        text = messages.request(kind, task, self._versions, self._records)
        where = {} if workers is None else {"workers": list(workers)}
        sent = self._client.submit(perform, text, key=f"torchlocks-{uuid.uuid4().hex}", pure=False, **where)
        answer = _Answer(self._client, sent, kind, task)
        self._answers.add(answer)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all submitted tasks."""
        for answer in list(self._answers):
            answer.cancel()


class _Answer(Future[Any]):
    """A future of a worker's answer, parsed in the thread that calls `result`: Dask's own thread must not block."""

    def __init__(self, client: Any, sent: Any, kind: messages.Kind, task: object) -> None:
        super().__init__()
        self._client, self._sent, self._kind, self._task = client, sent, kind, task

        async def gather() -> object:
            return await client.gather(sent, asynchronous=True)

        self._gathered = asyncio.run_coroutine_threadsafe(gather(), client.loop.asyncio_loop)
        self._gathered.add_done_callback(self._copy)

    def _copy(self, gathered: Future[object]) -> None:
        with suppress(InvalidStateError):
            if gathered.cancelled():
                self._end()
            elif (error := gathered.exception()) is not None:
                self.set_exception(error)
            else:
                self.set_result(gathered.result())

    def cancel(self) -> bool:
        """Cancel the task, also where it runs, if it is not done."""
        if self.done():
            return False

        async def cancel() -> None:
            # The scheduler may be gone.
            with suppress(OSError, RuntimeError, CancelledError):
                await self._client.cancel([self._sent], asynchronous=True)

        with suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(cancel(), self._client.loop.asyncio_loop)
        return self._end()

    def _end(self) -> bool:
        # The second call notifies waiting threads.
        return super().cancel() and not self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Any:
        """Return the result of the task.

        Raises FleetError (see `Exchange.send`), and Dask's own errors if the task was lost.
        """
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        try:
            answer = super().result(timeout)
        except (KilledWorker, CommClosedError, CancelledError, NoAnswerYetError):
            raise
        except Exception as error:
            worker = worker_of(self._client, self._sent.key)
            raise FleetError(
                f"The worker {worker} failed: {type(error).__name__}: {_first_line(error)}",
                where=worker,
                fix="read the worker's log, and check that it is one of yours and has this version of torchlocks",
            ) from error
        return messages.read_answer(answer, self._kind, self._task, lambda: worker_of(self._client, self._sent.key))


def worker_of(client: Any, key: str) -> str:
    """Return name and address of the worker that ran the task `key`, for messages."""

    def ran(dask_scheduler: Any) -> list[str]:
        task = dask_scheduler.tasks.get(key)
        return [] if task is None else [worker.address for worker in task.who_has or ()] + list(task.erred_on or ())

    try:
        address = client.run_on_scheduler(ran)[0]
        name = client.scheduler_info(n_workers=-1)["workers"][address]["name"]
    except (LookupError, OSError, RuntimeError, TypeError, AttributeError):
        return "(unknown)"
    return str(address) if name == address else f"{name} ({address})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
