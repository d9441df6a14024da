"""A lock that somebody else wrote names a base: no command of theirs runs, and no server of theirs is contacted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from test_extend import BASE, lock_text

from preloaded import run_torchlocks
from torchlocks.check.anywhere import check_files_of, require_bases
from torchlocks.check.model import Report

SHA = "0" * 64


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_torchlocks(arguments, cwd=folder, env={**os.environ, "TORCHLOCKS_ROOT": "", "COLUMNS": "300"})


def check(folder: Path, *, fetch_base: bool = False) -> Report:
    return check_files_of([folder / "conda-lock.yml"], fetch_base=fetch_base)


def write_lock(folder: Path, base: str, **metadata: str) -> None:
    said = {"base": base, "base sha256": SHA, "environment": "environment.yml", **metadata}
    (folder / "conda-lock.yml").write_text(lock_text(BASE, ("linux-64",), **said))


def git(*arguments: str, cwd: Path) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def stranger(tmp_path: Path) -> tuple[Path, Path, str]:
    """A folder with a bare repository whose configuration names commands, and lacks the file of its commit.

    Returns (the folder, the file that the commands would write, the commit).
    """
    folder, mark = tmp_path / "theirs", tmp_path / "ran"
    full = tmp_path / "full"
    locks = full / "locks" / "cpu"
    locks.mkdir(parents=True)
    folder.mkdir()
    (locks / "conda-lock.yml").write_text(lock_text(BASE))
    git("init", "-q", "-b", "main", cwd=full)
    git("add", ".", cwd=full)
    git("commit", "-qm", "one", cwd=full)
    git("config", "uploadpack.allowFilter", "true", cwd=full)
    git("clone", "-q", "--bare", "--filter=blob:none", full.as_uri(), str(folder / "sub.git"), cwd=tmp_path)
    command = f"sh -c 'touch {mark}; exit 1' --"
    bare = folder / "sub.git"
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": "ssh://nowhere.invalid/repository",
        "remote.origin.uploadpack": command,
        "core.sshCommand": command,
        "core.fsmonitor": command,
        "core.pager": command,
        "uploadpack.packObjectsHook": command,
        "core.alternateRefsCommand": command,
    }.items():
        git("config", key, value, cwd=bare)
    hooks = bare / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / name).chmod(0o755)
    return folder, mark, git("rev-parse", "HEAD", cwd=full).strip()


@pytest.mark.parametrize("how", ["./sub.git", "uri"])
def test_no_command_of_a_repository_beside_the_lock_is_run(stranger: tuple[Path, Path, str], how: str) -> None:
    folder, mark, commit = stranger
    repository = (folder / "sub.git").as_uri() if how == "uri" else how
    write_lock(folder, f"cpu@{commit}", **{"base repository": repository, "base commit": commit})
    for fetch_base in (False, True):
        report = check(folder, fetch_base=fetch_base)
        assert not mark.exists()
        # The file is not in the repository: it would have to be fetched with the repository's own configuration.
        assert len(report.bases_not_checked) == 1
    (folder / "environment.yml").write_text("dependencies: [einops]\n")
    assert run(folder, "extend", "--base", f"cpu@{commit}", "--repository", repository).returncode == 19
    assert not mark.exists()


def test_a_repository_on_disk_is_read_all_the_same(tmp_path: Path) -> None:
    full, mine = tmp_path / "full", tmp_path / "mine"
    (full / "below" / "locks" / "cpu").mkdir(parents=True)
    mine.mkdir()
    text = lock_text(BASE)
    (full / "below" / "locks" / "cpu" / "conda-lock.yml").write_text(text)
    git("init", "-q", "-b", "main", cwd=full)
    git("add", ".", cwd=full)
    git("commit", "-qm", "one", cwd=full)
    git("tag", "v1", cwd=full)
    git("worktree", "add", "-q", str(tmp_path / "tree"), cwd=full)
    from torchlocks.extend.base import open_base
    from torchlocks.extend.base_name import BaseName

    commit = git("rev-parse", "HEAD", cwd=full).strip()
    for repository in ("../full/below", "../tree/below"):
        for revision in ("v1", "HEAD", "main", commit, commit[:10]):
            base = open_base(BaseName(text=f"cpu@{revision}", repository=repository), mine)
            assert (base.data.decode(), base.name.commit) == (text, commit)
    git("gc", "-q", cwd=full)
    assert open_base(BaseName(text="cpu@v1", repository="../full/below"), mine).name.commit == commit


@pytest.mark.parametrize(
    ("base", "metadata"),
    [
        ("cpu@v1", {"base repository": "ext::sh -c 'touch ran'"}),
        ("cpu@v1", {"base repository": "--upload-pack=touch ran"}),
        ("cpu@v1", {"base repository": "-oProxyCommand=touch ran:x"}),
        ("cpu@v1", {"base repository": "ssh://-oProxyCommand=touch%20ran/x"}),
        ("cpu@v1", {"base repository": "http://localhost:1/x"}),
        ("cpu@v1", {"base repository": "git://localhost:1/x"}),
        ("cpu@v1", {"base repository": "./nothing", "base commit": "--output=ran"}),
        ("cpu@v1", {"base repository": "./nothing", "base commit": "HEAD:../../x"}),
        ("cpu@-x", {"base repository": "./nothing"}),
    ],
)
def test_what_is_no_repository_is_not_run(tmp_path: Path, base: str, metadata: dict[str, str]) -> None:
    write_lock(tmp_path, base, **metadata)
    assert require_bases(check(tmp_path, fetch_base=True)).failed
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """(the address of a server that answers nothing, who connected)."""
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[str] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            seen.append("connected")
            connection.close()

    thread = Thread(target=accept, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}", seen
    server.close()


@pytest.mark.parametrize("kind", ["url", "repository", "ssh"])
def test_check_contacts_no_server_unless_asked(tmp_path: Path, listener: tuple[str, list[str]], kind: str) -> None:
    address, seen = listener
    host, port = address.split(":")
    if kind == "url":
        write_lock(tmp_path, f"http://{address}/conda-lock.yml")
    elif kind == "repository":
        write_lock(tmp_path, "cpu@v1", **{"base repository": f"https://{address}/x.git"})
    else:
        write_lock(tmp_path, "cpu@v1", **{"base repository": f"ssh://nobody@{host}:{port}/x.git"})
    report = check(tmp_path)
    assert not seen
    assert not report.failed
    assert require_bases(report).failed
    assert any("--fetch-base" in each.reason for each in report.skipped)
    if kind != "ssh":
        check(tmp_path, fetch_base=True)
        assert seen


def test_a_base_that_was_not_looked_at_is_counted(tmp_path: Path) -> None:
    write_lock(tmp_path, "https://127.0.0.1:1/conda-lock.yml")
    said = run(tmp_path, "check", "conda-lock.yml", "--format", "json")
    assert (said.returncode, json.loads(said.stdout)["bases_not_checked"]) == (0, ["conda-lock.yml"])
    assert "1 base not checked" in run(tmp_path, "check", ".").stdout
    required = run(tmp_path, "check", ".", "--require-base")
    assert required.returncode == 61
    assert "base-not-checked" in required.stdout


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
@pytest.mark.parametrize("how", ["file URL", "path", "link", "FIFO", "folder", "large"])
def test_a_base_that_is_no_file_is_not_read(tmp_path: Path, how: str) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder" / "conda-lock.yml").mkdir(parents=True)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    base = {
        "file URL": "file:///dev/zero",
        "path": os.path.relpath("/dev/zero", tmp_path),
        "link": "./link",
        "FIFO": "./fifo",
        "folder": "./folder",
        "large": "./large",
    }[how]
    write_lock(tmp_path, base)
    report = check(tmp_path)
    assert not report.failed
    assert len(report.bases_not_checked) == 1
