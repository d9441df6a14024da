"""Exports in use: the batch script in a real environment, pins held against it, and what resolvers make of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from conftest import LAYOUT
from preloaded import run_torchlocks
from torchlocks.export.environment import LockedTarget, find_locked
from torchlocks.export.formats import FORMATS, export
from torchlocks.export.pins import constraints
from torchlocks.export.render import Place
from torchlocks.host.detect import host_platform
from torchlocks.lockfile.formats import CONDA_LOCK

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT")


@pytest.fixture
def installed(environment: Path) -> LockedTarget:
    """The lock that the CPU environment of this checkout was installed from."""
    return find_locked(str(LAYOUT.local_locks / "cpu" / CONDA_LOCK), host_platform())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="batch scripts are for Linux")
def test_the_batch_script_runs_in_the_environment(installed: LockedTarget, environment: Path, tmp_path: Path) -> None:
    script = tmp_path / "cpu.sbatch"
    script.write_text(export(FORMATS["slurm"], [installed], Place(prefix=str(environment))))
    source = "import sys, os, torch; print(sys.prefix, os.environ['CONDA_PREFIX'], torch.ones(2).sum().item())"

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        names = {**os.environ, "PYTHONPATH": "/elsewhere", **variables}
        command = ["bash", str(script), "python", "-c", source]
        return subprocess.run(command, env=names, capture_output=True, text=True, check=False)

    done = run()
    assert (done.returncode, done.stdout) == (0, f"{environment} {environment} 2.0\n"), done.stderr
    # Another environment, or this one after it was made from another lock, is not taken for it.
    other = run(TORCHLOCKS_PREFIX=str(tmp_path))
    assert (other.returncode, other.stdout) == (1, "")
    assert f"{tmp_path} does not hold the environment of this lock" in other.stderr


def test_constraints_are_the_versions_that_the_environment_has(installed: LockedTarget, environment: Path) -> None:
    """What pip itself says is there: every pin holds, and no Python package is without one."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    source = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    python = environment / ("python.exe" if os.name == "nt" else "bin/python")
    listed = subprocess.run([str(python), "-I", "-c", source], capture_output=True, text=True, check=True)
    found = {canonicalize_name(name): Version(version).public for name, version in json.loads(listed.stdout)}
    pins, strange = constraints(installed.packages)
    assert strange == ()
    assert pins == found


@pytest.mark.skipif(not SLOW, reason="asks the package index; TORCHLOCKS_SLOW=1 runs this")
def test_uv_resolves_under_the_constraints(tmp_path: Path) -> None:
    """Real requirements, from PyPI: what is resolved is what conda-forge's lock has."""
    locked = find_locked("cpu", "linux-64")
    (tmp_path / "constraints.txt").write_text(export(FORMATS["constraints"], [locked], Place(prefix="")))
    (tmp_path / "requirements.in").write_text("jinja2\npytest\n")
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "-q", "--no-header", "--no-annotate"]
    wanted = ["--python-version", locked.version_of("python") or "", "--python-platform", "x86_64-manylinux_2_28"]
    done = subprocess.run(
        [*uv, *wanted, "-c", "constraints.txt", "requirements.in"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and ("connect" in done.stderr or "fetch" in done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    pins, _ = constraints(locked.packages)
    resolved = dict(line.split("==") for line in done.stdout.split() if "==" in line)
    assert {"jinja2", "markupsafe", "pytest", "pluggy", "iniconfig", "packaging"} <= resolved.keys()
    assert resolved.items() <= pins.items()


@pytest.mark.snapshot
@pytest.mark.skipif(not SNAPSHOT, reason="needs channel records (make test SNAPSHOT=DIR)")
@pytest.mark.parametrize(("env", "platform"), [("cpu", "osx-arm64"), ("gpu-cu124", "linux-64")])
def test_solving_the_environment_file_gives_the_lock_again(env: str, platform: str, tmp_path: Path) -> None:
    """Through the solver that a user would have, from the real records, with the variables that the file names."""
    from rattler import (
        BuildString,
        Channel,
        GenericVirtualPackage,
        MatchSpec,
        PackageName,
        SparseRepoData,
        Version,
        solve_with_sparse_repodata,
    )

    locked = find_locked(env, platform)
    specs = yaml.safe_load(export(FORMATS["environment"], [locked], Place(prefix="")))["dependencies"]
    sources = [
        SparseRepoData(Channel(channel), subdir, Path(str(SNAPSHOT)) / channel / subdir / "repodata.json")
        for channel in locked.lock.channels
        for subdir in (platform, "noarch")
        if (Path(str(SNAPSHOT)) / channel / subdir / "repodata.json").is_file()
    ]
    virtual = []
    for name, value in locked.virtual_packages.items():
        version, _, build = value.partition("=")
        virtual.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))
    records = asyncio.run(
        solve_with_sparse_repodata([MatchSpec(spec) for spec in specs], sources, virtual_packages=virtual)
    )
    assert {record.url for record in records} == {package.url for package in locked.packages}


def test_all_forms_are_written_into_a_folder_and_again_with_the_same_bytes(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_torchlocks(["export", *arguments], cwd=LAYOUT.root)

    with ThreadPoolExecutor() as threads:
        command = ("gpu-cu126", "--platform", "linux-64", "-o")
        for done in threads.map(lambda folder: run(*command, str(tmp_path / folder)), ("one", "two")):
            assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    files = {form.file.format(name="gpu-cu126", platform="linux-64") for form in FORMATS.values()}
    assert names == sorted(files | {"pixi.lock"})
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    listed = run("--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(FORMATS)
    for arguments, code, said in (
        (("gpu-cu126", "--format", "docker"), 42, "explicit, environment"),
        (("gpu-cu126", "--platform", "osx-arm64"), 11, "does not exist for osx-arm64"),
        (("no/such/conda-lock.yml",), 14, "no such lockfile"),
        (("cpu", "--platform", "win-64", "--format", "dockerfile"), 42, "is for Linux"),
        (
            ("cpu", "--platform", "linux-64", "--format", "pixi", "-o", str(tmp_path / "no" / "pixi.toml")),
            14,
            "written",
        ),
    ):
        failed = run(*arguments)
        assert (failed.returncode, said in failed.stderr) == (code, True), failed.stderr
