"""What killed runs leave, packages that misstate their files, damaged activation files, and answers of workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import InstallError, IntegrityError
from torchlocks.core.progress import Silent
from torchlocks.install.activate import activation_environment
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin
from torchlocks.install.up_to_date import has_leftovers
from torchlocks.lockfile.models import Lock


def install(lock: Lock, prefix: Path, *, full_check: bool = False) -> bool:
    cache = prefix.parent.parent / "pkgs"
    options = InstallOptions(fetch=FetchOptions(cache=cache, retries=0, full_check=full_check))
    origin = Origin(name="tiny", channel="local")
    return install_environment(lock, PLATFORM, prefix, provenance=origin, options=options, progress=Silent()).changed


def test_leftovers_of_killed_runs_go_also_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    channel, prefix = make_channel(tmp_path / "channel"), tmp_path / "envs" / "tiny"
    assert install(channel.lock(), prefix)
    for name in (".tiny.new-0123abcd", ".tiny.trash-0123abcd"):
        (prefix.parent / name / "conda-meta").mkdir(parents=True)
    assert has_leftovers(str(prefix))
    assert not install(channel.lock(), prefix)
    assert {each.name for each in prefix.parent.iterdir()} == {"tiny", ".tiny.lock"}
    assert not has_leftovers(str(prefix))


def liar(folder: Path, change: dict[str, object]) -> TinyChannel:
    channel = TinyChannel(folder)
    entry = {"_path": "share/x", "path_type": "hardlink", "size_in_bytes": 1} | change
    paths = json.dumps({"paths": [entry], "paths_version": 1}).encode()
    channel.raw("liar", {"share/x": "x"}, info={"paths.json": paths})
    return channel


@pytest.mark.parametrize("change", [{"size_in_bytes": 7}, {"_path": "share/other"}, {"_path": "share"}])
def test_a_package_that_misstates_its_files_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="file list"):
        install(liar(tmp_path / "channel", change).lock(), tmp_path / "envs" / "tiny")


def test_a_misstated_hash_is_refused_by_a_full_check_and_found_by_fsck(tmp_path: Path) -> None:
    lock, prefix = liar(tmp_path / "channel", {"sha256": "0" * 64}).lock(), tmp_path / "envs" / "tiny"
    with pytest.raises(IntegrityError, match="file list"):
        install(lock, prefix, full_check=True)
    assert install(lock, prefix)
    assert [each.path for each in fsck(prefix, progress=Silent()).damaged] == ["share/x"]


@pytest.mark.parametrize("content", ["{", "[]", '{"env_vars": 1}', "\x00"])
def test_a_damaged_file_of_variables_is_an_error_of_ours(tmp_path: Path, content: str) -> None:
    channel, prefix = make_channel(tmp_path / "channel"), tmp_path / "envs" / "tiny"
    install(channel.lock(), prefix)
    (prefix / "conda-meta" / "state").write_text(content)
    with pytest.raises(InstallError, match="cannot be activated"):
        activation_environment(prefix, {"PATH": "/usr/bin:/bin"})
