"""The example, as somebody elsewhere has it: its folder copied, torchlocks from the wheel, and no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import LAYOUT
from support import borrow_bytecode
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import CONDA_LOCK, read_lock

EXAMPLE = LAYOUT.root / "examples" / "downstream"


class Copy:
    """The example in a folder of its own, and an installed torchlocks to run its commands with."""

    def __init__(self, folder: Path, torchlocks: Path) -> None:
        self.folder = folder
        self.torchlocks = torchlocks

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        names = {**os.environ, "TORCHLOCKS_ROOT": "", "TORCHLOCKS_HOME": "", "COLUMNS": "200"}
        run = subprocess.run(command, cwd=self.folder, env=names, capture_output=True, text=True, check=False)
        assert "Traceback" not in run.stderr, run.stderr
        return run

    def make(self, verb: str, **variables: object) -> subprocess.CompletedProcess[str]:
        return self.run("make", verb, f"TORCHLOCKS={self.torchlocks}", *(f"{k}={v}" for k, v in variables.items()))


@pytest.fixture
def copy(tools: Path, tmp_path: Path) -> Copy:
    folder = tmp_path / "downstream"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "env", "__pycache__", ".pytest_cache"))
    return Copy(folder, tools)


def test_its_lock_is_compared_with_the_base_in_the_wheel(copy: Copy) -> None:
    assert copy.make("check").returncode == 0
    environment = copy.folder / "environment.yml"
    environment.write_text(environment.read_text().replace("einops", "einops-exts"))
    run = copy.make("check")
    assert run.returncode != 0
    assert "requirement-unmet" in run.stdout
    assert "'einops-exts >=0.8' is requested (environment.yml, line 6)" in run.stdout


def test_it_locks_installs_and_passes_its_own_tests(copy: Copy, environment: Path) -> None:
    """On the local channel, since conda-forge may be out of reach: the base is the CPU lock that was made from it."""
    python = str(copy.torchlocks.with_name("python"))
    base = LAYOUT.local_locks / "cpu" / CONDA_LOCK
    built = copy.run(python, "local_channel.py", LAYOUT.channel.as_uri())
    assert built.returncode == 0, built.stderr

    locked = copy.make("lock", BASE=base, LOCK="build/lock", FROM="--channel build/extra")
    assert locked.returncode == 0, locked.stderr
    assert "added: einops" in locked.stdout
    lock = read_lock(copy.folder / "build" / "lock" / CONDA_LOCK)
    ((platform, packages),) = lock.packages.items()
    theirs = read_lock(base).packages[platform]
    assert set(theirs) < set(packages)
    assert {package.name for package in packages} - {package.name for package in theirs} == {"einops"}
    checked = copy.make("check", LOCK="build/lock")
    assert (checked.returncode, "0 errors" in checked.stdout) == (0, True), checked.stdout

    installed = copy.make("env", LOCK="build/lock")
    assert installed.returncode == 0, installed.stderr
    borrow_bytecode(environment, copy.folder / "env")
    tested = copy.make("test", LOCK="build/lock")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "3 passed" in tested.stdout
    found = read_provenance(copy.folder / "env")
    assert found is not None
    assert found.lock_sha256 == lock.sha256
