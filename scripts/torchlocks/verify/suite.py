"""The verdict on an environment: the torch suite, run by the environment's own Python, sealed off from the outside.

The suite (`tests/torch`) never imports this package. What it is told is a JSON file; what it answers is a file of
JSON lines that grows as checks finish. Both formats are described by the models here.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform as host_platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, TextIO

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from torchlocks.core.errors import LockfileError, MissingFileError, VerificationError
from torchlocks.core.progress import Progress, Task
from torchlocks.install.activate import activation_environment, python_of
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.model import Target
from torchlocks.verify.report import summary_table, verdict_json, write_reports
from torchlocks.verify.verdict import TIERS, Accelerator, Check, Frozen, Host, TierState, Verdict

__all__ = ["Verdict", "sealed_environment", "summary_table", "verdict_json", "verify_environment"]

#: The suite limits every check's time by itself; a process that says nothing for this long is stuck between two.
SILENCE_SECONDS = 600.0
_POLL_SECONDS = 0.05

#: How many processes a run may take: each check that ends one costs the start of another.
PROCESSES = 4

#: What the suite may know of the outside. Everything else (PYTHONPATH, LD_LIBRARY_PATH, LD_PRELOAD, DYLD_*,
#: PYTEST_*, OMP_NUM_THREADS, another environment's variables) would change what is tested.
_KEPT = frozenset(
    {
        "COMSPEC", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LANG", "NUMBER_OF_PROCESSORS",
        "NVIDIA_VISIBLE_DEVICES", "PATHEXT",
        "PROCESSOR_ARCHITECTURE", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "WINDIR",
    }
)  # fmt: skip

#: And what begins so: the locale, where other nodes are, and which network interfaces lead to them.
_KEPT_PREFIXES = ("LC_", "TORCH_VERIFY_", "NCCL_", "GLOO_")

#: The files of an NVIDIA driver on Linux and on WSL, as shell patterns.
_DRIVER_FILES = ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*", "libdxcore.so*", "libd3d12*.so*")


# What the suite says, one event a line; its `stream.py` is the writing end.


class _Collecting(Frozen):
    event: Literal["collecting"]
    id: str


class _Tiers(Frozen):
    event: Literal["tiers"]
    tiers: tuple[TierState, ...]


class _Plan(Frozen):
    id: str
    tier: str
    reason: str


class _Planned(Frozen):
    event: Literal["planned"]
    checks: tuple[_Plan, ...]


class _Started(Frozen):
    event: Literal["started"]
    id: str


class _Finished(Check):
    event: Literal["finished"]


class _Facts(Frozen):
    event: Literal["facts"]
    facts: dict[str, JsonValue]


class _Ended(Frozen):
    event: Literal["ended"]


_Event = Annotated[
    _Collecting | _Tiers | _Planned | _Started | _Finished | _Facts | _Ended, Field(discriminator="event")
]
_EVENT: TypeAdapter[_Event] = TypeAdapter(_Event)


class _Transcript:
    """The events so far, and what they add up to."""

    def __init__(self) -> None:
        self.finished: dict[str, Check] = {}
        self.planned: tuple[_Plan, ...] = ()
        self.tiers: tuple[TierState, ...] = ()
        self.facts: dict[str, JsonValue] = {}
        self.running: str | None = None
        self.ended = False

    def add(self, line: str, task: Task) -> None:
        try:
            event = _EVENT.validate_json(line)
        except ValidationError as error:
            raise VerificationError(
                "The suite said something that cannot be understood.",
                where=line[:200],
                fix="use the tests/torch of this torchlocks.",
                details=str(error),
            ) from None
        match event:
            case _Collecting(id=check) | _Started(id=check):
                self.running = check
            case _Finished():
                self.finished[event.id] = Check(**event.model_dump(exclude={"event"}))
                self.running = None
                task.advance(1, note=event.id)
            case _Planned(checks=checks):
                self.running, self.planned = None, checks
                task.total(len(checks) + len(self.finished))
            case _Tiers(tiers=tiers):
                self.tiers = tiers
            case _Facts(facts=facts):
                self.facts.update(facts)
            case _Ended():
                self.ended = True

    def died(self, why: str, error: str) -> None:
        """The process is gone before its time: blame the check that was running."""
        guilty = self.running or "the suite itself"
        plan = next(
            (plan for plan in self.planned if plan.id == guilty),
            _Plan(id=guilty, tier=_tier_of(guilty), reason="the suite runs to its end"),
        )
        self.finished[guilty] = Check(**plan.model_dump(), outcome="failed", why=why, error=error or None)
        self.running = None

    def give_up(self) -> None:
        """Account for the checks that never ran."""
        for plan in self.planned:
            if plan.id not in self.finished:
                why = "not run: the suite's process ended too often"
                self.finished[plan.id] = Check(**plan.model_dump(), outcome="skipped", why=why)


def verify_target(
    prefix: Path,
    lock: Lock,
    target: Target,
    *,
    suite: Path,
    reports: Path,
    progress: Progress,
    select: str | None = None,
) -> Verdict:
    """`verify_environment`, for an environment that should be what the matrix says of `target`."""
    return verify_environment(
        prefix,
        lock,
        target.platform,
        env=target.env,
        accelerator=target.accelerator,
        cuda=target.cuda,
        suite=suite,
        reports=reports,
        progress=progress,
        select=select,
        architectures=target.architectures,
        ptx=target.ptx,
        driver_floor=target.driver_floor,
    )


def verify_environment(
    prefix: Path,
    lock: Lock,
    platform: str,
    *,
    env: str,
    accelerator: Accelerator,
    cuda: str | None,
    suite: Path,
    reports: Path,
    progress: Progress,
    select: str | None = None,
    tiers: Sequence[str] | None = None,
    architectures: Sequence[str] = (),
    ptx: str | None = None,
    driver_floor: str | None = None,
) -> Verdict:
    """Run the suite inside the environment at `prefix`, and write `reports/<env>.json` and `.xml`.

    `lock` and `platform` are what the environment was made from; `select` is a pytest -k expression; `tiers` names
    the tiers to run (default: all). `architectures` are the compute capabilities ("9.0") that the environment's row of
    the matrix promises machine code for, `ptx` the one that newer GPUs compile from, `driver_floor` the oldest driver
    it runs on: left out for environments that no row speaks of. The verdict is returned whatever it says: its `ok`
    decides.
    Raises MissingFileError when there is no environment or no suite, LockfileError when the lock is not of a torch
    environment of that platform, VerificationError when `tiers` or `select` is not one.
    """
    selected = _selected(tiers)
    python = python_of(prefix)
    if not (suite / "conftest.py").is_file():
        raise MissingFileError("The verification suite is not here.", where=str(suite), fix="use a whole checkout.")
    began, clock = datetime.now(timezone.utc), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torchlocks-verify-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        expectation = {
            **_expectation(prefix, lock, platform, env, accelerator, cuda, selected, work / "events.jsonl"),
            **{"architectures": tuple(architectures), "ptx": ptx, "driver_floor": driver_floor},
        }
        command = [
            *(os.fspath(python), "-I", "-m", "pytest", os.fspath(suite.resolve()), "-q"),
            *("-c", os.fspath(suite.resolve() / "pytest.ini"), "--rootdir", os.fspath(suite.resolve())),
            *("--confcutdir", os.fspath(suite.resolve()), "--basetemp", os.fspath(work / "tmp")),
            *(("-k", select) if select else ()),
        ]
        with progress.task(f"Verifying {env}") as task:
            transcript = _run(command, sealed_environment(prefix, os.environ, work), expectation, work, task)
    verdict = Verdict(
        env=env,
        platform=platform,
        accelerator=accelerator,
        cuda=cuda,
        prefix=os.fspath(prefix),
        lock_path=os.fspath(lock.path),
        lock_sha256=lock.sha256,
        channels=tuple(dict.fromkeys(package.channel for package in lock.packages[platform])),
        select=select,
        tiers_selected=selected,
        started_at=began,
        duration_s=round(time.monotonic() - clock, 3),
        host=_host(transcript.facts),
        facts=transcript.facts,
        tiers=transcript.tiers,
        checks=tuple(transcript.finished.values()),
    )
    write_reports(verdict, reports)
    return verdict


def sealed_environment(prefix: Path, outside: Mapping[str, str], work: Path) -> dict[str, str]:
    """The variables that the suite runs with: the activated environment's and the system's, nobody else's.

    The home folder is an empty one below `work`, so that no user's site-packages, caches or configuration count.
    A driver that is found through LD_LIBRARY_PATH alone (clusters, NixOS, some containers) is handed on without the
    rest of its folder, which may hold a CUDA toolkit, too.
    """
    kept = {
        name: value
        for name, value in outside.items()
        if name.upper() in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
    }
    home = work / "home"
    home.mkdir(exist_ok=True)
    if sys.platform == "win32":
        root = outside.get("SYSTEMROOT", r"C:\Windows")
        kept |= {"PATH": rf"{root}\System32;{root}", "USERPROFILE": os.fspath(home), "APPDATA": os.fspath(home)}
    else:
        kept |= {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": os.fspath(home)}
    if driver := _driver_folder(outside.get("LD_LIBRARY_PATH", ""), work):
        kept["LD_LIBRARY_PATH"] = os.fspath(driver)
    # -I does this for the suite's own process and for those it starts; these are for whoever starts Python without.
    kept |= {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
    return {
        **activation_environment(prefix, kept),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TORCH_VERIFY_EXPECT": os.fspath(work / "expect.json"),
        "TORCHINDUCTOR_CACHE_DIR": os.fspath(work / "inductor"),
    }


def _driver_folder(search_path: str, work: Path) -> Path | None:
    """A folder below `work` with links to the NVIDIA driver's files, if `search_path` leads to one; Linux."""
    folders = (Path(folder) for folder in search_path.split(os.pathsep) if folder)
    found = next((folder for folder in folders if (folder / "libcuda.so.1").exists()), None)
    if found is None or not sys.platform.startswith("linux"):
        return None
    links = work / "driver"
    links.mkdir(exist_ok=True)
    for file in (file for pattern in _DRIVER_FILES for file in found.glob(pattern)):
        with contextlib.suppress(FileExistsError):
            (links / file.name).symlink_to(file.absolute())
    return links


def _selected(tiers: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [tier for tier in tiers or () if tier not in TIERS]
    if unknown:
        raise VerificationError(f"There is no tier {unknown[0]!r}.", fix=f"choose from {', '.join(TIERS)}.")
    return tuple(tier for tier in TIERS if tiers is None or tier in tiers)


def _expectation(
    prefix: Path,
    lock: Lock,
    platform: str,
    env: str,
    accelerator: Accelerator,
    cuda: str | None,
    tiers: tuple[str, ...],
    events: Path,
) -> dict[str, object]:
    """What the suite is told: the fields of its own `Expectation`."""
    if platform not in lock.packages:
        raise LockfileError(
            f"The lock has no packages for {platform}.",
            where=str(lock.path),
            fix=f"it has {', '.join(lock.platforms)}: lock the platform first.",
        )
    packages = lock.packages[platform]
    names = {package.name for package in packages}
    for needed in ("python", "pytorch"):
        if needed not in names:
            raise LockfileError(
                f"The lock has no package {needed!r} for {platform}, so it is not of a torch environment.",
                where=str(lock.path),
                fix="verify an environment that was made from a lock of this repository.",
            )
    return {
        "env": env,
        "platform": platform,
        "accelerator": accelerator,
        "cuda": cuda,
        "prefix": os.fspath(prefix.absolute()),
        "packages": [
            {"name": package.name, "version": package.version, "build": package.build} for package in packages
        ],
        "tiers": tiers,
        "events": os.fspath(events),
    }


def _run(
    command: list[str], environment: dict[str, str], expectation: dict[str, object], work: Path, task: Task
) -> _Transcript:
    """Run the suite to its end, whichever that is, and account for every check.

    When a check ends the process, it is blamed, and a new process goes on behind it.
    """
    transcript = _Transcript()
    events = work / "events.jsonl"
    events.touch()
    with events.open(encoding="utf-8") as stream:
        for _ in range(PROCESSES):
            told = {**expectation, "done": sorted(transcript.finished)}
            (work / "expect.json").write_text(json.dumps(told), encoding="utf-8")
            failure = _run_process(command, environment, work, stream, transcript, task)
            if failure is None:
                return transcript
            known = transcript.running is not None
            transcript.died(failure, _faults(events) + _tail(work / "suite.log"))
            if not known:
                break
    transcript.give_up()
    return transcript


def _run_process(
    command: list[str], environment: dict[str, str], work: Path, stream: TextIO, transcript: _Transcript, task: Task
) -> str | None:
    """Run one process of the suite and listen to it; how it failed, or None when it came to its end."""
    log, events = work / "suite.log", work / "events.jsonl"
    transcript.ended = False
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own, so that worker processes which a crash leaves behind can be ended with it.
            start_new_session=True,
        )
        try:
            heard, rest = time.monotonic(), ""
            while True:
                over = process.poll() is not None
                lines = (rest + stream.read()).split("\n")
                rest = lines.pop()
                for line in lines:
                    transcript.add(line, task)
                    heard = time.monotonic()
                if over:
                    break
                if time.monotonic() - heard > SILENCE_SECONDS:
                    return f"nothing happened for {SILENCE_SECONDS:.0f} s"
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)
    wrong = re.search(r"Wrong expression passed to '-k': (.*)", _tail(log))
    if process.returncode == 4 and wrong:  # pytest: 4 is a usage error.
        raise VerificationError(
            f"The selection of checks is not an expression: {wrong[1]}",
            fix="name checks, or parts of names, joined by and, or, not: 'matmul and not bf16'.",
        )
    if not transcript.ended:
        return _ending(process.returncode, events, log)
    if process.returncode not in (0, 1, 5):
        # pytest: 0 all passed, 1 some failed, 5 nothing was selected; anything else is an error of the run itself.
        return f"pytest ended with exit code {process.returncode}"
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the suite's process and all that it started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(status: int, events: Path, log: Path) -> str:
    """How the suite's process died, in one line."""
    faults = _faults(events)
    if "Timeout (" in faults:
        return "hung in native code and was ended"
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    last = [line for line in _tail(log).splitlines() if line.strip()][-1:]
    return f"the process ended with exit code {status}{': ' + last[0].strip() if last else ''}"


def _faults(events: Path) -> str:
    """The stacks that Python wrote down as it crashed or was ended."""
    faults = events.with_suffix(".faults")
    return faults.read_text(encoding="utf-8", errors="replace") if faults.is_file() else ""


def _tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _tier_of(check: str) -> str:
    names = {f"test_{tier.replace('-', '_')}_": tier for tier in sorted(TIERS, key=len, reverse=True)}
    return next((tier for start, tier in names.items() if check.startswith(start)), TIERS[0])


def _host(facts: Mapping[str, JsonValue]) -> Host:
    """This machine; what it has of NVIDIA's, the suite has found out."""
    libc, version = host_platform.libc_ver()
    return Host(
        system=host_platform.system(),
        release=_system_release(),
        machine=host_platform.machine(),
        libc=f"{libc} {version}" if libc else None,
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        driver=_text(facts.get("driver_version")),
        driver_cuda=_text(facts.get("driver_cuda")),
        gpus=tuple(map(str, gpus)) if isinstance(gpus := facts.get("gpus"), list) else (),
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _system_release() -> str:
    try:
        return host_platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return host_platform.release()


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "linux":
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return host_platform.processor() or None


def _memory_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
