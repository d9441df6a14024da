"""An executor whose workers are those of a Dask scheduler.

Dask (distributed) schedules, retries the tasks of lost workers, and moves values. This module checks that workers have
the same torchlocks, sends them the snapshot of channel records, and reports errors. Workers need not share files with
this machine, and leave none behind: results are returned as values, so that a task can run twice.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torchlocks.core.errors import FleetError
from torchlocks.locking.cell import CellTask
from torchlocks.solve.repodata import RecordSource, channel_name

Result = TypeVar("Result")

CONNECT_SECONDS = 10.0
"""Seconds to wait for the scheduler's answer, and for a first worker."""

PATIENCE_SECONDS = 60.0
"""Seconds to wait for new workers when all are lost: a batch system needs time to start others."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Requirements of a task: the versions that its worker must have, and the name of the records that it reads."""

    versions: Mapping[str, str | None]
    records: str | None = None


class _DaskExecutor(Executor):
    """Submits to Dask; each task first checks its worker's versions and locates the records there."""

    def __init__(self, executor: Executor, ticket: Ticket) -> None:
        self._executor, self._ticket = executor, ticket

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        return self._executor.submit(_on_worker, self._ticket, fn, *args, **kwargs)


@contextmanager
def open_cluster(address: str, tasks: Sequence[CellTask], patience: float = PATIENCE_SECONDS) -> Iterator[Executor]:
    """Yield an executor on the scheduler at `address`, whose workers have the records that `tasks` are solved from.

    Raises FleetError when the scheduler cannot be reached, a worker does not have the same versions, or all workers
    are lost and no new one appears within `patience` seconds.
    """
    with connected(address) as client:
        versions = same_versions(client, ("torchlocks", "py-rattler", "conda-lock"))
        records = _records(tasks)
        ticket = Ticket(versions=versions, records=records.name if records else None)
        if records is not None:
            # Workers that join later get the plugin as well.
            client.register_plugin(records.plugin())
        executor: Executor = client.get_executor(pure=False)
        try:
            with watched(client, lambda: executor.shutdown(wait=False), patience):
                yield _DaskExecutor(executor, ticket)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        finally:
            if records is not None and client.status == "running":
                client.unregister_worker_plugin(records.name)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler at `address`, a URL or a scheduler file (`*.json`), with at least one worker.

    Raises FleetError if there is none, and when the connection or a task is lost for good inside the block.
    """
    try:
        import distributed
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker
    except ModuleNotFoundError as error:
        raise FleetError(
            "Working on several machines requires Dask, which is not installed.",
            where=str(error),
            fix="pip install 'torchlocks[fleet]'",
        ) from error
    # This module raises errors of its own; Dask's log reports every lost connection.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    where: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    # Dask's own type hints do not cover the client.
    connect: Any = distributed.Client
    try:
        client = connect(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(
            "The scheduler does not answer.",
            where=f"{address}: {error or type(error).__name__}",
            fix="start one (`dask scheduler`), and name its address, such as tcp://host:8786, or its scheduler file",
        ) from error
    try:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise FleetError(
                "The scheduler has no workers.", where=address, fix=f"start some: `dask worker {address}`"
            ) from error
        yield client
    except KilledWorker as error:
        raise FleetError(
            "A task ended several workers, one after another, so it was given up.",
            where=str(error).splitlines()[0],
            fix="read the workers' logs; most often they have too little memory (`dask worker --memory-limit`)",
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise FleetError(
            "The fleet was lost: its scheduler, or all of its workers, are gone.",
            where=address,
            fix="start them and run this again: locks that were written are not solved again",
        ) from error
    finally:
        client.close(timeout=2)


@contextmanager
def watched(client: Any, give_up: Callable[[], object], patience: float) -> Iterator[None]:
    """Call `give_up` when the scheduler has no worker, or does not answer, for `patience` seconds.

    Dask itself would wait forever for new workers.
    """
    stop = threading.Event()

    def watch() -> None:
        alone, step = 0.0, min(1.0, patience / 2)
        while not stop.wait(step):
            try:
                alone = 0.0 if client.nthreads() else alone + step
            except (OSError, RuntimeError, TimeoutError):
                alone += step
            if alone >= patience:
                give_up()
                return

    thread = threading.Thread(target=watch, name="torchlocks-fleet", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def same_versions(client: Any, names: Sequence[str]) -> dict[str, str | None]:
    """Return the versions of the distributions `names`, here and on all workers; None if not installed.

    Raises FleetError with the workers that have other versions: a lock records the versions that made it.
    """
    look = _look_for(names)
    mine = look()
    differing = {worker: theirs for worker, theirs in client.run(look).items() if theirs != mine}
    if differing:
        raise FleetError(
            f"{len(differing)} workers do not have the versions that this machine has: {_listed(mine)}.",
            where="; ".join(f"{worker} has {_listed(theirs)}" for worker, theirs in sorted(differing.items())[:5]),
            fix="install the same torchlocks there: pip install with this checkout's requirements.txt",
        )
    return mine


def _look_for(names: Sequence[str]) -> Callable[[], dict[str, str | None]]:
    def look() -> dict[str, str | None]:
        # A nested function is pickled by value, so that it also runs where torchlocks is not installed.
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    return look


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or '(none)'}" for name, version in versions.items())


def _on_worker(ticket: Ticket, fn: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Run a task on a worker, which may have joined after the versions were compared."""
    mine = _look_for(tuple(ticket.versions))()
    if mine != ticket.versions:
        raise FleetError(
            f"A worker that has joined has other versions, {_listed(mine)}, than the {_listed(ticket.versions)} here.",
            fix="install the same torchlocks there",
        )
    return fn(*(_with_records_here(ticket, each) for each in args), **kwargs)


def _with_records_here(ticket: Ticket, value: Any) -> Any:
    """Return a cell task with the snapshot's path on this worker, and any other value unchanged."""
    if ticket.records is None or not isinstance(value, CellTask) or value.source.snapshot is None:
        return value
    from distributed import get_worker

    here = RecordSource(
        snapshot=Path(get_worker().local_directory) / ticket.records, as_of=value.source.as_of, mirror=None
    )
    return replace(value, source=here)


@dataclass(frozen=True, kw_only=True)
class _Records:
    """The files of a snapshot that tasks are solved from, compressed, by path in it."""

    name: str
    files: Mapping[str, bytes]

    def plugin(self) -> Any:
        """Return a plugin that unpacks the files on each worker, also on those that join later."""
        from distributed import WorkerPlugin

        records = self

        class _Unpacked(WorkerPlugin):
            name = records.name

            def setup(self, worker: Any) -> None:
                import zstandard

                for path, packed in records.files.items():
                    file = Path(worker.local_directory) / records.name / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(zstandard.ZstdDecompressor().decompress(packed))

            def teardown(self, worker: Any) -> None:
                import shutil

                shutil.rmtree(Path(worker.local_directory) / records.name, ignore_errors=True)

        return _Unpacked()


def _records(tasks: Sequence[CellTask]) -> _Records | None:
    """Return the files that `tasks` are solved from; None without a snapshot."""
    import zstandard

    paths: dict[str, Path] = {}
    for task in tasks:
        if task.source.snapshot is None:
            continue
        for channel in task.target.channels:
            for subdir in (task.target.platform, "noarch"):
                name = f"{channel_name(channel)}/{subdir}/repodata.json"
                if not channel.startswith("file://") and (task.source.snapshot / name).is_file():
                    paths[name] = task.source.snapshot / name
    if not paths:
        return None
    sha = hashlib.sha256()
    files = {}
    for name, path in sorted(paths.items()):
        data = path.read_bytes()
        sha.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        files[name] = zstandard.ZstdCompressor(level=3).compress(data)
    return _Records(name=f"torchlocks-records-{sha.hexdigest()[:16]}", files=files)
