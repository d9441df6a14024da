"""Live records, from a local server that behaves as a channel does today."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
import zstandard
from rattler import PackageName

from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.core.http import LONGEST_WAIT_S
from torchlocks.solve import live, repodata
from torchlocks.solve.repodata import RecordSource


class Channel(http.server.ThreadingHTTPServer):
    """Serves `files` (path → body) with ETags; counts answers to GET by (path, status)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler))
        self.files: dict[str, bytes] = {}
        self.max_age = 0
        self.busy = 0
        self.retry_after = "0"
        self.answers: Counter[tuple[str, int]] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, channel: str, subdir: str, version: str) -> None:
        name = f"numpy-{version}-0.conda"
        record = {
            "name": "numpy",
            "version": version,
            "build": "0",
            "build_number": 0,
            "depends": [],
            "subdir": subdir,
            "sha256": "a" * 64,
            "size": 1,
        }
        document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {name: record}, "repodata_version": 1}
        body = json.dumps(document).encode()
        self.files[f"/{channel}/{subdir}/repodata.json"] = body
        self.files[f"/{channel}/{subdir}/repodata.json.zst"] = zstandard.compress(body)
        # The same in shards (CEP 16), where hashes are bytes.
        packed = {**record, "sha256": bytes.fromhex("a" * 64)}
        shard = zstandard.compress(msgpack.packb({"packages": {}, "packages.conda": {name: packed}, "removed": []}))
        digest = hashlib.sha256(shard).digest()
        base = f"{self.url}/{channel}/{subdir}/"
        info = {"subdir": subdir, "base_url": base, "shards_base_url": f"{base}shards/"}
        index = {"version": 1, "info": {**info, "created_at": "2026-01-01T00:00:00Z"}, "shards": {"numpy": digest}}
        self.files[f"/{channel}/{subdir}/shards/{digest.hex()}.msgpack.zst"] = shard
        self.files[f"/{channel}/{subdir}/repodata_shards.msgpack.zst"] = zstandard.compress(msgpack.packb(index))

    def only_shards(self) -> None:
        """Stop serving records in one file."""
        self.files = {path: body for path, body in self.files.items() if "repodata.json" not in path}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Channel

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        body = self.server.files.get(self.path)
        etag = f'"{hash(body) & 0xFFFFFFFF:x}"'
        if self.server.busy:
            self.server.busy -= not head
            status = 429
        else:
            status = 404 if body is None else 304 if self.headers.get("If-None-Match") == etag else 200
        if not head:
            self.server.answers[self.path, status] += 1
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", self.server.retry_after)
        if status in (200, 304):
            self.send_header("ETag", etag)
            self.send_header("Cache-Control", f"public, max-age={self.server.max_age}")
        length = len(body) if status == 200 and body is not None else 0
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if status == 200 and body is not None and not head:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    monkeypatch.setenv("TORCHLOCKS_CACHE", str(tmp_path / "cache" / "packages"))
    monkeypatch.setattr(live, "PAUSES_S", (0, 0))
    made = Channel()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def versions(source: RecordSource, channel: str) -> list[str]:
    return [
        str(record.version)
        for each in source.sparse(channel, ("linux-64", "noarch"))
        for record in each.load_records(PackageName("numpy"))
    ]


def test_compressed_records_are_read_and_a_missing_subdir_is_left_out(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    assert versions(RecordSource(), f"{server.url}/forge") == ["1.0"]
    assert any(path.endswith("/linux-64/repodata.json.zst") and status == 200 for path, status in server.answers)
    assert any("/noarch/" in path and status == 404 for path, status in server.answers)


def test_what_has_not_changed_is_not_sent_again_and_what_has_is(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    server.publish("forge", "noarch", "1.0")
    channel = f"{server.url}/forge"
    versions(RecordSource(), channel)
    server.answers.clear()
    assert versions(RecordSource(), channel) == ["1.0", "1.0"]
    assert {status for path, status in server.answers if path.endswith(".zst")} == {304}
    server.publish("forge", "linux-64", "2.0")
    assert versions(RecordSource(), channel) == ["2.0", "1.0"]


def test_a_busy_server_is_asked_again(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    server.busy = 2
    assert versions(RecordSource(), f"{server.url}/forge") == ["1.0"]
    assert sum(count for (_, status), count in server.answers.items() if status == 429) == 2


@pytest.mark.parametrize(("said", "waited"), [("7", 7.0), ("100000", LONGEST_WAIT_S), ("soon", 0.0), ("-3", 0.0)])
def test_the_pause_that_a_server_asks_for_is_made_up_to_a_minute(
    server: Channel, monkeypatch: pytest.MonkeyPatch, said: str, waited: float
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        server.busy = 0

    monkeypatch.setattr(live, "sleep", sleep)
    server.publish("forge", "linux-64", "1.0")
    server.busy, server.retry_after = 1000, said
    assert versions(RecordSource(), f"{server.url}/forge") == ["1.0"]
    assert pauses == [waited]


def test_a_channel_that_has_shards_alone_is_read(server: Channel) -> None:
    for subdir, version in (("linux-64", "1.0"), ("noarch", "2.0")):
        server.publish("forge", subdir, version)
    server.only_shards()
    channel = f"{server.url}/forge"
    assert versions(RecordSource(), channel) == ["1.0", "2.0"]
    (record,) = RecordSource().sparse(channel, ("linux-64",))[0].load_records(PackageName("numpy"))
    assert (record.url, record.size) == (f"{channel}/linux-64/numpy-1.0-0.conda", 1)
    assert record.sha256 is not None
    assert record.sha256.hex() == "a" * 64
    server.publish("forge", "linux-64", "3.0")
    server.only_shards()
    assert versions(RecordSource(), channel) == ["3.0", "2.0"]


def test_shards_are_not_asked_for_where_there_is_one_file(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    server.publish("forge", "noarch", "1.0")
    versions(RecordSource(), f"{server.url}/forge")
    assert not any("shards" in path for path, _ in server.answers)


def test_a_shard_with_other_bytes_than_its_hash_is_an_error(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    server.only_shards()
    (path,) = (path for path in server.files if "/shards/" in path)
    server.files[path] = zstandard.compress(msgpack.packb({"packages": {}, "packages.conda": {}, "removed": []}))
    with pytest.raises(ChannelUnreachableError):
        versions(RecordSource(), f"{server.url}/forge")


def test_shards_of_a_mirror_are_its_own(server: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    for channel, version in (("real/forge", "1.0"), ("mirror/forge", "9.0")):
        server.publish(channel, "linux-64", version)
    server.only_shards()
    monkeypatch.setattr(repodata, "CHANNEL_HOST", f"{server.url}/real")
    channel = f"{server.url}/real/forge"
    assert versions(RecordSource(mirror=f"{server.url}/mirror"), channel) == ["9.0"]
    assert versions(RecordSource(), channel) == ["1.0"]


def test_a_server_that_stays_busy_is_an_error(server: Channel) -> None:
    server.publish("forge", "linux-64", "1.0")
    server.busy = 1000
    with pytest.raises(ChannelUnreachableError):
        versions(RecordSource(), f"{server.url}/forge")


def test_records_of_a_mirror_never_serve_a_run_without_it(server: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    server.max_age = 1200
    for channel, version in (("real/forge", "1.0"), ("mirror/forge", "9.0"), ("other/forge", "5.0")):
        server.publish(channel, "linux-64", version)
        server.publish(channel, "noarch", version)
    monkeypatch.setattr(repodata, "CHANNEL_HOST", f"{server.url}/real")
    channel = f"{server.url}/real/forge"
    mirrored = RecordSource(mirror=f"{server.url}/mirror")
    assert versions(mirrored, channel) == ["9.0", "9.0"]
    assert versions(RecordSource(), channel) == ["1.0", "1.0"]
    assert versions(RecordSource(mirror=f"{server.url}/other"), channel) == ["5.0", "5.0"]
    assert versions(RecordSource(mirror=f"{server.url}/mirror/"), channel) == ["9.0", "9.0"]


def test_the_lock_names_the_mirror_without_its_password() -> None:
    told = RecordSource(mirror="https://user:secret@mirror.example/conda").identity(["conda-forge"], ["linux-64"])
    assert "mirror.example/conda" in told
    assert "secret" not in told
    assert RecordSource().identity(["conda-forge"], ["linux-64"]) == "live"
