"""OFFLINE=1: nothing is fetched, and what a bundle brought is what the environment is made from."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import LAYOUT
from tiny_channel import PLATFORM, conda_lock, make_channel
from torchlocks.bundle.unpack import unpack_bundle
from torchlocks.bundle.write import make_bundle
from torchlocks.core.errors import FetchError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.local_channel.build import build_local_channel
from torchlocks.lockfile.open import open_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.workflow import environment


def no_process(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError(f"started: {arguments}")


def test_the_lock_of_a_bundle_of_the_local_channel_is_what_is_installed_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = make_channel(tmp_path / "channel")
    lock = open_lock(str(conda_lock(channel, tmp_path / "conda-lock.yml")))
    file = tmp_path / "cpu.tar"
    make_bundle(lock, PLATFORM, file, name="cpu", fetch=FetchOptions(cache=tmp_path / "made"), progress=Silent())

    there = Layout(tmp_path / "there")
    fetch = FetchOptions(cache=tmp_path / "pkgs", offline=True)
    found = unpack_bundle(file, fetch=fetch, progress=Silent(), local_locks=there.local_locks)
    assert found.lock == there.local_locks / "cpu" / "conda-lock.yml"
    assert hashlib.sha256(found.lock.read_bytes()).hexdigest() == lock.sha256

    # Neither pip nor a build is started: the channel that it was made from is on another machine.
    monkeypatch.setattr(subprocess, "Popen", no_process)
    target = load_matrix(LAYOUT.matrix).local_target("cpu", PLATFORM)
    assert environment._local_lock(there, target, fetch, Silent()).sha256 == lock.sha256


def test_the_local_channel_is_not_built_with_wheels_from_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_process)
    layout = Layout(LAYOUT.root, tmp_path)
    with pytest.raises(FetchError, match="wheels for the local channel are not here"):
        build_local_channel(layout, offline=True, progress=Silent())
