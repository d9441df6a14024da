"""Locking through conda-lock: pure, complete, and harmless when it fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from support import SNAPSHOT, digests, few_environments, needs_snapshot, torchlocks
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import read_lock

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project's inputs and locks, to lock in."""
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "locks", root / "locks")
    return root


@needs_snapshot
def test_locking_the_whole_matrix_changes_no_byte(checkout: Path) -> None:
    before = digests(checkout / "locks")
    shutil.rmtree(checkout / "locks")
    run = torchlocks(checkout, "lock", "--snapshot", str(SNAPSHOT))
    assert run.returncode == 0, run.stderr
    assert digests(checkout / "locks") == before


@needs_snapshot
def test_nothing_of_this_machine_is_in_a_lock() -> None:
    names = [str(ROOT), str(SNAPSHOT), str(Path.home()), os.uname().nodename]
    for path in (ROOT / "locks").rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [name for name in names if len(name) > 3 and name in text], path


@needs_snapshot
def test_one_platform_can_be_locked_alone(checkout: Path) -> None:
    before = digests(checkout / "locks")
    folder = checkout / "locks" / "cpu"
    lock = folder / "conda-lock.yml"
    text, count = re.subn(r"(linux-64/numpy)-[\d.]+-(py\w+)", r"\1-2.0.0-\2", lock.read_text())
    assert count
    lock.write_text(text)
    run = torchlocks(checkout, "lock", "--env", "cpu", "--platform", "linux-64", "--snapshot", str(SNAPSHOT))
    assert run.returncode == 0, run.stderr
    assert digests(checkout / "locks") == before, "linux-64 is locked again, and the other platforms are unchanged"


@needs_snapshot
def test_what_cannot_be_solved_leaves_its_lock_alone_with_the_reason(tmp_path: Path) -> None:
    checkout = few_environments(tmp_path / "a checkout", "cpu", "gpu-cu118")
    before = digests(checkout.locks)
    document = yaml.safe_load(checkout.matrix.read_text())
    document["environments"]["gpu-cu118"]["platforms"]["linux-64"]["pytorch"] = "2.9"
    checkout.matrix.write_text(yaml.safe_dump(document))
    run = torchlocks(checkout.root, "lock", "--snapshot", str(SNAPSHOT))
    assert run.returncode == 20
    assert "gpu-cu118 on linux-64" in run.stderr
    assert "pytorch 2.9.* cuda118*" in run.stderr
    assert re.search(r"\b1 of 2 environments could not be locked", run.stderr), run.stderr
    assert digests(checkout.locks) == before


@needs_snapshot
def test_an_earlier_day_gives_an_older_lock_that_records_it(checkout: Path) -> None:
    run = torchlocks(checkout, "lock", "--env", "gpu-cu118", "--snapshot", str(SNAPSHOT), "--as-of", "2026-05-01")
    assert run.returncode == 0, run.stderr
    folder = checkout / "locks" / "gpu-cu118"
    newest = max(package.timestamp_ms or 0 for package in read_lock(folder / "pixi.lock").packages["linux-64"])
    assert newest < datetime(2026, 5, 2, tzinfo=timezone.utc).timestamp() * 1000
    assert "as of 2026-05-01" in (folder / "conda-lock.yml").read_text()


@needs_snapshot
def test_the_metadata_records_how_it_was_made() -> None:
    metadata = yaml.safe_load((ROOT / "locks" / "cpu" / "conda-lock.yml").read_text())["metadata"]
    said = metadata["custom_metadata"]
    assert set(metadata["content_hash"]) == set(metadata["platforms"])
    for platform in metadata["platforms"]:
        assert said[f"records {platform}"].startswith("snapshot sha256:")
        assert "__cuda" not in said[f"virtual-packages {platform}"]
    assert {"torchlocks", "conda-lock", "solver"} <= set(said)
    gpu = yaml.safe_load((ROOT / "locks" / "gpu-cu118" / "conda-lock.yml").read_text())["metadata"]
    assert "__cuda=11.0" in gpu["custom_metadata"]["virtual-packages linux-64"]


@needs_snapshot
def test_an_update_moves_the_named_package_and_nothing_that_can_stay(checkout: Path) -> None:
    assert SNAPSHOT
    run = torchlocks(checkout, "lock", "--env", "gpu-cu118", "--snapshot", SNAPSHOT, "--as-of", "2026-05-01")
    assert run.returncode == 0, run.stderr
    path = checkout / "locks" / "gpu-cu118" / "conda-lock.yml"
    old = {p.name: p.url for p in read_lock(path).packages["linux-64"]}
    newest = {p.name: p.url for p in read_lock(ROOT / "locks" / "gpu-cu118" / "conda-lock.yml").packages["linux-64"]}
    assert old["numpy"] != newest["numpy"], "the test needs a package that has moved since"
    run = torchlocks(checkout, "update", "numpy", "--env", "gpu-cu118", "--snapshot", SNAPSHOT)
    assert run.returncode == 0, run.stderr
    new = {p.name: p.url for p in read_lock(path).packages["linux-64"]}
    assert new["numpy"] == newest["numpy"]
    moved = {name for name in new if old.get(name) != new[name]}
    assert moved == {"numpy"}


@needs_snapshot
def test_a_package_that_is_in_no_lock_is_a_typo(checkout: Path) -> None:
    assert SNAPSHOT
    run = torchlocks(checkout, "update", "numpi", "--snapshot", SNAPSHOT)
    assert run.returncode == 13
    assert "did you mean numpy" in run.stderr


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@needs_snapshot
def test_live_channels_through_a_mirror_give_the_same_packages(checkout: Path, tmp_path: Path) -> None:
    """The path that users with a network take: repodata over HTTP, with the real URLs in the lock."""
    serve = partial(_Quiet, directory=str(SNAPSHOT))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        cache = {"RATTLER_CACHE_DIR": str(tmp_path / "cache")}
        run = torchlocks(checkout, "lock", "--env", "gpu-cu124", "--mirror", mirror, **cache)
        server.shutdown()
    assert run.returncode == 0, run.stderr
    for name in ("pixi.lock", "conda-linux-64.lock", "conda-win-64.lock"):
        assert (checkout / "locks/gpu-cu124" / name).read_bytes() == (ROOT / "locks/gpu-cu124" / name).read_bytes()
    text = (checkout / "locks/gpu-cu124/conda-lock.yml").read_text()
    assert "records linux-64: live" in text
    assert f"records linux-64: live from the mirror {mirror}" in text
    assert not [line for line in text.splitlines() if line.strip().startswith("url:") and "127.0.0.1" in line]


def test_without_a_network_the_channel_is_named_and_locks_stay(checkout: Path) -> None:
    before = digests(checkout / "locks")
    # A mirror on the discard port of loopback refuses at once, whatever network there is.
    run = torchlocks(checkout, "lock", "--env", "cpu", "--platform", "linux-64", "--mirror", "http://127.0.0.1:9/x")
    assert run.returncode == 30
    assert "conda-forge cannot be read" in run.stderr
    assert digests(checkout / "locks") == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("lock", "--env", "gpu-cu117"), 11, "gpu-cu118"),
        (("lock", "--platform", "linux-32"), 11, "linux-64"),
        (("lock", "--env", "gpu-cu118", "--platform", "win-64"), 11, "does not exist for win-64"),
        (("lock", "--snapshot", "locks"), 14, "not a snapshot"),
        (("lock", "--as-of", "yesterday"), 2, "yesterday"),
        (("lock", "--conda", "/no/such/conda"), 14, "does not exist"),
        (("lock", "--conda", sys.executable, "--as-of", "2026-01-01"), 20, "own solver"),
        (("lokc",), 2, "No such command"),
    ],
)
def test_a_mistake_is_reported_and_nothing_changes(
    checkout: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = digests(checkout)
    run = torchlocks(checkout, *arguments)
    assert (run.returncode, said in run.stderr) == (code, True), run.stderr
    assert digests(checkout) == before


def test_a_template_with_a_typo_is_named_and_nothing_changes(checkout: Path) -> None:
    template = checkout / "environment-cpu.yml"
    template.write_text(template.read_text().replace("{{ python }}", "{{ pyhton }}"))
    before = digests(checkout)
    run = torchlocks(checkout, "lock", "--env", "cpu")
    assert run.returncode == 12
    assert "'pyhton' is undefined" in run.stderr
    assert f"{template}:" in run.stderr
    assert digests(checkout) == before


def test_outside_a_checkout_the_command_is_an_error(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "matrix", TORCHLOCKS_ROOT="")
    assert run.returncode == 14
    assert "not a torchlocks checkout" in run.stderr


@needs_snapshot
def test_conda_lock_itself_takes_the_locks(tmp_path: Path) -> None:
    """Its own parser and its own rendering, with no conda on the machine."""
    conda_lock = Path(sys.executable).parent / "conda-lock"
    lock = Layout(ROOT).locks / "gpu-cu126" / "conda-lock.yml"
    run = subprocess.run(
        [str(conda_lock), "render", "--kind", "explicit", str(lock)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for platform in ("linux-64", "linux-aarch64", "win-64"):
        theirs = read_lock(tmp_path / f"conda-{platform}.lock")
        ours = read_lock(lock.with_name(f"conda-{platform}.lock"))
        assert {p.url for p in theirs.packages[platform]} == {p.url for p in ours.packages[platform]}
