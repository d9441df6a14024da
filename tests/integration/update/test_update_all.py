"""Updating all locks against real channel records: what moves, what is written, and what the account says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml

import sample_reports
from preloaded import run_torchlocks
from support import few_environments
from torchlocks.check.model import Report
from torchlocks.core.errors import MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.diff.compare import Move
from torchlocks.lockfile.formats import parse_lock, read_lock
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.load import load_matrix
from torchlocks.update.pull_request import body, headline
from torchlocks.update.relock import account_since
from torchlocks.verify.verdict import Verdict

ROOT = Path(__file__).parents[3]
SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT", "")
ONE = ("--env", "cpu", "--platform", "linux-64")
#: A day on which the records at hand already had torch 2.12, and older packages beside it.
EARLIER = "2026-07-08"
#: A line of the table of changes.
CHANGE = re.compile(rf" \| ({'|'.join(get_args(Move))}) \| ")

pytestmark = [
    pytest.mark.snapshot,
    pytest.mark.skipif(not SNAPSHOT, reason="needs channel records (make test SNAPSHOT=DIR)"),
]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the CPU environment alone: the check of all is tested elsewhere, and takes its time."""
    few_environments(tmp_path, "cpu")
    (tmp_path / ".gitignore").write_text("/reports/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "as it is")
    return tmp_path


def update(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_torchlocks(["update-all", "--no-refresh", *arguments], cwd=checkout)


def account(checkout: Path) -> str:
    return (checkout / "reports" / "update.md").read_text()


def test_where_nothing_moved_nothing_is_written(checkout: Path) -> None:
    run = update(checkout, "--snapshot", SNAPSHOT, *ONE)
    assert (run.returncode, run.stdout) == (0, "Nothing moved\n"), run.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert account(checkout).startswith("## Nothing moved\n")
    assert "nothing found" in account(checkout)


def test_what_moved_is_written_and_accounted_for(checkout: Path) -> None:
    earlier = update(checkout, "--snapshot", SNAPSHOT, "--as-of", EARLIER, *ONE)
    assert earlier.returncode == 0, earlier.stderr
    (checkout / "locks" / "cpu" / "conda-lock.yml.sig").write_text("a signature of what will be another file\n")
    (checkout / "locks" / "cpu" / "conda-win-64.lock.sig").write_text("a signature of a file that stays\n")
    git(checkout, "commit", "-q", "-a", "-m", "some time ago")
    git(checkout, "add", "-A")

    run = update(checkout, "--snapshot", SNAPSHOT, *ONE)
    # Nonsense that is still there is the check's to find; the lock's own was removed with its bytes.
    assert run.returncode == 61, run.stderr
    assert run.stdout == "Update the locks of cpu\n"
    for name in ("conda-lock.yml", "conda-linux-64.lock", "conda-win-64.lock", "pixi.lock"):
        assert (checkout / "locks" / "cpu" / name).read_bytes() == (ROOT / "locks" / "cpu" / name).read_bytes()
    assert not (checkout / "locks" / "cpu" / "conda-lock.yml.sig").exists()
    text = account(checkout)
    assert "sign again: `locks/cpu/conda-lock.yml`" in text
    assert "error `signature-stale` in locks/cpu/conda-win-64.lock.sig" in text
    assert "Generated from the new locks: `recipes/" in text
    table = [line for line in text.splitlines() if line.startswith("| cpu |")]
    (row,) = table
    before, after = read_lock_of(checkout, "HEAD"), read_lock(checkout / "locks" / "cpu" / "pixi.lock")
    old, new = ({p.name: p for p in lock.packages["linux-64"]} for lock in (before, after))
    moved = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    assert moved
    assert row.split(" | ")[3] == str(len(moved))
    assert row.endswith("| not yet |")
    # Which packages moved, and how, is up to the records: each that moved has a line with its kind of change.
    changes = [line.split(" | ") for line in text.splitlines() if CHANGE.search(line)]
    assert [fields[0][2:].replace("\\", "") for fields in changes] == moved


def read_lock_of(checkout: Path, revision: str) -> Lock:
    return parse_lock(git(checkout, "show", f"{revision}:locks/cpu/pixi.lock").encode(), checkout / "pixi.lock")


def verdict(lock_sha256: str, *, ok: bool = True, select: str | None = None) -> Verdict:
    told = sample_reports.verdict(sample_reports.check("y", "passed" if ok else "failed", why="y"))
    headline = "CPU environment verified" if ok else told.headline
    return told.model_copy(
        update={"lock_sha256": lock_sha256, "select": select, "complete": select is None, "headline": headline}
    )


def test_the_account_lists_verifications_of_just_these_locks(checkout: Path) -> None:
    layout, one = Layout(checkout), checkout / "locks" / "cpu" / "conda-lock.yml"
    matrix = load_matrix(layout.matrix)
    # Any other package makes another lock; this one is only ever read.
    text, count = re.subn(r"(numpy-[\d.]+-py\w+)_0", r"\1_1", one.read_text())
    assert count
    one.write_text(text)
    one.with_name("pixi.lock").unlink()
    lock = read_lock(one)
    report = layout.reports / "cpu.json"
    report.parent.mkdir()

    def row() -> str:
        text = body(account_since(layout, matrix, "HEAD", Report()))
        (line,) = [line for line in text.splitlines() if line.startswith("| cpu | linux-64 |")]
        return line.split(" | ")[-1]

    assert row() == "not yet |"
    found = verdict(lock.sha256)
    assert found.ok
    report.write_text(found.model_dump_json())
    assert row() == f"{found.headline} |"
    report.write_text(verdict(lock.sha256, ok=False).model_dump_json())
    assert row().startswith("FAILED: ")
    for useless in (verdict("0" * 64), verdict(lock.sha256, select="numpy")):
        report.write_text(useless.model_dump_json())
        assert row() == "not yet |"
    report.write_text("{")
    assert row() == "not yet |"
    git(checkout, "commit", "-q", "-a", "-m", "after")
    assert headline(account_since(layout, matrix, "HEAD", Report())) == "Nothing moved"
    with pytest.raises(MissingFileError, match="no-such-revision"):
        account_since(layout, matrix, "no-such-revision", Report())


def test_what_has_no_solution_stays_and_is_named(checkout: Path) -> None:
    document = yaml.safe_load((checkout / "matrix.yml").read_text())
    document["environments"]["cpu"]["platforms"]["linux-64"]["pytorch"] = "9.9"
    (checkout / "matrix.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    git(checkout, "commit", "-q", "-a", "-m", "a requirement too far")
    run = update(checkout, "--snapshot", SNAPSHOT, *ONE)
    assert run.returncode == 20, run.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert "### Not locked" in account(checkout)
    assert "- **cpu** on linux-64: No solution" in account(checkout)


def test_a_snapshot_that_is_none_is_refused_before_anything(checkout: Path) -> None:
    run = update(checkout, "--snapshot", str(checkout / "nowhere"))
    assert run.returncode == 14, run.stderr
    assert not (checkout / "reports").exists()


def test_a_newer_matrix_is_part_of_the_update_and_of_its_account(checkout: Path) -> None:
    run = run_torchlocks(["update-all", "--snapshot", SNAPSHOT, *ONE], cwd=checkout)
    matrix = load_matrix(checkout / "matrix.yml")
    new = [name for name in matrix.environments if name != "cpu"]
    assert new
    assert all((checkout / "locks" / name / "conda-lock.yml").is_file() for name in new), run.stderr
    text = account(checkout)
    assert "### Matrix" in text
    assert all(f"new: {name}" in text.replace("\\", "") for name in new)
    # The account that is written after the verification has it, too.
    run_torchlocks(["update-all", "--since", "HEAD"], cwd=checkout)
    assert "### Matrix" in account(checkout)
