"""Environments for CUDA that were sabotaged, and GPUs that are there and not used: each is a failure, by name.

Without a CUDA environment the CPU's is taken for one, which is the first of the faults. Tests that need a real one
(`make env-gpu`, or TORCHLOCKS_CUDA_ENV=PREFIX) say so. Every sabotage works on a copy made of hard links; files are
replaced in it, never written to.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import LAYOUT as BUILT
from driver_stand_in import NAME, compiler, make_driver
from suite_sabotages import OF_CUDA_BUILDS
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.host.detect import host_platform
from torchlocks.install.activate import python_of
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import read_lock
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.load import load_matrix
from torchlocks.verify.suite import Required, SuiteOptions, verify_environment
from torchlocks.verify.verdict import Verdict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the faults made here are ELF's")

LAYOUT = Layout(Path(__file__).resolve().parents[3])
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))


@dataclass(frozen=True)
class Installed:
    """An environment, and the lock that it was made from."""

    prefix: Path
    lock: Lock
    env: str
    cuda: str | None

    def verify(self, reports: Path, *tiers: str, select: str | None = None, cuda: str | None = None) -> Verdict:
        row = load_matrix(LAYOUT.matrix).local_target(self.env, host_platform()) if self.cuda else None
        required = Required(
            env=self.env,
            accelerator="cuda",
            cuda=cuda or self.cuda,
            architectures=tuple(row.architectures) if row else (),
            ptx=row.ptx if row else None,
            driver_floor=row.driver.floor if row and row.driver else None,
        )
        options = SuiteOptions(suite=LAYOUT.suite, reports=reports, select=select, tiers=tiers)
        return verify_environment(self.prefix, self.lock, host_platform(), required, options, Silent())


def _installed(prefix: Path, cuda: str | None = None) -> Installed:
    provenance = read_provenance(prefix)
    assert provenance is not None, f"{prefix} was not installed by torchlocks"
    for folder in (BUILT.local_locks, LAYOUT.local_locks, LAYOUT.locks):
        path = folder / provenance.name / provenance.lock_name
        if path.is_file() and (lock := read_lock(path)).sha256 == provenance.lock_sha256:
            return Installed(prefix, lock, provenance.name, cuda)
    pytest.skip(f"{prefix} was made from a lock that this checkout does not have")


def _copy(prefix: Path, copy: Path) -> Path:
    linked = subprocess.run(["cp", "-al", prefix, copy], capture_output=True, check=False)
    if linked.returncode != 0:  # Another file system, or one without hard links.
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-a", prefix, copy], check=True)
    return copy


def failures(verdict: Verdict) -> dict[str, str]:
    """The checks that failed, without their parameters, and why."""
    return {check.id.rpartition("::")[2].partition("[")[0]: check.why or "" for check in verdict.failures}


# A CPU torch where CUDA is expected.


@pytest.fixture
def of_cpu(environment: Path) -> Installed:
    return _installed(environment)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one GPU, whose driver is found as on clusters: through LD_LIBRARY_PATH."""
    if compiler() is None:
        pytest.skip("no C compiler to make a stand-in for a driver with")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(make_driver(tmp_path / "driver")))
    return tmp_path / "driver"


def _without_gpu() -> None:
    if Path("/proc/driver/nvidia/gpus").exists() or Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")


def test_without_a_driver_every_gpu_check_is_named_as_not_run(of_cpu: Installed, tmp_path: Path) -> None:
    _without_gpu()
    verdict = of_cpu.verify(tmp_path, "gpu", "multi-gpu", cuda="12.9")
    named = {
        f"{file.name}::{function.name}"
        for file in LAYOUT.suite.glob("test_*gpu_*.py")
        for function in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
    }
    reported = {check.id: check.why for check in verdict.checks if "gpu" in check.tier}
    assert len(named) > 35
    assert reported == dict.fromkeys(named, "not run: no NVIDIA driver")
    assert all(check.reason for check in verdict.checks)
    assert not verdict.ok


def test_a_cpu_torch_on_a_machine_with_a_gpu_fails(of_cpu: Installed, driver: Path, tmp_path: Path) -> None:
    verdict = of_cpu.verify(tmp_path, "cuda-build", "gpu", cuda="12.9")
    failed = failures(verdict)
    assert failed.keys() == {"test_torch_is_a_cuda_build", "test_the_gpu_is_used"}
    assert failed["test_torch_is_a_cuda_build"].endswith("is a build for the CPU")
    assert f"the machine has 1 x {NAME}, but torch" in failed["test_the_gpu_is_used"]
    assert verdict.state == "failed"
    assert verdict.headline.startswith("FAILED: ")
    # Nothing computed on the CPU in the GPU's place.
    assert {check.outcome for check in verdict.checks if check.tier == "gpu"} == {"failed", "skipped"}
    assert verdict.host.gpus == (NAME,)
    assert verdict.host.driver is not None


def test_a_gpu_that_is_hidden_fails(
    of_cpu: Installed, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    verdict = of_cpu.verify(tmp_path, "gpu", select="test_the_gpu_is_used", cuda="12.9")
    assert failures(verdict) == {"test_the_gpu_is_used": "the machine has 1 GPU, but CUDA_VISIBLE_DEVICES= hides it"}


# Real CUDA environments.


@pytest.fixture(scope="module")
def of_cuda() -> Installed:
    """A CUDA environment of this checkout, or the one that TORCHLOCKS_CUDA_ENV names."""
    named = os.environ.get("TORCHLOCKS_CUDA_ENV")
    prefixes = [Path(named)] if named else sorted(LAYOUT.envs.glob("gpu-cu*"))
    prefixes = [prefix for prefix in prefixes if (prefix / "conda-meta").is_dir()]
    if not prefixes:
        pytest.skip("no CUDA environment is installed (make env-gpu), and TORCHLOCKS_CUDA_ENV names none")
    provenance = read_provenance(prefixes[-1])
    assert provenance is not None
    digits = provenance.name.removeprefix("gpu-cu")
    return _installed(prefixes[-1], f"{digits[:-1]}.{digits[-1]}")


@dataclass(frozen=True)
class Broken:
    """A copy of a CUDA environment, to be broken."""

    installed: Installed
    reports: Path

    @property
    def prefix(self) -> Path:
        return self.installed.prefix

    @property
    def site_packages(self) -> Path:
        (folder,) = self.prefix.glob("lib/python3.*/site-packages")
        return folder

    def library(self, pattern: str) -> Path:
        """The file of the first CUDA library whose name fits."""
        places = ("lib", f"{self.site_packages.relative_to(self.prefix)}/nvidia/*/lib")
        found = [path for place in places for path in self.prefix.glob(f"{place}/{pattern}")]
        assert found, f"no {pattern} in {self.prefix}"
        return next((path for path in found if not path.is_symlink()), found[0])

    def verify(self, *tiers: str) -> Verdict:
        return self.installed.verify(self.reports, *(tiers or ("static", "import", "cuda-build")))


@pytest.fixture
def broken(of_cuda: Installed, tmp_path: Path) -> Iterator[Broken]:
    copy = _copy(of_cuda.prefix, tmp_path / "env")
    yield Broken(Installed(copy, of_cuda.lock, of_cuda.env, of_cuda.cuda), tmp_path / "reports")
    shutil.rmtree(copy)


def test_a_healthy_cuda_environment_is_verified_as_far_as_this_machine_goes(of_cuda: Installed, tmp_path: Path) -> None:
    verdict = of_cuda.verify(tmp_path, "static", "import", "cuda-build", "gpu", "multi-gpu")
    assert verdict.ok, verdict.failures
    built = [check for check in verdict.checks if check.tier == "cuda-build"]
    assert {check.outcome for check in built} == {"passed"}, [check.why for check in built]
    if not verdict.host.gpus:
        assert {check.why for check in verdict.checks if check.tier == "gpu"} == {"not run: no NVIDIA driver"}


def test_a_sabotaged_check_of_a_cuda_build_fails(of_cuda: Installed, tmp_path: Path) -> None:
    child = Path(__file__).parents[1] / "sabotage_child.py"
    command = [str(each) for each in (python_of(of_cuda.prefix), "-I", child, LAYOUT.suite, tmp_path, "cuda-build")]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    events = map(json.loads, (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines())
    outcomes = {event["id"]: event["outcome"] for event in events if event["event"] == "finished"}
    # What this torch has no part of is skipped.
    assert {check: outcomes[check] for check in OF_CUDA_BUILDS if outcomes[check] != "skipped"} == {
        check: "failed" for check in OF_CUDA_BUILDS if outcomes[check] != "skipped"
    }
    assert outcomes["test_cuda_build_torch.py::test_cudnn_is_not_older_than_compiled"] == "failed"


def test_the_whole_suite_reports_what_was_verified(of_cuda: Installed, tmp_path: Path) -> None:
    if not SLOW:
        pytest.skip("takes a minute: TORCHLOCKS_SLOW=1")
    verdict = of_cuda.verify(tmp_path)
    assert verdict.ok, verdict.failures
    if not verdict.host.gpus:
        assert verdict.headline == "CUDA build verified, GPU not verified (no NVIDIA driver)"


def test_a_cpu_torch_copied_over_the_cuda_one_is_found(environment: Path, broken: Broken) -> None:
    (of_cpu,) = environment.glob("lib/python3.*/site-packages/torch")
    assert of_cpu.parent.parent.name == broken.site_packages.parent.name
    shutil.rmtree(broken.site_packages / "torch")
    _copy(of_cpu, broken.site_packages / "torch")
    failed = failures(broken.verify())
    assert {"test_torch_is_a_cuda_build", "test_torch_files_are_those_of_the_package"} <= failed.keys()
    assert "is a build for the CPU" in failed["test_torch_is_a_cuda_build"]


def test_a_torch_that_pip_installed_over_the_locked_one_is_found(broken: Broken) -> None:
    tag = f"cp{broken.site_packages.parent.name.removeprefix('python').replace('.', '')}"
    wheels = [wheel for wheel in (BUILT.build / "wheels").glob("torch-*.whl") if f"-{tag}-" in wheel.name]
    if not wheels:
        pytest.skip("the local channel's wheels are not here: make env-cpu CHANNEL=local")
    # pip writes into none of the files that are there: it removes them, and puts its own in their place.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", f"{broken.prefix}/bin/python"]
    install = ["install", "--no-deps", "--no-index", "--no-compile", "--force-reinstall", str(wheels[0])]
    subprocess.run([*pip, *install], check=True)
    failed = failures(broken.verify())
    assert {"test_torch_is_a_cuda_build", "test_torch_files_are_those_of_the_package"} <= failed.keys()


def test_a_deleted_cudnn_is_found(broken: Broken) -> None:
    for path in {broken.library("libcudnn.so.*"), *broken.library("libcudnn.so.*").parent.glob("libcudnn.so*")}:
        path.unlink(missing_ok=True)
    failed = failures(broken.verify())
    assert "libcudnn.so" in failed["test_no_recorded_file_is_missing"]
    assert "test_import" in failed or "test_cudnn" in failed


def test_a_deleted_part_of_cudnn_is_found(broken: Broken) -> None:
    # torch imports without it; convolutions fail.
    part = broken.library("libcudnn_cnn*.so.*")
    for path in part.parent.glob("libcudnn_cnn*.so*"):
        path.unlink()
    assert "libcudnn_cnn" in failures(broken.verify("static"))["test_no_recorded_file_is_missing"]


def test_a_cut_library_is_found(broken: Broken) -> None:
    library = broken.library("libcufft.so.*")
    begin = library.read_bytes()[: 1 << 20]
    library.unlink()
    library.write_bytes(begin)
    failed = failures(broken.verify("static", "cuda-build"))
    assert library.name in failed["test_cuda_files_are_those_of_the_packages"]
    assert library.name in failed["test_every_library_loads"]


#: Other releases of the same CUDA major, so that they load, and only their numbers are wrong.
OTHERS = {
    ("cublas", "12"): "nvidia-cublas-cu12==12.1.3.1",
    ("cublas", "13"): "nvidia-cublas==13.0.0.19",
    ("cudart", "12"): "nvidia-cuda-runtime-cu12==12.1.105",
    ("cudart", "13"): "nvidia-cuda-runtime==13.1.80",
}


@pytest.mark.parametrize(
    ("package", "libraries"), [("cudart", ["libcudart.so.*"]), ("cublas", ["libcublas.so.*", "libcublasLt.so.*"])]
)
def test_libraries_of_another_version_are_found(
    package: str, libraries: list[str], broken: Broken, tmp_path: Path
) -> None:
    if not SLOW:
        pytest.skip("fetches up to 600 MB: TORCHLOCKS_SLOW=1")
    other, wanted = tmp_path / "other", OTHERS[package, (broken.installed.cuda or "").split(".")[0]]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps"]
    if subprocess.run([*pip, "--target", str(other), wanted], check=False).returncode != 0:
        pytest.skip(f"{wanted} cannot be fetched here")
    replaced = [broken.library(name) for name in libraries]
    first = replaced[0]
    for mine, name in zip(replaced, libraries, strict=True):
        mine.unlink()
        shutil.copyfile(next(path for path in other.rglob(name) if not path.is_symlink()), mine)
        if mine == first:
            # One alone is of another size than its package's. Its number it may take from the other (cuBLAS does).
            assert mine.name in failures(broken.verify("static"))["test_cuda_files_are_those_of_the_packages"]
    failed = failures(broken.verify("static", "cuda-build"))
    for mine in replaced:
        assert re.search(rf"{re.escape(mine.name)} is [\d.]+, the lock has ", failed["test_library_versions"])


def test_a_compiler_that_lost_a_part_is_found(broken: Broken) -> None:
    for path in broken.library("libnvrtc.so.*").parent.glob("libnvrtc-builtins*"):
        path.unlink()
    assembler = broken.site_packages / "triton" / "backends" / "nvidia" / "bin" / "ptxas"
    if not assembler.is_file():
        pytest.skip("Triton has no assembler of its own here")
    assembler.unlink()
    failed = failures(broken.verify("static", "cuda-build"))
    assert "libnvrtc-builtins" in failed["test_nvrtc"]
    assert "ptxas" in failed["test_triton"]
    assert "libnvrtc-builtins" in failed["test_no_recorded_file_is_missing"]


def test_another_openmp_is_found(broken: Broken) -> None:
    own = [*broken.prefix.glob("lib/libgomp*.so*"), *broken.site_packages.glob("torch/lib/libgomp*.so*")]
    assert own
    shutil.copyfile(own[0].resolve(), broken.prefix / "lib" / "libgomp-extra.so.1")
    # Loaded, as by a package that brings its own.
    hook = broken.site_packages / "numpy" / "_distributor_init.py"
    hook.unlink(missing_ok=True)
    extra = broken.prefix / "lib" / "libgomp-extra.so.1"
    hook.write_text(f"import ctypes\nctypes.CDLL({str(extra)!r})\n", encoding="utf-8")
    failed = failures(broken.verify("static", "import"))
    assert "lib/libgomp-extra.so.1" in failed["test_no_library_of_nobody"]
    assert "libgomp-extra.so.1" in failed["test_one_openmp"]


@pytest.mark.parametrize("hidden", [False, True], ids=["broken driver", "CUDA_VISIBLE_DEVICES="])
def test_a_gpu_that_a_cuda_torch_does_not_use_fails(
    of_cuda: Installed, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    verdict = of_cuda.verify(tmp_path, "gpu")
    failed = failures(verdict)
    # The stand-in counts GPUs and can do nothing else: to torch it is a driver that does not work.
    words = "CUDA_VISIBLE_DEVICES= hides it" if hidden else "but torch does not use it: "
    assert words in failed["test_the_gpu_is_used"]
    assert not [check for check in verdict.checks if check.outcome == "passed"]
