"""Locks on a base, on channels of a few packages: what stays, what moves, what is refused, and what is checked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from preloaded import run_torchlocks
from tiny_records import record, write_channel
from torchlocks.check.anywhere import check_files_of
from torchlocks.lockfile.formats import read_lock

Record = dict[str, object]

BASE = (
    record("python", "3.11.5", "h1_0"),
    record("numpy", "1.26.0", "py311_0", depends=("python 3.11.*",)),
    record("pytorch", "2.5.0", "cpu_py311_0", depends=("python 3.11.*", "numpy >=1.22,<2")),
    record("networkx", "3.0", depends=("python",), constrains=("pandas >=2",)),
)
NEWER = (
    record("python", "3.11.9", "h1_0"),
    record("numpy", "1.27.0", "py311_0", depends=("python 3.11.*",)),
    record("numpy", "2.1.0", "py311_0", depends=("python 3.11.*",)),
)
ADDITIONS = (
    record("tqdm", "4.0"),
    record("tqdm", "4.1"),
    record("scaler", "1.0", depends=("numpy >=1.20", "tqdm")),
    record("scaler", "2.0", depends=("numpy >=1.27", "tqdm")),
    record("tools", "1.0", depends=("scaler >=2",)),
    record("pandas", "1.5", depends=("numpy",)),
    record("pandas", "2.2", depends=("numpy",)),
)


def lock_text(records: tuple[Record, ...], platforms: tuple[str, ...] = ("linux-64",), **metadata: str) -> str:
    """A conda-lock.yml of the same records on each platform, as torchlocks writes it."""
    package = [
        {
            "name": each["name"],
            "version": each["version"],
            "manager": "conda",
            "platform": platform,
            "dependencies": dict((*spec.split(" ", 1), "")[:2] for spec in sorted(each["depends"])),  # type: ignore[call-overload]
            "url": f"https://conda.anaconda.org/conda-forge/{platform}/"
            f"{each['name']}-{each['version']}-{each['build']}.conda",
            "hash": {"md5": each["md5"], "sha256": each["sha256"]},
            "category": "main",
            "optional": False,
        }
        for platform in platforms
        for each in sorted(records, key=lambda each: str(each["name"]))
    ]
    said = {
        "content_hash": dict.fromkeys(platforms, "0" * 64),
        "channels": [{"url": "conda-forge", "used_env_vars": []}],
        "platforms": list(platforms),
        "sources": ["environment.yml"],
        "custom_metadata": {f"virtual-packages {each}": "__glibc=2.28 __unix=0" for each in platforms} | metadata,
    }
    return yaml.safe_dump({"version": 1, "metadata": said, "package": package}, sort_keys=False)


class Project:
    """A repository that is built on the base in the folder `base`, beside a snapshot of the channel."""

    def __init__(self, root: Path, *channel: Record) -> None:
        self.root = root / "a project"
        self.base = root / "base" / "conda-lock.yml"
        self.snapshot = root / "snapshot"
        self.root.mkdir()
        self.base.parent.mkdir()
        self.base.write_text(lock_text(BASE))
        self.serve(*(channel or (*BASE, *NEWER, *ADDITIONS)))

    @property
    def lock(self) -> Path:
        return self.root / "conda-lock.yml"

    def serve(self, *records: Record) -> None:
        write_channel(self.snapshot / "conda-forge", *records)

    def requirement(self, *specs: str) -> None:
        listed = "".join(f"  - {json.dumps(spec)}\n" for spec in specs)
        (self.root / "environment.yml").write_text(f"name: mine\nchannels: [conda-forge]\ndependencies:\n{listed}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_torchlocks(arguments, cwd=self.root, env={**os.environ, "TORCHLOCKS_ROOT": "", "COLUMNS": "200"})

    def extend(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        base = () if "--base" in arguments or self.lock.is_file() else ("--base", "../base")
        return self.run("extend", *base, "--snapshot", str(self.snapshot), *arguments)

    def entries(self) -> dict[str, str]:
        return entries(self.lock)

    def findings(self) -> list[tuple[str, str | None]]:
        return [(finding.rule, finding.package) for finding in check_files_of([self.lock]).findings]


def entries(lock: Path) -> dict[str, str]:
    """The text of each package's entry, by name."""
    blocks = lock.read_text().split("\npackage:\n", 1)[1].split("- name: ")[1:]
    return {block.split("\n", 1)[0]: block.rstrip("\n") for block in blocks}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_the_base_stays_to_the_byte_and_only_additions_are_solved(project: Project) -> None:
    project.requirement("scaler", "tqdm <4.1")
    run = project.extend()
    assert run.returncode == 0, run.stderr
    held, base = project.entries(), entries(project.base)
    assert {name: held[name] for name in base} == base, "although the channel has a newer python and numpy"
    assert sorted(held.keys() - base.keys()) == ["scaler", "tqdm"]
    assert ("version: '1.0'" in held["scaler"], "version: '4.0'" in held["tqdm"]) == (True, True)
    assert "linux-64: 4 packages of the base as they are, 2 added" in run.stdout
    said: dict[str, Any] = yaml.safe_load(project.lock.read_text())["metadata"]
    assert said["sources"] == ["environment.yml"]
    assert said["custom_metadata"]["base"] == "../base"
    assert said["custom_metadata"]["base sha256"] == hashlib.sha256(project.base.read_bytes()).hexdigest()
    for name in ("pixi.lock", "conda-linux-64.lock"):
        urls = {package.url for package in read_lock(project.root / name).packages["linux-64"]}
        assert urls == {package.url for package in read_lock(project.lock).packages["linux-64"]}
    assert project.findings() == []

    before = digests(project.root)
    again = project.extend()
    assert (again.returncode, digests(project.root)) == (0, before), "the same records give the same bytes"
    assert "unchanged" in again.stdout


def test_a_lock_that_is_there_knows_its_platforms(project: Project) -> None:
    project.base.write_text(lock_text(BASE, ("linux-64", "win-64")))
    write_channel(project.snapshot / "conda-forge", *BASE, *ADDITIONS, subdir="win-64")
    project.requirement("tqdm")
    project.extend("--base", "../base", "--platform", "linux-64")
    assert project.extend().returncode == 0
    assert read_lock(project.lock).platforms == ("linux-64",)
    assert project.extend("--base", "../base").returncode == 0
    assert read_lock(project.lock).platforms == ("linux-64", "win-64")


@pytest.mark.parametrize("switch", ["pytorch-cuda=11.8", "cpuonly", "cudatoolkit=11.3", "nvidia::pytorch-cuda=12.4"])
def test_what_the_base_brings_is_to_be_dropped(project: Project, switch: str) -> None:
    project.requirement("tqdm", switch)
    run = project.extend()
    assert run.returncode == 21
    assert f"drop the line `{switch}`" in run.stderr
    assert ("or build on a base for CUDA" in run.stderr) == (switch != "cpuonly")
    assert not project.lock.exists()


def test_a_package_of_the_base_from_another_channel_is_named_with_both(project: Project) -> None:
    project.requirement("pytorch::pytorch>=2.0")
    run = project.extend()
    assert run.returncode == 21
    assert "from conda-forge" in run.stderr
    assert "write `pytorch>=2.0` without the channel" in run.stderr


def test_a_reason_that_is_channel_priority_is_named_so(project: Project) -> None:
    write_channel(project.snapshot / "extras", record("tqdm", "9.0"), record("wanted", "1.0", depends=("tqdm >=9",)))
    project.requirement("wanted")
    run = project.extend("--channel", "conda-forge", "--channel", "extras")
    assert run.returncode == 20
    assert "because of channel priority" in run.stderr
    assert "tqdm is not taken from extras" in run.stderr


def test_nothing_is_left_among_temporary_files(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    project.requirement("tqdm")
    assert project.extend().returncode == 0
    assert project.run("check").returncode == 0
    assert list(temporary.iterdir()) == []


def test_an_earlier_day_is_for_additions_alone(project: Project) -> None:
    project.requirement("tqdm")
    # Milliseconds of which floating-point numbers are a hair short, and no time at all.
    times = {"python": 1767268800001, "numpy": 1767268800057, "pytorch": 1767268800919, "networkx": None}
    base_records = [{**each, "timestamp": times[str(each["name"])]} for each in BASE]
    project.serve(*base_records, record("tqdm", "3.0", day="2025-01-01"), *ADDITIONS)
    run = project.extend("--as-of", "2025-06-01")
    assert run.returncode == 0, run.stderr
    held, base = project.entries(), entries(project.base)
    assert {name: held[name] for name in base} == base, "although all of it is newer"
    assert "version: '3.0'" in held["tqdm"]
    recorded = {
        package.name: package.timestamp_ms for package in read_lock(project.root / "pixi.lock").packages["linux-64"]
    }
    assert {name: recorded[name] for name in times} == times, "it is recorded as it is"


def test_a_contradiction_names_both_sides_and_the_smallest_change(project: Project) -> None:
    project.requirement("tqdm", "tools")
    run = project.extend("--base", "../base/conda-lock.yml")
    assert run.returncode == 21
    said = run.stderr.split("error: ", 1)[1]
    what, fix = said.split("  fix:   ", 1)
    assert "`tools` (environment.yml, line 5) cannot go with the base ../base/conda-lock.yml on linux-64" in what
    assert "tools 1.0 needs scaler 2.0, which needs `numpy >=1.27`, and the base has numpy 1.26.0" in what
    assert "--allow-move numpy (numpy 1.26.0 → 1.27.0)" in fix.splitlines()[0]
    assert not project.lock.exists(), "nothing is written"


def test_what_holds_a_package_of_the_base_is_named(project: Project) -> None:
    project.requirement("numpy >=2")
    run = project.extend()
    assert run.returncode == 21
    assert "`numpy >=2` (environment.yml, line 4) cannot go with the base ../base on linux-64" in run.stderr
    assert "the base has numpy 1.26.0, held there by pytorch 2.5.0 (needs `numpy >=1.22,<2`)" in run.stderr
    assert "ask for plain `numpy`: that gives numpy 1.26.0, the base's own" in run.stderr


def test_a_constraint_of_the_base_counts(project: Project) -> None:
    """It is in no conda-lock.yml; the channel's record of the base's package has it."""
    project.requirement("pandas <2")
    run = project.extend()
    assert run.returncode == 21
    assert "networkx 3.0 of the base goes with `pandas >=2` only, not with pandas 1.5" in run.stderr
    assert "ask for plain `pandas`: that gives pandas 2.2" in run.stderr


def test_advice_is_enough_for_all_requirements_at_once(project: Project) -> None:
    project.serve(*BASE, *NEWER, *ADDITIONS, record("networkx", "2.0", depends=("python",)))
    project.requirement("pandas <2", "tools")
    run = project.extend()
    assert run.returncode == 21
    named = "`pandas <2` (environment.yml, line 4) and `tools` (environment.yml, line 5) cannot go with the base"
    assert named in run.stderr
    assert "--allow-move networkx --allow-move numpy (networkx 3.0 → 2.0, numpy 1.26.0 → 1.27.0)" in run.stderr
    done = project.extend("--allow-move", "networkx", "--allow-move", "numpy")
    assert done.returncode == 0, done.stderr
    assert "linux-64: 2 packages of the base as they are, 4 added" in done.stdout


def test_advice_names_the_platforms_on_which_it_does_not_help(project: Project) -> None:
    project.base.write_text(lock_text(BASE, ("linux-64", "win-64")))
    elsewhere = [each for each in (*BASE, *NEWER, *ADDITIONS) if (each["name"], each["version"]) != ("numpy", "1.27.0")]
    write_channel(project.snapshot / "conda-forge", *elsewhere, subdir="win-64")
    project.requirement("tools")
    run = project.extend()
    assert run.returncode == 21, run.stderr
    assert "--allow-move numpy (numpy 1.26.0 → 1.27.0); on win-64 nothing that could move would help" in run.stderr


def test_what_no_base_could_have_is_reported_as_such(project: Project) -> None:
    project.requirement("tdqm")
    run = project.extend()
    assert run.returncode == 20
    assert "cannot be had on linux-64, on whatever base" in run.stderr
    assert "did you mean tqdm" in run.stderr


def test_a_package_that_may_move_moves_alone_and_is_reported(project: Project) -> None:
    project.requirement("tools")
    run = project.extend("--allow-move", "numpy", "--json")
    assert run.returncode == 0, run.stderr
    platform = json.loads(run.stdout)["platforms"]["linux-64"]
    assert platform["moved"] == {"numpy": ["numpy-1.26.0-py311_0.conda", "numpy-1.27.0-py311_0.conda"]}
    assert (platform["kept"], len(platform["added"])) == (3, 3)
    held, base = project.entries(), entries(project.base)
    assert {name for name in base if held[name] != base[name]} == {"numpy"}
    assert project.findings() == []
    # What may move is remembered, with the base.
    again = project.extend()
    assert "moved: numpy 1.26.0 → 1.27.0 (upgraded)" in again.stdout
    assert "unchanged" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--base", "../base", "--allow-move", "nunpy"), 19, "did you mean numpy"),
        (("--base", "../base", "--allow-move", "tqdm"), 19, "contains no package called 'tqdm'"),
        (("--base", "../base", "--platform", "win-64"), 11, "name some of: linux-64"),
        (("--base", "../base", "-o", "mine.yml"), 13, "is called conda-lock.yml"),
        (("--base", "../base", "-o", "../base"), 13, "not replaced"),
        (("--base", "../nowhere/conda-lock.yml"), 19, "cannot be read"),
        (("--base", "cpu@v1", "--repository", "../nowhere.git"), 19, "git cannot get v1"),
        (("--base", "environment.yml"), 13, "environment file, not a lockfile"),
        (("elsewhere.yml", "--base", "../base"), 18, "elsewhere.yml"),
        (("--base", "../base", "--channel", "https://one:secret@example.org/own"), 19, "password or token"),
        (("--base", "https://example.org/conda-lock.yml?token=secret"), 19, "password or token"),
        (("--base", ""), 19, "No base is named"),
        ((), 19, "No base is named"),
    ],
)
def test_a_mistake_is_reported_and_nothing_is_written(
    project: Project, arguments: tuple[str, ...], code: int, said: str
) -> None:
    project.requirement("tqdm")
    before = digests(project.root) | digests(project.base.parent)
    run = project.run("extend", "--snapshot", str(project.snapshot), *arguments)
    assert (run.returncode, said in run.stderr) == (code, True), run.stderr
    assert digests(project.root) | digests(project.base.parent) == before


def test_a_lock_is_not_built_on_itself(project: Project) -> None:
    project.requirement("tqdm")
    project.extend()
    before = digests(project.root)
    for itself in (".", "conda-lock.yml"):
        run = project.extend("--base", itself)
        assert (run.returncode, "built on itself" in run.stderr) == (19, True), run.stderr
    assert digests(project.root) == before
    assert project.run("check", ".").returncode == 0


@pytest.mark.parametrize("size", [0, 700])
def test_a_lock_that_was_cut_off_is_not_passed_over_in_its_own_folder(project: Project, size: int) -> None:
    project.requirement("tqdm")
    project.extend()
    os.truncate(project.lock, size)
    run = project.run("check")
    assert (run.returncode, "unreadable" in run.stdout) == (61, True), run.stdout + run.stderr
    again = project.extend("--base", "../base")
    assert "move away conda-lock.yml, pixi.lock, conda-linux-64.lock" in again.stderr


def test_a_lock_without_all_that_it_records_of_its_base_is_found(project: Project) -> None:
    project.requirement("tqdm")
    project.extend()
    text = project.lock.read_text()
    kept = [line for line in text.splitlines() if "base sha256:" not in line]
    project.lock.write_text("\n".join(kept) + "\n")
    run = project.run("check")
    assert (run.returncode, "missing: base sha256" in run.stdout) == (61, True), run.stdout
    assert project.extend("--base", "../base").returncode == 0
    assert project.lock.read_text() == text


def test_a_lock_that_is_named_is_checked_alone(project: Project) -> None:
    assert project.run("check", "conda-lock.yml", "--env", "cpu").returncode == 2


def test_a_requirement_for_another_machine_names_the_machines_of_the_base(project: Project) -> None:
    project.requirement("tqdm", "__glibc >=2.34")
    run = project.extend()
    assert run.returncode == 21, run.stderr
    assert "`__glibc >=2.34` (environment.yml, line 5) cannot go with the base ../base" in run.stderr
    assert "every machine with __glibc 2.28" in run.stderr


def test_a_newer_base_moves_what_must_and_the_difference_is_reported(project: Project) -> None:
    project.serve(*BASE, *[each for each in ADDITIONS if (each["name"], each["version"]) != ("tqdm", "4.1")])
    project.requirement("scaler <2")
    assert project.extend().returncode == 0
    project.serve(*BASE, *NEWER, *ADDITIONS)
    project.base.write_text(lock_text((*BASE[:1], NEWER[1], *BASE[2:])))
    assert project.findings() == [("base-changed", None)]
    run = project.run("update", "--base", "--snapshot", str(project.snapshot))
    assert run.returncode == 0, run.stderr
    held = project.entries()
    assert held["numpy"] == entries(project.base)["numpy"]
    assert "version: '4.0'" in held["tqdm"], "an addition stays where it can, although there is a newer tqdm"
    assert [line.split()[:3] for line in run.stdout.splitlines() if line.startswith("numpy")] == [
        ["numpy", "1.26.0", "upgraded"]
    ]
    assert project.findings() == []


def test_check_reports_every_difference_between_a_lock_and_its_base(project: Project) -> None:
    project.requirement("scaler", "tqdm")
    assert project.extend().returncode == 0
    text = project.lock.read_text()

    def found(old: str, new: str) -> set[tuple[str, str | None]]:
        assert old in text
        project.lock.write_text(text.replace(old, new))
        return {each for each in project.findings() if each[0] != "formats-differ"}

    assert found("pytorch-2.5.0-cpu_py311_0", "pytorch-2.5.0-cpu_py311_1") == {("base-package", "pytorch")}
    assert found(str(BASE[1]["sha256"]), "f" * 64) == {("base-package", "numpy")}
    without = text.replace("- name: networkx" + text.split("- name: networkx")[1].split("- name: ")[0], "")
    assert found(text, without) == {("base-package", "networkx")}
    extra = "- name: stray" + entries(project.lock)["tqdm"].removeprefix("tqdm").replace("/tqdm-", "/stray-") + "\n"
    assert found("- name: tqdm\n", extra + "- name: tqdm\n") == {("addition-unneeded", "stray")}

    project.lock.write_text(text)
    project.requirement("scaler >=2", "tqdm")
    assert set(project.findings()) == {("requirement-unmet", "scaler"), ("stale", None)}
    (project.root / "environment.yml").write_text("dependencies: tqdm\n")
    assert project.findings() == [("environment-unreadable", None)]
    project.requirement("scaler", "tqdm")
    assert project.findings() == []

    project.base.unlink()
    report = check_files_of([project.lock])
    assert not report.failed
    why = {skip.rule: skip.reason for skip in report.skipped}
    assert why["base-package"].startswith("the base ../base cannot be read")


def test_a_base_can_be_a_tag_of_a_repository(project: Project, tmp_path: Path) -> None:
    work, bare = tmp_path / "work", tmp_path / "locks.git"

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=work, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (work / "locks" / "cpu").mkdir(parents=True)
    (work / "locks" / "cpu" / "conda-lock.yml").write_text(lock_text(BASE))
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "-a", "v1", "-m", "v1")
    (work / "locks" / "cpu" / "conda-lock.yml").write_text(lock_text((*BASE[:1], NEWER[1], *BASE[2:])))
    git("commit", "-qam", "two")
    git("clone", "-q", "--bare", ".", str(bare))

    project.requirement("tqdm")
    run = project.extend("--base", "cpu@v1", "--repository", bare.as_uri())
    assert run.returncode == 0, run.stderr
    commit = git("rev-parse", "v1^{commit}")
    assert f"base cpu@v1 at commit {commit[:12]}" in run.stdout
    said = read_lock(project.lock).metadata
    assert (said["base repository"], said["base commit"]) == (bare.as_uri(), commit)
    assert project.findings() == []

    moved = project.run("update", "--base", "cpu@main", "--snapshot", str(project.snapshot))
    assert moved.returncode == 0, moved.stderr
    assert "version: 1.27.0" in project.entries()["numpy"]
    assert read_lock(project.lock).metadata["base commit"] == git("rev-parse", "main")

    missing = project.extend("--base", "gpu-cu118@v1", "--repository", bare.as_uri())
    assert missing.returncode == 19
    assert "name one of its environments: cpu" in missing.stderr
