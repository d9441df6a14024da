"""Which locks are proven in which job, and the commands that clients are given."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from evidence_samples import UBUNTU, commit, git, proving, repository, written
from torchlocks.core.errors import MissingFileError, NoSuchRowError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress, Silent
from torchlocks.evidence.body import pull_request_body
from torchlocks.evidence.record import record_of
from torchlocks.evidence.store import write_record
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.load import load_matrix
from torchlocks.verify import suite
from torchlocks.verify.suite import Required, SuiteOptions
from torchlocks.workflow.prove import client_command, prove
from torchlocks.workflow.shards import CLIENTS, RUNNERS, plan_shards

CI = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "someone/locks",
    "GITHUB_WORKFLOW_REF": "someone/locks/.github/workflows/verify.yml@refs/heads/main",
    "GITHUB_RUN_ID": "123",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return repository(tmp_path, "cpu", "gpu-cu118")


def cells(layout: Layout, **options: Any) -> set[tuple[str, str, str]]:
    shards = plan_shards(layout, load_matrix(layout.matrix), **options)
    return {(env, shard.platform, shard.client) for shard in shards for env in shard.environments.split()}


def test_every_locked_cell_is_in_one_job(layout: Layout) -> None:
    shards = plan_shards(layout, load_matrix(layout.matrix), most=1)
    assert {shard.runner for shard in shards} == set(RUNNERS.values())
    assert len(shards) == len(cells(layout)) == len(CLIENTS) * 6
    # Packages of CUDA are too large to be cached.
    assert {shard.cache for shard in shards if "gpu-cu118" in shard.environments} == {False}
    assert len({shard.key for shard in shards}) == len(shards)


def test_of_a_revision_only_what_changed(layout: Layout) -> None:
    assert cells(layout, since="HEAD") == set()
    path = layout.locks / "gpu-cu118" / "conda-linux-64.lock"
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    changed = {("gpu-cu118", "linux-64", client) for client in CLIENTS}
    assert cells(layout, since="HEAD") == changed
    commit(layout, "Change a lock")
    assert cells(layout, since="HEAD") == set()
    assert cells(layout, since="HEAD~1") == changed
    for revision in ("no-such-branch", "--output=x"):
        with pytest.raises(MissingFileError):
            cells(layout, since=revision)


def test_what_a_workflow_has_proven_is_left_out(layout: Layout) -> None:
    now = datetime.now(timezone.utc)
    report = written(layout, proving(layout, "cpu", host=UBUNTU, started_at=now))
    by_hand = record_of(layout, report, environ={})
    write_record(layout, by_hand)
    everything = cells(layout)
    assert cells(layout, max_age_days=28) == everything
    write_record(layout, record_of(layout, report, environ=CI))
    assert everything - cells(layout, max_age_days=28) == {("cpu", "linux-64", "torchlocks")}
    assert cells(layout, max_age_days=0) == everything
    lock = layout.locks / "cpu" / "conda-lock.yml"
    lock.write_text(lock.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert cells(layout, max_age_days=28) == everything


def test_the_number_of_jobs_is_limited(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchlocks.workflow.shards.MOST_JOBS", 20)
    everything = Layout(Path(__file__).parents[3])
    shards = plan_shards(everything, load_matrix(everything.matrix), clients=("torchlocks",), most=1)
    assert 5 <= len(shards) <= 20


def test_clients_get_the_documented_commands(layout: Layout) -> None:
    target = load_matrix(layout.matrix).target("cpu", "linux-64")
    explicit = str(layout.locks / "cpu" / "conda-linux-64.lock")
    assert client_command(layout, target, Path("/p"), "micromamba") == [
        *("micromamba", "create", "-p", "/p", "-f", explicit, "-y"),
    ]
    assert client_command(layout, target, Path("/p"), "conda") == [
        "conda",
        "create",
        "-p",
        "/p",
        "--file",
        explicit,
        "-y",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a client is a shell script")
def test_each_environment_is_proven_and_removed(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for micromamba makes one prefix and fails for the other; the suite is not run."""
    programs = tmp_path / "bin"
    programs.mkdir()
    client = programs / "micromamba"
    client.write_text('#!/bin/sh\ncase "$*" in *gpu*) echo "no room" >&2; exit 3;; esac\nmkdir -p "$3/conda-meta"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    seen: list[tuple[bool, str]] = []

    def verify(
        prefix: Path, _lock: Lock, _platform: str, _required: Required, options: SuiteOptions, _progress: Progress
    ) -> object:
        seen.append(((prefix / "conda-meta").is_dir(), options.client))
        return proving(layout, "cpu")

    monkeypatch.setattr(suite, "verify_environment", verify)
    matrix = load_matrix(layout.matrix)
    found = prove(layout, matrix, ["cpu", "gpu-cu118"], "linux-64", "micromamba", Silent())
    assert [each.ok for each in found] == [True, False]
    assert seen == [(True, "micromamba")]
    assert found[0].line == "cpu: CPU environment verified"
    assert found[1].error is not None
    assert "no room" in str(found[1].error)
    assert not any((layout.build / "proof" / "micromamba").iterdir())
    with pytest.raises(NoSuchRowError):
        prove(layout, matrix, ["nothing"], "linux-64", "torchlocks", Silent())
    monkeypatch.setattr("torchlocks.workflow.prove.shutil.which", lambda _: None)
    with pytest.raises(MissingFileError):
        prove(layout, matrix, ["cpu"], "linux-64", "conda", Silent())


def test_the_text_of_a_pull_request(layout: Layout) -> None:
    record = record_of(layout, written(layout, proving(layout, "cpu")), environ=CI)
    text = pull_request_body([record], {"gpu.json": "It | failed"})
    assert text.startswith("## Add evidence on 1 lock\n")
    assert "- **cpu on linux-64**: CI: Ubuntu 24.04 (torchlocks)" in text
    assert "gpu.json" in text
    assert len(pull_request_body([record] * 3, {str(n): "x" * 100 for n in range(1000)})) < 65_536
    assert git(layout, "status", "--porcelain").startswith("??")
