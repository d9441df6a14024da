"""The end of a process: what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKING = """
import atexit, shutil, tempfile
from torchlocks.core.process_exit import exit_process
from torchlocks.core.workers import processes

def litter(number):
    # As conda-lock does for its folders: worker processes do not run such functions.
    atexit.register(shutil.rmtree, tempfile.mkdtemp(prefix="conda-lock-pkgs-"))
    return abs(number)

if __name__ == "__main__":
    with processes(2, preload=[]) as pool:
        print(list(pool.map(litter, [-1, -2])))
    exit_process(7)
"""


@pytest.mark.parametrize("name", ["t", "a-folder-whose-name-is-too-long-for-a-socket-" * 3])
def test_a_process_that_had_workers_leaves_no_temporary_files(tmp_path: Path, name: str) -> None:
    script, temporary = tmp_path / "work.py", tmp_path / name
    script.write_text(WORKING)
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (7, "[1, 2]\n"), run.stderr
    assert list(temporary.iterdir()) == []
