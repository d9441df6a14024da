"""torch-verify as users have it: installed from its conda package, and with pip into a virtual environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import LAYOUT as BUILT
from support import borrow_bytecode
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.host.detect import host_platform
from torchlocks.install.installer import install_environment
from torchlocks.install.provenance import Origin
from torchlocks.lockfile.formats import read_lock
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.publish.build import BuiltChannel
from torchlocks.verify.suite import Required, SuiteOptions, verify_environment
from torchlocks.verify.verdict import Verdict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the folders of programs are POSIX's here")

LAYOUT = Layout(Path(__file__).resolve().parents[3])
QUICK = ("static", "import")
"""The tiers that tell environments apart; the others compute, and take a minute."""


def torch_verify(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TORCH"))}
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, env=environment, timeout=900, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def verdict_of(done: subprocess.CompletedProcess[str]) -> Verdict:
    verdict = Verdict.model_validate_json(done.stdout)
    assert done.returncode == (0 if verdict.ok else 1)
    # What the command says of itself, and what the tool makes of its report, are one.
    assert json.loads(done.stdout)["ok"] == verdict.ok
    assert json.loads(done.stdout)["complete"] == verdict.complete
    assert json.loads(done.stdout)["state"] == verdict.state
    assert json.loads(done.stdout)["headline"] == verdict.headline
    return verdict


def outcomes(verdict: Verdict) -> dict[str, tuple[str, str | None]]:
    return {check.id: (check.outcome, check.why) for check in verdict.checks}


def tiers(*names: str) -> list[str]:
    return [word for name in names for word in ("--tier", name)]


def _copy(prefix: Path, copy: Path) -> Path:
    """Copy an environment by hard links; the copy's torch-verify."""
    shutil.copytree(prefix, copy, symlinks=True, copy_function=os.link)
    program = copy / "bin" / "torch-verify"
    text = program.read_text().replace(str(prefix), str(copy))
    program.unlink()
    program.write_text(text)
    program.chmod(0o755)
    return program


# From the conda package.


@pytest.fixture(scope="module")
def locked(
    environment: Path, recipes_channel: BuiltChannel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lock]:
    """The CPU environment with torch-verify added to its lock, and that lock."""
    assert environment.is_dir()
    platform, work = host_platform(), tmp_path_factory.mktemp("verify")
    (package,) = (package for package in recipes_channel.packages if package.name == "torch-verify")
    suite = LockedPackage(
        name=package.name,
        version=package.version,
        build=package.build,
        subdir=package.subdir,
        url=f"{recipes_channel.url}/{package.subdir}/{package.file}",
        sha256=package.sha256,
        size=package.size,
        depends=("python >=3.10", "numpy", "pytest >=7"),
    )
    lock = read_lock(BUILT.local_locks / "cpu" / "conda-lock.yml")
    lock = replace(lock, packages={platform: (*lock.packages[platform], suite)})
    install_environment(lock, platform, work / "env", provenance=Origin(name="env", channel="local"), progress=Silent())
    borrow_bytecode(environment, work / "env")
    return work / "env", lock


def test_the_package_gives_the_verdict_of_the_tool(locked: tuple[Path, Lock], tmp_path: Path) -> None:
    prefix, lock = locked
    mine = verdict_of(torch_verify(prefix / "bin" / "torch-verify", "--expect", "cpu", "--json", *tiers(*QUICK)))
    assert mine.ok, mine.failure_line()
    tools = verify_environment(
        prefix,
        lock,
        host_platform(),
        Required(env="env", accelerator="cpu"),
        SuiteOptions(suite=LAYOUT.suite, reports=tmp_path, tiers=QUICK),
        Silent(),
    )
    assert outcomes(mine) == outcomes(tools)
    assert mine.tiers == tools.tiers
    assert mine.lock_sha256 == lock.sha256
    assert (mine.platform, set(mine.channels)) == (tools.platform, set(tools.channels))
    assert mine.facts["torch_version"] == tools.facts["torch_version"]


def test_a_damaged_environment_fails(locked: tuple[Path, Lock], tmp_path: Path) -> None:
    prefix, _ = locked
    program = _copy(prefix, tmp_path / "env")
    next((tmp_path / "env" / "conda-meta").glob("sympy-*.json")).unlink()
    done = torch_verify(program, "--expect", "cpu", "--tier", "static")
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    (line,) = (line for line in failed if "test_packages_are_those_of_the_lock" in line)
    assert re.search("sympy: the lock has .*, the environment has nothing", line)
    assert "is NOT what it is expected to be" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("FAILED: test_static_lock.py::")


def test_a_conda_environment_without_a_lock_is_compared_with_its_own_records(
    locked: tuple[Path, Lock], tmp_path: Path
) -> None:
    program = _copy(locked[0], tmp_path / "env")
    prefix = tmp_path / "env"
    (prefix / "conda-meta" / "torchlocks").unlink()
    verdict = verdict_of(torch_verify(program, "--expect", "cpu", "--json", "--tier", "static"))
    assert verdict.ok, verdict.failure_line()
    skipped = {check.id.partition("::")[2] for check in verdict.checks if check.why and "no lock" in check.why}
    assert skipped == {
        "test_packages_are_those_of_the_lock",
        "test_nothing_installed_beside_the_lock",
        "test_nothing_hooks_into_startup",
        "test_no_library_of_nobody",
    }
    next(prefix.glob("lib/python3*/site-packages/sympy/__init__.py")).unlink()
    verdict = verdict_of(torch_verify(program, "--expect", "cpu", "--json", "--tier", "static"))
    assert [check.id for check in verdict.failures] == ["test_static_lock.py::test_no_recorded_file_is_missing"]


def test_a_damaged_record_is_an_error(locked: tuple[Path, Lock], tmp_path: Path) -> None:
    program = _copy(locked[0], tmp_path / "env")
    record = next((tmp_path / "env" / "conda-meta").glob("sympy-*.json"))
    record.unlink()
    record.write_text("{")
    done = torch_verify(program, "--expect", "cpu", "--tier", "static")
    assert done.returncode == 2
    assert f"conda-meta/{record.name} is not a package record" in done.stderr


def test_a_cpu_environment_is_no_gpu_environment(locked: tuple[Path, Lock]) -> None:
    prefix, _ = locked
    arguments = ("--expect", "gpu", "--cuda", "11.8", "--json", *tiers("cuda-build", "gpu"))
    verdict = verdict_of(torch_verify(prefix / "bin" / "torch-verify", *arguments))
    assert not verdict.ok
    failed = {check.id.rpartition("::")[2]: check.why or "" for check in verdict.failures}
    assert failed.keys() == {"test_torch_is_a_cuda_build", "test_the_gpu_is_used"}
    assert failed["test_torch_is_a_cuda_build"].endswith("is a build for the CPU")
    if not verdict.host.gpus:
        assert failed["test_the_gpu_is_used"] == "a GPU is needed: no NVIDIA driver"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "what to expect is missing"),
        (("--expect", "cpu", "--cuda", "11.8"), "--cuda goes with --expect gpu"),
        (("--expect", "gpu", "--cuda", "twelve"), "'twelve' is not a CUDA version"),
        (("--expect", "cpu", "--tier", "none"), "invalid choice"),
    ],
)
def test_bad_arguments_are_reported(locked: tuple[Path, Lock], arguments: tuple[str, ...], says: str) -> None:
    done = torch_verify(locked[0] / "bin" / "torch-verify", *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_report_that_cannot_be_written_is_reported(locked: tuple[Path, Lock], tmp_path: Path) -> None:
    report = tmp_path / "no such folder" / "report.json"
    arguments = ("--expect", "cpu", "--tier", "static", "-k", "test_one_torch", "--report", str(report))
    done = torch_verify(locked[0] / "bin" / "torch-verify", *arguments)
    assert done.returncode == 2
    assert str(report) in done.stderr


# With pip.


@pytest.fixture(scope="module")
def venv(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with torch and the suite, all of it installed by pip, from the local channel's wheels."""
    assert environment.is_dir()
    work = tmp_path_factory.mktemp("pip")
    # pip builds in the folder it is given.
    shutil.copytree(LAYOUT.suite, work / "suite", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    quiet = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "-w", work / "wheels", work / "suite"], check=True)
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([base, "-m", "venv", "--without-pip", work / "venv"], check=True)
    wheels = [*(BUILT.build / "wheels").glob("*.whl"), *(work / "wheels").glob("*.whl")]
    into = [*pip, "--python", str(work / "venv" / "bin" / "python"), "install", *quiet, "--no-compile"]
    subprocess.run([*into, *wheels], check=True)
    borrow_bytecode(environment, work / "venv")
    return work / "venv"


def test_a_virtual_environment_is_proven_too(venv: Path) -> None:
    verdict = verdict_of(torch_verify(venv / "bin" / "torch-verify", "--expect", "cpu", "--json", *tiers(*QUICK)))
    assert verdict.ok, verdict.failure_line()
    assert verdict.lock_sha256 == ""
    found = {check.id.partition("::")[2].partition("[")[0]: check for check in verdict.checks}
    assert found["test_packages_are_those_of_the_lock"].why == "no lock is known for this environment"
    assert found["test_no_recorded_file_is_missing"].why == "no conda environment: no package records to compare with"
    for name in ("test_one_torch", "test_no_cuda_file", "test_torch_version", "test_cpu_build", "test_one_openmp"):
        assert found[name].outcome == "passed", found[name].why


def test_the_suite_runs_under_anybodys_pytest(venv: Path, tmp_path: Path) -> None:
    python = venv / "bin" / "python"
    where = torch_verify(venv / "bin" / "torch-verify", "--where").stdout.strip()
    assert Path(where).is_relative_to(venv)
    plugin = ("-p", "torchsuite.standalone", "--torch-expect", "cpu")
    command = [str(python), "-m", "pytest", *plugin, where, "-k", "test_one_torch or test_shared_memory"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_without_torch_there_is_nothing_to_verify(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "torchsuite", "--expect", "cpu"],
        env={**os.environ, "PYTHONPATH": str(LAYOUT.suite)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "torch is not installed in" in run.stderr
    assert "Traceback" not in run.stderr
