"""Environments by their path: what they were made from, and the verbs that work in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client_records import CLIENTS, as_made_by
from support import torchlocks
from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.progress import Silent
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin
from torchlocks.lockfile.formats import explicit_name
from torchlocks.lockfile.open import open_lock
from torchlocks.workflow.prefix import made_from


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    return make_channel(tmp_path_factory.mktemp("prefix") / "channel")


@pytest.fixture
def checkout(channel: TinyChannel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an explicit lock of the tiny channel."""
    root = tmp_path / "checkout"
    folder = root / "locks" / "tiny"
    folder.mkdir(parents=True)
    for name in ("matrix.yml", "environment-cpu.yml"):
        (root / name).write_text("not read\n")
    lines = [f"{each.url}#sha256:{each.sha256}" for each in channel.packages]
    (folder / explicit_name(PLATFORM)).write_text("\n".join([f"# platform: {PLATFORM}", "@EXPLICIT", *lines, ""]))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def prefix(checkout: Path, tmp_path: Path) -> Path:
    made = tmp_path / "somewhere" / "an env"
    install_environment(
        open_lock(str(checkout / "locks" / "tiny" / explicit_name(PLATFORM))),
        PLATFORM,
        made,
        provenance=Origin(name="tiny", channel="x"),
        options=InstallOptions(fetch=FetchOptions(cache=tmp_path / "pkgs")),
        progress=Silent(),
    )
    return made


def test_the_lock_is_found_by_its_hash(checkout: Path, prefix: Path) -> None:
    found = made_from(prefix)
    assert found.lock.path == checkout / "locks" / "tiny" / explicit_name(PLATFORM)
    assert (found.platform, found.target) == (PLATFORM, None)
    assert "by its hash" in found.origin


@pytest.mark.parametrize("client", CLIENTS)
def test_the_lock_of_an_environment_of_any_client_is_found_by_its_packages(
    checkout: Path, prefix: Path, client: str
) -> None:
    as_made_by(client, prefix)
    found = made_from(prefix)
    assert found.lock.path == checkout / "locks" / "tiny" / explicit_name(PLATFORM)
    assert "by its packages" in found.origin


def test_without_a_lock_the_records_speak_for_themselves(checkout: Path, prefix: Path) -> None:
    (checkout / "locks" / "tiny" / explicit_name(PLATFORM)).unlink()
    found = made_from(prefix)
    assert {each.name for each in found.lock.packages[PLATFORM]} == {"python", "alpha", "beta", "many"}
    assert "its own records" in found.origin
    assert found.lock.sha256 == made_from(prefix).lock.sha256


def test_a_lock_that_is_named_is_the_one(checkout: Path, prefix: Path, tmp_path: Path) -> None:
    named = tmp_path / "conda-linux-64.lock"
    named.write_text((checkout / "locks" / "tiny" / explicit_name(PLATFORM)).read_text())
    assert made_from(prefix, str(named)).lock.path == named
    other = tmp_path / "conda-osx-64.lock"
    other.write_text("# platform: osx-64\n@EXPLICIT\nhttps://h/c/osx-64/x-1-0.conda#sha256:" + "0" * 64 + "\n")
    with pytest.raises(LockfileError, match="no packages for linux-64"):
        made_from(prefix, str(other))
    with pytest.raises(MissingFileError):
        made_from(tmp_path / "none")


def test_verbs_take_a_path(checkout: Path, prefix: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    good = torchlocks(nowhere, "fsck", str(prefix), "--json")
    assert (good.returncode, json.loads(good.stdout)["ok"]) == (0, True), good.stderr
    ran = torchlocks(nowhere, "run", "../somewhere/an env", "echo $CONDA_PREFIX")
    assert str(prefix) in ran.stdout
    assert torchlocks(nowhere, "fsck", "./none").returncode == 14
    assert torchlocks(nowhere, "rollback", str(prefix)).returncode == 14
    previous = prefix.with_name(f".{prefix.name}.previous")
    prefix.rename(previous)
    assert torchlocks(nowhere, "rollback", str(prefix)).returncode == 0
    assert prefix.is_dir()
    # It has no torch, so there is nothing to verify.
    verified = torchlocks(nowhere, "verify", str(prefix))
    assert verified.returncode == 13
    assert "pytorch" in verified.stderr


def test_an_environment_anywhere_is_verified(environment: Path, tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "verify", str(environment), "-k", "test_static", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["checks"]
    assert list((tmp_path / "reports" / "elsewhere").rglob("*.json"))
