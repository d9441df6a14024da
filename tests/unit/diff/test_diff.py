"""Locks are compared by what they hold, and by what that means for torch and the machine."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.quantities import size
from torchlocks.diff import read
from torchlocks.diff.compare import Diff, changes, diff
from torchlocks.diff.read import Side, read_side
from torchlocks.diff.report import as_json, as_markdown, as_text
from torchlocks.lockfile.models import LockedPackage

DATA = Path(__file__).parents[2] / "data" / "locks"
MATRIX = """
platforms:
  linux-64: {virtual_packages: {__unix: "0", __glibc: "2.28"}}
drivers:
  "11.8": {linux: {floor: "450.80.02"}, windows: {floor: "452.39"}}
environments:
  gpu-cu118:
    accelerator: cuda
    template: environment-gpu.yml
    channels: [conda-forge]
    cuda: "11.8"
    virtual_cuda: "11.0"
    architectures: ["7.0", "8.0"]
    platforms:
      linux-64: {python: "3.11", pytorch: "2.4", build: "cuda118*"}
"""


def package(name: str, version: str = "1", build: str = "0", sha256: str = "a" * 64) -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        build=build,
        subdir="noarch",
        url=f"https://conda.anaconda.org/conda-forge/noarch/{name}-{version}-{build}.conda",
        sha256=sha256,
    )


def test_a_lock_is_the_same_as_itself_in_every_format() -> None:
    sides = [
        read_side(str(DATA / "gpu-cu118" / name)) for name in ("", "conda-lock.yml", "pixi.lock", "conda-linux-64.lock")
    ]
    for one in sides:
        for other in sides:
            found = diff(one, other)
            assert found.same
            assert found.platforms[0].changes == ()


def test_cpu_and_gpu_differ_in_what_matters() -> None:
    found = diff(read_side(str(DATA / "cpu")), read_side(str(DATA / "gpu-cu118")))
    assert found.platforms_removed == ("osx-arm64",)
    (platform,) = found.platforms
    before, after = platform.before, platform.after
    assert (before.torch, after.torch) == ("2.10.0 CPU", "2.4.0 CUDA 11.8")
    assert (before.cuda, after.cuda) == (None, "11.8")
    assert (before.cuda_floor, after.cuda_floor) == (None, "11")
    assert after.glibc_floor == "2.28"
    assert after.download is not None
    assert before.download is not None
    assert after.download > 4 * before.download
    moves = {change.name: change.move for change in platform.changes}
    assert moves["cudatoolkit"] == "added"
    assert moves["pytorch"] == "downgraded"
    assert "libzlib" not in moves


@pytest.mark.parametrize(
    ("before", "after", "move"),
    [
        (package("a", "1.9"), package("a", "1.10"), "upgraded"),
        (package("a", "2.0"), package("a", "2.0rc1"), "downgraded"),
        (package("a", "1", "0"), package("a", "1", "1"), "rebuilt"),
        (package("a"), package("a", sha256="b" * 64), "replaced"),
        (package("a"), replace(package("a"), url="https://conda.anaconda.org/other/noarch/a-1-0.conda"), "replaced"),
        (package("a"), replace(package("a"), sha256=None, size=3), None),
        (package("a"), package("b"), "removed"),
    ],
)
def test_how_a_package_moved(before: LockedPackage, after: LockedPackage, move: str | None) -> None:
    found = {change.name: change.move for change in changes((before,), (after,))}
    assert found.get("a") == move
    assert (after.name in found) == (move is not None)


def test_two_spellings_of_a_project_are_one_change_where_each_side_has_one() -> None:
    def moved(before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
        sides = [tuple(package(name) for name in names) for names in (before, after)]
        return {change.name: change.move for change in changes(*sides)}

    assert moved(("typing-extensions",), ("typing_extensions",)) == {}
    old, new = (package("typing-extensions", "4.1"),), (package("typing_extensions", "4.2"),)
    assert [(change.name, change.move) for change in changes(old, new)] == [("typing_extensions", "upgraded")]
    # conda-forge has both, and one of them alone is gone here.
    assert moved(("typing-extensions", "typing_extensions"), ("typing_extensions",)) == {"typing-extensions": "removed"}


PACKAGES = st.lists(
    st.builds(package, st.sampled_from("abcdef"), st.sampled_from(["1", "2"]), st.sampled_from(["0", "1"])),
    unique_by=lambda each: each.name,
).map(tuple)


@given(PACKAGES, PACKAGES)
def test_a_comparison_turned_round_is_its_mirror(
    one: tuple[LockedPackage, ...], two: tuple[LockedPackage, ...]
) -> None:
    mirror = {"added": "removed", "removed": "added", "upgraded": "downgraded", "downgraded": "upgraded"}
    forth, back = changes(one, two), changes(two, one)
    assert [(change.name, mirror.get(change.move, change.move)) for change in forth] == [
        (change.name, change.move) for change in back
    ]
    assert (forth == ()) == ({(p.name, p.version, p.build) for p in one} == {(p.name, p.version, p.build) for p in two})


# Git revisions and prefixes


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one lock was moved from CPU to CUDA in its second commit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    shutil.copytree(DATA / "cpu", tmp_path / "locks" / "gpu-cu118")

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], check=True, capture_output=True
        )

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    shutil.copytree(DATA / "gpu-cu118", tmp_path / "locks" / "gpu-cu118", dirs_exist_ok=True)
    (tmp_path / "matrix.yml").write_text(MATRIX)
    git("add", ".")
    git("commit", "-q", "-m", "two")
    return tmp_path


def test_a_large_file_of_a_revision_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LOCK_BYTES", 10)
    name = next(repository.rglob("conda-lock.yml")).relative_to(repository).as_posix()
    with pytest.raises(LockfileError, match="larger"):
        read_side(f"HEAD:{name}")


@pytest.mark.parametrize("path", ["locks/gpu-cu118", "locks/gpu-cu118/", "locks/gpu-cu118/conda-lock.yml"])
def test_git_revisions(repository: Path, path: str) -> None:
    found = diff(read_side(f"HEAD~1:{path}"), read_side(path))
    assert found.platforms[0].before.torch == "2.10.0 CPU"
    assert found.platforms[0].before.download is not None, "sizes come from the pixi.lock of the same revision"
    assert found.platforms[0].after.torch == "2.4.0 CUDA 11.8"
    assert found.platforms[0].after.architectures == ("7.0", "8.0")
    assert found.platforms[0].after.driver == "450.80.02"
    assert found.platforms[0].before.driver is None, "that revision had no matrix"
    assert diff(read_side(f"HEAD:{path}"), read_side(path)).same


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ("nowhere.lock", "no such file"),
        ("HEAD:nowhere.lock", "git has no such file"),
        ("no-such-branch:locks/gpu-cu118/pixi.lock", "git has no such file"),
        ("--output=x:y", "neither a file nor a git revision"),
    ],
)
def test_sides_that_are_not_there(repository: Path, named: str, what: str) -> None:
    with pytest.raises(MissingFileError, match=what):
        read_side(named)


def write_prefix(prefix: Path, source: str) -> None:
    """`conda-meta` records as an installation leaves them, of the packages of a pixi.lock."""
    from rattler import PrefixPaths, PrefixPathsEntry, PrefixRecord
    from rattler.prefix import PrefixPathType

    from torchlocks.lockfile.formats import read_lock, to_record

    (prefix / "conda-meta").mkdir(parents=True)
    for locked in read_lock(DATA / source / "pixi.lock").packages["linux-64"]:
        paths = PrefixPaths()
        paths.paths = [
            PrefixPathsEntry(relative_path=Path("a"), path_type=PrefixPathType("hardlink"), size_in_bytes=1000)
        ]
        record = PrefixRecord(to_record(locked), paths)
        record.write_to_path(prefix / "conda-meta" / f"{locked.name}.json", pretty=False)


@pytest.mark.parametrize("kind", ["FIFO", "device", "large"])
def test_a_record_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "prefix" / "conda-meta" / "x-1-0.json"
    path.parent.mkdir(parents=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(LockfileError):
        read_side(str(tmp_path / "prefix"))


def test_a_prefix_against_its_lock(tmp_path: Path) -> None:
    write_prefix(tmp_path, "gpu-cu118")
    (tmp_path / "conda-meta" / "torchlocks.json").write_text("{}")
    installed = read_side(str(tmp_path))
    found = diff(installed, read_side(str(DATA / "gpu-cu118")))
    assert found.same
    assert found.platforms[0].before.installed == 87_000
    other = diff(read_side(str(DATA / "cpu")), installed)
    assert other.platforms_removed == (), "a prefix has one platform; the others are not missing"
    (tmp_path / "conda-meta" / "numpy.json").write_text("{")
    with pytest.raises(LockfileError, match="cannot be read"):
        read_side(str(tmp_path))


def test_an_empty_prefix(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    with pytest.raises(MissingFileError, match="no packages"):
        read_side(str(tmp_path))


def test_no_platform_in_common() -> None:
    mac, linux = read_side(str(DATA / "cpu" / "conda-osx-arm64.lock")), read_side(str(DATA / "gpu-cu118"))
    with pytest.raises(LockfileError, match="no platform in common"):
        diff(mac, linux)


# What is printed


def example() -> Diff:
    return diff(read_side(str(DATA / "cpu")), read_side(str(DATA / "gpu-cu118")))


def test_text() -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(as_text(example()))
    text = console.export_text()
    assert "platform osx-arm64: removed" in text
    assert "2.10.0 CPU" in text
    assert ">= 11" in text
    assert "cudatoolkit" in text


def test_markdown_is_a_table_that_names_cannot_break() -> None:
    text = as_markdown(example())
    assert "| torch | 2.10.0 CPU | 2.4.0 CUDA 11.8 |" in text
    side = Side(name="a|b", packages={"linux-64": (package("a", "1", "x_|y"),)})
    odd = as_markdown(diff(side, Side(name="c", packages={"linux-64": ()})))
    row = next(line for line in odd.splitlines() if "removed" in line and line.startswith("| a"))
    assert row == "| a | removed | 1 x\\_\\|y |  |"
    same = as_markdown(diff(side, side))
    assert "The same packages." in same


def test_json() -> None:
    document = json.loads(as_json(example()))
    assert document["schema"] == 1
    assert document["same"] is False
    assert document["platforms"][0]["after"]["cuda"] == "11.8"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "unknown"), (0, "0 B"), (999, "999 B"), (1500, "2 kB"), (3_250_000, "3.2 MB"), (4_000_000_000, "4.0 GB")],
)
def test_sizes_for_people(count: int | None, text: str) -> None:
    assert size(count) == text
