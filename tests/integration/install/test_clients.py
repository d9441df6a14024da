"""The same environment from every client that is on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import LAYOUT
from torchlocks.host.detect import host_platform
from torchlocks.lockfile.formats import explicit_name, read_lock
from torchlocks.matrix.load import load_matrix

EXPLICIT = LAYOUT.local_locks / "cpu" / explicit_name(host_platform())
LOCK = LAYOUT.local_locks / "cpu" / "conda-lock.yml"
CLIENTS = {
    "conda": ["conda", "create", "-y", "--offline", "-p", "PREFIX", "--file", str(EXPLICIT)],
    "mamba": ["mamba", "create", "-y", "--offline", "-p", "PREFIX", "--file", str(EXPLICIT)],
    "micromamba": ["micromamba", "create", "-y", "--offline", "-p", "PREFIX", "-f", str(EXPLICIT)],
    "conda-lock": ["conda-lock", "install", "-p", "PREFIX", str(LOCK)],
}
_OF_CLIENTS = ("conda-meta/", "__pycache__/")


def contents(prefix: Path, written: frozenset[str]) -> dict[str, bytes]:
    """Every file that packages bring, with the prefix taken out: what must not depend on who installs.

    Clients write the scripts of entry points (`written`) each in its own way, and mark caches, or not.
    """
    found = {}
    for path in sorted(prefix.rglob("*")):
        name = path.relative_to(prefix).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink()).encode()
        elif path.is_file() and not any(part in name for part in _OF_CLIENTS) and not name.endswith(".pyc"):
            found[name] = b"" if name in written else path.read_bytes().replace(str(prefix).encode(), b"PREFIX")
    found.pop("CACHEDIR.TAG", None)
    return found


def entry_points(prefix: Path) -> frozenset[str]:
    """The scripts of an environment of torchlocks that the client wrote, by the records."""
    records = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    entries = [entry for record in records for entry in record["paths_data"]["paths"]]
    return frozenset(each["_path"] for each in entries if "entry_point" in each["path_type"])


def _where_there_is(client: str) -> pytest.ParameterSet:
    # conda-lock drives one of the others.
    needed = (client,) if client != "conda-lock" else ("conda", "mamba", "micromamba")
    missing = not any(shutil.which(name) for name in needed)
    reason = f"{' or '.join(needed)} is not installed on this machine"
    return pytest.param(client, marks=pytest.mark.skipif(missing, reason=reason))


@pytest.mark.parametrize("client", [_where_there_is(client) for client in CLIENTS])
def test_the_tree_is_the_same(environment: Path, tmp_path: Path, client: str) -> None:
    prefix = tmp_path / "env"
    command = [str(prefix) if part == "PREFIX" else part for part in CLIENTS[client]]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    written = entry_points(environment)
    theirs, ours = contents(prefix, written), contents(environment, written)
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_what_clients_are_given_is_what_torchlocks_installs() -> None:
    """Where a client cannot be had: its file names the same packages, by the same hashes."""
    matrix = load_matrix(LAYOUT.matrix)
    for env in matrix.environments:
        folder = LAYOUT.locks / env
        locks = [read_lock(folder / name) for name in ("conda-lock.yml", "pixi.lock")]
        for target in matrix.select(env, None):
            explicit = read_lock(folder / explicit_name(target.platform))
            by_format = [
                {(package.url, package.sha256) for package in lock.packages[target.platform]}
                for lock in (*locks, explicit)
            ]
            assert by_format[0] == by_format[1] == by_format[2]
            assert all(sha256 for _, sha256 in by_format[0])
