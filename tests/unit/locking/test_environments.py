"""Many environments are locked with little in flight, and each is written when its own cells are solved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.locking import environments
from torchlocks.locking.cell import Cell, CellTask
from torchlocks.locking.environments import lock_environments
from torchlocks.locking.files import FilesTask
from torchlocks.locking.options import LockOptions, RecordTask, find_solver
from torchlocks.matrix.load import load_matrix
from torchlocks.solve.repodata import RecordSource

LAYOUT = Layout(Path(__file__).parents[3])


def test_what_is_solved_does_not_wait_in_memory_for_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwritten: set[tuple[str, str]] = set()
    most = 0

    def solve(task: CellTask) -> Cell:
        nonlocal most
        unwritten.add((task.target.env, task.target.platform))
        most = max(most, len(unwritten))
        return Cell(target=task.target, packages="[]", content_hash="", pixi="")

    def write(task: FilesTask) -> dict[str, str]:
        unwritten.difference_update((cell.target.env, cell.target.platform) for cell in task.cells)
        return {CONDA_LOCK: "a lock"}

    @contextmanager
    def one_worker(tasks: Sequence[RecordTask]) -> Iterator[Executor]:
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(environments, "solve_cell", solve)
    monkeypatch.setattr(environments, "lock_files", write)
    monkeypatch.setattr(environments, "IN_FLIGHT", 4)
    targets = load_matrix(LAYOUT.matrix).targets()
    options = LockOptions(source=RecordSource(), solver=find_solver(), cluster=one_worker)
    results, failures = lock_environments(LAYOUT, targets, tmp_path, options, Silent())
    assert not failures
    assert len(results) == len({target.env for target in targets})
    # Those of one environment, and what was submitted before its last was solved.
    assert most <= 5 + 2 * 4 < len(targets) / 4
