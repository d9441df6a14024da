"""The verdict, on small suites that run for real: the plugin is the product's, the checks are made up here."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from torchlocks.core.errors import LockfileError, MissingFileError, TorchlocksError, VerificationError
from torchlocks.core.progress import Silent, Unit
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.verify.report import summary_table
from torchlocks.verify.suite import Required, SuiteOptions, verify_environment
from torchlocks.verify.verdict import Check, Verdict

SUITE = Path(__file__).parents[2] / "torch"
URL = "https://conda.anaconda.org/conda-forge/linux-64"

HEAD = """
import os, signal, subprocess, sys, time
import pytest
from torchsuite.tiers import Measure, check
"""


def make_lock(*names: str) -> Lock:
    packages = tuple(
        LockedPackage(name=name, version="1.0", build="0", subdir="linux-64", url=f"{URL}/{name}-1.0-0.conda")
        for name in names
    )
    return Lock(
        path=Path("locks/cpu/conda-lock.yml"),
        kind="conda-lock",
        sha256="ab" * 32,
        channels=("conda-forge",),
        packages={"linux-64": packages},
        content_hash={},
        virtual_packages={},
        metadata={},
    )


Run = Callable[..., Verdict]


@pytest.fixture(scope="module")
def suite_without_checks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite, whose own modules are compiled once for all tests."""
    suite = tmp_path_factory.mktemp("suite")
    shutil.copytree(SUITE, suite, ignore=shutil.ignore_patterns("test_*", "__pycache__"), dirs_exist_ok=True)
    return suite


@pytest.fixture
def suite(suite_without_checks: Path) -> Iterator[Path]:
    """A suite for the checks of one test."""
    yield suite_without_checks
    for file in suite_without_checks.glob("test_*.py"):
        file.unlink()
    # Python takes a compiled file for current if the source has the same size and second of change.
    shutil.rmtree(suite_without_checks / "__pycache__", ignore_errors=True)


@pytest.fixture
def run(tmp_path: Path, suite: Path) -> Run:
    """Verify this interpreter's own environment with a suite of the given files; the checks need no torch."""

    def verify(files: dict[str, str], **options: object) -> Verdict:
        for name, body in files.items():
            (suite / name).write_text(HEAD + body, encoding="utf-8")
        progress = options.pop("progress", Silent())
        required: dict[str, object] = {"env": "cpu", "accelerator": "cpu"}
        required |= {name: options.pop(name) for name in ("accelerator", "cuda") if name in options}
        chosen = {"suite": suite, "reports": tmp_path / "reports", **options}
        return verify_environment(
            Path(sys.prefix),
            make_lock("python", "pytorch"),
            "linux-64",
            Required(**required),  # type: ignore[arg-type]
            SuiteOptions(**chosen),  # type: ignore[arg-type]
            progress,  # type: ignore[arg-type]
        )

    return verify


def by_name(verdict: Verdict) -> dict[str, Check]:
    return {check.id.rpartition("::")[2]: check for check in verdict.checks}


def shown(verdict: Verdict) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(summary_table(verdict))
    return out.getvalue()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its paths are long elsewhere")
def test_temporary_files_of_checks_are_deleted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of torch's elastic agent, which it leaves."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        body = """
@check("it leaves a folder")
def test_leaving(measure: Measure) -> None:
    import tempfile
    measure("folder", tempfile.mkdtemp(prefix="torchelastic_"))
"""
        verdict = run({"test_static_leaving.py": body})
        assert str(by_name(verdict)["test_leaving"].values["folder"]).startswith(f"{folder}/")
        assert not list(Path(folder).iterdir())


def test_every_outcome_reaches_the_verdict_and_the_reports(run: Run, tmp_path: Path) -> None:
    verdict = run(
        {
            "test_static_all.py": """
@check("it works")
def test_good(measure: Measure) -> None:
    measure("answer", 42)

@check("it does not")
def test_bad() -> None:
    assert 1 + 1 == 3, "arithmetic is off \\x1b[31m(red)"

@check("it cannot")
def test_impossible() -> None:
    pytest.skip("no such hardware")
"""
        }
    )
    checks = by_name(verdict)
    assert not verdict.ok
    assert checks["test_good"].outcome == "passed"
    assert checks["test_good"].values == {"answer": 42}
    assert checks["test_good"].reason == "it works"
    assert checks["test_bad"].outcome == "failed"
    assert "arithmetic is off" in (checks["test_bad"].why or "")
    assert "assert (1 + 1) == 3" in (checks["test_bad"].error or "")
    assert checks["test_impossible"].outcome == "skipped"
    assert checks["test_impossible"].why == "no such hardware"
    assert "test_bad" in verdict.failure_line()

    report = (tmp_path / "reports" / "cpu.json").read_text(encoding="utf-8")
    assert '"ok": false' in report
    assert Verdict.model_validate_json(report) == verdict

    xml = ElementTree.parse(tmp_path / "reports" / "cpu.xml")
    suite = xml.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    failure = xml.find(".//testcase[@name='test_bad']/failure")
    assert failure is not None
    assert "arithmetic" in failure.attrib["message"]
    assert xml.find(".//testcase[@name='test_good']/properties/property[@name='answer']") is not None
    assert not list((tmp_path / "reports").glob(".*")), "a temporary file was left behind"

    text = shown(verdict)
    assert "test_static_all.py::test_bad" in text
    assert "impossible: no such hardware" in text


def test_a_crash_is_blamed_on_the_check_that_was_running(run: Run) -> None:
    verdict = run(
        {
            "test_static_crash.py": """
@check("before")
def test_before() -> None: ...

@check("crash")
def test_crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@check("after")
def test_after() -> None: ...
"""
        }
    )
    checks = by_name(verdict)
    assert not verdict.ok
    assert checks["test_before"].outcome == "passed"
    assert checks["test_crash"].outcome == "failed"
    assert "SIGSEGV" in (checks["test_crash"].why or "")
    assert "in test_crash" in (checks["test_crash"].error or ""), "the stack is not in the report"
    assert checks["test_after"].outcome == "passed", "one crash hides what comes after it"
    assert len(verdict.checks) == 3


def test_a_suite_that_crashes_again_and_again_comes_to_an_end(run: Run) -> None:
    body = """
@pytest.mark.parametrize("number", range(6))
@check("crash")
def test_crash(number: int) -> None:
    os.abort()
"""
    verdict = run({"test_static_crash.py": body})
    outcomes = [check.outcome for check in verdict.checks]
    assert outcomes == ["failed"] * 4 + ["skipped"] * 2
    assert "ended too often" in (verdict.checks[-1].why or "")


def test_a_process_that_exits_in_the_middle_is_a_failure(run: Run) -> None:
    body = """
@check("leaves")
def test_leaves() -> None:
    os._exit(0)
"""
    verdict = run({"test_static_exit.py": body})
    assert by_name(verdict)["test_leaves"].outcome == "failed"
    assert not verdict.ok


def test_a_hang_is_interrupted_and_the_next_check_runs(run: Run) -> None:
    verdict = run(
        {
            "test_static_hang.py": """
@check("hangs", seconds=0.3)
def test_hangs() -> None:
    time.sleep(60)

@check("after")
def test_after() -> None: ...
"""
        }
    )
    checks = by_name(verdict)
    assert checks["test_hangs"].outcome == "failed"
    assert "did not finish within" in (checks["test_hangs"].why or "")
    assert checks["test_after"].outcome == "passed"


def test_a_hang_that_cannot_be_interrupted_ends_the_suite_and_names_itself(run: Run) -> None:
    verdict = run(
        {
            "test_static_hang.py": """
from torchsuite import plugin
plugin.GRACE_SECONDS = 2

@check("hangs in native code", seconds=1)
def test_hangs() -> None:
    # A timer whose signal never arrives: what a deadlock in a library looks like from here.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)
"""
        }
    )
    check = by_name(verdict)["test_hangs"]
    assert check.outcome == "failed"
    assert check.why == "hung in native code and was ended"
    assert "test_hangs" in (check.error or "")


def test_processes_left_behind_are_ended(run: Run, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    run(
        {
            "test_static_orphan.py": f"""
@check("leaves a process behind and dies")
def test_orphan() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    open({str(pid_file)!r}, "w").write(str(child.pid))
    os._exit(3)
"""
        }
    )
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_file_that_cannot_be_imported_is_a_failure_and_the_others_run(run: Run) -> None:
    verdict = run(
        {
            "test_static_broken.py": "import nothing_of_this_name\n",
            "test_static_good.py": '@check("works")\ndef test_good() -> None: ...\n',
        }
    )
    broken = next(check for check in verdict.checks if check.id == "test_static_broken.py")
    assert broken.outcome == "failed"
    assert "nothing_of_this_name" in (broken.why or "")
    assert by_name(verdict)["test_good"].outcome == "passed"
    assert not verdict.ok


def test_a_crash_at_import_names_the_file(run: Run) -> None:
    files = {
        "test_static_abort.py": "os.abort()\n",
        "test_static_good.py": '@check("works")\ndef test_good() -> None: ...\n',
    }
    verdict = run(files)
    (check,) = verdict.failures
    assert check.id == "test_static_abort.py"
    assert "SIGABRT" in (check.why or "")
    assert by_name(verdict)["test_good"].outcome == "passed"


def test_nothing_ran_is_not_a_pass(run: Run) -> None:
    body = '@check("works")\ndef test_good() -> None: ...\n'
    verdict = run({"test_static_one.py": body}, select="nothing_is_called_so")
    assert not verdict.failures
    assert not verdict.ok
    assert not verdict.complete
    assert "not selected" in (by_name(verdict)["test_good"].why or "")
    assert verdict.failure_line() == "no check ran"
    assert "nothing ran" in shown(verdict)


def test_a_file_that_a_selection_cannot_match_is_not_imported(run: Run) -> None:
    files = {
        "test_static_abort.py": 'os.abort()\n@check("aborts")\ndef test_aborted() -> None: ...\n',
        "test_static_good.py": '@check("works")\ndef test_good() -> None: ...\n'
        '@check("too")\ndef test_other() -> None: ...\n',
    }
    verdict = run(files, select="test_GOOD and (good or test_aborted)")
    assert verdict.ok
    assert {name: check.outcome for name, check in by_name(verdict).items()} == {
        "test_good": "passed",
        "test_other": "skipped",
        "test_aborted": "skipped",
    }
    assert "not selected" in (by_name(verdict)["test_aborted"].why or "")
    # A word that may be a parameter's leaves no file out, and no more does what is not selected.
    for select in ("good", "not test_good", "test_aborted or test_good"):
        assert "test_static_abort.py" in {check.id for check in run(files, select=select).failures}


def test_checks_that_are_all_skipped_are_not_a_pass(run: Run) -> None:
    body = '@check("cannot")\ndef test_skipped() -> None:\n    pytest.skip("not here")\n'
    assert not run({"test_static_skip.py": body}).ok


def test_tiers_that_cannot_run_say_why(run: Run) -> None:
    files = {
        "test_static_one.py": '@check("works")\ndef test_good() -> None: ...\n',
        "test_import_one.py": '@check("works too")\ndef test_import() -> None: ...\n',
        "test_gpu_one.py": '@check("needs a GPU")\ndef test_gpu() -> None: ...\n',
    }
    verdict = run(files, tiers=("static", "gpu"))
    checks = by_name(verdict)
    assert checks["test_good"].outcome == "passed"
    assert checks["test_import"].why == "tier not selected"
    assert checks["test_gpu"].why == "a CPU environment"
    assert (checks["test_gpu"].tier, checks["test_gpu"].reason) == ("gpu", "needs a GPU")
    assert verdict.ok
    assert not verdict.complete


def test_a_gpu_tier_without_a_driver_is_not_run(run: Run) -> None:
    files = {
        "test_static_one.py": '@check("works")\ndef test_good() -> None: ...\n',
        "test_static_cpu.py": '@check("CPU only", accelerator="cpu")\ndef test_cpu_only() -> None: ...\n',
        "test_gpu_one.py": '@check("needs a GPU")\ndef test_gpu() -> None: ...\n',
        "test_cuda_build_one.py": '@check("needs none")\ndef test_build() -> None: ...\n',
    }
    verdict = run(files, accelerator="cuda", cuda="12.9")
    obstacle = next(state.obstacle for state in verdict.tiers if state.tier == "gpu")
    if obstacle != "not run: no NVIDIA driver":
        pytest.skip("this machine has an NVIDIA driver")
    assert by_name(verdict)["test_gpu"].why == obstacle
    assert by_name(verdict)["test_cpu_only"].why == "for cpu environments"
    assert by_name(verdict)["test_build"].outcome == "passed"
    assert obstacle in shown(verdict)
    assert verdict.state == "partial"
    assert verdict.headline.startswith("CUDA build partly verified, GPU not verified (no NVIDIA driver): no ")
    assert {gap.tier for gap in verdict.gaps} == {"static", "import", "cpu", "cuda-build"}
    assert "".join(shown(verdict).split()).endswith("".join(verdict.headline.split()))


def test_the_outside_is_sealed_off(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text("raise SystemExit('poisoned')")
    user_site = tmp_path / f"home/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    user_site.mkdir(parents=True)
    (user_site / "shadow.py").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in {
        "PYTHONPATH": str(poison),
        "PYTHONHOME": str(poison),
        "PYTEST_ADDOPTS": "--collect-only",
        "LD_LIBRARY_PATH": str(poison),
        "DYLD_LIBRARY_PATH": str(poison),
        "VIRTUAL_ENV": str(poison),
        "CONDA_PREFIX": str(poison),
        "OMP_NUM_THREADS": "1",
        "SECRET_TOKEN": "x",
    }.items():
        monkeypatch.setenv(name, value)
    verdict = run(
        {
            "test_static_sealed.py": f"""
import importlib.util

@check("sealed")
def test_sealed() -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV",
                 "OMP_NUM_THREADS", "SECRET_TOKEN"):
        assert name not in os.environ, name
    assert os.environ["CONDA_PREFIX"] == {sys.prefix!r}
    assert os.environ["PATH"].split(os.pathsep)[0] == {str(Path(sys.prefix) / "bin")!r}
    assert importlib.util.find_spec("shadow") is None
    assert not any({str(tmp_path / "poison")!r} in entry for entry in sys.path)
    assert sys.flags.isolated

@check("and so are the processes it starts")
def test_sealed_children(run_python) -> None:
    assert run_python("import sys; print(sys.flags.isolated, [p for p in sys.path if 'poison' in p])") == "1 []\\n"
"""
        }
    )
    assert verdict.ok, verdict.failures
    assert len(verdict.checks) == 2


def test_an_environment_without_pytest_is_an_error(run: Run, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    lock = make_lock("python", "pytorch")
    verdict = verify_environment(
        bare,
        lock,
        "linux-64",
        Required(env="cpu", accelerator="cpu"),
        SuiteOptions(suite=SUITE, reports=tmp_path / "reports"),
        Silent(),
    )
    assert not verdict.ok
    assert "No module named pytest" in verdict.failure_line()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tiers": ("fast",)}, VerificationError, "invalid choice: 'fast'"),
        ({"suite": Path("/nowhere")}, MissingFileError, "suite is not here"),
        ({"select": "matmul and"}, VerificationError, "not an expression"),
    ],
)
def test_bad_requests_are_refused(
    run: Run, options: dict[str, object], error: type[TorchlocksError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run({}, **options)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("names", "platform", "words"),
    [
        (("python", "pytorch"), "osx-arm64", "no packages for osx-arm64"),
        (("python", "numpy"), "linux-64", "no package 'pytorch'"),
    ],
)
def test_locks_of_something_else_are_refused(tmp_path: Path, names: tuple[str, ...], platform: str, words: str) -> None:
    with pytest.raises(LockfileError, match=words):
        verify_environment(
            Path(sys.prefix),
            make_lock(*names),
            platform,
            Required(env="cpu", accelerator="cpu"),
            SuiteOptions(suite=SUITE, reports=tmp_path / "reports"),
            Silent(),
        )
    assert not (tmp_path / "reports").exists()


class Listener(Silent):
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.totals: list[float] = []
        self.notes: list[str | None] = []

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[_Task]:
        yield _Task(self)


class _Task:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def advance(self, amount: float, note: str | None = None) -> None:
        self._listener.notes.append(note)

    def total(self, amount: float) -> None:
        self._listener.totals.append(amount)


def test_progress_hears_of_each_check_as_it_finishes(run: Run) -> None:
    listener = Listener()
    body = '@check("one")\ndef test_one() -> None: ...\n\n@check("two")\ndef test_two() -> None: ...\n'
    run({"test_static_two.py": body}, progress=listener)
    assert listener.totals == [2]
    assert listener.notes == ["test_static_two.py::test_one", "test_static_two.py::test_two"]


class _Impatient(Silent):
    """Ctrl-C as soon as the first check is over."""

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[_InterruptingTask]:
        yield _InterruptingTask()


class _InterruptingTask:
    def advance(self, amount: float, note: str | None = None) -> None:
        raise KeyboardInterrupt

    def total(self, amount: float) -> None: ...


def test_an_interrupted_verification_leaves_no_process_and_no_report(run: Run, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = f"""
@check("first")
def test_first() -> None:
    open({str(pid_file)!r}, "w").write(str(os.getpid()))

@check("long")
def test_long() -> None:
    time.sleep(50)
"""
    with pytest.raises(KeyboardInterrupt):
        run({"test_static_long.py": body}, progress=_Impatient())
    assert not _runs(int(pid_file.read_text()))
    assert not (tmp_path / "reports").exists()


def test_a_report_that_cannot_be_written_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(VerificationError, match="cannot be written"):
        run({"test_static_one.py": '@check("works")\ndef test_good() -> None: ...\n'})
    assert (tmp_path / "reports").read_text() == "in the way"
