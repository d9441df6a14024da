"""Tasks and results of workers as JSON text, and back.

Dask would pickle them, and unpickling can run code of the sender. So both directions carry text: the worker parses the
task, and this machine parses and validates the answer. Only the name of one function, `worker.perform`, is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from torchlocks.core.errors import FleetError, TorchlocksError
from torchlocks.core.reading import load_json
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name, parse_lock
from torchlocks.locking.cell import Cell, CellTask, packages_of, solve_cell
from torchlocks.locking.files import FilesTask, lock_files
from torchlocks.locking.options import Solver
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource
from torchlocks.verify.verdict import Verdict

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class NodeTask:
    """A verification on a node. Without a `prefix`, the worker installs the lock on its own disk first."""

    target: Target
    lock_text: str
    lock_path: Path
    prefix: Path | None
    suite: Path
    select: str | None


def as_json(kind: Any, value: object) -> Any:
    """Return a value of the type `kind` (of dataclasses and plain values) as JSON values."""
    return _adapter(kind).dump_python(value, mode="json")


def from_json(kind: Any, data: object) -> Any:
    """Return the value of `as_json`. Raises ValueError if `data` is not of the type `kind`."""
    return _adapter(kind).validate_python(data)


def source_as_json(source: RecordSource) -> dict[str, str | None]:
    """Return a source of records as JSON values, without its open files."""
    return {
        "snapshot": str(source.snapshot) if source.snapshot else None,
        "as_of": source.as_of.isoformat() if source.as_of else None,
        "mirror": source.mirror,
    }


def source_from_json(data: Mapping[str, str | None], snapshot: Path | None) -> RecordSource:
    """Return the source of `source_as_json`; `snapshot` replaces the folder of its snapshot, if it has one.

    Raises ValueError, KeyError or TypeError for other values.
    """
    folder, day = data["snapshot"], data["as_of"]
    return RecordSource(
        snapshot=(snapshot or Path(folder)) if folder else None,
        as_of=date.fromisoformat(day) if day else None,
        mirror=data["mirror"],
    )


def pack_solve(task: CellTask) -> dict[str, Any]:
    """Return a cell to solve as JSON values."""
    return {
        "run": task.run,
        "target": as_json(Target, task.target),
        "rendered": task.rendered,
        "source": source_as_json(task.source),
        "solver": str(task.solver.executable),
        "own": task.solver.own,
        "keep": task.keep,
        "move": list(task.move),
    }


def unpack_solve(data: Mapping[str, Any], snapshot: Path | None) -> CellTask:
    """Return the task of `pack_solve`; `snapshot` replaces the folder of its snapshot, if it has one.

    Raises ValueError, KeyError or TypeError for other values.
    """
    return CellTask(
        run=data["run"],
        target=from_json(Target, data["target"]),
        rendered=data["rendered"],
        source=source_from_json(data["source"], snapshot),
        solver=Solver(executable=Path(data["solver"]), own=data["own"]),
        keep=data["keep"],
        move=tuple(data["move"]),
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of task: its name in messages, `pack` (task → JSON values), and `read` (answer, task → result).

    `read` raises ValueError, KeyError, TypeError or TorchlocksError if the answer is not valid for the task.
    """

    name: str
    pack: Callable[[Any], dict[str, Any]]
    read: Callable[[Mapping[str, Any], Any], Any]


def _read_cell(answer: Mapping[str, Any], task: CellTask) -> Cell:
    cell: Cell = from_json(Cell, answer["cell"])
    if cell.target != task.target:
        raise ValueError("it is of another environment")
    if any(package.platform != task.target.platform for package in packages_of(cell)):
        raise ValueError("it has packages of another platform")
    return cell


def _read_files(answer: Mapping[str, Any], task: FilesTask) -> dict[str, str]:
    files: dict[str, str] = _adapter(dict[str, str]).validate_python(answer["files"], strict=True)
    # The names become paths on this machine.
    allowed = {CONDA_LOCK, PIXI, *(explicit_name(each) for each in task.target.row_platforms)}
    if not {CONDA_LOCK, PIXI} <= set(files) <= allowed:
        raise ValueError(f"it has other files than a lock: {sorted(set(files) - allowed)[:3]}")
    lock = parse_lock(files[CONDA_LOCK].encode(), Path(CONDA_LOCK))
    if missing := {each.target.platform for each in task.cells} - set(lock.platforms):
        raise ValueError(f"its lock lacks {', '.join(sorted(missing))}")
    return files


def _read_verdict(answer: Mapping[str, Any], task: NodeTask) -> Verdict:
    return Verdict.model_validate(answer["verdict"])


SOLVE = Kind(name="solve", pack=pack_solve, read=_read_cell)
FILES = Kind(name="files", pack=partial(as_json, FilesTask), read=_read_files)
VERIFY = Kind(name="verify", pack=partial(as_json, NodeTask), read=_read_verdict)
KINDS: dict[Callable[..., Any], Kind] = {solve_cell: SOLVE, lock_files: FILES}
"""The kind of task of each function that `locking` submits to its executor."""

ELSEWHERE = {"search": "torchlocks.update.messages", "check": "torchlocks.check.messages"}
"""Kinds of tasks of higher packages, with the module whose `perform` a worker calls."""


def request(kind: Kind, task: object, versions: Mapping[str, str | None], records: str | None) -> str:
    """Return the message for a worker that must have `versions`; `records` names the snapshot's folder there."""
    content = {"schema": SCHEMA, "task": kind.name, "versions": dict(versions), "records": records}
    return json.dumps({**content, "value": kind.pack(task)})


def read_answer(answer: object, kind: Kind, task: object, worker: Callable[[], str]) -> Any:
    """Return the result in a worker's answer: a value, or the TorchlocksError that the task raised there.

    `worker` returns the worker's name. Raises FleetError, with that name, if the answer is not valid for the task, or
    reports that the worker itself failed.
    """
    try:
        if not isinstance(answer, bytes):
            raise ValueError(f"it is {type(answer).__name__}, not text")
        data = load_json(answer)
        if data["schema"] != SCHEMA:
            raise ValueError("it has another schema")
        if "error" in data:
            if not isinstance(data["error"].get("error"), str):
                raise ValueError("its error has no text")
            failed = TorchlocksError.from_data(data["error"], FleetError)
        else:
            return kind.read(data, task)
    except (ValueError, KeyError, TypeError, AttributeError, TorchlocksError) as error:
        raise bad_answer(worker(), str(error)) from error
    if isinstance(failed, FleetError):
        raise failed
    return failed


def bad_answer(worker: str, reason: str) -> FleetError:
    """Return the error for an invalid answer."""
    return FleetError(
        f"The answer of the worker {worker} is not valid.",
        where=worker,
        fix="check that it runs this version of torchlocks, and that it is one of yours",
        details=reason[:500],
    )


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
