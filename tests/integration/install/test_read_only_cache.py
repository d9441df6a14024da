"""A package cache that cannot be written to, but holds every package, serves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_channel import PLATFORM, make_channel
from torchlocks.core.errors import TorchlocksError
from torchlocks.core.progress import Silent
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin
from torchlocks.lockfile.models import Lock


def install(lock: Lock, prefix: Path, cache: Path) -> None:
    origin = Origin(name="tiny", channel="local")
    options = InstallOptions(fetch=FetchOptions(cache=cache, retries=0))
    install_environment(lock, PLATFORM, prefix, provenance=origin, options=options, progress=Silent())


@pytest.fixture
def mounts() -> Iterator[list[Path]]:
    made: list[Path] = []
    yield made
    for each in made:
        subprocess.run(["umount", "--lazy", str(each)], check=True)


def test_it_serves_when_it_is_mounted_read_only(tmp_path: Path, mounts: list[Path]) -> None:
    channel, cache = make_channel(tmp_path / "channel"), tmp_path / "pkgs"
    install(channel.lock(), tmp_path / "envs" / "one", cache)
    if subprocess.run(["mount", "--bind", str(cache), str(cache)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    mounts.append(cache)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(cache)], check=True)
    install(channel.lock(), tmp_path / "envs" / "two", cache)
    assert fsck(tmp_path / "envs" / "two", progress=Silent()).ok
    assert {each.name for each in (tmp_path / "envs").iterdir()} == {"one", "two", ".one.lock", ".two.lock"}
    # What it lacks cannot be put into it: the error names the cache, not the prefix.
    channel.raw("more", {"share/more": "x"})
    with pytest.raises(TorchlocksError) as caught:
        install(channel.lock(), tmp_path / "envs" / "three", cache)
    assert caught.value.exit_code == 31
    assert str(cache) in str(caught.value.where)
