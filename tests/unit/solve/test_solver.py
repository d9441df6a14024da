"""The conda executable that conda-lock drives: its answers, and its refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny_records import record, torch_records, write_channel
from torchlocks.core.errors import SolveError

EXECUTABLE = Path(sys.executable).parent / "torchlocks-conda"
CPU_SPECS = ("python 3.11.*", "pytorch 2.5.* cpu*", "numpy")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    write_channel(tmp_path / "snapshot" / "conda-forge", *torch_records())
    return tmp_path / "snapshot"


def conda(*arguments: str, snapshot: Path | None, platform: str = "linux-64", **environment: str) -> Any:
    """Run the executable as conda-lock does and return its exit code and JSON."""
    run = subprocess.run(
        [str(EXECUTABLE), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "CONDA_SUBDIR": platform,
            "TORCHLOCKS_SNAPSHOT": str(snapshot) if snapshot else "",
            "TORCHLOCKS_AS_OF": "",
            **environment,
        },
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, json.loads(run.stdout)


def virtual_channel(folder: Path, **packages: str) -> str:
    """A channel of virtual packages, as conda-lock makes it for each solve."""
    for subdir in ("linux-64", "noarch"):
        (folder / subdir).mkdir(parents=True, exist_ok=True)
        entries = {
            f"{name}-{version}-0.tar.bz2": {"name": name, "version": version, "build": "0", "build_number": 0}
            for name, version in (packages.items() if subdir == "linux-64" else ())
        }
        (folder / subdir / "repodata.json").write_text(json.dumps({"packages": entries}), encoding="utf-8")
    return folder.as_uri()


def create(tmp_path: Path, *specs: str, cuda: str | None = None, **more: Any) -> Any:
    virtual = {"__unix": "0", "__glibc": "2.28"} | ({"__cuda": cuda} if cuda else {})
    channel = virtual_channel(tmp_path / "virtual", **virtual)
    flags = ("--dry-run", "--json", "--override-channels", "--channel", "conda-forge", "--channel", channel)
    return conda("create", "--prefix", str(tmp_path / "prefix"), *flags, *specs, **more)


def test_the_version_is_one_that_conda_lock_can_read() -> None:
    run = subprocess.run([str(EXECUTABLE), "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("conda ")


def test_a_solution_has_all_that_conda_lock_reads(tmp_path: Path, snapshot: Path) -> None:
    code, answer = create(tmp_path, *CPU_SPECS, snapshot=snapshot)
    assert code == 0
    fetch = {action["name"]: action for action in answer["actions"]["FETCH"]}
    assert sorted(fetch) == ["libtorch", "numpy", "python", "pytorch"]
    assert fetch["numpy"]["version"] == "2.1.0"
    assert fetch["pytorch"]["build"] == "cpu_py311_0"
    assert fetch["pytorch"]["depends"] == ["python 3.11.*", "libtorch 2.5.0 cpu_0"]
    assert fetch["numpy"]["url"] == "https://conda.anaconda.org/conda-forge/linux-64/numpy-2.1.0-py311_0.conda"
    assert len(fetch["numpy"]["sha256"]) == 64
    assert len(fetch["numpy"]["md5"]) == 32
    links = [action["name"] for action in answer["actions"]["LINK"]]
    assert links == sorted(fetch), "LINK and FETCH name the same packages, in one order"
    assert not (tmp_path / "prefix").exists(), "nothing is ever installed"


def test_only_the_given_virtual_packages_count(tmp_path: Path, snapshot: Path) -> None:
    specs = ("pytorch * cuda*", "cuda-version 11.8.*")
    code, answer = create(tmp_path, *specs, snapshot=snapshot, CONDA_OVERRIDE_CUDA="12.0")
    assert code == SolveError.exit_code
    assert "__cuda" in answer["message"]
    code, answer = create(tmp_path, *specs, snapshot=snapshot, cuda="11.0", CONDA_OVERRIDE_CUDA="")
    assert code == 0


def test_cpu_and_cuda_builds_cannot_be_had_together_and_the_reason_is_reported(tmp_path: Path, snapshot: Path) -> None:
    code, answer = create(tmp_path, "pytorch * cpu*", "pytorch * cuda*", snapshot=snapshot, cuda="11.8")
    assert code == SolveError.exit_code
    assert answer["success"] is False
    assert "one environment contains one build of PyTorch" in answer["message"]
    assert "cannot be installed together" in answer["message"]


def test_a_day_in_the_past_hides_what_came_later(tmp_path: Path, snapshot: Path) -> None:
    _, answer = create(tmp_path, *CPU_SPECS, snapshot=snapshot, TORCHLOCKS_AS_OF="2026-02-15")
    versions = {action["name"]: action["version"] for action in answer["actions"]["FETCH"]}
    assert versions["numpy"] == "2.1.0"
    assert versions["python"] == "3.11.5"
    _, answer = create(tmp_path, *CPU_SPECS, snapshot=snapshot, TORCHLOCKS_AS_OF="2026-03-01")
    assert {a["name"]: a["version"] for a in answer["actions"]["FETCH"]}["python"] == "3.11.9", "the day itself counts"


def test_the_first_channel_that_has_a_package_wins(tmp_path: Path, snapshot: Path) -> None:
    write_channel(snapshot / "mine", record("numpy", "1.0.0", "0"))
    channel = virtual_channel(tmp_path / "virtual", __unix="0")
    flags = ("--dry-run", "--json", "--channel", "mine", "--channel", "conda-forge", "--channel", channel)
    _, answer = conda("create", "-p", "p", *flags, "numpy", snapshot=snapshot)
    (numpy,) = answer["actions"]["FETCH"]
    assert numpy["version"] == "1.0.0"


def test_a_channel_on_disk_needs_no_snapshot(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "my channel", record("a"))
    _, answer = conda("create", "-p", "p", "--dry-run", "--json", "--channel", folder.as_uri(), "a", snapshot=None)
    assert answer["actions"]["FETCH"][0]["url"] == f"{folder.as_uri()}/linux-64/a-1.0-0.conda"


def prefix_with(folder: Path, *records: dict[str, Any]) -> Path:
    """A prefix as conda-lock fakes it for an update: records only, and those not complete."""
    meta = folder / "conda-meta"
    meta.mkdir(parents=True)
    (meta / "history").touch()
    for entry in records:
        label = f"{entry['name']}-{entry['version']}-{entry['build']}"
        base = "https://conda.anaconda.org/conda-forge/linux-64"
        fake = {key: entry[key] for key in ("name", "version", "build", "build_number", "md5", "sha256")}
        fake |= {"channel": base, "url": f"{base}/{label}.conda", "subdir": "linux-64", "depends": []}
        (meta / f"{label}.json").write_text(json.dumps(fake), encoding="utf-8")
    return folder


def test_an_update_moves_what_is_named_and_nothing_else(tmp_path: Path, snapshot: Path) -> None:
    old = [
        r
        for r in torch_records()
        if (r["name"], r["version"]) in {("python", "3.11.5"), ("numpy", "2.0.0")} or r["name"] == "pip"
    ]
    prefix = prefix_with(tmp_path / "fake", *old)
    channel = virtual_channel(tmp_path / "virtual", __unix="0")
    flags = ("--override-channels", "--channel", "conda-forge", "--channel", channel, "-p", str(prefix))
    code, answer = conda("install", *flags, "--json", "--dry-run", "numpy", snapshot=snapshot)
    assert code == 0
    assert [(a["name"], a["version"]) for a in answer["actions"]["LINK"]] == [("numpy", "2.1.0")]


def test_list_shows_what_is_in_the_prefix(tmp_path: Path) -> None:
    prefix = prefix_with(tmp_path / "fake", record("a", "1.2", "h_3"))
    _, answer = conda("list", "--no-pip", "-p", str(prefix), "--json", snapshot=None)
    assert [(e["name"], e["version"], e["build_string"], e["dist_name"]) for e in answer] == [
        ("a", "1.2", "h_3", "a-1.2-h_3")
    ]


def test_info_names_the_package_folders(tmp_path: Path) -> None:
    _, answer = conda("info", "--json", snapshot=None, CONDA_PKGS_DIRS=str(tmp_path))
    assert answer["pkgs_dirs"] == [str(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "-p", "p", "--json", "a"), "--dry-run"),
        (("create", "--dry-run", "a"), "--prefix"),
        (("remove", "a"), "invalid choice"),
        (("list", "-p", "/nonexistent"), "not a conda environment"),
        (("create", "-p", "p", "--dry-run", "--channel", "absent", "a"), "does not have the channel absent"),
        (("create", "-p", "p", "--dry-run", "--channel", "conda-forge", "no_such_package"), "no_such_package"),
        (("create", "-p", "p", "--dry-run", "--channel", "conda-forge", "=="), "=="),
    ],
)
def test_a_mistake_is_answered_in_json(tmp_path: Path, snapshot: Path, arguments: tuple[str, ...], said: str) -> None:
    code, answer = conda(*arguments, snapshot=snapshot)
    assert code != 0
    assert answer["success"] is False
    assert said in answer["message"]


def test_damaged_repodata_is_an_error_in_json(tmp_path: Path, snapshot: Path) -> None:
    (snapshot / "conda-forge" / "linux-64" / "repodata.json").write_text('{"packages": ', encoding="utf-8")
    code, answer = create(tmp_path, "numpy", snapshot=snapshot)
    assert code != 0
    assert answer["success"] is False


def test_the_process_ends_cleanly_every_time(tmp_path: Path, snapshot: Path) -> None:
    """py-rattler's threads outlive the answer; an interpreter that shuts down under them would crash."""
    for _ in range(10):
        code, _answer = create(tmp_path, *CPU_SPECS, snapshot=snapshot)
        assert code == 0
