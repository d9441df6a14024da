"""Packages that try to write outside of the environment, or over others' files: refused, nothing written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import IntegrityError
from torchlocks.core.progress import Silent
from torchlocks.install import package_files
from torchlocks.install.contained import Tree
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victims" / "file"
    path.parent.mkdir()
    path.write_text("mine")
    return path


def refused(channel: TinyChannel, tmp_path: Path, victim: Path) -> None:
    """Install, twice since the cache is filled then; assert that it is refused and nothing is there."""
    options = InstallOptions(fetch=FetchOptions(cache=tmp_path / "pkgs", retries=0))
    prefix = tmp_path / "envs" / "hostile"
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            install_environment(
                channel.lock(),
                PLATFORM,
                prefix,
                provenance=Origin(name="tiny", channel="local"),
                options=options,
                progress=Silent(),
            )
        assert caught.value.exit_code == 32
        assert {each.name for each in prefix.parent.iterdir()} <= {".hostile.lock"}
        assert {each.name for each in victim.parent.iterdir()} == {"file"}
        assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "where", ["../../../victims", "/tmp/torchlocks-victims", "lib/../../x", "C:/x", "", ".", 7, []]
)
def test_modules_outside_of_the_environment_are_refused(tmp_path: Path, victim: Path, where: object) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("python", {"bin/python3.11": "x"}, version="3.11.7", index={"python_site_packages_path": where})
    channel.package("beta", {"site-packages/beta.py": "value = 1\n"}, noarch="python", depends=["python"])
    refused(channel, tmp_path, victim)
    assert not Path("/tmp/torchlocks-victims").exists()


@pytest.mark.parametrize(
    "links",
    [
        {"s": ".", "t": "s/..", "u": "t/victims/file"},
        {"a/b/l": "../..", "m": "a/b/l/..", "conda-meta/history": "../m/victims/file"},
        {"a/l": ".", "conda-meta/history": "../a/l/../../../victims/file"},
        {"d1": "d2/x", "d2/x": "../d3", "d3": "d4/..", "d4": ".", "out": "d3/.."},
    ],
)
def test_links_that_lead_out_together_are_refused(tmp_path: Path, victim: Path, links: dict[str, str]) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("linker", {"share/x": "x"}, links=links)
    refused(channel, tmp_path, victim)


def test_links_of_two_packages_that_lead_out_together_are_refused(tmp_path: Path, victim: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("one", {"share/one": "x"}, links={"deep/er/s": "../.."})
    # Alone, deep/er/s/.. is the folder deep/er; through the link it is above the environment.
    channel.raw("two", {"share/two": "x"}, links={"t": "deep/er/s/../victims"})
    refused(channel, tmp_path, victim)


def test_a_file_through_links_of_another_package_is_refused(tmp_path: Path, victim: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("one", {"share/one": "x"}, links={"s": "."})
    channel.raw("two", {"share/two": "x", "s/s/conda-meta/history": "x"})
    refused(channel, tmp_path, victim)


@pytest.mark.parametrize(
    "name", ["history", "torchlocks", "torchlocks-files", "linker-1.0-0.json", "HISTORY", "x.json"]
)
@pytest.mark.parametrize("link", [True, False])
def test_our_own_files_are_not_brought_by_a_package(tmp_path: Path, victim: Path, name: str, link: bool) -> None:
    channel = TinyChannel(tmp_path / "channel")
    path = f"conda-meta/{name}"
    files = {"share/x": "x"} if link else {"share/x": "x", path: "theirs"}
    channel.raw("linker", files, links={path: "../share/x"} if link else None)
    refused(channel, tmp_path, victim)
    kept = tmp_path / "pkgs" / "linker-1.0-0"
    assert (kept / "share" / "x").read_text() == "x"
    if not link:
        assert (kept / path).read_text() == "theirs"


def test_conda_meta_is_not_a_link(tmp_path: Path, victim: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("linker", {"share/x": "x"}, links={"conda-meta": "share"})
    refused(channel, tmp_path, victim)


@pytest.mark.parametrize("name", ["../../victims/file", "/tmp/torchlocks-victims", "a/b", ".."])
def test_a_script_with_a_path_is_refused(tmp_path: Path, victim: Path, name: str) -> None:
    channel = make_channel(tmp_path / "channel")
    link = f'{{"noarch": {{"type": "python", "entry_points": ["{name} = m:f"]}}, "package_metadata_version": 1}}'
    channel.raw("scripted", {"site-packages/m.py": ""}, index={"noarch": "python"}, info={"link.json": link.encode()})
    refused(channel, tmp_path, victim)


def test_links_that_stay_inside_are_installed(tmp_path: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("one", {"lib/x.so.1": "x"}, links={"lib64": "lib", "lib/x.so": "x.so.1", "share/up": "../lib/../lib64"})
    channel.raw("two", {"lib/y.so": "y", "conda-meta/pinned": "x"})
    prefix = tmp_path / "envs" / "fine"
    install_environment(
        channel.lock(),
        PLATFORM,
        prefix,
        provenance=Origin(name="tiny", channel="local"),
        options=InstallOptions(fetch=FetchOptions(cache=tmp_path / "pkgs", retries=0)),
        progress=Silent(),
    )
    assert (prefix / "lib64" / "y.so").read_text() == "y"
    assert (prefix / "share" / "up" / "x.so").read_text() == "x"


def test_paths_are_resolved_as_the_system_does(tmp_path: Path) -> None:
    tree = Tree()
    for path, target in {"a": "b/c", "b/c": "../d/e", "d/e/f": "..", "loop": "loop"}.items():
        tree.add(path, target)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(target)
    (tmp_path / "d" / "e").mkdir(exist_ok=True)
    for path in ("a/x", "a/f/x", "a/../y", "a/f/../z", "b/c/f/e/f/q"):
        real = (tmp_path / path).resolve().relative_to(tmp_path.resolve())
        assert tree.resolve(path) == frozenset({real.parts})
    assert tree.resolve("a/f/../../z") is None
    assert tree.resolve("loop/x") == frozenset()


@pytest.mark.parametrize("kind", ["device", "large"])
def test_a_file_list_that_does_not_end_is_refused(
    tmp_path: Path, victim: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = TinyChannel(tmp_path / "channel")
    if kind == "device":
        channel.raw("old", {"share/x": "x"}, info={"paths.json": None}, links={"info/files": "/dev/zero"})
    else:
        monkeypatch.setattr(package_files, "LISTING_BYTES", 1000)
        channel.raw("old", {"share/x": "x"}, info={"paths.json": None, "files": b"share/x\n" * 200})
    refused(channel, tmp_path, victim)


def test_folders_too_deep_to_be_removed_are_refused(tmp_path: Path, victim: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("deep", {f"{'a/' * 1200}x": "x"})
    refused(channel, tmp_path, victim)
    assert not list((tmp_path / "pkgs" / ".torchlocks").glob("*stage-*"))


@pytest.mark.parametrize("name", ["../../victims/file", "{victim}", "a/../../victims/file"])
def test_a_package_that_is_named_by_a_path_is_not_cached_there(tmp_path: Path, victim: Path, name: str) -> None:
    # Such a lock is not read; the records of an environment that is repaired are another source of packages.
    channel = TinyChannel(tmp_path / "channel")
    locked = channel.raw("x", {"share/x": "x"}, index={"name": name.format(victim=victim)})
    channel.packages = [replace(locked, name=name.format(victim=victim))]
    refused(channel, tmp_path, victim)
