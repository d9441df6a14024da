"""Installing for real: what is in place afterwards, and what is there when anything goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from faulty_server import faulty_server
from install_child import Listening
from support import small_disk
from tiny_channel import PLACEHOLDER, PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import BusyError, DiskFullError, FetchError, InstallError, MissingFileError
from torchlocks.core.progress import Silent
from torchlocks.install import swap
from torchlocks.install.cache import PackageStore
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import (
    InstallOptions,
    InstallResult,
    install_environment,
    rollback,
)
from torchlocks.install.inventory import read_inventory
from torchlocks.install.provenance import Origin, mark_verified, read_provenance
from torchlocks.lockfile.models import Lock, pip_package

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
SILENT = Silent()


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    made = make_channel(tmp_path_factory.mktemp("install") / "channel")
    made.raw("alpha", {"share/alpha.txt": "alpha two\n"}, version="2.0", depends=["python 3.11.*"])
    return made


@pytest.fixture(scope="session")
def first(channel: TinyChannel) -> Lock:
    return channel.lock(packages=[each for each in channel.packages if each.version != "2.0"])


@pytest.fixture(scope="session")
def second(channel: TinyChannel) -> Lock:
    kept = [each for each in channel.packages if each.name != "alpha" or each.version == "2.0"]
    return channel.lock(packages=kept)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "envs" / "tiny"


@pytest.fixture
def options(tmp_path: Path) -> InstallOptions:
    return InstallOptions(fetch=FetchOptions(cache=tmp_path / "pkgs", retries=1, backoff_s=0.01))


def install(lock: Lock, prefix: Path, options: InstallOptions) -> InstallResult:
    return install_environment(
        lock, PLATFORM, prefix, provenance=Origin(name="tiny", channel="local"), options=options, progress=SILENT
    )


def alpha(prefix: Path) -> str:
    return (prefix / "share" / "alpha.txt").read_text()


def siblings(prefix: Path) -> set[str]:
    return {each.name for each in prefix.parent.iterdir()} - {".tiny.lock"}


def child(tmp_path: Path, lock: Lock, prefix: Path, options: InstallOptions, die_at: int = 0) -> subprocess.Popen[str]:
    """Start an installation in a process of its own, and wait until it is about to begin."""
    told = tmp_path / f"told-{random.randrange(10**9)}.pickle"
    told.write_bytes(pickle.dumps((lock, prefix, options)))
    running = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1].joinpath("install_child.py")), str(told), str(die_at)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    return running


def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = running.communicate(timeout=60)
    found: dict[str, Any] = json.loads(out)
    return found


def test_an_environment_has_every_file_with_its_final_path_patched_in(
    first: Lock, prefix: Path, options: InstallOptions
) -> None:
    result = install(first, prefix, options)
    assert result.changed
    assert result.packages == 4
    assert (prefix / "bin" / "alpha").read_text() == f"#!{prefix}/bin/python3.11\nprint('alpha')\n"
    binary = (prefix / "lib" / "libtiny.so").read_bytes()
    assert os.fsencode(prefix) + b"/lib" in binary
    assert len(binary) == len(PLACEHOLDER) + len(b"\0\0/lib\0\0")
    assert (prefix / "lib/python3.11/site-packages/beta/__init__.py").read_text() == "value = 1\n"
    assert str((prefix / "bin" / "python").readlink()) == "python3.11"
    for file in prefix.rglob("*"):
        if file.is_file() and "conda-meta" not in file.parts:
            assert b".new-" not in file.read_bytes(), file
    assert siblings(prefix) == {"tiny"}
    assert fsck(prefix, progress=SILENT).ok


def test_conda_and_rattler_take_the_result_for_an_environment(
    first: Lock, prefix: Path, options: InstallOptions
) -> None:
    import asyncio

    from rattler import PrefixRecord, Subdir
    from rattler import install as rattler_install

    install(first, prefix, options)
    records = {r.name.normalized: r for r in map(PrefixRecord.from_path, (prefix / "conda-meta").glob("*.json"))}
    assert set(records) == {"python", "alpha", "beta", "many"}
    # An explicit lock says nothing of dependencies: these are the package's own.
    assert records["beta"].depends == ["python >=3.8", "alpha"]
    assert records["beta"].url.endswith("/noarch/beta-1.0-0.conda")
    assert records["alpha"].sha256 is not None
    assert "::alpha-1.0-0" in (prefix / "conda-meta" / "history").read_text()
    # rattler reads the whole of conda-meta and removes what is not wanted: nothing in there may disturb it.
    asyncio.run(rattler_install([], prefix, show_progress=False, platform=Subdir(PLATFORM)))
    assert not (prefix / "share" / "alpha.txt").exists()


def test_nothing_is_done_when_there_is_nothing_to_do(first: Lock, prefix: Path, options: InstallOptions) -> None:
    made = install(first, prefix, options)
    assert options.fetch is not None
    # Neither cache nor channel is looked at: the fetch options could not work.
    nowhere = replace(options, fetch=replace(options.fetch, cache=prefix.parent / "none", offline=True))
    again = install(first, prefix, nowhere)
    assert not again.changed
    assert again.provenance == made.provenance


def test_what_there_is_nothing_to_do_for_is_not_imported(
    first: Lock, prefix: Path, options: InstallOptions, tmp_path: Path
) -> None:
    install(first, prefix, options)
    told = tmp_path / "told.pickle"
    told.write_bytes(pickle.dumps((first, prefix, options)))
    script = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "from torchlocks.install.installer import install_environment\n"
        "from torchlocks.core.progress import Silent\n"
        "from torchlocks.install.provenance import Origin\n"
        "lock, prefix, options = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "origin = Origin(name='tiny', channel='local')\n"
        "def install(prefix):\n"
        "    to = dict(provenance=origin, options=options, progress=Silent())\n"
        f"    return install_environment(lock, {PLATFORM!r}, prefix, **to)\n"
        "assert not install(prefix).changed\n"
        "print(*sorted({'rattler', 'pydantic', 'asyncio', 'filelock', 'conda_lock'} & set(sys.modules)))\n"
        "assert install(prefix.with_name('other')).changed\n"
        "unused = {f'torchlocks.install.{each}' for each in ('fetch_run', 'transfer', 'unpack')}\n"
        "print(*sorted({'pydantic', 'conda_lock', *unused} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(told)], capture_output=True, text=True, check=True)
    assert done.stdout == "\n\n"


@pytest.mark.parametrize("what", ["lock", "record removed", "moved", "force"])
def test_what_has_changed_is_installed_again(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions, what: str
) -> None:
    before = install(first, prefix, options)
    lock = first
    if what == "lock":
        lock = second
    elif what == "record removed":
        (prefix / "conda-meta" / "beta-1.0-0.json").unlink()
    elif what == "moved":
        prefix = prefix.rename(prefix.with_name("moved"))
    else:
        options = replace(options, force=True)
    result = install(lock, prefix, options)
    assert result.changed
    assert result.provenance.install_id != before.provenance.install_id
    assert fsck(prefix, progress=SILENT).ok
    assert str(prefix) in (prefix / "bin" / "python3.11").read_text()


def test_what_the_user_added_is_listed_and_dropped_only_by_force(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions
) -> None:
    install(first, prefix, options)
    site = prefix / "lib" / "python3.11" / "site-packages"
    (site / "einops-0.8.1.dist-info").mkdir(parents=True)
    (site / "einops.py").write_text("")
    (site / "einops-0.8.1.dist-info" / "RECORD").write_text("einops.py,,\neinops-0.8.1.dist-info/RECORD,,\n")
    (prefix / "conda-meta" / "added-1.0-0.json").write_text('{"files": []}')
    (prefix / "notes.txt").write_text("mine")
    with pytest.raises(InstallError) as refused:
        install(second, prefix, options)
    assert refused.value.details is not None
    assert all(name in refused.value.details for name in ("einops 0.8.1", "added-1.0-0", "notes.txt"))
    assert "site-packages/einops.py" not in refused.value.details
    assert "FORCE=1" in str(refused.value)
    assert alpha(prefix) == "alpha\n" * 100
    install(second, prefix, replace(options, force=True))
    assert alpha(prefix) == "alpha two\n"
    assert not (prefix / "notes.txt").exists()


def test_other_inputs_that_gave_the_same_lock_are_recorded_and_must_be_verified_again(
    first: Lock, prefix: Path, options: InstallOptions
) -> None:
    before = install(first, prefix, options)
    mark_verified(prefix, True, "report")
    origin = Origin(name="tiny", channel="local", inputs={"a": "other"})
    result = install_environment(first, PLATFORM, prefix, provenance=origin, options=options, progress=SILENT)
    assert not result.changed
    assert result.provenance.install_id == before.provenance.install_id
    found = read_provenance(prefix)
    assert found is not None
    assert (found.inputs, found.verified) == ({"a": "other"}, None)


def test_packages_for_pip_are_reported_as_missing(first: Lock, prefix: Path, options: InstallOptions) -> None:
    progress = Listening()
    lock = replace(first, pip={PLATFORM: (pip_package("einops", "0.8.1"),)})
    origin = Origin(name="tiny", channel="local")
    install_environment(lock, PLATFORM, prefix, provenance=origin, options=options, progress=progress)
    assert any("einops==0.8.1" in line for line in progress.said)


def test_the_previous_environment_comes_back_and_goes_again(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions
) -> None:
    with pytest.raises(MissingFileError, match="no previous environment"):
        rollback(prefix, progress=SILENT)
    install(first, prefix, options)
    with pytest.raises(MissingFileError, match="no previous environment"):
        rollback(prefix, progress=SILENT)
    install(second, prefix, options)
    assert alpha(prefix) == "alpha two\n"
    back = rollback(prefix, progress=SILENT)
    assert back is not None
    assert back.lock_sha256 == first.sha256
    assert alpha(prefix) == "alpha\n" * 100
    assert fsck(prefix, progress=SILENT).ok
    rollback(prefix, progress=SILENT)
    assert alpha(prefix) == "alpha two\n"
    assert siblings(prefix) == {"tiny", ".tiny.previous"}


def test_a_verified_environment_is_not_given_up_for_one_that_is_not(
    channel: TinyChannel, first: Lock, second: Lock, prefix: Path, options: InstallOptions
) -> None:
    install(first, prefix, options)
    mark_verified(prefix, True, "reports/tiny.json")
    install(second, prefix, options)
    mark_verified(prefix, False, "reports/tiny.json")
    install(channel.lock(packages=first.packages[PLATFORM][:1]), prefix, options)
    back = rollback(prefix, progress=SILENT)
    assert back is not None
    assert back.lock_sha256 == first.sha256
    assert back.verified is True


def test_the_verdict_is_recorded_and_survives_a_run_with_nothing_to_do(
    first: Lock, prefix: Path, options: InstallOptions
) -> None:
    with pytest.raises(MissingFileError, match="no environment of torchlocks"):
        mark_verified(prefix, True, "r")
    assert install(first, prefix, options).provenance.verified is None
    mark_verified(prefix, True, "reports/tiny.json")
    again = install(first, prefix, options)
    assert not again.changed
    found = read_provenance(prefix)
    assert found is not None
    assert (found.verified, found.report) == (True, "reports/tiny.json")
    assert found.verified_at is not None


@pytest.mark.parametrize("what", ["a folder with files", "a file", "another tool's environment"])
def test_what_torchlocks_did_not_install_is_not_overwritten(
    first: Lock, prefix: Path, options: InstallOptions, what: str
) -> None:
    if what == "a file":
        prefix.parent.mkdir()
        prefix.write_text("mine")
    else:
        kept = prefix / ("conda-meta/history" if "tool" in what else "work.txt")
        kept.parent.mkdir(parents=True)
        kept.write_text("mine")
    before = sorted(prefix.parent.rglob("*"))
    with pytest.raises(InstallError, match="did not install"):
        install(first, prefix, options)
    assert set(before) <= set(prefix.parent.rglob("*"))


def test_an_empty_folder_may_become_an_environment(first: Lock, prefix: Path, options: InstallOptions) -> None:
    prefix.mkdir(parents=True)
    assert install(first, prefix, options).changed


def test_a_failed_fetch_leaves_the_environment_as_it_was(
    channel: TinyChannel, first: Lock, prefix: Path, options: InstallOptions
) -> None:
    install(first, prefix, options)
    with faulty_server(channel.root) as server:
        server.faults["alpha-2.0"] = ("404", -1)
        broken = channel.lock(base=server.url, packages=[each for each in channel.packages if each.version == "2.0"])
        with pytest.raises(FetchError):
            install(broken, prefix, options)
    assert alpha(prefix) == "alpha\n" * 100
    assert siblings(prefix) == {"tiny"}
    assert not install(first, prefix, options).changed


def test_a_package_that_rattler_cannot_link_is_an_error(tmp_path: Path, prefix: Path, options: InstallOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    # A module of Python, and no Python to put it beside.
    channel.package("lonely", {"site-packages/lonely.py": ""}, noarch="python")
    with pytest.raises(InstallError, match="could not be linked"):
        install(channel.lock(), prefix, options)
    channel.raw("lonely", {"share/x": ""}, version="2", index={"build_number": "many"})
    with pytest.raises(InstallError, match="could not be linked"):
        install(channel.lock(packages=channel.packages[-1:]), prefix, options)
    assert siblings(prefix) == set()


def test_a_post_link_script_is_not_run_and_reported(tmp_path: Path, prefix: Path, options: InstallOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("scripted", {"bin/.scripted-post-link.sh": f"touch {tmp_path}/ran\n", "share/x": "x"})
    progress = Listening()
    origin = Origin(name="tiny", channel="local")
    install_environment(channel.lock(), PLATFORM, prefix, provenance=origin, options=options, progress=progress)
    assert not (tmp_path / "ran").exists()
    assert any("post-link script" in line for line in progress.said)


def test_a_parent_that_cannot_be_written_to_is_an_error(first: Lock, tmp_path: Path, options: InstallOptions) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError):
        install(first, tmp_path / "file" / "envs" / "tiny", options)


def test_a_prefix_with_odd_characters_works(first: Lock, tmp_path: Path, options: InstallOptions) -> None:
    prefix = tmp_path / "my envs [1]" / "tïny *"
    install(first, prefix, options)
    install(first, prefix, replace(options, force=True))
    assert fsck(prefix, progress=SILENT).ok


def test_packages_on_another_file_system_are_copied(first: Lock, tmp_path: Path, options: InstallOptions) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system that can be written to")
    prefix = shm / f"torchlocks-{os.getpid()}" / "tiny"
    try:
        install(first, prefix, options)
        assert fsck(prefix, progress=SILENT).ok
    finally:
        shutil.rmtree(prefix.parent)


# --- without the exchange of two folders in one step --------------------------------------------


def test_without_an_exchange_two_renames_do_it(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # File systems such as NFS and FAT know no exchange.
    monkeypatch.setattr(swap, "exchange", lambda one, other: False)
    install(first, prefix, options)
    install(second, prefix, options)
    assert alpha(prefix) == "alpha two\n"
    assert siblings(prefix) == {"tiny", ".tiny.previous"}
    rollback(prefix, progress=SILENT)
    assert alpha(prefix) == "alpha\n" * 100
    assert siblings(prefix) == {"tiny", ".tiny.previous"}


def test_a_swap_in_two_steps_that_was_cut_short_is_undone(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions
) -> None:
    install(first, prefix, options)
    # As a kill between the two renames leaves it.
    new, _ = swap.new_sibling(prefix)
    swap.hidden(prefix, "swap").write_text("{}")
    prefix.rename(swap.hidden(prefix, "previous"))
    assert not install(first, prefix, options).changed
    assert siblings(prefix) == {"tiny"}
    assert not new.exists()


# --- several at once ----------------------------------------------------------------------------


def test_of_two_at_once_on_one_environment_one_works_and_the_other_finds_it_done(
    channel: TinyChannel, first: Lock, prefix: Path, options: InstallOptions, tmp_path: Path
) -> None:
    with faulty_server(channel.root) as server:
        server.faults["many"] = ("slow", -1)
        lock = channel.lock(base=server.url, packages=first.packages[PLATFORM])
        both = [child(tmp_path, lock, prefix, options) for _ in range(2)]
        results = [outcome(each) for each in both]
        assert sorted(each["changed"] for each in results) == [False, True]
        waited = next(each for each in results if not each["changed"])
        assert any("waiting" in line for line in waited["said"])
        assert server.requests["many-1.0-0.conda"] == 1
    assert fsck(prefix, progress=SILENT).ok


def test_two_environments_at_once_share_one_cache(
    channel: TinyChannel, first: Lock, second: Lock, tmp_path: Path, options: InstallOptions
) -> None:
    with faulty_server(channel.root) as server:
        server.faults["many"] = ("slow", -1)
        prefixes = [tmp_path / "envs" / name for name in ("one", "two")]
        locks = [channel.lock(base=server.url, packages=each.packages[PLATFORM]) for each in (first, second)]
        both = [child(tmp_path, lock, prefix, options) for lock, prefix in zip(locks, prefixes, strict=True)]
        assert [outcome(each)["changed"] for each in both] == [True, True]
    for prefix in prefixes:
        assert fsck(prefix, progress=SILENT).ok


def test_waiting_can_be_limited(first: Lock, prefix: Path, options: InstallOptions) -> None:
    from filelock import FileLock

    prefix.parent.mkdir()
    with FileLock(swap.hidden(prefix, "lock")), pytest.raises(BusyError, match="at work"):
        # filelock lets the same thread in again.
        run_in_thread(lambda: install(first, prefix, replace(options, wait_s=0.1)))


def run_in_thread(work: Any) -> None:
    """Run `work` in another thread and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


# --- killed ------------------------------------------------------------------------------------


def assert_whole_and_repairable(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions, there_before: bool
) -> None:
    """After a kill: the old or the new environment is whole, the cache is not poisoned, and the next run succeeds."""
    if there_before or prefix.exists():
        found = fsck(prefix, progress=SILENT)
        assert found.ok, found
        provenance = read_provenance(prefix)
        assert provenance is not None
        assert provenance.lock_sha256 in (first.sha256, second.sha256)
        assert alpha(prefix) == ("alpha two\n" if provenance.lock_sha256 == second.sha256 else "alpha\n" * 100)
    assert options.fetch is not None
    assert options.fetch.cache is not None
    for package in {*first.packages[PLATFORM], *second.packages[PLATFORM]}:
        store = PackageStore(options.fetch.cache)
        quick, full = store.find(package), store.find(package, full=True)
        assert (quick.entry is None) == (full.entry is None), (package.file_name, quick.why, full.why)
    install(second, prefix, replace(options, force=True))
    assert alpha(prefix) == "alpha two\n"
    assert fsck(prefix, progress=SILENT).ok
    assert siblings(prefix) <= {"tiny", ".tiny.previous"}
    stages = list((options.fetch.cache / ".torchlocks").glob("stage-*"))
    assert len(stages) <= 1, stages


@pytest.mark.parametrize("round", range(100 if SLOW else 15))
def test_killed_at_a_random_instant(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions, tmp_path: Path, round: int
) -> None:
    dice = random.Random(round)
    there_before = dice.random() < 0.7
    if there_before:
        install(first, prefix, options)
    running = child(tmp_path, second, prefix, options)
    time.sleep(dice.uniform(0, 0.12))
    running.kill()
    running.wait()
    assert_whole_and_repairable(first, second, prefix, options, there_before)


# A run makes 26 changes; the last one is past its end.
@pytest.mark.parametrize("number", range(1, 28))
def test_killed_at_each_change_that_it_makes(
    first: Lock, second: Lock, prefix: Path, options: InstallOptions, tmp_path: Path, number: int
) -> None:
    install(first, prefix, options)
    install(first, prefix, replace(options, force=True))
    running = child(tmp_path, second, prefix, options, die_at=number)
    running.communicate(timeout=60)
    assert running.returncode in (0, -signal.SIGKILL)
    assert_whole_and_repairable(first, second, prefix, options, there_before=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_a_signal_it_stops_soon_and_cleans_up(
    channel: TinyChannel, first: Lock, prefix: Path, options: InstallOptions, tmp_path: Path, number: signal.Signals
) -> None:
    install(first, prefix, options)
    with faulty_server(channel.root) as server:
        server.faults["alpha-2.0"] = ("silent", -1)
        lock = channel.lock(base=server.url, packages=[each for each in channel.packages if each.version == "2.0"])
        running = child(tmp_path, lock, prefix, options)
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(number)
        # The server would keep it waiting for half a minute.
        said = outcome(running)
        assert running.returncode == 130
        assert said["error"] == "InterruptedByUserError"
    assert alpha(prefix) == "alpha\n" * 100
    assert siblings(prefix) == {"tiny"}


# --- a damaged cache ---------------------------------------------------------------------------


def plain(prefix: Path) -> dict[Path, bytes]:
    """The files of an environment, as they are in one at any other path: what is patched is padded with zeros."""
    return {
        file.relative_to(prefix): re.sub(rb"\0+", b"\0", file.read_bytes().replace(os.fsencode(prefix), b"PREFIX"))
        for file in sorted(prefix.rglob("*"))
        if file.is_file() and "conda-meta" not in file.parts
    }


@pytest.fixture(scope="module")
def clean(first: Lock, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """The files of an environment that was installed from an empty cache."""
    folder = tmp_path_factory.mktemp("clean")
    install(first, folder / "env", InstallOptions(fetch=FetchOptions(cache=folder / "pkgs")))
    return plain(folder / "env")


@pytest.mark.parametrize("round", range(200 if SLOW else 30))
def test_a_flipped_bit_in_the_cache_never_reaches_an_environment(
    first: Lock, clean: dict[Path, bytes], prefix: Path, options: InstallOptions, round: int
) -> None:
    install(first, prefix, options)
    assert options.fetch is not None
    assert options.fetch.cache is not None
    dice = random.Random(round)
    files = sorted(f for f in options.fetch.cache.rglob("*") if f.is_file() and not f.is_symlink() and f.stat().st_size)
    victim = dice.choice([f for f in files if "share/many" not in f.as_posix()])
    content = bytearray(victim.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    victim.write_bytes(content)
    fresh = prefix.with_name("fresh")
    install(first, fresh, options)
    assert alpha(fresh) == "alpha\n" * 100
    found = fsck(fresh, progress=SILENT)
    assert found.ok, (victim, found)
    # fsck compares with conda-meta, which was made from the cache: compare with an untouched installation too.
    installed = plain(fresh)
    for path, expected in clean.items():
        assert installed.get(path) == expected, (victim, path)


@pytest.mark.parametrize("how", ["file list", "index", "more"])
def test_a_change_in_a_warm_cache_is_found_beside_linking(
    first: Lock, prefix: Path, options: InstallOptions, how: str
) -> None:
    install(first, prefix.with_name("before"), options)
    assert options.fetch is not None
    assert options.fetch.cache is not None
    package = next(options.fetch.cache.glob("alpha-1.0-*/"))
    file = package / {"file list": "info/paths.json", "index": "info/index.json"}.get(how, "share/alpha.txt")
    if how == "more":
        (package / "share" / "more.txt").write_text("more")
    else:
        file.write_bytes(b"{" * file.stat().st_size)
    install(first, prefix, options)
    assert fsck(prefix, progress=SILENT).ok
    assert not list(prefix.parent.glob(".*.new-*"))


def test_a_warm_cache_is_compared_once_and_hashed_never(
    first: Lock, prefix: Path, options: InstallOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(first, prefix.with_name("before"), options)
    for name in ("first_changed", "info_digest"):
        monkeypatch.setattr(f"torchlocks.install.cache.{name}", lambda *_, **__: pytest.fail("hashed again"))
    monkeypatch.setattr("torchlocks.install.fetch.ensure_cached", lambda *_: pytest.fail("looked at twice"))
    install(first, prefix, options)
    before = read_inventory(prefix.with_name("before"))
    assert before is not None
    assert read_inventory(prefix) == replace(before, history=ANY, records=ANY)
    assert fsck(prefix, progress=SILENT).ok


@pytest.mark.parametrize("how", ["truncated", "removed", "half extracted", "no hash", "other hash", "mode"])
def test_a_damaged_entry_is_fetched_again(first: Lock, prefix: Path, options: InstallOptions, how: str) -> None:
    install(first, prefix, options)
    assert options.fetch is not None
    assert options.fetch.cache is not None
    entry = options.fetch.cache / "many-1.0-0"
    file = entry / "share" / "many" / "7.txt"
    if how == "truncated":
        os.truncate(file, 10)
    elif how == "removed":
        file.unlink()
    elif how == "half extracted":
        (entry / "info" / "index.json").unlink()
        file.unlink()
    elif how == "no hash":
        entry.with_name("many-1.0-0.lock").write_bytes(b"")
    elif how == "mode":
        file.chmod(0o600)
    else:
        lock = entry.with_name("many-1.0-0.lock")
        lock.write_bytes(lock.read_bytes()[:8] + b"x" * 32)
    offline = replace(options, force=True, fetch=replace(options.fetch, offline=True))
    with pytest.raises(FetchError, match="1 of 4"):
        install(first, prefix, offline)
    fresh = prefix.with_name("fresh")
    install(first, fresh, options)
    assert (fresh / "share/many/7.txt").read_text() == "7 " * 300
    assert (fresh / "share/many/7.txt").stat().st_mode & 0o777 == 0o644
    assert fsck(fresh, progress=SILENT).ok


def test_an_edit_in_an_environment_does_not_spread_through_the_cache(
    first: Lock, prefix: Path, options: InstallOptions
) -> None:
    install(first, prefix, options)
    edited = prefix / "share" / "many" / "3.txt"
    if edited.stat().st_nlink < 2:
        pytest.skip("this file system has no hard links")
    with edited.open("r+") as file:
        file.write("edited in place")
    fresh = prefix.with_name("fresh")
    install(first, fresh, options)
    assert (fresh / "share/many/3.txt").read_text() == "3 " * 300


def test_an_entry_that_another_tool_made_is_used_when_it_is_right(
    channel: TinyChannel, first: Lock, prefix: Path, options: InstallOptions, tmp_path: Path
) -> None:
    import asyncio

    from rattler import PackageRecord, RepoDataRecord, Subdir
    from rattler import install as rattler_install

    assert options.fetch is not None
    assert options.fetch.cache is not None
    install(first, tmp_path / "other" / "env", replace(options, fetch=replace(options.fetch, cache=tmp_path / "own")))
    records = []
    for package in first.packages[PLATFORM]:
        index = tmp_path / "own" / package.file_name.removesuffix(".conda").removesuffix(".tar.bz2") / "info/index.json"
        record = PackageRecord.from_index_json(index, sha256=package.sha256, md5=package.md5, size=package.size)
        records.append(RepoDataRecord(record, package.file_name, package.url, package.channel))
    asyncio.run(
        rattler_install(
            records,
            tmp_path / "by-rattler",
            cache_dir=options.fetch.cache,
            show_progress=False,
            platform=Subdir(PLATFORM),
        )
    )
    offline = replace(options, fetch=replace(options.fetch, offline=True))
    assert install(first, prefix, offline).changed
    assert fsck(prefix, progress=SILENT).ok


def test_rattler_takes_the_entries_that_torchlocks_made(first: Lock, prefix: Path, options: InstallOptions) -> None:
    import asyncio

    from rattler import PrefixRecord
    from rattler.package_cache import PackageCache

    install(first, prefix, options)
    assert options.fetch is not None
    assert options.fetch.cache is not None
    index = asyncio.run(PackageCache(options.fetch.cache).index())
    for record in (prefix / "conda-meta").glob("*.json"):
        assert index.contains_record(PrefixRecord.from_path(record))


# --- a full disk -------------------------------------------------------------------------------


def grow(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("where", ["download", "extraction", "other process", "size known", "prefix", "prefix unknown"])
def test_a_full_disk_changes_nothing_and_the_next_run_goes_on(
    first: Lock, options: InstallOptions, tmp_path: Path, where: str
) -> None:
    big = TinyChannel(tmp_path / "big")
    # "other process": an archive big enough to be extracted by one, which fits, while what is in it does not.
    noise = random.Random(0).randbytes(6_000_000 if where == "other process" else 3_000_000)
    big.package("big", {"share/big": bytes(12_000_000) if where.startswith(("extraction", "prefix")) else noise})
    packages = [replace(each, size=None if where != "size known" else each.size) for each in big.packages]
    assert options.fetch is not None
    with (
        small_disk(tmp_path / "small", "9m" if where == "other process" else "2m") as disk,
        faulty_server(big.root) as server,
    ):
        lock = big.lock(base=server.url, packages=packages)
        if where.startswith("prefix"):
            prefix = disk / "envs" / "tiny"
        else:
            prefix = tmp_path / "envs" / "tiny"
            options = replace(options, fetch=replace(options.fetch, cache=disk / "pkgs"))
        install(first, prefix, options)
        before = read_provenance(prefix)
        if where == "prefix unknown":
            # The disk fills up after the look at how much is free.
            (disk / "filler").write_bytes(bytes(600_000))
        with pytest.raises(DiskFullError):
            install(lock, prefix, options)
        assert read_provenance(prefix) == before
        assert fsck(prefix, progress=SILENT).ok
        assert siblings(prefix) == {"tiny"}
        assert not list(disk.rglob("stage-*"))
        grow(disk, "64m")
        install(lock, prefix, options)
        assert (prefix / "share" / "big").stat().st_size in (3_000_000, 6_000_000, 12_000_000)
        assert fsck(prefix, progress=SILENT).ok
