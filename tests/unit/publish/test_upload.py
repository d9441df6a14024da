"""Packages are uploaded to a server, with a token that is in no message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchlocks.core.errors import ActionError, MissingFileError, RecipeError
from torchlocks.publish.upload import upload_packages

TOKEN = {"CHANNEL_TOKEN": "hunter2-token"}


# In a process of its own: rattler-build holds Python's global lock while it uploads.
_SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        print(json.dumps([self.path, self.headers.get("Authorization", ""), len(body)]), flush=True)
        self.send_response(int(sys.argv[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def server(status: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that answers uploads with `status`: its URL, and the process that prints what it was sent."""
    command = [sys.executable, "-c", _SERVER, str(status)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process
        finally:
            process.kill()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    from rattler_build import assemble_package

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    (tmp_path / "noarch").mkdir()
    assemble_package("a", "1.0", "noarch", "0", tmp_path / "noarch", files_dir=tmp_path / "files", noarch="generic")
    return tmp_path


def test_every_package_is_uploaded(packages: Path) -> None:
    with server(200) as (url, process):
        found = upload_packages(packages, "prefix", "torchlocks", TOKEN, url=url)
        assert process.stdout is not None
        path, authorization, size = json.loads(process.stdout.readline())
    assert [each.name for each in found] == ["a-1.0-0.conda"]
    assert "torchlocks" in path
    assert authorization.endswith("hunter2-token")
    assert size >= found[0].stat().st_size


def test_a_refusal_does_not_show_the_token(packages: Path) -> None:
    with server(403) as (url, _), pytest.raises(RecipeError) as caught:
        upload_packages(packages, "prefix", "torchlocks", TOKEN, url=url)
    assert "hunter2" not in str(caught.value)


def test_what_is_missing(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(ActionError):
        upload_packages(packages, "prefix", "torchlocks", {})
    with pytest.raises(ActionError):
        upload_packages(packages, "prefix", "../torchlocks", TOKEN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError):
        upload_packages(tmp_path / "empty", "prefix", "torchlocks", TOKEN)
