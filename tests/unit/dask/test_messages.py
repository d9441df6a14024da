"""Messages between this machine and workers: they round-trip, and invalid answers are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from torchlocks.core.errors import DiskFullError, FleetError, TorchlocksError
from torchlocks.dask import messages, worker
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI
from torchlocks.locking.cell import Cell, CellTask
from torchlocks.locking.files import FilesTask
from torchlocks.locking.options import Solver
from torchlocks.matrix.load import load_matrix
from torchlocks.solve.repodata import RecordSource

ROOT = Path(__file__).parents[3]
MATRIX = load_matrix(ROOT / "matrix.yml")
TARGET = MATRIX.target("gpu-cu126", "linux-64")
TASK = CellTask(
    run="r",
    target=TARGET,
    rendered="dependencies: []\n",
    source=RecordSource(snapshot=Path("/here/snapshot"), as_of=date(2026, 8, 1), mirror=None),
    solver=Solver(executable=Path("/usr/bin/conda"), own=True),
    keep="version: 6\n",
    move=("pytorch",),
)
CELL = Cell(target=TARGET, packages="[]", content_hash="0" * 64, pixi="version: 6\n")
FILES = FilesTask(cells=(CELL,), metadata={"solver": "x"}, conda_lock=None, pixi="old")
NODE = messages.NodeTask(
    target=TARGET, lock_text="text\n", lock_path=Path("/x"), prefix=None, suite=Path("/suite"), select="k"
)


def test_tasks_arrive_as_they_were_sent() -> None:
    def sent(values: dict[str, Any]) -> Any:
        return json.loads(json.dumps(values))

    there = Path("/worker/records")
    assert messages.unpack_solve(sent(messages.pack_solve(TASK)), there) == replace(
        TASK, source=replace(TASK.source, snapshot=there)
    )
    assert messages.from_json(FilesTask, sent(messages.as_json(FilesTask, FILES))) == FILES
    assert messages.from_json(messages.NodeTask, sent(messages.as_json(messages.NodeTask, NODE))) == NODE


def answer(**said: object) -> bytes:
    return json.dumps({"schema": messages.SCHEMA, **said}).encode()


def read(text: object, kind: messages.Kind, task: object) -> Any:
    return messages.read_answer(text, kind, task, lambda: "node-7 (tcp://10.0.0.7:1)")


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        object(),
        "text",
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 10_000,
        answer(),
        b'{"schema": 2, "verdict": {}}',
        answer(verdict={}),
        answer(cell={}),
        answer(cell=messages.as_json(Cell, replace(CELL, target=MATRIX.target("cpu", "linux-64")))),
        answer(cell=messages.as_json(Cell, replace(CELL, packages="{}"))),
        answer(files={}),
        answer(files=7),
        answer(error=1),
        answer(error={}),
        answer(error={"error": 7}),
        answer(error={"exception_name": "FleetError", "error": "failed", "where": "node-7"}),
    ],
)
@pytest.mark.parametrize(
    ("kind", "task"), [(messages.SOLVE, TASK), (messages.FILES, FILES), (messages.VERIFY, NODE)], ids=lambda _: ""
)
def test_a_forged_answer_is_an_error_with_the_workers_name(text: object, kind: messages.Kind, task: object) -> None:
    with pytest.raises(FleetError, match="node-7") as caught:
        read(text, kind, task)
    assert caught.value.exit_code == 52


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "other.txt", "conda-zos-z.lock", "conda-lock.yml/x"])
def test_the_files_of_a_worker_are_those_of_a_lock(name: str) -> None:
    lock = ROOT / "locks" / "gpu-cu126"
    files = {path.name: path.read_text() for path in lock.iterdir() if path.suffix in (".yml", ".lock")}
    names = {CONDA_LOCK, PIXI, *(f"conda-{platform}.lock" for platform in TARGET.row_platforms)}
    good = {key: text for key, text in files.items() if key in names}
    assert read(answer(files=good), messages.FILES, FILES) == good
    with pytest.raises(FleetError, match="node-7"):
        read(answer(files={**good, name: "x"}), messages.FILES, FILES)
    with pytest.raises(FleetError, match="node-7"):
        read(answer(files={**good, CONDA_LOCK: "version: 1\n"}), messages.FILES, FILES)


def test_an_expected_error_of_a_task_is_its_result() -> None:
    full = DiskFullError("The disk is full.", where="/tmp")
    found = read(answer(error=full.as_data()), messages.SOLVE, TASK)
    assert isinstance(found, DiskFullError)
    assert str(found) == str(full)


def test_whatever_happens_on_a_worker_is_text() -> None:
    versions = worker.versions_here(["torchlocks"])
    asked = json.loads(messages.request(messages.SOLVE, TASK, versions, None))
    for broken in ("", "[]", "{}", json.dumps({**asked, "task": "rm"}), json.dumps({**asked, "value": {"target": 7}})):
        said = json.loads(worker.perform(broken))
        found = TorchlocksError.from_data(said["error"], TorchlocksError)
        assert isinstance(found, FleetError)
        assert found.where
    other = json.dumps({**asked, "versions": {"torchlocks": "0.0.0"}})
    assert "0.0.0" in json.loads(worker.perform(other))["error"]["error"]
