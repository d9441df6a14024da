"""Verify an environment on the nodes of a Dask scheduler: on each node, or on one of each kind.

The suite runs on the worker, in an environment at the same path (on a shared file system), or in one that the worker
installs from the lock on its own disk. Verdicts are returned as JSON text (see `messages`); only this process writes
reports.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchlocks.core.errors import FleetError, MissingFileError, TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.dask.exchange import Exchange
from torchlocks.dask.lock import PATIENCE_SECONDS, ask_all, connected, same_versions
from torchlocks.dask.messages import VERIFY, NodeTask, bad_answer
from torchlocks.dask.worker import describe_node
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.verify.report import write_reports
from torchlocks.verify.verdict import Verdict

Per = Literal["node", "kind", "worker"]
"""Verify on every node, on one node of each kind (platform, CPU, driver and GPUs), or on every worker."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place to verify on: one node, a kind of nodes, or one worker. `workers` are addresses that can run the task."""

    name: str
    kind: str
    platform: str
    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NodeResult:
    """The verdict of a node, or the error that prevented one."""

    node: Node
    verdict: Verdict | None = None
    error: TorchlocksError | None = None

    @property
    def ok(self) -> bool:
        return self.verdict is not None and self.verdict.ok


@dataclass(frozen=True, kw_only=True)
class FleetRequest:
    """What to verify and where. `make_task` returns the task for a platform, or raises a TorchlocksError."""

    env: str
    address: str
    per: Per
    make_task: Callable[[str], NodeTask]


def installed_task(layout: Layout, env: str, select: str | None) -> Callable[[str], NodeTask]:
    """Return a function platform → task, for an installed environment that has the same path on all nodes.

    Raises MissingFileError if its lock no longer exists.
    """
    from torchlocks.install.installed import installed_lock

    lock, target = installed_lock(layout, env)
    task = NodeTask(
        target=target,
        lock_text=lock.path.read_text(encoding="utf-8"),
        lock_path=lock.path,
        prefix=layout.prefix(env),
        suite=layout.suite,
        select=select,
    )

    def make(platform: str) -> NodeTask:
        if platform != target.platform:
            raise FleetError(
                f"The environment {env} is for {target.platform}, and this node is {platform}.",
                fix="let the nodes install the lock themselves: --install",
            )
        return task

    return make


def lock_task(layout: Layout, env: str, select: str | None) -> Callable[[str], NodeTask]:
    """Return a function platform → task, for the committed lock of `env`, which each node installs on its own disk.

    Raises NoSuchRowError for a name that is not in the matrix, MissingFileError if there is no lock.
    """
    from torchlocks.matrix.load import load_matrix

    matrix = load_matrix(layout.matrix)
    matrix.environment(env)
    path = layout.locks / env / CONDA_LOCK
    if not path.is_file():
        raise MissingFileError(f"{env} has no lock.", where=str(path), fix=f"make lock ENV={env}")
    text = path.read_text(encoding="utf-8")

    def make(platform: str) -> NodeTask:
        target = matrix.target(env, platform)
        return NodeTask(target=target, lock_text=text, lock_path=path, prefix=None, suite=layout.suite, select=select)

    return make


def verify_fleet(
    request: FleetRequest, reports: Path, progress: Progress, patience: float = PATIENCE_SECONDS
) -> list[NodeResult]:
    """Verify on all nodes in parallel, and write `reports/<env>@<node>.json`, `.xml` and `.html` for each.

    A node whose workers are lost is verified again if it has a new one within `patience` seconds. Returns the results
    by node name. Raises FleetError if the scheduler cannot be used.
    """
    results: dict[str, NodeResult] = {}
    with connected(request.address) as client:
        exchange = Exchange(client, same_versions(client, ("torchlocks",)))
        nodes = {node.name: node for node in _nodes(client, request.per)}
        running: dict[Future[Verdict | TorchlocksError], str] = {}
        lost_since: dict[str, float] = {}
        with progress.task(f"Verifying {request.env} on {len(nodes)}", total=len(nodes)) as task:

            def submit(node: Node) -> None:
                try:
                    work = request.make_task(node.platform)
                except TorchlocksError as error:
                    results[node.name] = NodeResult(node=node, error=error)
                    task.advance(1, note=node.name)
                    return
                running[exchange.send(VERIFY, work, node.workers)] = node.name

            for node in nodes.values():
                submit(node)
            while running:
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    results[name] = _result(nodes[name], future, reports, request.env)
                    task.advance(1, note=name)
                alive = _alive(client, request.address)
                for future, name in list(running.items()):
                    if alive & set(nodes[name].workers):
                        lost_since.pop(name, None)
                        continue
                    again = next((new for new in _nodes(client, request.per) if new.name == name), None)
                    if again is None and time.monotonic() - lost_since.setdefault(name, time.monotonic()) < patience:
                        continue
                    del running[future]
                    future.cancel()
                    if again is not None:
                        nodes[name] = again
                        submit(again)
                    else:
                        results[name] = NodeResult(node=nodes[name], error=_lost(name))
                        task.advance(1, note=name)
    return [results[name] for name in sorted(results)]


def as_text(results: Sequence[NodeResult]) -> str:
    """Return one line for each node: its name, its kind, and the headline of its verdict."""
    lines = []
    for each in results:
        headline = each.verdict.headline if each.verdict is not None else f"NOT VERIFIED: {each.error}"
        lines.append(f"{each.node.name} ({each.node.kind}): {headline}")
    return "\n".join(lines)


def as_data(results: Sequence[NodeResult]) -> list[dict[str, object]]:
    """Return the results as values for JSON."""
    return [
        {
            "node": each.node.name,
            "kind": each.node.kind,
            "ok": each.ok,
            "headline": each.verdict.headline if each.verdict is not None else None,
            "error": str(each.error) if each.error is not None else None,
        }
        for each in results
    ]


def _nodes(client: Any, per: Per) -> list[Node]:
    facts = {address: _facts(address, answer) for address, answer in ask_all(client, describe_node).items()}
    names = {address: str(info["name"]) for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    groups: dict[str, list[str]] = {}
    for address, (host, kind, _) in sorted(facts.items()):
        key = {"node": host, "kind": kind, "worker": names.get(address, address)}[per]
        groups.setdefault(key, []).append(address)
    return [
        Node(
            name=_file_name(key),
            kind=facts[addresses[0]][1],
            platform=facts[addresses[0]][2],
            workers=tuple(addresses),
        )
        for key, addresses in groups.items()
    ]


def _facts(address: str, answer: object) -> tuple[str, str, str]:
    if isinstance(answer, list) and len(answer) == 3 and all(isinstance(each, str) for each in answer):
        return answer[0], answer[1], answer[2]
    raise bad_answer(address, "it does not describe the node")


def _alive(client: Any, address: str) -> set[str]:
    try:
        return set(client.nthreads())
    except (OSError, RuntimeError) as error:
        raise FleetError(
            "The scheduler does not answer any more.",
            where=f"{address}: {error}",
            fix="start it and verify again; existing reports are kept",
        ) from error


def _file_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-")


def _result(node: Node, future: Future[Verdict | TorchlocksError], reports: Path, env: str) -> NodeResult:
    try:
        found = future.result()
    except FleetError as error:
        return NodeResult(node=node, error=error)
    except Exception as error:
        # No error of one node may stop the others.
        failed = FleetError(f"The worker of {node.name} failed: {type(error).__name__}: {error}", where=node.name)
        return NodeResult(node=node, error=failed)
    if isinstance(found, TorchlocksError):
        return NodeResult(node=node, error=found)
    write_reports(found.model_copy(update={"env": f"{env}@{node.name}"}), reports)
    return NodeResult(node=node, verdict=found)


def _lost(name: str) -> FleetError:
    return FleetError(
        f"The workers of {name} were lost before they returned a verdict, and no new one joined.",
        fix="find out why they ended (memory, time limit of the job), and verify again",
    )
