"""Building the recipes: the same bytes every time, nothing of this machine, and no half-made channel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import zstandard

from conftest import LAYOUT as BUILT
from support import few_environments
from torchlocks.core.errors import DiskFullError, NoSuchRowError, RecipeError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.host.detect import host_platform
from torchlocks.publish.build import BuiltChannel, build_recipes

LAYOUT = Layout(Path(__file__).parents[3])
PLATFORMS = tuple(dict.fromkeys((host_platform(), "linux-64", "win-64")))


def build(layout: Layout, channel: Path) -> BuiltChannel:
    return build_recipes(layout, channel=channel, platforms=PLATFORMS, engine="py-rattler-build", progress=Silent())


@pytest.fixture
def built(recipes_channel: BuiltChannel) -> BuiltChannel:
    return recipes_channel


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """A checkout of a few environments in another folder."""
    layout = few_environments(tmp_path / "another checkout", "cpu", "gpu-cu124")
    shutil.copytree(LAYOUT.suite, layout.suite, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return layout


def files(channel: Path) -> dict[str, bytes]:
    return {path.relative_to(channel).as_posix(): path.read_bytes() for path in channel.rglob("*") if path.is_file()}


def packages(channel: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(channel).items() if name.endswith(".conda")}


def members(package: Path) -> dict[str, bytes]:
    """The files of a package, by path."""
    found = {}
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".tar.zst"):
                data = zstandard.ZstdDecompressor().decompressobj().decompress(archive.read(name))
                with tarfile.open(fileobj=BytesIO(data)) as tar:
                    for member in tar:
                        contents = tar.extractfile(member)
                        found[member.name] = contents.read() if contents else b""
    return found


def test_building_twice_in_different_folders_gives_the_same_bytes(built: BuiltChannel, checkout: Layout) -> None:
    again = packages(build(checkout, checkout.root / "some" / "where else").path)
    assert again.items() <= packages(built.path).items()
    assert {subdir for subdir, _, _ in (name.partition("/") for name in again)} == {*PLATFORMS, "noarch"}


def test_conda_build_gives_the_same_bytes(
    built: BuiltChannel, checkout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda, stand_in = tmp_path / "bin" / "conda", Path(__file__).parents[1].joinpath("conda_build_stand_in.py")
    conda.parent.mkdir()
    conda.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{conda.parent}:/usr/bin:/bin")
    again = build_recipes(checkout, channel=tmp_path / "channel", platforms=PLATFORMS, progress=Silent())
    assert again.engine == "conda-build"
    assert again.packages
    assert packages(again.path).items() <= packages(built.path).items()


def test_a_failure_of_conda_build_is_passed_on(
    checkout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda = tmp_path / "conda"
    conda.write_text('#!/bin/sh\n[ "$2" = --version ] && echo conda-build 26.5.0 && exit\necho no room >&2; exit 3\n')
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RecipeError, match=r"conda build failed for torch-env on linux-64, with exit code 3") as caught:
        build_recipes(checkout, channel=tmp_path / "channel", platforms=PLATFORMS, progress=Silent())
    assert caught.value.details == "no room"
    assert not (tmp_path / "channel").exists()


def test_no_package_holds_a_path_of_this_machine(built: BuiltChannel) -> None:
    for package in built.packages:
        for name, data in members(built.path / package.subdir / package.file).items():
            for folder in (LAYOUT.root, built.path.parent):
                assert str(folder).encode() not in data, f"{package.file}: {name}"


def test_the_suite_is_packaged_from_its_one_source(built: BuiltChannel) -> None:
    (package,) = (p for p in built.packages if p.name == "torch-verify")
    assert package.subdir == "noarch"
    held = members(built.path / "noarch" / package.file)
    code = {name: data for name, data in held.items() if name.startswith("site-packages/")}
    checks, tools = "site-packages/torchsuite/checks/", "site-packages/torchsuite/"
    source = {
        checks + path.name: path.read_bytes() for path in (*LAYOUT.suite.glob("*.py"), LAYOUT.suite / "pytest.ini")
    }
    source |= {tools + path.name: path.read_bytes() for path in LAYOUT.suite.glob("torchsuite/*.py")}
    assert code == source
    assert json.loads(held["info/link.json"])["noarch"]["entry_points"] == ["torch-verify = torchsuite.command:main"]
    assert held["info/licenses/LICENSE"] == (LAYOUT.root / "LICENSE").read_bytes()


def test_the_packages_of_windows_are_built_here_too(built: BuiltChannel) -> None:
    names = {package.name for package in built.packages if package.subdir == "win-64"}
    assert names == {"torch-env-cpu", "torch-env-gpu", "torch-env-constraints"}
    repodata = json.loads((built.path / "win-64" / "repodata.json").read_text())
    assert {record["subdir"] for record in repodata["packages.conda"].values()} == {"win-64"}


def test_a_broken_recipe_leaves_the_channel_that_was_there(checkout: Layout) -> None:
    channel = checkout.root / "channel"
    build(checkout, channel)
    before = files(channel)
    recipe = checkout.recipes / "torch-verify" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("cp suite/torchsuite/", "cp suite/no-such-folder/"))
    with pytest.raises(RecipeError) as caught:
        build(checkout, channel)
    assert caught.value.where == str(recipe)
    assert files(channel) == before
    assert [path.name for path in channel.parent.glob(".channel*") if path.is_dir()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with hardly any room. Skips where one cannot be mounted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "torchlocks-test", str(mount)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted: that needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_full_disk_is_reported(small_disk: Path, checkout: Layout) -> None:
    with pytest.raises(DiskFullError) as caught:
        build(checkout, small_disk / "channel")
    assert str(caught.value.where).startswith(str(small_disk))
    assert not (small_disk / "channel").exists()


def test_a_platform_that_is_not_in_the_matrix_is_refused(checkout: Layout, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRowError, match="linux-65"):
        build_recipes(checkout, channel=tmp_path / "channel", platforms=["linux-65"], progress=Silent())


def test_a_suite_whose_command_does_not_run_is_not_published(checkout: Layout) -> None:
    if not (BUILT.channel / "noarch" / "repodata.json").is_file():
        pytest.skip("there is no local channel to take Python from: make channel")
    (checkout.build).mkdir()
    (checkout.build / "channel").symlink_to(BUILT.channel)
    assert build(checkout, checkout.root / "channel").tested == ("torch-verify",)
    command = checkout.suite / "torchsuite" / "command.py"
    command.write_text("import no_such_module\n" + command.read_text())
    with pytest.raises(RecipeError, match=r"tests of .* failed"):
        build(checkout, checkout.root / "other")
    assert not (checkout.root / "other").exists()
