"""Divide the verification of committed locks into jobs by platform, client and environment."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from torchlocks.core.errors import MissingFileError
from torchlocks.core.files import hash_file
from torchlocks.core.git import GitError, git
from torchlocks.core.layout import Layout
from torchlocks.evidence.clients import Client
from torchlocks.evidence.model import Evidence
from torchlocks.evidence.store import records
from torchlocks.lockfile.formats import CONDA_LOCK, explicit_name
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

RUNNERS: Mapping[str, str] = {
    "linux-64": "ubuntu-24.04",
    "linux-aarch64": "ubuntu-24.04-arm",
    "osx-64": "macos-15-intel",
    "osx-arm64": "macos-15",
    "win-64": "windows-2025",
}
"""GitHub's runner for each platform. Other platforms have none, and are verified by hand."""

CLIENTS: tuple[Client, ...] = ("torchlocks", "micromamba", "conda")

MOST_JOBS = 250
"""GitHub starts at most 256 jobs from one matrix."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One job: `environments` are names separated by spaces, `key` is the key of their package cache.

    `cache`: whether to cache their packages; CUDA packages would evict all others.
    """

    name: str
    runner: str
    platform: str
    client: Client
    environments: str
    key: str
    cache: bool


def plan_shards(
    layout: Layout,
    matrix: Matrix,
    *,
    clients: Sequence[Client] = CLIENTS,
    since: str | None = None,
    max_age_days: int | None = None,
    most: int = 6,
) -> tuple[Shard, ...]:
    """Return the jobs that prove every committed lock on every platform with a runner.

    `since` (a git revision) selects locks that differ from it; `max_age_days` leaves out those with evidence of a
    workflow on the present lock that is not older. A job has at most `most` environments, or more if there would be
    too many jobs. Raises MissingFileError if there is no such revision.
    """
    changed = None if since is None else _changed(layout, since)
    fresh = set() if max_age_days is None else _fresh(layout, timedelta(days=max_age_days))
    groups: dict[tuple[str, Client, bool], list[Target]] = {}
    for target in matrix.targets():
        lock = layout.locks / target.env / CONDA_LOCK
        explicit = layout.locks / target.env / explicit_name(target.platform)
        if target.platform not in RUNNERS or not lock.is_file() or not explicit.is_file():
            continue
        if changed is not None and target.env not in changed:
            continue
        for client in clients:
            if (target.env, target.platform, client) not in fresh:
                groups.setdefault((target.platform, client, target.cuda is not None), []).append(target)
    while sum(-(-len(targets) // most) for targets in groups.values()) > MOST_JOBS:
        most += 1
    return tuple(
        _shard(layout, *group, number // most + 1, targets[number : number + most])
        for group, targets in groups.items()
        for number in range(0, len(targets), most)
    )


def as_matrix(shards: Sequence[Shard]) -> dict[str, list[dict[str, object]]]:
    """Return the jobs as the value of a workflow's `strategy.matrix`."""
    return {"include": [asdict(shard) for shard in shards]}


def _shard(layout: Layout, platform: str, client: Client, cuda: bool, number: int, targets: Sequence[Target]) -> Shard:
    hashes = "".join(hash_file(layout.locks / target.env / explicit_name(platform)) for target in targets)
    key = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    return Shard(
        name=f"{platform} {'cuda' if cuda else 'cpu'} {client} {number}",
        runner=RUNNERS[platform],
        platform=platform,
        client=client,
        environments=" ".join(target.env for target in targets),
        key=f"packages-{platform}-{client}-{key}",
        cache=not cuda,
    )


def _changed(layout: Layout, revision: str) -> Collection[str]:
    """Return the environments whose locks differ from a revision."""
    try:
        root = (
            git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", cwd=layout.root).decode().strip()
        )
        listed = git("diff", "--name-only", "--relative", "-z", root, "--", "locks", cwd=layout.root).decode()
    except GitError as error:
        raise MissingFileError(
            f"The locks cannot be compared with the revision {revision!r}: {error}.",
            where=str(layout.root),
            fix="name a commit, tag or branch that this clone has (git fetch)",
        ) from None
    return {path.split("/")[1] for path in listed.split("\0") if path.count("/") > 1}


def _fresh(layout: Layout, age: timedelta) -> set[tuple[str, str, Client]]:
    oldest = datetime.now(timezone.utc) - age
    hashes: dict[str, str | None] = {}

    def present(record: Evidence) -> bool:
        if record.env not in hashes:
            path = layout.locks / record.env / CONDA_LOCK
            hashes[record.env] = hash_file(path) if path.is_file() else None
        return hashes[record.env] == record.lock_sha256

    return {
        (each.env, each.platform, each.client)
        for each in records(layout)
        if each.workflow is not None and not each.machine.gpus and each.date >= oldest and present(each)
    }
