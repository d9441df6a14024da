"""An executor whose workers are those of a Dask scheduler.

Dask (distributed) schedules, retries the tasks of lost workers, and transports messages (see `messages`). This module
checks that workers have the same torchlocks, sends them the snapshot of channel records, and reports errors. Workers
share no files with this machine and leave none behind: results are returned as values, so that a task can run twice.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlocks.core.errors import FleetError
from torchlocks.core.files import hash_file
from torchlocks.core.reading import load_json
from torchlocks.dask import messages
from torchlocks.dask.exchange import Exchange
from torchlocks.dask.worker import listed, versions_here
from torchlocks.locking.options import RecordTask
from torchlocks.solve.repodata import channel_name

CONNECT_SECONDS = 10.0
"""Seconds to wait for the scheduler's answer, and for a first worker."""

_UNPICKLED = ["dask", "msgpack", "error"]
"""Deserializers for results: bytes need none, and pickled results are refused instead of unpickled."""

PATIENCE_SECONDS = 60.0
"""Seconds to wait for new workers when all are lost; batch systems need time to start them."""


@contextmanager
def open_cluster(address: str, tasks: Sequence[RecordTask], patience: float = PATIENCE_SECONDS) -> Iterator[Executor]:
    """Yield an executor on the scheduler at `address`, whose workers have the records for `tasks`.

    Raises FleetError when the scheduler cannot be reached, a worker does not have the same versions, or all workers
    are lost and no new one appears within `patience` seconds.
    """
    with connected(address) as client:
        versions = same_versions(client, ("torchlocks", "py-rattler", "conda-lock"))
        records = _records(tasks)
        if records is not None:
            # Workers that join later get the plugin as well.
            client.register_plugin(records.plugin())
        executor = Exchange(client, versions, records.name if records else None)
        try:
            with watched(client, lambda: executor.shutdown(wait=False), patience):
                yield executor
        except BaseException:
            executor.shutdown(wait=False)
            raise
        finally:
            if records is not None and client.status == "running":
                client.unregister_worker_plugin(records.name)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler at `address`, a URL or a scheduler file (`*.json`), with at least one worker.

    Raises FleetError if there is none, and if the connection or a task is lost inside the block.
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
    # This module raises errors of its own; Dask's log reports lost connections and refused results.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    where: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    # Dask's own type hints do not cover the client.
    connect: Any = distributed.Client
    try:
        client = connect(**where, timeout=CONNECT_SECONDS, set_as_default=False, deserializers=_UNPICKLED)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(
            "The scheduler does not answer.",
            where=f"{address}: {_without_login(str(error), address) or type(error).__name__}",
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
            "A task was abandoned after several workers ended while they ran it.",
            where=str(error).splitlines()[0],
            fix="read the workers' logs; the usual cause is too little memory (`dask worker --memory-limit`)",
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise FleetError(
            "The connection to the scheduler, or to all of its workers, was lost.",
            where=address,
            fix="start them and run this again; `lock` goes on from the locks that it has written",
        ) from error
    finally:
        client.close(timeout=2)


def _without_login(text: str, address: str) -> str:
    """Return Dask's message without the user and password of `address`, which it repeats outside of a URL."""
    login = address.partition("://")[2].rpartition("@")[0]
    return text.replace(login, "***") if login else text


@contextmanager
def watched(client: Any, give_up: Callable[[], object], patience: float) -> Iterator[None]:
    """Call `give_up` if the scheduler has no worker, or does not answer, for `patience` seconds.

    Dask itself would wait forever.
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
    here = versions_here(list(names))
    found = ask_all(client, _look_for(names))
    differing = {worker: there for worker, there in found.items() if there != here}
    if differing:
        texts = [
            f"{worker} has {listed(there) if isinstance(there, dict) else 'no versions'}"
            for worker, there in sorted(differing.items())
        ]
        raise FleetError(
            f"{len(differing)} workers do not have the versions that this machine has: {listed(here)}.",
            where="; ".join(texts[:5]),
            fix="install the same torchlocks there: pip install with this checkout's requirements.txt",
        )
    return here


def ask_all(client: Any, function: Callable[[], str]) -> dict[str, Any]:
    """Run `function` on all workers, and return their results by address, parsed as JSON.

    Raises FleetError, with the worker's name, if one fails or its answer is not JSON.
    """
    found = {}
    for address, answer in client.run(function, on_error="return").items():
        if isinstance(answer, Exception):
            raise FleetError(
                f"The worker {address} failed: {type(answer).__name__}: {answer}",
                where=address,
                fix="read the worker's log, and check that it has this version of torchlocks",
            )
        try:
            if not isinstance(answer, str):
                raise TypeError(f"it is {type(answer).__name__}, not text")
            found[address] = load_json(answer)
        except (ValueError, TypeError) as error:
            raise messages.bad_answer(address, str(error)) from error
    return found


def _look_for(names: Sequence[str]) -> Callable[[], str]:
    def look() -> str:
        # A nested function is pickled by value, so that it also runs where torchlocks is not installed.
        import json
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return json.dumps(found)

    return look


@dataclass(frozen=True, kw_only=True)
class _Records:
    """The compressed files of a snapshot that tasks require, by their path in it."""

    name: str
    files: Mapping[str, bytes]

    def plugin(self) -> Any:
        """Return a plugin that unpacks the files on each worker, including those that join later."""
        from distributed import WorkerPlugin

        records = self

        class _Unpacked(WorkerPlugin):
            name = records.name

            def setup(self, worker: Any) -> None:
                import zstandard

                for path, packed in records.files.items():
                    file = Path(worker.local_directory) / records.name / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    # In pieces: a channel's records may be as large as the worker's memory limit.
                    with file.open("wb") as unpacked:
                        zstandard.ZstdDecompressor().copy_stream(io.BytesIO(packed), unpacked)

            def teardown(self, worker: Any) -> None:
                import shutil

                shutil.rmtree(Path(worker.local_directory) / records.name, ignore_errors=True)

        return _Unpacked()


def _records(tasks: Sequence[RecordTask]) -> _Records | None:
    """Return the snapshot files that `tasks` require; None without a snapshot."""
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
        packed = io.BytesIO()
        with path.open("rb") as data:
            zstandard.ZstdCompressor(level=3).copy_stream(data, packed, size=path.stat().st_size)
        sha.update(f"{name} {hash_file(path)}\n".encode())
        files[name] = packed.getvalue()
    return _Records(name=f"torchlocks-records-{sha.hexdigest()[:16]}", files=files)
