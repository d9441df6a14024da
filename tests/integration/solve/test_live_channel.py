"""Live records, from a local server that behaves as a channel does today."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.solve import repodata
from torchlocks.solve.repodata import RecordSource


class Channel(http.server.ThreadingHTTPServer):
    """Serves `files` (path → body) with ETags; counts answers to GET by (path, status)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler))
        self.files: dict[str, bytes] = {}
        self.max_age = 0
        self.busy = 0
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
        # The index of a sharded channel (CEP 16) is offered beside them.
        self.files[f"/{channel}/{subdir}/repodata_shards.msgpack.zst"] = zstandard.compress(b"\x80")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Channel

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        body = self.server.files.get(self.path)
        etag = f'"{hash(body) & 0xFFFFFFFF:x}"'
        if self.server.busy and not head:
            self.server.busy -= 1
            status = 429
        else:
            status = 404 if body is None else 304 if self.headers.get("If-None-Match") == etag else 200
        if not head:
            self.server.answers[self.path, status] += 1
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
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
    monkeypatch.setattr(repodata, "_PAUSES_S", (0, 0))
    made = Channel()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def versions(source: RecordSource, channel: str) -> list[str]:
    from rattler import PackageName

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
