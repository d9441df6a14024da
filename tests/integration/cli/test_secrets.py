"""Credentials planted in every input; every output is looked through. Channels, bases and locks are served for real."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import make_key, torchlocks
from tiny_channel import PLATFORM, TinyChannel, make_channel

SECRET = "s3cr3t"
DEPENDS = {
    "pytorch": ["python 3.11.*", "numpy >=2"],
    "numpy": ["python 3.11.*"],
    "alpha": ["python 3.11.*"],
    "beta": ["python >=3.8", "alpha"],
    "many": ["alpha"],
}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def write_records(channel: TinyChannel) -> None:
    for subdir in (PLATFORM, "noarch"):
        packages: dict[str, dict[str, object]] = {}
        for each in channel.packages:
            if each.subdir == subdir:
                packages[each.file_name] = {
                    "name": each.name,
                    "version": each.version,
                    "build": each.build,
                    "build_number": 0,
                    "depends": DEPENDS.get(each.name, []),
                    "constrains": [],
                    "md5": each.md5,
                    "sha256": each.sha256,
                    "size": (channel.root / subdir / each.file_name).stat().st_size,
                    "subdir": subdir,
                    "license": "MIT",
                    "timestamp": 1_767_268_800_000,
                }
        new = {name: each for name, each in packages.items() if name.endswith(".conda")}
        old = {name: each for name, each in packages.items() if name not in new}
        content = {"info": {"subdir": subdir}, "packages": old, "packages.conda": new, "repodata_version": 1}
        (channel.root / subdir / "repodata.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a channel with all that solving, installing and bundling need, with a password and a token in it."""
    served = tmp_path_factory.mktemp("served")
    channel = make_channel(served / "prefix" / "t" / f"{SECRET}-token" / "c")
    site = "lib/python3.11/site-packages"
    channel.raw("numpy", {f"{site}/numpy/__init__.py": "\n"}, version="2.1.0", build="py311_0")
    channel.raw("pytorch", {f"{site}/torch/__init__.py": "\n"}, version="2.5.1", build="cpu_py311_0")
    write_records(channel)
    handler = functools.partial(_Quiet, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://us3r:x@{SECRET}-pass@127.0.0.1:{server.server_port}/prefix/t/{SECRET}-token/c"
    server.shutdown()


@pytest.fixture(scope="module")
def checkout(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose matrix, and so whose locks, name that channel."""
    root = tmp_path_factory.mktemp("checkout")
    row = {
        "accelerator": "cpu",
        "template": "environment-cpu.yml",
        "channels": [url],
        "platforms": {PLATFORM: {"python": "3.11", "pytorch": "2.5", "build": "cpu*"}},
    }
    matrix = {
        "platforms": {PLATFORM: {"virtual_packages": {"__unix": "0", "__linux": "4.18", "__glibc": "2.28"}}},
        "drivers": {},
        "environments": {"cpu": row},
    }
    (root / "matrix.yml").write_text(json.dumps(matrix))
    (root / "environment-cpu.yml").write_text(
        'name: {{ env }}\nchannels: [{{ channels | join(", ") }}]\nplatforms: [{{ platform }}]\n'
        "dependencies:\n  - python {{ python }}.*\n  - pytorch {{ pytorch }}.* {{ build }}\n  - many\n"
    )
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *who, *command], cwd=root, check=True)
    assert torchlocks(root, "lock").returncode == 0
    assert SECRET in (root / "locks" / "cpu" / "conda-lock.yml").read_text(), "the test plants nothing"
    return root


class Searched:
    """Runs commands in the checkout; whatever they print is searched at once, what they write by `search`."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out

    def run(self, *arguments: str, code: int = 0) -> None:
        done = torchlocks(self.root, *arguments, TORCHLOCKS_CACHE=str(self.out.parent / "pkgs"))
        assert done.returncode == code, (arguments, done.stderr)
        assert SECRET not in done.stdout + done.stderr, (arguments, done.stdout + done.stderr)

    def search(self, *folders: Path) -> int:
        """Look for the secret in all files below, also in archives of tar; returns how many files there were."""
        found = 0
        for folder in folders:
            for path in (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
                found += 1
                assert SECRET.encode() not in path.read_bytes(), path
                assert SECRET not in str(path.relative_to(folder))
                if tarfile.is_tarfile(path) and path.suffix == ".tar":
                    with tarfile.open(path) as archive:
                        archive.extractall(path.with_suffix(".unpacked"), filter="data")
                    found += self.search(path.with_suffix(".unpacked"))
        return found


@pytest.fixture
def searched(checkout: Path, tmp_path: Path) -> Searched:
    (tmp_path / "out").mkdir()
    return Searched(checkout, tmp_path / "out")


LOCKS = ("locks/cpu/conda-lock.yml", "locks/cpu/pixi.lock", f"locks/cpu/conda-{PLATFORM}.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_made_of_a_lock_holds_no_secret(searched: Searched, lock: str) -> None:
    out = searched.out
    for form in ("text", "json", "github"):
        searched.run("check", lock, "--format", form, code=61)
    for form in ("text", "json", "markdown"):
        searched.run("diff", lock, LOCKS[0], "--format", form)
    searched.run("licences", lock, "--json")
    searched.run("sbom", lock, "-o", str(out / "cyclonedx.json"))
    searched.run("sbom", lock, "--format", "spdx", "-o", str(out / "spdx.json"))
    if not lock.endswith("64.lock"):
        searched.run("export", lock, "-o", str(out / "exports"))
    searched.run("export", lock, "--format", "explicit", "-o", str(out / "explicit.lock"))
    searched.run("attestations", lock, "--json")
    searched.run("install", lock, str(out / "env"))
    searched.run("fsck", str(out / "env")) if lock == LOCKS[0] else None
    assert searched.search(out) > 200
    searched.search(out.parent / "pkgs" / ".torchlocks")


def test_what_is_made_of_a_checkout_holds_no_secret(searched: Searched, checkout: Path) -> None:
    out = searched.out
    for arguments in (("matrix",), ("why", "numpy", "--json"), ("doctor",), ("pick",)):
        searched.run(*arguments)
    searched.run("check", code=61)
    searched.run("why", "numpy <1", code=20)
    searched.run("export", "cpu", "-o", str(out / "exports"))
    searched.run("bundle", "cpu", "-o", str(out / "bundle.tar"))
    searched.run("bundle", "cpu", "--portable", "-o", str(out / "portable.tar"))
    searched.run("image", "cpu", "-o", str(out / "image"))
    # The site would publish the locks themselves.
    searched.run("site", code=13)
    searched.run("update-all", code=61)
    assert searched.search(out) > 20
    reports = [path for path in (checkout / "build").rglob("*") if path.suffix in (".md", ".json", ".html")]
    assert not [path for path in reports if SECRET in path.read_text()]


def test_messages_about_given_urls_contain_no_secret(searched: Searched, url: str, tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    (tmp_path / "signers").write_text(f"me {public}\n")
    signers = ("--allowed-signers", str(tmp_path / "signers"))
    for lock in (f"{url}/x.lock", f"{url}/x.lock?token={SECRET}"):
        searched.run("install", lock, str(tmp_path / "p"), code=31)
        searched.run("verify-signature", lock, *signers, code=31)
        (tmp_path / "environment.yml").write_text(f"name: x\nchannels: ['{url}']\ndependencies: [alpha, 'beta <0']\n")
        searched.run("extend", str(tmp_path / "environment.yml"), "--base", lock, code=19)
    searched.run("extend", str(tmp_path / "environment.yml"), "--base", LOCKS[0], code=20)
    (tmp_path / "environment.yml").write_text(f"name: x\nchannels: ['{url}']\ndependencies: [alpha, beta]\n")
    searched.run("extend", str(tmp_path / "environment.yml"), "--base", LOCKS[0], "--json")
    searched.run("check", str(tmp_path / "conda-lock.yml"), code=61)
    searched.run("check", str(tmp_path / "conda-lock.yml"), "--fetch-base", code=61)
    searched.run("lock", "--mirror", url, "--force")
    searched.run("lock", "--scheduler", f"tcp://u:{SECRET}@127.0.0.1:9", code=52)


def test_a_checkout_without_secrets_is_published(checkout: Path, tmp_path: Path, url: str) -> None:
    """Variables in the place of secrets are what locks may hold."""
    root = tmp_path / "checkout"
    for path in (each for each in checkout.rglob("*") if each.is_file() and ".git" not in each.parts):
        target = root / path.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(rb"us3r:[^/\s]*@127", b"$USER_NAME:$PASSWORD@127", path.read_bytes())
        target.write_bytes(text.replace(f"{SECRET}-token".encode(), b"$TOKEN"))
    done = torchlocks(root, "site", HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stderr
    assert (root / "build" / "site" / "index.html").is_file()
