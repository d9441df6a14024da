"""A report that the suite made here, in the CPU environment of the local channel, as evidence on its lock.

The lock of the local channel is no committed lock, so the report is refused in this repository. In a repository that
has committed it, it is one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import LAYOUT
from preloaded import run_torchlocks
from torchlocks.host.detect import host_platform

REPORT = LAYOUT.reports / "cpu.json"


@pytest.fixture
def repository(environment: Path, tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    shutil.copytree(LAYOUT.local_locks / "cpu", root / "locks" / "cpu")
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml", "README.md"):
        shutil.copy(LAYOUT.root / name, root)
    shutil.copytree(LAYOUT.suite / "torchsuite", root / "tests" / "torch" / "torchsuite")
    git(root, "init", "-q")
    commit(root, "The lock")
    return root


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false", *arguments]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def commit(root: Path, subject: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", subject)


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    names = {**os.environ, "TORCHLOCKS_ROOT": str(root), "TORCHLOCKS_HOME": "", "GITHUB_ACTIONS": "", "COLUMNS": "100"}
    return run_torchlocks(arguments, cwd=root, env=names)


def test_a_report_made_here_becomes_evidence(repository: Path) -> None:
    platform = host_platform()
    done = run(repository, "evidence", "add", str(REPORT))
    assert done.returncode == 0, done.stderr
    (path,) = (repository / "evidence").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["env"], record["platform"], record["state"]) == ("cpu", platform, "cpu")
    text = path.read_text(encoding="utf-8")
    private = {os.uname().nodename, str(LAYOUT.root), str(Path.home()), os.environ.get("USER", "")} - {"", "/"}
    assert not [word for word in private if word in text]
    # All that reads it.
    line = run(repository, "evidence", "list").stdout.strip().partition(": ")[2]
    assert line.startswith("verified on ")
    assert f"| {line} |" in (repository / "README.md").read_text(encoding="utf-8")
    assert line in run(repository, "pick", "--platform", platform).stdout
    told = json.loads(run(repository, "doctor", "--json").stdout)
    assert {each["env"]: each["evidence"] for each in told["environments"]} == {"cpu": line}
    rules = [
        word for rule in ("claim", "invalid", "lock", "name", "packages") for word in ("--rule", f"evidence-{rule}")
    ]
    assert run(repository, "check", *rules).returncode == 0
    assert run(repository, "site").returncode == 0
    assert line in (repository / "build" / "site" / "index.html").read_text(encoding="utf-8")
    # It survives a change of the lock as history.
    commit(repository, "Evidence")
    for lock in (repository / "locks" / "cpu").iterdir():
        lock.write_text(lock.read_text(encoding="utf-8").replace("sympy-1.", "sympy-2."), encoding="utf-8")
    later = run(repository, "evidence", "list").stdout
    assert "proven for a previous lock, 1 package differs" in later
    assert run(repository, "check", *rules).returncode == 0
    # A field that does not belong there is refused.
    path.write_text(text.replace('"env"', f'"hostname": "{os.uname().nodename}",\n "env"', 1), encoding="utf-8")
    refused = run(repository, "check", *rules)
    assert (refused.returncode, "hostname" in refused.stdout) == (61, True)


def test_a_build_of_the_local_channel_is_no_evidence_here(environment: Path) -> None:
    done = run(LAYOUT.root, "evidence", "add", str(REPORT))
    assert (done.returncode, "local channel" in done.stderr) == (66, True)
