"""Building a channel from small recipes: what is built again, what a fault leaves behind, and that bytes repeat."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchlocks.core.errors import DiskFullError, RecipeError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import LocalChannel, build_local_channel
from torchlocks.local_channel.manifest import read_manifest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the recipes' build scripts are for a POSIX shell")

CHILD = Path(__file__).parents[1].joinpath("channel_child.py")


class Site:
    """A folder with recipes and a channel made from them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipes = root / "recipes"
        self.channel = root / "build" / "channel"

    def recipe(self, name: str, *script: str, host: str = "", extra: str = "") -> Path:
        path = self.recipes / name / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(f"    - {json.dumps(line)}" for line in script)
        path.write_text(
            f"""\
schema_version: 1
package:
  name: {name}
  version: "1.0"
build:
  number: 0
  string: "0"
  script:
{lines}
requirements:
  host: [{host}]
about:
  license: MIT
{extra}""",
            encoding="utf-8",
        )
        return path

    def build(self, channel: Path | None = None) -> LocalChannel:
        return build_local_channel(
            Layout(self.root), recipes=self.recipes, channel=channel or self.channel, progress=Silent()
        )

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(CHILD), str(self.root), str(self.recipes), str(self.channel)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def package(self, name: str) -> Path:
        return self.channel / read_subdir() / f"{name}-1.0-0.conda"

    def files(self) -> dict[str, str]:
        """Every file of the channel, with a hash of its contents."""
        return {
            path.relative_to(self.channel).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.channel.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.recipe("base", "mkdir -p $PREFIX/share", "echo base > $PREFIX/share/base")
    made.recipe(
        "tool",
        "test -e $PREFIX/share/base",
        "mkdir -p $PREFIX/bin",
        "printf '#!%s/bin/sh\\n' $PREFIX > $PREFIX/bin/tool",
        "chmod +x $PREFIX/bin/tool",
        "ln -s tool $PREFIX/bin/alias",
        host="base",
    )
    made.recipe("alone", "mkdir -p $PREFIX/share", "date > /dev/null; echo alone > $PREFIX/share/alone")
    return made


def wait_until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_channel_is_built_once_and_solves(site: Site) -> None:
    import asyncio

    from rattler import Channel, Gateway, MatchSpec, Subdir, solve

    first = site.build()
    assert set(first.rebuilt) == {"base", "tool", "alone"}
    assert first.versions == {"base": "1.0", "tool": "1.0", "alone": "1.0"}
    assert first.url == site.channel.as_uri()
    before = site.files()
    assert site.build().rebuilt == ()
    assert site.files() == before
    records = asyncio.run(
        solve(
            [Channel(first.url)],
            [MatchSpec("tool")],
            gateway=Gateway(cache_dir=site.root / "cache"),
            platforms=[Subdir.current(), Subdir("noarch")],
            virtual_packages=[],
        )
    )
    assert [record.name.normalized for record in records] == ["tool"]


def test_the_repodata_is_what_rattlers_indexer_writes(site: Site) -> None:
    import asyncio

    from rattler.index import index_fs

    built = site.build()
    subdirs = ("noarch", read_subdir())

    def records() -> list[dict[str, dict[str, object]]]:
        files = [site.channel / subdir / "repodata.json" for subdir in subdirs]
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        assert [document["info"]["subdir"] for document in documents] == list(subdirs)
        return [document["packages.conda"] for document in documents]

    ours = records()
    assert sum(map(len, ours)) == len(built.versions)
    asyncio.run(index_fs(site.channel, write_zst=False, write_shards=False, force=True))
    theirs = records()
    for found in theirs:
        for record in found.values():
            record.pop("indexed_timestamp", None)
    assert ours == theirs


def test_two_builds_in_different_folders_give_the_same_bytes(site: Site, tmp_path: Path) -> None:
    site.build()
    first = site.files()
    elsewhere = Site(tmp_path / "a" / "much" / "deeper" / "folder")
    elsewhere.recipes = site.recipes
    time.sleep(1.1)  # file times and index times would now differ
    elsewhere.build()
    assert elsewhere.files() == first


def test_no_file_of_the_build_is_left_beside_the_channel(site: Site) -> None:
    site.build()
    assert {path.name for path in site.channel.parent.iterdir()} == {"channel", "logs", "wheels", ".channel.lock"}
    assert {path.name for path in site.channel.iterdir()} == {"manifest.json", "noarch", read_subdir()}


def read_subdir() -> str:
    from rattler import Subdir

    return str(Subdir.current())


def test_only_what_changed_is_built_again(site: Site) -> None:
    site.build()
    site.recipe("alone", "mkdir -p $PREFIX/share", "echo changed > $PREFIX/share/alone")
    assert site.build().rebuilt == ("alone",)
    site.recipe("base", "mkdir -p $PREFIX/share", "echo changed > $PREFIX/share/base")
    assert site.build().rebuilt == ("base", "tool")


def test_a_deleted_package_is_built_again_with_the_same_bytes(site: Site) -> None:
    site.build()
    before = site.files()
    site.package("alone").unlink()
    assert site.build().rebuilt == ("alone",)
    assert site.files() == before


def test_a_damaged_package_is_built_again_with_the_same_bytes(site: Site) -> None:
    site.build()
    before = site.files()
    data = bytearray(site.package("alone").read_bytes())
    data[len(data) // 2] ^= 0xFF
    site.package("alone").write_bytes(data)
    assert site.build().rebuilt == ("alone",)
    assert site.files() == before


def test_damaged_repodata_is_made_again_and_no_package_is(site: Site) -> None:
    site.build()
    before = site.files()
    (site.channel / read_subdir() / "repodata.json").write_text("{}", encoding="utf-8")
    assert site.build().rebuilt == ()
    assert site.files() == before


def test_packages_without_a_recipe_leave_the_channel(site: Site) -> None:
    site.build()
    (site.recipes / "alone" / "recipe.yaml").unlink()
    (site.channel / read_subdir() / "stranger-1-0.conda").write_bytes(b"no package")
    built = site.build()
    assert built.rebuilt == ()
    assert set(built.versions) == {"base", "tool"}
    assert {path.name for path in site.channel.glob("*/*.conda")} == {"base-1.0-0.conda", "tool-1.0-0.conda"}
    repodata = json.loads((site.channel / read_subdir() / "repodata.json").read_text(encoding="utf-8"))
    assert set(repodata["packages.conda"]) == {"base-1.0-0.conda", "tool-1.0-0.conda"}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (["echo before the end >&2", "exit 3"], "The build of broken failed"),
        (["touch $PREFIX/a", "echo ${{ nowhere | upper }}"], "uses nowhere, which is not defined"),
        (["true"], "would be empty"),
        (["mkdir -p $PREFIX/x", "pwd > $PREFIX/x/where"], "path of this machine"),
    ],
    ids=["failing script", "undefined variable", "no files", "machine path"],
)
def test_a_broken_recipe_is_named_and_the_channel_stays(
    site: Site, capfd: pytest.CaptureFixture[str], script: list[str], says: str
) -> None:
    site.build()
    before = site.files()
    path = site.recipe("broken", *script)
    capfd.readouterr()
    with pytest.raises(RecipeError, match=says) as caught:
        site.build()
    assert str(caught.value.where).startswith(str(path))
    assert caught.value.fix
    if "exit 3" in script:
        assert "before the end" in str(caught.value.details)
    assert site.files() == before
    assert tuple(capfd.readouterr()) == ("", "")
    # What was already right is kept: only the repaired recipe is built.
    site.recipe("broken", "mkdir -p $PREFIX/x", "echo fine > $PREFIX/x/fine")
    assert site.build().rebuilt == ("broken",)


def test_a_path_that_is_too_long_is_reported(tmp_path: Path) -> None:
    room = 240 - len(str(tmp_path)) - len("//checkout/build/.channel.work/tool/out/bld/rattler-build_tool/host_env")
    for folder, fits in (("a" * (room - 1), True), ("b" * (room + 40), False)):
        site = Site(tmp_path / folder / "checkout")
        site.recipe("tool", "mkdir -p $PREFIX/bin", "printf '#!%s/bin/sh\\n' $PREFIX > $PREFIX/bin/tool")
        if fits:
            assert site.build().rebuilt == ("tool",)
        else:
            with pytest.raises(RecipeError, match="too long to build packages in, by 40 characters") as caught:
                site.build()
            assert "shorter" in str(caught.value.fix)


def test_a_killed_build_leaves_no_process_and_is_completed_by_the_next(site: Site, tmp_path: Path) -> None:
    hold, began = tmp_path / "hold", tmp_path / "began"
    hold.touch()
    site.recipe(
        "slow",
        f"echo $$ > '{began}'",
        f"while test -e '{hold}'; do sleep 0.1; done",
        "mkdir -p $PREFIX/share && echo slow > $PREFIX/share/slow",
        host="base",
    )
    child = site.start()
    following = site.channel.with_name("channel.next")
    wait_until(lambda: began.exists() and began.read_text(encoding="utf-8").strip())
    wait_until(lambda: {"base", "alone"} <= read_manifest(following).packages.keys())
    script = int(began.read_text(encoding="utf-8"))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not site.channel.exists()
    wait_until(lambda: not is_running(script))
    hold.unlink()
    rebuilt = set(site.build().rebuilt)
    assert "slow" in rebuilt
    assert not rebuilt & {"base", "alone"}
    assert set(read_manifest(site.channel).packages) == {"base", "alone", "tool", "slow"}


def test_ctrl_c_ends_the_build_scripts(site: Site, tmp_path: Path) -> None:
    began = tmp_path / "began"
    site.recipe("slow", f"echo $$ > '{began}'", "sleep 600")
    child = site.start()
    wait_until(lambda: began.exists() and began.read_text(encoding="utf-8").strip())
    script = int(began.read_text(encoding="utf-8"))
    child.send_signal(signal.SIGINT)
    child.wait(timeout=60)
    wait_until(lambda: not is_running(script))
    assert not site.channel.exists()


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_at_once_build_everything_once(site: Site) -> None:
    children = [site.start(), site.start()]
    rebuilt = []
    for child in children:
        out, err = child.communicate(timeout=300)
        assert child.returncode == 0, err
        rebuilt.append(set(json.loads(out)))
    assert sorted(map(len, rebuilt)) == [0, 3]
    assert site.build().rebuilt == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "torchlocks-test", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted: that needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_full_disk_is_reported_and_the_next_run_completes(small_disk: Path) -> None:
    site = Site(small_disk)
    site.recipe("small", "mkdir -p $PREFIX/share", "echo small > $PREFIX/share/small")
    site.build()
    before = site.files()
    site.recipe("big", "mkdir -p $PREFIX/share", "head -c 30000000 /dev/urandom > $PREFIX/share/big")
    with pytest.raises(DiskFullError) as caught:
        site.build()
    assert caught.value.fix
    assert site.files() == before
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert site.build().rebuilt == ("big",)


def test_a_disk_that_fills_while_packing_is_reported(small_disk: Path) -> None:
    # The script fits (9 MB), the engine's copy of its output fits, the archives do not.
    site = Site(small_disk)
    site.recipe("big", "mkdir -p $PREFIX/share", "head -c 9000000 /dev/urandom > $PREFIX/share/big")
    with pytest.raises(DiskFullError):
        site.build()
    assert not site.channel.exists()
