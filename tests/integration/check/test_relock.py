"""Locking again: what has not changed is not solved again, and what has, always is."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from preloaded import TORCHLOCKS, run_torchlocks
from small_matrix import SmallMatrix, small_matrix


@pytest.fixture
def locked(tmp_path: Path) -> SmallMatrix:
    matrix = small_matrix(tmp_path, 2)
    run = lock(matrix)
    assert run.returncode == 0, run.stderr
    assert "e00 (linux-64): wrote conda-lock.yml" in run.stdout
    return matrix


def lock(matrix: SmallMatrix, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["lock", "--snapshot", str(matrix.snapshot), *more]
    return run_torchlocks(command, cwd=matrix.root, env={**os.environ, **environment})


def solves(run: subprocess.CompletedProcess[str]) -> bool:
    """Whether anything was solved: that is said as progress."""
    return "Solving" in run.stderr


def test_with_nothing_to_do_nothing_is_solved(locked: SmallMatrix, tmp_path: Path) -> None:
    before = locked.locks
    # Whoever solves needs conda-lock; here it cannot be imported.
    broken = tmp_path / "broken" / "conda_lock"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('conda-lock is not needed')")
    run = lock(locked, PYTHONPATH=str(broken.parent))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["e00 (linux-64): unchanged", "e01 (linux-64): unchanged"]
    assert locked.locks == before
    assert lock(locked, "--force", PYTHONPATH=str(broken.parent)).returncode != 0, "the test would notice a solve"


def test_an_edited_lock_is_written_again(locked: SmallMatrix) -> None:
    before = locked.locks
    path = locked.root / "locks" / "e01" / "conda-linux-64.lock"
    path.write_text(path.read_text().replace("numpy", "nunpy"))
    run = lock(locked)
    assert run.stdout.splitlines() == ["e00 (linux-64): unchanged", "e01 (linux-64): wrote conda-linux-64.lock"]
    assert locked.locks == before


def test_a_file_too_many_goes(locked: SmallMatrix) -> None:
    before = locked.locks
    (locked.root / "locks" / "e00" / "conda-win-64.lock").write_text("@EXPLICIT\n")
    assert "e00 (linux-64): wrote conda-win-64.lock" in lock(locked).stdout
    assert locked.locks == before


def test_other_records_are_solved_even_where_they_change_no_package(locked: SmallMatrix) -> None:
    before = locked.locks
    noarch = locked.snapshot / "conda-forge" / "noarch" / "repodata.json"
    noarch.write_text(noarch.read_text() + "\n")
    run = lock(locked)
    assert solves(run)
    # The lock says which records it was made from.
    assert {name for name, sha in locked.locks.items() if before[name] != sha} == {
        "locks/e00/conda-lock.yml",
        "locks/e01/conda-lock.yml",
    }


def test_another_template_or_row_is_solved_and_a_comment_is_not(locked: SmallMatrix) -> None:
    template = locked.root / "environment-cpu.yml"
    template.write_text("# Why this is as it is.\n" + template.read_text())
    assert not solves(lock(locked))
    matrix = locked.root / "matrix.yml"
    text = matrix.read_text()
    head, _, tail = text.rpartition('"pytorch": "2.5"')
    matrix.write_text(f'{head}"pytorch": "2.5", "glibc": "2.34"{tail}')
    run = lock(locked)
    assert solves(run)
    assert run.stdout.splitlines()[0] == "e00 (linux-64): unchanged"
    assert "e01 (linux-64): wrote" in run.stdout
    template.write_text(template.read_text() + "  - numpy\n")
    assert lock(locked).stdout.count("wrote") == 2


def test_a_damaged_memory_only_costs_a_solve(locked: SmallMatrix) -> None:
    before = locked.locks
    for number, rubbish in enumerate(("[]", '{"schema": 1, "made_from": 3, "files": []}')):
        path = locked.root / "build" / "locked" / "e00.json"
        path.write_text(rubbish)
        run = lock(locked)
        assert run.returncode == 0, (number, run.stderr)
        assert solves(run)
        assert locked.locks == before
        assert not solves(lock(locked)), "and is made anew"


def test_a_worker_that_is_killed_is_an_error_and_leaves_nothing_running(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path, 60)
    with subprocess.Popen(
        [str(TORCHLOCKS), "lock", "--snapshot", str(matrix.snapshot)],
        cwd=matrix.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        until = time.monotonic() + 60
        while not matrix.locks:
            assert time.monotonic() < until
            time.sleep(0.02)
        family = psutil.Process(run.pid).children(recursive=True)
        workers = [each for each in family if (parent := each.parent()) is not None and parent.pid != run.pid]
        assert workers
        workers[0].kill()
        _, said = run.communicate(timeout=60)
    assert run.returncode == 20, said
    assert "A worker process has ended" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    written = matrix.locks
    assert lock(matrix).returncode == 0, "running it again goes on"
    assert written.items() <= matrix.locks.items()
    assert len({Path(name).parts[1] for name in matrix.locks}) == 60
