"""Many installations at once with one cold cache, and environments whose names begin alike."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.progress import Silent
from torchlocks.install.cache import PackageStore
from torchlocks.install.fetch import ensure_cached
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import InstallOptions, install_environment, rollback
from torchlocks.install.package_files import walk
from torchlocks.install.provenance import Origin
from torchlocks.lockfile.models import Lock

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
ROUNDS = 15 if SLOW else 1
PROCESSES = 8 if SLOW else 4
CHILD = """
import pickle, sys
from pathlib import Path
from torchlocks.core.progress import Silent
from torchlocks.install.installer import install_environment
from torchlocks.install.provenance import Origin
lock, platform, prefix, options = pickle.loads(Path(sys.argv[1]).read_bytes())
print("ready", flush=True)
sys.stdin.readline()
origin = Origin(name="tiny", channel="local")
install_environment(lock, platform, prefix, provenance=origin, options=options, progress=Silent())
"""


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    made = make_channel(tmp_path_factory.mktemp("many") / "channel")
    for number in range(8):
        made.raw(f"small{number}", {f"share/small/{number}-{i}": "x" * 2000 for i in range(20)})
    return made


def install(lock: Lock, prefix: Path, options: InstallOptions) -> None:
    origin = Origin(name="tiny", channel="local")
    install_environment(lock, PLATFORM, prefix, provenance=origin, options=options, progress=Silent())


def test_at_once_into_different_prefixes_with_one_cold_cache(channel: TinyChannel, tmp_path: Path) -> None:
    lock = channel.lock()
    for number in range(ROUNDS):
        place = tmp_path / str(number)
        place.mkdir()
        options = InstallOptions(fetch=FetchOptions(cache=place / "pkgs", retries=1))
        running = []
        for child in range(PROCESSES):
            told = place / f"{child}.pickle"
            told.write_bytes(pickle.dumps((lock, PLATFORM, place / "envs" / str(child), options)))
            command = [sys.executable, "-c", CHILD, str(told)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            running.append(subprocess.Popen(command, text=True, **pipes))  # type: ignore[call-overload]
        for each in running:
            assert each.stdout.readline() == "ready\n"
        for each in running:
            each.stdin.write("go\n")
            each.stdin.flush()
        failed = [said for each in running for _, said in [each.communicate(timeout=300)] if each.returncode]
        assert not failed, f"round {number}: {len(failed)} of {PROCESSES} failed: {failed[0]}"
        assert all(fsck(place / "envs" / str(child), progress=Silent()).ok for child in range(PROCESSES))
        shutil.rmtree(place)


STAGING = """
import sys, time
from pathlib import Path
from torchlocks.install.cache import PackageStore
store = PackageStore(Path(sys.argv[1]))
for _ in range(30):
    with store.staging() as folder:
        (folder / "x").write_text("x")
        time.sleep(0.002)
        assert (folder / "x").read_text() == "x"
"""


def test_no_process_removes_the_staging_folder_of_another(tmp_path: Path) -> None:
    dead = tmp_path / ".torchlocks" / "stage-dead"
    dead.mkdir(parents=True)
    (dead / "download").write_text("of a killed run")
    command = [sys.executable, "-c", STAGING, str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    failed = [said for each in running for _, said in [each.communicate(timeout=120)] if each.returncode]
    assert not failed, failed[0]
    left = [each.name for each in (tmp_path / ".torchlocks").iterdir() if each.is_dir()]
    assert left == []


def test_a_good_entry_of_the_cache_is_kept_and_a_damaged_one_is_not(channel: TinyChannel, tmp_path: Path) -> None:
    package = next(each for each in channel.packages if each.name == "alpha")
    store = PackageStore(tmp_path / "pkgs")
    first = ensure_cached([package], FetchOptions(cache=store.root), Silent())[package]
    inode = first.folder.stat().st_ino
    with store.staging() as stage:
        shutil.copytree(first.folder, stage / "again", symlinks=True)
        assert package.sha256 is not None
        store.place(
            stage / "again", package, walk(stage / "again"), sha256=package.sha256, md5=package.md5, size=package.size
        )
    assert first.folder.stat().st_ino == inode
    (first.folder / "share" / "alpha.txt").write_text("damaged")
    with store.staging() as stage:
        shutil.copytree(first.folder, stage / "again", symlinks=True)
        (stage / "again" / "share" / "alpha.txt").write_text("alpha\n" * 100)
        store.place(
            stage / "again", package, walk(stage / "again"), sha256=package.sha256, md5=package.md5, size=package.size
        )
    assert first.folder.stat().st_ino != inode
    assert store.find(package, full=True).entry is not None


@pytest.mark.parametrize("other", ["env.new-2", "env.trash-2", "env.new-0123abcd", "env.new-0123abcd.new-1"])
def test_environments_whose_names_begin_alike_leave_one_another_alone(
    channel: TinyChannel, tmp_path: Path, other: str
) -> None:
    options = InstallOptions(fetch=FetchOptions(cache=tmp_path / "pkgs"))
    lock, small = channel.lock(), channel.lock(packages=channel.packages[:1])
    install(small, tmp_path / "envs" / other, options)
    install(lock, tmp_path / "envs" / other, options)
    install(lock, tmp_path / "envs" / "env", options)
    install(small, tmp_path / "envs" / "env", options)
    back = rollback(tmp_path / "envs" / other, progress=Silent())
    assert back is not None
    assert back.lock_sha256 == small.sha256
