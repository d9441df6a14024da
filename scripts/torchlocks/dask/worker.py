"""Run on a worker: a task as JSON text → its result as JSON text."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torchlocks.core.errors import FleetError, TorchlocksError
from torchlocks.core.progress import Silent
from torchlocks.core.reading import load_json
from torchlocks.dask import messages
from torchlocks.lockfile.formats import parse_lock
from torchlocks.lockfile.models import Lock
from torchlocks.locking.cell import Cell, solve_cell
from torchlocks.locking.files import FilesTask, lock_files
from torchlocks.matrix.target import Target
from torchlocks.verify.verdict import Verdict


def perform(request: str) -> bytes:
    """Run the task of a message (see `messages`), and return its result or its error as JSON in UTF-8.

    Raises nothing: an exception would be pickled by Dask.
    """
    try:
        message = load_json(request)
        _require_versions(message["versions"])
        answer = _perform(message)
    except TorchlocksError as error:
        answer = {"error": error.as_data()}
    except Exception as error:
        name = own_name()
        failed = FleetError(
            f"The worker {name} failed: {type(error).__name__}: {error}",
            where=name,
            fix="read the worker's log",
            details="".join(traceback.format_exception(error)[-4:]),
        )
        answer = {"error": failed.as_data()}
    return json.dumps({"schema": messages.SCHEMA, **answer}).encode()


def own_name() -> str:
    """Return name and address of this worker; outside of a worker, the name of the machine."""
    import platform

    try:
        from distributed import get_worker

        worker: Any = get_worker()
    except (ImportError, ValueError):
        return platform.node()
    return f"{worker.name} ({worker.address})"


def _perform(message: Mapping[str, Any]) -> dict[str, Any]:
    task, value = message["task"], message["value"]
    if task == messages.SOLVE.name:
        cell = solve_cell(messages.unpack_solve(value, _records_here(message["records"])))
        return (
            {"error": cell.as_data()} if isinstance(cell, TorchlocksError) else {"cell": messages.as_json(Cell, cell)}
        )
    if task == messages.FILES.name:
        files = lock_files(messages.from_json(FilesTask, value))
        return {"error": files.as_data()} if isinstance(files, TorchlocksError) else {"files": files}
    if task == messages.VERIFY.name:
        verdict = verify_here(messages.from_json(messages.NodeTask, value))
        return {"verdict": verdict.model_dump(mode="json")}
    if task in messages.ELSEWHERE:
        answer: dict[str, Any] = import_module(messages.ELSEWHERE[task]).perform(
            value, _records_here(message["records"])
        )
        return answer
    raise ValueError(f"unknown task {task!r}")


def _require_versions(wanted: Mapping[str, str | None]) -> None:
    """Raise FleetError on a worker that joined, with other versions, after versions were compared."""
    here = versions_here(list(wanted))
    if here != wanted:
        raise FleetError(
            f"A worker that has joined has other versions, {listed(here)}, than the {listed(wanted)} here.",
            where=own_name(),
            fix="install the same torchlocks there",
        )


def versions_here(names: list[str]) -> dict[str, str | None]:
    """Return the versions of the distributions `names` in this Python; None if not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def listed(versions: Mapping[str, str | None]) -> str:
    """Format names and versions for a message."""
    return ", ".join(f"{name} {version or '(none)'}" for name, version in versions.items())


def describe_node() -> str:
    """Return name, kind and platform of this node, as a JSON list."""
    import platform
    from collections import Counter

    from torchlocks.host.detect import detect_host

    host = detect_host()
    gpus = [f"{count} x {name}" for name, count in sorted(Counter(gpu.name for gpu in host.gpus).items())]
    driver = [f"driver {host.driver}"] if host.driver else []
    kind = ", ".join([host.platform, *filter(None, [host.cpu_level]), *driver, *gpus])
    return json.dumps([platform.node(), kind, host.platform])


def verify_here(task: messages.NodeTask) -> Verdict:
    """Run the suite on a worker, after installing the lock if needed. Raises what installing and verifying raise."""
    from torchlocks.verify.suite import Required, SuiteOptions, verify_environment

    lock = parse_lock(task.lock_text.encode(), task.lock_path)
    prefix = task.prefix if task.prefix is not None else _install(lock, task.target)
    if not (prefix / "conda-meta").is_dir():
        raise FleetError(
            "The environment does not exist on this node.",
            where=str(prefix),
            fix="use a checkout on a file system that all nodes share, or let them install it: --install",
        )
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as reports:
        options = SuiteOptions(suite=_suite(task), reports=Path(reports), select=task.select)
        return verify_environment(prefix, lock, task.target.platform, Required.of(task.target), options, Silent())


def _records_here(name: str | None) -> Path | None:
    """Return the folder of the snapshot `name` on this worker (see `lock._Records`)."""
    if name is None:
        return None
    from distributed import get_worker

    return Path(get_worker().local_directory) / name


def _suite(task: messages.NodeTask) -> Path:
    """Return the checkout's suite if it exists on this node, else that of the torchlocks installed there."""
    if (task.suite / "conftest.py").is_file():
        return task.suite
    from torchlocks.core.layout import PACKAGED, Layout

    return Layout(PACKAGED).suite


def _install(lock: Lock, target: Target) -> Path:
    from distributed import get_worker

    from torchlocks.install.installer import install_environment
    from torchlocks.install.provenance import Origin

    prefix = Path(get_worker().local_directory) / "torchlocks-envs" / target.env
    prefix.parent.mkdir(parents=True, exist_ok=True)
    origin = Origin(name=target.env, channel="conda-forge")
    return install_environment(lock, target.platform, prefix, provenance=origin, progress=Silent()).prefix
