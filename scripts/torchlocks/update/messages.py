"""Searches as JSON text, for the workers of a scheduler: `torchlocks.dask` sends it and calls `perform` there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from torchlocks.core.errors import TorchlocksError
from torchlocks.dask.messages import KINDS, Kind
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource
from torchlocks.update.search import Attempt, Failed, Found, SearchTask, search


def pack(task: SearchTask) -> dict[str, Any]:
    """The values of a search. Raises nothing: all of them are text, numbers and lists."""
    return {
        "run": task.run,
        "target": _adapter(Target).dump_python(task.target, mode="json"),
        "groups": _groups().dump_python(task.groups, mode="json"),
        "fewer_architectures": task.fewer_architectures,
        "snapshot": str(task.source.snapshot) if task.source.snapshot else None,
        "as_of": task.source.as_of.isoformat() if task.source.as_of else None,
        "mirror": task.source.mirror,
    }


def unpack(said: Mapping[str, Any], snapshot: Path | None) -> SearchTask:
    """The search, with the snapshot at `snapshot` if it reads one.

    Raises ValueError, KeyError or TypeError for anything else.
    """
    source = RecordSource(
        snapshot=(snapshot or Path(said["snapshot"])) if said["snapshot"] else None,
        as_of=date.fromisoformat(said["as_of"]) if said["as_of"] else None,
        mirror=said["mirror"],
    )
    return SearchTask(
        run=said["run"],
        source=source,
        target=_adapter(Target).validate_python(said["target"]),
        groups=_groups().validate_python(said["groups"]),
        fewer_architectures=said["fewer_architectures"],
    )


def perform(said: Mapping[str, Any], snapshot: Path | None) -> dict[str, Any]:
    """Run a search on a worker; the values of what it found."""
    found = search(unpack(said, snapshot))
    if isinstance(found, TorchlocksError):
        return {"error": found.as_data()}
    return {"results": _results().dump_python(found, mode="json")}


def _read(said: Mapping[str, Any], task: SearchTask) -> list[Found | Failed]:
    results: list[Found | Failed] = _results().validate_python(said["results"])
    asked = {attempt.choice for group in task.groups for attempt in group}
    if any(each.choice not in asked for each in results):
        raise ValueError("it has combinations that were not asked for")
    return results


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _groups() -> TypeAdapter[Any]:
    return _adapter(tuple[tuple[Attempt, ...], ...])


def _results() -> TypeAdapter[Any]:
    return _adapter(list[Found | Failed])


def register() -> None:
    """Let the executor of a scheduler take searches."""
    KINDS[search] = Kind(name="search", pack=pack, read=_read)
