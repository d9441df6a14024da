"""Search tasks and results as JSON, for the workers of a scheduler: `torchlocks.dask` sends them to `perform` there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchlocks.core.errors import TorchlocksError
from torchlocks.dask.messages import KINDS, Kind, as_json, from_json, source_as_json, source_from_json
from torchlocks.matrix.target import Target
from torchlocks.update.search import Attempt, Failed, Found, SearchTask, search

_Groups = tuple[tuple[Attempt, ...], ...]
_Results = list[Found | Failed]


def pack(task: SearchTask) -> dict[str, Any]:
    """Return a task as JSON values."""
    return {
        "run": task.run,
        "target": as_json(Target, task.target),
        "groups": as_json(_Groups, task.groups),
        "fewer_architectures": task.fewer_architectures,
        "source": source_as_json(task.source),
    }


def unpack(data: Mapping[str, Any], snapshot: Path | None) -> SearchTask:
    """Return the task of `pack`; `snapshot` replaces the folder of its snapshot, if it has one.

    Raises ValueError, KeyError or TypeError for other values.
    """
    return SearchTask(
        run=data["run"],
        source=source_from_json(data["source"], snapshot),
        target=from_json(Target, data["target"]),
        groups=from_json(_Groups, data["groups"]),
        fewer_architectures=data["fewer_architectures"],
    )


def perform(data: Mapping[str, Any], snapshot: Path | None) -> dict[str, Any]:
    """Run a search on a worker; return its results, or its error, as JSON values."""
    found = search(unpack(data, snapshot))
    if isinstance(found, TorchlocksError):
        return {"error": found.as_data()}
    return {"results": as_json(_Results, found)}


def _read(answer: Mapping[str, Any], task: SearchTask) -> list[Found | Failed]:
    results: list[Found | Failed] = from_json(_Results, answer["results"])
    requested = {attempt.choice for group in task.groups for attempt in group}
    if any(each.choice not in requested for each in results):
        raise ValueError("it has combinations that were not requested")
    return results


def register() -> None:
    """Register searches with the executor of a scheduler."""
    KINDS[search] = Kind(name="search", pack=pack, read=_read)
