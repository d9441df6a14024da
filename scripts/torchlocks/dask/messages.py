"""Tasks and results of workers as JSON text, and back.

Dask would pickle them, and whoever unpickles runs what the other side sent. So both directions carry text: the worker
parses the task, and this machine parses and checks the answer. Only the name of one function, `worker.perform`, travels
in Dask's own way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
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


def pack_solve(task: CellTask) -> dict[str, Any]:
    """The values of a cell to solve. Raises nothing: all of them are text, numbers and lists."""
    return {
        "run": task.run,
        "target": _adapter(Target).dump_python(task.target, mode="json"),
        "rendered": task.rendered,
        "snapshot": str(task.source.snapshot) if task.source.snapshot else None,
        "as_of": task.source.as_of.isoformat() if task.source.as_of else None,
        "mirror": task.source.mirror,
        "solver": str(task.solver.executable),
        "own": task.solver.own,
        "keep": task.keep,
        "move": list(task.move),
    }


def unpack_solve(said: Mapping[str, Any], snapshot: Path | None) -> CellTask:
    """The cell to solve, with the snapshot at `snapshot` if it is solved from one.

    Raises ValueError, KeyError or TypeError for anything else.
    """
    source = RecordSource(
        snapshot=(snapshot or Path(said["snapshot"])) if said["snapshot"] else None,
        as_of=date.fromisoformat(said["as_of"]) if said["as_of"] else None,
        mirror=said["mirror"],
    )
    return CellTask(
        run=said["run"],
        target=_adapter(Target).validate_python(said["target"]),
        rendered=said["rendered"],
        source=source,
        solver=Solver(executable=Path(said["solver"]), own=said["own"]),
        keep=said["keep"],
        move=tuple(said["move"]),
    )


def pack_files(task: FilesTask) -> dict[str, Any]:
    """The values of an environment whose lockfiles are to be made."""
    return {
        "cells": [pack_cell(each) for each in task.cells],
        "metadata": dict(task.metadata),
        "conda_lock": task.conda_lock,
        "pixi": task.pixi,
    }


def unpack_files(said: Mapping[str, Any]) -> FilesTask:
    """The inverse of `pack_files`. Raises ValueError, KeyError or TypeError for anything else."""
    cells = tuple(_adapter(Cell).validate_python(each) for each in said["cells"])
    return FilesTask(cells=cells, metadata=said["metadata"], conda_lock=said["conda_lock"], pixi=said["pixi"])


def pack_node(task: NodeTask) -> dict[str, Any]:
    """The values of a node to verify."""
    found: dict[str, Any] = _adapter(NodeTask).dump_python(task, mode="json")
    return found


def unpack_node(said: Mapping[str, Any]) -> NodeTask:
    """The inverse of `pack_node`. Raises ValueError for anything else."""
    task: NodeTask = _adapter(NodeTask).validate_python(said)
    return task


def pack_cell(cell: Cell) -> dict[str, Any]:
    """The values of a solved cell."""
    found: dict[str, Any] = _adapter(Cell).dump_python(cell, mode="json")
    return found


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of task: its name in messages, its values for a worker, and its result out of a worker's answer.

    `read` raises ValueError, KeyError, TypeError or TorchlocksError for an answer that is not one to this task.
    """

    name: str
    pack: Callable[[Any], dict[str, Any]]
    read: Callable[[Mapping[str, Any], Any], Any]


def _read_cell(said: Mapping[str, Any], task: CellTask) -> Cell:
    cell: Cell = _adapter(Cell).validate_python(said["cell"])
    if cell.target != task.target:
        raise ValueError("it is of another environment")
    if any(package.platform != task.target.platform for package in packages_of(cell)):
        raise ValueError("it has packages of another platform")
    return cell


def _read_files(said: Mapping[str, Any], task: FilesTask) -> dict[str, str]:
    files: dict[str, str] = _adapter(dict[str, str]).validate_python(said["files"], strict=True)
    # The names become paths on this machine.
    allowed = {CONDA_LOCK, PIXI, *(explicit_name(each) for each in task.target.row_platforms)}
    if not {CONDA_LOCK, PIXI} <= set(files) <= allowed:
        raise ValueError(f"it has other files than a lock: {sorted(set(files) - allowed)[:3]}")
    lock = parse_lock(files[CONDA_LOCK].encode(), Path(CONDA_LOCK))
    if missing := {each.target.platform for each in task.cells} - set(lock.platforms):
        raise ValueError(f"its lock lacks {', '.join(sorted(missing))}")
    return files


def _read_verdict(said: Mapping[str, Any], task: NodeTask) -> Verdict:
    return Verdict.model_validate(said["verdict"])


SOLVE = Kind(name="solve", pack=pack_solve, read=_read_cell)
FILES = Kind(name="files", pack=pack_files, read=_read_files)
VERIFY = Kind(name="verify", pack=pack_node, read=_read_verdict)
KINDS: dict[Callable[..., Any], Kind] = {solve_cell: SOLVE, lock_files: FILES}
"""The functions that `locking` submits to its executor, and the kinds of task that they are to workers."""


ELSEWHERE = {"search": "torchlocks.update.messages"}
"""Kinds of tasks of packages above this one, with the module whose `perform` a worker calls."""


def request(kind: Kind, task: object, versions: Mapping[str, str | None], records: str | None) -> str:
    """The text of a task for a worker that must have `versions`; `records` names the snapshot's folder there."""
    content = {"schema": SCHEMA, "task": kind.name, "versions": dict(versions), "records": records}
    return json.dumps({**content, "value": kind.pack(task)})


def read_answer(answer: object, kind: Kind, task: object, worker: Callable[[], str]) -> Any:
    """The result in the answer of a worker: a value, or the TorchlocksError that the task ended with there.

    `worker` is asked for the worker's name. Raises FleetError, with that name, for an answer that is not one to this
    task, or that says that the worker itself failed.
    """
    try:
        if not isinstance(answer, bytes):
            raise ValueError(f"it is {type(answer).__name__}, not text")
        said = load_json(answer)
        if said["schema"] != SCHEMA:
            raise ValueError("it has another schema")
        if "error" in said:
            if not isinstance(said["error"].get("error"), str):
                raise ValueError("its error has no text")
            failed = TorchlocksError.from_data(said["error"], FleetError)
        else:
            return kind.read(said, task)
    except (ValueError, KeyError, TypeError, AttributeError, TorchlocksError) as error:
        raise bad_answer(worker(), str(error)) from error
    if isinstance(failed, FleetError):
        raise failed
    return failed


def bad_answer(worker: str, reason: str) -> FleetError:
    """The error for an answer that cannot be used."""
    return FleetError(
        f"The worker {worker} gave no answer that can be used.",
        where=worker,
        fix="see that it runs this version of torchlocks, and that it is one of yours",
        details=reason[:500],
    )


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
