"""Channels that misbehave: what is fetched is what was locked, or there is an error that says why not."""

from __future__ import annotations

import functools
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faulty_server import Fault, FaultyServer, faulty_server
from tiny_channel import PLATFORM, TinyChannel, locked_file, make_channel
from torchlocks.core import http
from torchlocks.core.errors import ChannelUnreachableError, FetchError, IntegrityError, LockfileError, TorchlocksError
from torchlocks.core.progress import Silent
from torchlocks.install.availability import packages_available, reachable
from torchlocks.install.fetch import download_only, ensure_cached
from torchlocks.install.fetch_options import FetchOptions, packages_for
from torchlocks.install.unpack import SMALL
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.open import open_lock


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    return make_channel(tmp_path_factory.mktemp("fetch") / "channel")


@pytest.fixture
def server(channel: TinyChannel) -> Iterator[FaultyServer]:
    with faulty_server(channel.root) as running:
        yield running


@pytest.fixture
def options(tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache=tmp_path / "pkgs", retries=2, backoff_s=0.01, stall_timeout_s=20)


def fetch(lock: Lock, options: FetchOptions) -> dict[str, Path]:
    entries = ensure_cached(packages_for(lock, PLATFORM), options, Silent())
    return {package.name: entry.folder for package, entry in entries.items()}


def cached_names(options: FetchOptions) -> set[str]:
    assert options.cache is not None
    if not options.cache.exists():
        return set()
    return {each.name for each in options.cache.iterdir() if each.is_dir() and not each.name.startswith(".")}


def test_all_packages_arrive_and_a_second_run_asks_the_server_for_nothing(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions
) -> None:
    lock = channel.lock(base=server.url)
    folders = fetch(lock, options)
    assert list(folders) == ["python", "alpha", "beta", "many"]
    assert (folders["alpha"] / "share" / "alpha.txt").read_text() == "alpha\n" * 100
    asked = sum(server.requests.values())
    assert asked == 4
    fetch(lock, options)
    assert sum(server.requests.values()) == asked


@pytest.mark.parametrize(
    "fault", ["500", "503", "429", "reset", "truncate", "stall", "silent", "wrong", "empty", "longer"]
)
def test_what_goes_wrong_once_is_tried_again(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions, fault: Fault
) -> None:
    server.faults["alpha"] = (fault, 1)
    if hangs := fault in ("stall", "silent"):
        options = replace(options, stall_timeout_s=1, retries=5)
    folders = fetch(channel.lock(base=server.url), options)
    assert (folders["alpha"] / "share" / "alpha.txt").read_text() == "alpha\n" * 100
    # On a machine that is busy, a second can be too short for an answer that is fine.
    assert server.requests["alpha-1.0-0.tar.bz2"] == 2 or (hangs and server.requests["alpha-1.0-0.tar.bz2"] > 2)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("404", FetchError, "404"),
        ("403", FetchError, "403"),
        ("500", FetchError, "500"),
        ("503", FetchError, "503"),
        ("reset", ChannelUnreachableError, "no connection"),
        ("truncate", FetchError, "connection broke"),
        # On a busy machine, what comes in the second before is too little instead of nothing.
        ("stall", FetchError, "for 0.5 s"),
        ("silent", ChannelUnreachableError, "time-out"),
        ("wrong", IntegrityError, "sum is"),
        ("empty", IntegrityError, "0 bytes"),
        ("longer", IntegrityError, "more than the lock"),
    ],
)
def test_what_stays_wrong_is_named_with_its_package_and_url_and_poisons_nothing(
    channel: TinyChannel,
    server: FaultyServer,
    options: FetchOptions,
    fault: Fault,
    error: type[TorchlocksError],
    words: str,
) -> None:
    server.faults["alpha"] = (fault, -1)
    lock = channel.lock(base=server.url)
    hurried = replace(options, stall_timeout_s=0.5) if fault in ("stall", "silent") else options
    alone = channel.lock(base=server.url, packages=[each for each in channel.packages if each.name == "alpha"])
    with pytest.raises(error) as caught:
        fetch(alone, hurried)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "alpha-1.0-0.tar.bz2" in caught.value.what
    assert caught.value.where == f"{server.url}/{PLATFORM}/alpha-1.0-0.tar.bz2"
    assert caught.value.fix
    assert "alpha-1.0-0" not in cached_names(options)
    # 404 and 403 do not go away by asking again.
    assert server.requests["alpha-1.0-0.tar.bz2"] == (1 if fault in ("404", "403") else 3)

    server.faults.clear()
    assert set(fetch(lock, options)) == {"python", "alpha", "beta", "many"}


@pytest.mark.parametrize("ranges", [True, False])
def test_what_has_come_before_a_break_is_not_fetched_again(tmp_path: Path, options: FetchOptions, ranges: bool) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.package("big", {"share/big": random.Random(0).randbytes(1_000_000)})
    size = channel.packages[0].size or 0
    with faulty_server(channel.root) as server:
        server.ranges = ranges
        server.faults["big"] = ("truncate", 2)
        folders = fetch(channel.lock(base=server.url), options)
    assert len((folders["big"] / "share" / "big").read_bytes()) == 1_000_000
    asked = [each.get("range") or each.get("Range") for each in server.headers]
    # Half of the file, half of the rest, the rest; a server that knows no ranges starts over each time.
    half = size // 2
    assert asked == [None, f"bytes={half}-", f"bytes={half + (size - half) // 2 if ranges else half}-"]


def test_a_rest_from_another_server_that_does_not_fit_is_not_kept(tmp_path: Path, options: FetchOptions) -> None:
    channel, other = TinyChannel(tmp_path / "channel"), TinyChannel(tmp_path / "other")
    channel.package("big", {"share/big": random.Random(0).randbytes(1_000_000)})
    other.package("big", {"share/big": random.Random(1).randbytes(1_000_000)})
    with faulty_server(channel.root) as server, faulty_server(other.root) as mirror:
        mirror.faults["big"] = ("truncate", 1)
        mirrored = replace(options, mirrors={server.url: (mirror.url,)})
        folders = fetch(channel.lock(base=server.url), mirrored)
    assert (folders["big"] / "share" / "big").read_bytes() == random.Random(0).randbytes(1_000_000)


def test_a_slow_server_is_waited_for_as_long_as_it_sends(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions
) -> None:
    server.faults["many"] = ("slow", -1)
    # The whole takes about two seconds, longer than a standstill may take.
    assert "many" in fetch(channel.lock(base=server.url), replace(options, stall_timeout_s=1.5))
    assert server.requests["many-1.0-0.conda"] == 1


@pytest.mark.parametrize("fault", ["endless", "drip", "silent"])
def test_a_body_without_end_or_one_byte_now_and_then_ends(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchlocks.install.transfer.MOST", 20 << 20)
    server.faults["many"] = (fault, -1)
    lock = channel.lock(base=server.url)
    packages = tuple(replace(each, size=None) for each in lock.packages[PLATFORM])
    started = time.monotonic()
    with pytest.raises(TorchlocksError):
        fetch(replace(lock, packages={PLATFORM: packages}), replace(options, stall_timeout_s=1, retries=0))
    assert time.monotonic() - started < 15


def test_a_resume_that_is_answered_with_416_starts_over(tmp_path: Path, options: FetchOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.package("big", {"share/big": random.Random(0).randbytes(1_000_000)})
    with faulty_server(channel.root) as server:
        server.faults |= {"/big": ("truncate", 1), "big": ("416", 1)}
        folders = fetch(channel.lock(base=server.url), options)
    assert len((folders["big"] / "share" / "big").read_bytes()) == 1_000_000


@pytest.mark.parametrize(("said", "least"), [("1", 1.0), ("soon", 0.0), ("-5", 0.0)])
def test_a_server_is_left_alone_as_long_as_it_asks(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions, said: str, least: float
) -> None:
    server.retry_after = said
    server.faults["many"] = ("later", 1)
    started = time.monotonic()
    fetch(channel.lock(base=server.url), options)
    assert time.monotonic() - started >= least


def test_no_server_is_waited_for_longer_than_a_minute(server: FaultyServer) -> None:
    server.retry_after = "86400"
    assert http.retry_after(f"{server.url}/x") == 60


@pytest.mark.parametrize("fault", ["endless", "drip", "silent", "stall"])
def test_a_lock_by_url_that_does_not_end_is_given_up(
    channel: TinyChannel, server: FaultyServer, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    (channel.root / "conda.lock").write_text("@EXPLICIT\n" * 100)
    server.faults["conda.lock"] = (fault, -1)
    short = functools.partial(http.download_small, stall_s=1, total_s=2)
    monkeypatch.setattr("torchlocks.lockfile.open.download_small", short)
    started = time.monotonic()
    with pytest.raises(FetchError):
        open_lock(f"{server.url}/conda.lock")
    assert time.monotonic() - started < 15


def test_a_server_that_is_not_there_is_unreachable(channel: TinyChannel, options: FetchOptions) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ChannelUnreachableError, match="cannot be reached"):
            fetch(channel.lock(base=url), options)


def test_credentials_are_never_shown(channel: TinyChannel, server: FaultyServer, options: FetchOptions) -> None:
    base = server.url.replace("http://", "http://someone:s3cret@") + "/t/tk-0123-abcd/chan"
    with pytest.raises(FetchError) as caught:
        fetch(channel.lock(base=base), options)
    shown = f"{caught.value}{caught.value.details}"
    assert "s3cret" not in shown
    assert "tk-0123" not in shown
    assert "***" in shown


def test_a_package_with_another_hash_than_locked_is_refused_from_a_local_channel_too(
    channel: TinyChannel, options: FetchOptions
) -> None:
    lock = channel.lock(packages=[replace(each, sha256="0" * 64, size=None) for each in channel.packages[:1]])
    with pytest.raises(IntegrityError, match="the lock has 0000"):
        fetch(lock, options)
    assert cached_names(options) == set()


def test_a_wrong_size_is_refused(channel: TinyChannel, options: FetchOptions) -> None:
    size = (channel.packages[0].size or 0) + 1
    with pytest.raises(IntegrityError, match=f"the lock has {size}"):
        fetch(channel.lock(packages=[replace(channel.packages[0], size=size)]), options)


def test_md5_alone_is_refused_unless_allowed(channel: TinyChannel, options: FetchOptions) -> None:
    lock = channel.lock(packages=[replace(each, sha256=None) for each in channel.packages])
    with pytest.raises(IntegrityError, match="MD5 can be forged"):
        fetch(lock, options)
    allowed = replace(options, allow_md5=True)
    assert len(fetch(lock, allowed)) == 4
    # From the cache as well.
    assert len(fetch(lock, replace(allowed, offline=True))) == 4
    wrong = channel.lock(packages=[replace(channel.packages[0], sha256=None, md5="0" * 32)])
    with pytest.raises(IntegrityError, match="MD5 sum is"):
        fetch(wrong, allowed)


def test_a_package_without_any_hash_is_refused(channel: TinyChannel, options: FetchOptions) -> None:
    lock = channel.lock(packages=[replace(channel.packages[0], sha256=None, md5=None)])
    with pytest.raises(IntegrityError, match="no hash"):
        fetch(lock, replace(options, allow_md5=True))


def test_credentials_come_from_the_variables_that_the_lock_names(
    channel: TinyChannel, tmp_path: Path, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web/t").mkdir(parents=True)
    (tmp_path / "web/t/s3cret").symlink_to(channel.root)
    with faulty_server(tmp_path / "web") as server:
        lock = replace(channel.lock(base=f"{server.url}/t/$ACME_TOKEN"), variables=("ACME_TOKEN",))
        monkeypatch.delenv("ACME_TOKEN", raising=False)
        with pytest.raises(FetchError, match="ACME_TOKEN, which is not set"):
            download_only(lock, PLATFORM, options, progress=Silent())
        monkeypatch.setenv("ACME_TOKEN", "s3cret")
        folders = download_only(lock, PLATFORM, options, progress=Silent())
        assert len(folders) == 4
        assert options.cache is not None
        written = [path.read_bytes() for path in options.cache.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not any(b"s3cret" in content for content in written)
        # A variable that the lock does not name is not looked at.
        hurried = replace(options, cache=tmp_path / "other", retries=0)
        with pytest.raises(FetchError) as raised:
            download_only(replace(lock, variables=()), PLATFORM, hurried, progress=Silent())
        assert "s3cret" not in str(raised.value)


def test_a_platform_that_is_not_locked_is_an_error(channel: TinyChannel) -> None:
    with pytest.raises(LockfileError, match="no conda packages for osx-arm64"):
        packages_for(channel.lock(), "osx-arm64")


@pytest.mark.parametrize("key", ["name", "version", "build", "subdir"])
def test_a_package_with_another_name_inside_is_refused(tmp_path: Path, options: FetchOptions, key: str) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("liar", {"share/x": "x"}, index={key: "other" if key != "version" else "9"})
    with pytest.raises(IntegrityError, match=f"{key} inside"):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()


@pytest.mark.parametrize("target", ["/etc", "../../outside", "../../../etc/passwd", "..", "share/../../x"])
def test_a_link_out_of_the_environment_is_refused(tmp_path: Path, options: FetchOptions, target: str) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("linker", {"share/x": "x"}, links={"lib": target})
    with pytest.raises(IntegrityError):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()


def test_a_link_inside_of_the_environment_is_accepted(tmp_path: Path, options: FetchOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("linker", {"lib/x.so.1": "x"}, links={"lib/x.so": "x.so.1", "bin/x": "../lib/x.so.1"})
    assert (fetch(channel.lock(), options)["linker"] / "bin" / "x").read_text() == "x"


@pytest.mark.parametrize("path", ["../evil", "/tmp/torchlocks-evil", "lib/../../../evil"])
def test_a_path_out_of_the_environment_is_refused(tmp_path: Path, options: FetchOptions, path: str) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("traveller", {path: "evil", "share/x": "x"})
    with pytest.raises(IntegrityError):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()
    assert not list(tmp_path.rglob("evil"))
    assert not Path("/tmp/torchlocks-evil").exists()


def test_a_file_list_that_leaves_the_environment_is_refused(tmp_path: Path, options: FetchOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("lister", {"share/x": "x"}, listed=["share/x", "../../evil"])
    with pytest.raises(IntegrityError, match="outside of the environment"):
        fetch(channel.lock(), options)


@pytest.mark.parametrize("name", ["index.json", "paths.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"paths": 1}', b'{"paths": [1]}', b"\xff\xfe"])
def test_metadata_that_makes_no_sense_is_refused(
    tmp_path: Path, options: FetchOptions, name: str, content: bytes
) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("garbled", {"share/x": "x"}, info={name: content})
    with pytest.raises(IntegrityError):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()


def test_a_cache_that_cannot_be_written_to_is_an_error(channel: TinyChannel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cache cannot be used"):
        fetch(channel.lock(), FetchOptions(cache=tmp_path / "file" / "pkgs"))


def test_bytes_with_the_locked_hash_that_are_no_package_are_refused(tmp_path: Path, options: FetchOptions) -> None:
    folder = tmp_path / "channel" / PLATFORM
    folder.mkdir(parents=True)
    (folder / "junk-1.0-0.conda").write_bytes(b"this is not a package")
    channel = TinyChannel(tmp_path / "channel")
    channel.packages.append(
        locked_file(folder / "junk-1.0-0.conda", channel.root.as_uri(), PLATFORM, "junk", "1.0", "0")
    )
    with pytest.raises(IntegrityError, match="not a package that can be extracted"):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()


def test_an_archive_of_a_local_channel_is_read_once(
    channel: TinyChannel, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchlocks.install.fetch_run.hash_file", lambda *_: pytest.fail("read twice"))
    assert set(ensure_cached(channel.packages, options, Silent())) == set(channel.packages)


def test_offline_takes_everything_from_the_cache_and_lists_what_is_not_there(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions
) -> None:
    lock = channel.lock(base=server.url)
    fetch(channel.lock(base=server.url, packages=channel.packages[:2]), options)
    offline = replace(options, offline=True)
    with pytest.raises(FetchError, match="2 of 4 packages") as caught:
        fetch(lock, offline)
    assert caught.value.details is not None
    assert "beta-1.0-0.conda" in caught.value.details
    assert "many-1.0-0.conda" in caught.value.details
    assert "alpha" not in caught.value.details
    fetch(lock, options)
    asked = sum(server.requests.values())
    assert len(fetch(lock, offline)) == 4
    assert sum(server.requests.values()) == asked


def test_packages_for_another_platform_can_be_brought_into_the_cache(
    channel: TinyChannel, options: FetchOptions
) -> None:
    lock = replace(channel.lock(), packages={"osx-arm64": tuple(channel.packages)})
    folders = download_only(lock, "osx-arm64", options, progress=Silent())
    assert {each.name for each in folders} == cached_names(options)


def test_a_mirror_is_asked_first_and_the_channel_when_it_fails(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions
) -> None:
    lock = channel.lock(base="https://conda.invalid/chan")
    with faulty_server(channel.root) as mirror:
        mirrored = replace(options, mirrors={"https://conda.invalid/chan": (mirror.url, server.url + "/")})
        mirror.faults["beta"] = ("404", -1)
        assert len(fetch(lock, mirrored)) == 4
        assert server.requests == {"beta-1.0-0.conda": 1}
        assert mirror.requests["alpha-1.0-0.tar.bz2"] == 1


def test_a_folder_can_be_the_mirror(channel: TinyChannel, options: FetchOptions) -> None:
    mirrors = {"https://conda.invalid/chan/": (channel.root.as_uri(),)}
    lock = channel.lock(base="https://conda.invalid/chan")
    assert len(fetch(lock, replace(options, mirrors=mirrors))) == 4


def test_a_mirror_with_other_bytes_is_passed_over(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions, tmp_path: Path
) -> None:
    copy = tmp_path / "mirror"
    shutil.copytree(channel.root, copy)
    (copy / PLATFORM / "alpha-1.0-0.tar.bz2").write_bytes(b"damaged")
    mirrored = replace(options, mirrors={server.url: (copy.as_uri(),)})
    assert len(fetch(channel.lock(base=server.url), mirrored)) == 4
    assert server.requests == {"alpha-1.0-0.tar.bz2": 1}


def test_whether_packages_can_be_had_is_known_without_fetching_them(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions
) -> None:
    lock = channel.lock(base=server.url)
    found = packages_available(lock, PLATFORM, options)
    assert found.ok
    assert len(found.missing) == 4
    assert sum(server.requests.values()) == 1
    assert cached_names(options) == set()

    server.faults[""] = ("503", -1)
    refused = packages_available(lock, PLATFORM, options)
    assert not refused.ok
    assert "503" in refused.reason

    server.faults[""] = ("silent", -1)
    silent = packages_available(lock, PLATFORM, options, timeout_s=0.3)
    assert not silent.ok
    assert "0.3 s" in silent.reason

    server.faults.clear()
    fetch(lock, options)
    server.faults[""] = ("503", -1)
    cached = packages_available(lock, PLATFORM, options)
    assert cached.ok
    assert cached.missing == ()


def test_a_url_that_cannot_be_reached_has_a_reason(channel: TinyChannel, server: FaultyServer) -> None:
    assert reachable(f"{server.url}/{PLATFORM}/alpha-1.0-0.tar.bz2") is None
    assert "404" in (reachable(f"{server.url}/nothing") or "")
    assert "no connection" in (reachable("http://127.0.0.1:1/x") or "")
    assert reachable((channel.root / "nothing").as_uri()) == "no such file"


def test_big_packages_are_extracted_by_other_processes(tmp_path: Path, options: FetchOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    noise = random.Random(0).randbytes(SMALL + 1)
    for name in ("one", "two", "three"):
        channel.package(name, {f"share/{name}": noise})
    folders = fetch(channel.lock(), options)
    for name, folder in folders.items():
        assert (folder / "share" / name).read_bytes() == noise
    # A file that is cut short, with a lock that agrees: the other process says what is wrong.
    file = channel.root / PLATFORM / "one-1.0-0.conda"
    file.write_bytes(file.read_bytes()[: SMALL + 1])
    lock = channel.lock(packages=[locked_file(file, channel.root.as_uri(), PLATFORM, "one", "1.0", "0")])
    with pytest.raises(IntegrityError, match="not a package that can be extracted"):
        fetch(lock, options)


def test_an_extracting_process_that_dies_is_an_error_and_not_a_hang(
    tmp_path: Path, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.package("one", {"share/one": random.Random(0).randbytes(SMALL + 1)})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FetchError, match="has ended"):
        fetch(channel.lock(), options)
    assert cached_names(options) == set()


def test_another_program_that_holds_the_cache_is_waited_for(channel: TinyChannel, options: FetchOptions) -> None:
    import fcntl

    assert options.cache is not None
    options.cache.mkdir()
    said: list[str] = []

    class Loud(Silent):
        def say(self, message: str) -> None:
            said.append(message)
            fcntl.flock(held, fcntl.LOCK_UN)

    # As rattler holds it.
    with (options.cache / ".cache.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ensure_cached(channel.packages, options, Loud())
    assert any("waiting" in line for line in said)


# --- proxies, credentials, certificates --------------------------------------------------------


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_is_used(
    channel: TinyChannel,
    server: FaultyServer,
    options: FetchOptions,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, server.url)
    assert len(fetch(channel.lock(base="http://conda.invalid"), options)) == 4
    monkeypatch.setenv("NO_PROXY", "conda.invalid")
    assert "no connection" in (reachable("http://conda.invalid/x") or "")


def test_credentials_of_rattlers_store_are_sent(
    channel: TinyChannel, server: FaultyServer, options: FetchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "credentials.json"
    store.write_text(json.dumps({"127.0.0.1": {"BearerToken": "tk-0123"}}))
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(store))
    fetch(channel.lock(base=server.url), options)
    assert {each.get("authorization") or each.get("Authorization") for each in server.headers} == {"Bearer tk-0123"}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate authority of its own (`ca.pem`) and a server's certificate and key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_authority_of_ones_own_is_trusted_when_it_is_named(
    channel: TinyChannel, options: FetchOptions, certificates: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for each in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        # Set before it is deleted, so that what the client sets is taken back after the test.
        monkeypatch.setenv(each, "")
        monkeypatch.delenv(each)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    with faulty_server(channel.root, tls) as server:
        lock = channel.lock(base=server.url)
        with pytest.raises(ChannelUnreachableError, match="certificate"):
            fetch(lock, replace(options, retries=0))
        monkeypatch.setenv(variable, str(certificates / "ca.pem"))
        assert len(fetch(lock, options)) == 4
