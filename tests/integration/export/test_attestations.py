"""Sigstore attestations: what a channel that advertises them answers, and what is said of those that have none.

A true attestation of a conda package needs a build service's identity and Sigstore's log, so none can be made here:
that py-rattler accepts a good one is not tested, that nothing else is accepted is.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faulty_server import FaultyServer, faulty_server
from preloaded import run_torchlocks
from tiny_channel import PLATFORM, make_channel

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True)
class Served:
    """A channel over HTTP with an explicit lock of its packages; one of them can advertise attestations."""

    server: FaultyServer
    root: Path
    lock: Path
    records: Path

    def advertise(self, sidecar: bytes, digest: str | None = None) -> None:
        """Put attestations beside the package `many`, under the name that their hash gives (CEP 50)."""
        digest = digest or hashlib.sha256(sidecar).hexdigest()
        document = json.loads(self.records.read_text())
        for name, record in document["packages.conda"].items():
            if record["name"] == "many":
                record["attestations_sha256"] = digest
                (self.records.parent / f"{name}.sigs.{digest}").write_bytes(sidecar)
        self.records.write_text(json.dumps(document))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["attestations", str(self.lock), "--trusted-root", "embedded", *arguments]
        return run_torchlocks(command, env={**os.environ, "RATTLER_CACHE_DIR": str(self.lock.parent / "cache")})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    channel = make_channel(tmp_path / "served" / "channel")
    (channel.root / "noarch").mkdir(exist_ok=True)
    for subdir in (PLATFORM, "noarch"):
        packages: dict[str, dict[str, object]] = {".conda": {}, ".tar.bz2": {}}
        for each in channel.packages:
            if each.subdir == subdir:
                record = {
                    "name": each.name,
                    "version": each.version,
                    "build": each.build,
                    "build_number": 0,
                    "depends": [],
                    "md5": each.md5,
                    "sha256": each.sha256,
                    "size": each.size,
                    "subdir": subdir,
                }
                packages[".conda" if each.url.endswith(".conda") else ".tar.bz2"][each.file_name] = record
        document = {"info": {"subdir": subdir}, "packages": packages[".tar.bz2"], "packages.conda": packages[".conda"]}
        (channel.root / subdir / "repodata.json").write_text(json.dumps(document))
    with faulty_server(tmp_path / "served") as server:
        lock = tmp_path / "tiny.lock"
        lines = [f"{server.url}/channel/{p.subdir}/{p.file_name}#{p.sha256}" for p in channel.packages]
        lock.write_text(f"# platform: {PLATFORM}\n@EXPLICIT\n" + "\n".join(lines) + "\n")
        yield Served(server, channel.root, lock, channel.root / PLATFORM / "repodata.json")


def test_channels_without_attestations_are_reported(served: Served) -> None:
    run = served.run()
    assert run.returncode == 0, run.stderr
    assert run.stdout == "0 of 4 packages attested, 4 without, 0 not verified\n"
    required = served.run("--require")
    assert (required.returncode, "4 of 4 packages have no attestation" in required.stderr) == (63, True)
    # Nothing was asked for that nobody advertised.
    assert not [name for name in served.server.requests if ".sigs." in name]


def empty_bundle() -> bytes:
    return json.dumps([{"mediaType": BUNDLE_TYPE, "verificationMaterial": {}, "dsseEnvelope": {}}]).encode()


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda served: served.advertise(b"[]"), id="no bundles"),
        pytest.param(lambda served: served.advertise(b"garbage"), id="no JSON"),
        pytest.param(lambda served: served.advertise(empty_bundle()), id="a bundle without a signature"),
        pytest.param(lambda served: served.advertise(b"[]", digest="1" * 64), id="other bytes than advertised"),
    ],
)
def test_what_is_advertised_and_does_not_verify_is_an_error(served: Served, tamper: Callable[[Served], None]) -> None:
    tamper(served)
    run = served.run("--json")
    assert (run.returncode, "have attestations that do not verify" in run.stderr) == (63, True), run.stderr
    found = {each["package"]: each for each in json.loads(run.stdout)}
    assert [name for name, each in found.items() if each["problem"]] == ["many-1.0-0.conda"]
    assert not [each for each in found.values() if each["signer"]]
    assert [name for name in served.server.requests if name.startswith("many-1.0-0.conda.sigs.")]


def test_a_channel_that_has_another_package_than_the_lock_is_not_asked_further(served: Served) -> None:
    document = json.loads(served.records.read_text())
    document["packages.conda"]["many-1.0-0.conda"]["sha256"] = "2" * 64
    served.records.write_text(json.dumps(document))
    served.advertise(b"[]")
    run = served.run()
    assert (run.returncode, "disagree on the sha256" in run.stderr) == (13, True), run.stderr
    assert not [name for name in served.server.requests if ".sigs." in name]


def test_a_trusted_root_that_is_none_is_refused(served: Served, tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    assert served.run("--trusted-root", str(tmp_path / "nowhere.json")).returncode == 14
    assert served.run("--trusted-root", str(tmp_path / "root.json")).returncode == 63
    assert served.run("--issuer", "nobody").returncode == 63
