"""Verify an environment: run the torch suite with the environment's own Python, isolated from outside.

The suite (`tests/torch`) never imports this package. Its command, torch-verify, reads a JSON file with what the lock
requires, writes events as checks finish, and writes a report, which `verdict.py` models.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from torchlocks import __version__
from torchlocks.core.errors import LockfileError, MissingFileError, VerificationError
from torchlocks.core.progress import Progress, Task
from torchlocks.core.systems import here
from torchlocks.core.text import last_lines
from torchlocks.install.activate import python_of
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.target import Target
from torchlocks.verify.report import write_reports
from torchlocks.verify.seal import sealed_environment
from torchlocks.verify.verdict import Accelerator, Check, Host, Verdict

_POLL_SECONDS = 0.05

#: Seconds for the suite to end its own processes before it is killed.
_GRACE_SECONDS = 10.0

#: The exit codes of torch-verify with a report, and that of a refused request.
_REPORTED, _REFUSED = (0, 1), 2


@dataclass(frozen=True, kw_only=True)
class Required:
    """What the suite requires of an environment, besides the packages of its lock.

    `architectures` are the compute capabilities ("9.0") with machine code according to the environment's row of the
    matrix, `ptx` the one that newer GPUs compile from, `driver_floor` the oldest driver; empty without a row.
    """

    env: str
    accelerator: Accelerator
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    ptx: str | None = None
    driver_floor: str | None = None

    @classmethod
    def of(cls, target: Target) -> Required:
        """Return what a row of the matrix requires."""
        return cls(
            env=target.env,
            accelerator=target.accelerator,
            cuda=target.cuda,
            architectures=tuple(target.torch_architectures),
            ptx=target.ptx,
            driver_floor=target.driver_floor,
        )


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """How to run the suite in the folder `suite`; reports are written into `reports`.

    `select` is a pytest -k expression; `quick` runs the suite's short set of checks; `tiers` names the tiers to run
    (default: all). `differs` describes how the lock differs from the committed one, `client` is the program that
    installed the environment.
    """

    suite: Path
    reports: Path
    select: str | None = None
    quick: bool = False
    tiers: tuple[str, ...] = ()
    differs: str | None = None
    client: str = "torchlocks"


def verify_environment(
    prefix: Path, lock: Lock, platform: str, required: Required, options: SuiteOptions, progress: Progress
) -> Verdict:
    """Run the suite inside the environment at `prefix`, and write `<env>.json` and `.xml` into the folder of reports.

    The environment was installed from `lock` for `platform`. Returns the verdict, also of a failure (see `ok`). Raises
    MissingFileError if there is no environment or no suite, LockfileError if the lock is not of a torch environment of
    that platform, VerificationError if the options' `tiers` or `select` is not valid.
    """
    python = python_of(prefix)
    suite = options.suite
    if not (suite / "conftest.py").is_file():
        raise MissingFileError("The verification suite is not here.", where=str(suite), fix="use a complete checkout")
    about = {
        "lock_path": os.fspath(lock.path),
        "lock_sha256": lock.sha256,
        "channels": tuple(dict.fromkeys(package.channel for package in lock.packages.get(platform, ()))),
    }
    expected = {**_expectation(prefix, lock, platform, required), **about}
    with tempfile.TemporaryDirectory(prefix="torchlocks-verify-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        (work / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
        command = [
            *(os.fspath(python), "-I", os.fspath(suite.resolve() / "torchsuite" / "__main__.py")),
            *("--expectation", os.fspath(work / "expected.json"), "--report", os.fspath(work / "report.json")),
            *("--events", os.fspath(work / "events.jsonl"), *(("-k", options.select) if options.select else ())),
            *(("--quick",) if options.quick else ()),
            *(part for tier in options.tiers for part in ("--tier", tier)),
        ]
        began = datetime.now(timezone.utc)
        with progress.task(f"Verifying {required.env}") as task:
            status = _run(command, sealed_environment(prefix, os.environ, work), work, task)
        if status in _REPORTED:
            verdict = _read(work / "report.json", prefix, options.differs).model_copy(update={"client": options.client})
        elif status == _REFUSED:
            raise _refusal(work / "suite.log")
        else:
            verdict = Verdict.model_validate(
                {
                    **{name: expected[name] for name in ("env", "platform", "accelerator", "cuda")},
                    **about,
                    **_no_report(status, work / "suite.log"),
                    "prefix": os.fspath(prefix),
                    "select": options.select,
                    "quick": options.quick,
                    "differs": options.differs,
                    "client": options.client,
                    "started_at": began,
                    "duration_s": round((datetime.now(timezone.utc) - began).total_seconds(), 3),
                }
            )
    write_reports(verdict, options.reports)
    return verdict


def _read(report: Path, prefix: Path, differs: str | None) -> Verdict:
    """Read the suite's report as a verdict. Raises VerificationError if it is not valid."""
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        added = {"torchlocks": __version__, "prefix": os.fspath(prefix), "differs": differs}
        return Verdict.model_validate({**content, **added})
    except (OSError, ValueError, ValidationError) as error:
        raise VerificationError(
            "The suite's report cannot be read.",
            where=str(report),
            fix="use the tests/torch of this torchlocks.",
            details=str(error),
        ) from None


def _refusal(log: Path) -> VerificationError:
    """Return the error for a request that torch-verify refused, with its message from the log."""
    lines = _tail(log).splitlines()
    last = next((line for line in reversed(lines) if line.startswith("torch-verify: ")), "torch-verify: no message")
    message = last.removeprefix("torch-verify: ").removeprefix("error: ")
    return VerificationError(
        f"The suite refused the request: {message}.",
        fix="name tiers as docs/verification.md lists them, and checks as for pytest -k: 'matmul and not bf16'.",
        details=_tail(log),
    )


def _no_report(status: int, log: Path) -> dict[str, object]:
    """Return the fields of a verdict for a run without a report: one failure that describes how it ended."""
    last = [line.strip() for line in _tail(log).splitlines() if line.strip()][-1:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
    why = f"the suite {how}{': ' + last[0] if last else ''}"
    check = Check(
        id="the suite itself",
        tier="static",
        reason="the suite runs to its end",
        outcome="failed",
        why=why,
        error=_tail(log) or None,
    )
    return {
        "tiers_selected": (),
        "host": Host.unknown(),
        "facts": {},
        "tiers": (),
        "checks": (check,),
        "ok": False,
        "complete": False,
        "state": "failed",
        "headline": f"FAILED: {check.id}: {why}",
    }


def _expectation(prefix: Path, lock: Lock, platform: str, required: Required) -> dict[str, object]:
    """Return the suite's input: the fields of its own `Expectation`."""
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
        **asdict(required),
        "platform": platform,
        "prefix": os.fspath(prefix.absolute()),
        "packages": [
            {"name": package.name, "version": package.version, "build": package.build} for package in packages
        ],
    }


def _run(command: list[str], environment: dict[str, str], work: Path, task: Task) -> int:
    """Run torch-verify, show its progress, and return its exit code. Leaves no process if it raises."""
    events, plan = work / "events.jsonl", _Plan(task)
    events.touch()
    with (work / "suite.log").open("wb") as log, events.open(encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            lines = _lines(stream)
            while True:
                over = process.poll() is not None
                for line in lines:
                    if line is None:
                        break
                    plan.add(json.loads(line))
                if over:
                    return process.returncode
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)


class _Plan:
    """Shows the suite's events as progress."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._planned: set[str] = set()
        self._finished: set[str] = set()

    def add(self, event: dict[str, object]) -> None:
        if event["event"] == "planned" and isinstance(checks := event["checks"], list) and checks:
            self._planned.update(check["id"] for check in checks)
            self._task.total(len(self._planned | self._finished))
        elif event["event"] == "finished" and (check := str(event["id"])) not in self._finished:
            self._finished.add(check)
            self._task.advance(1, note=check)


def _lines(stream: TextIO) -> Iterator[str | None]:
    """Yield the complete lines of a growing file; None while there is no further one."""
    rest = ""
    while True:
        *lines, rest = (rest + stream.read()).split("\n")
        yield from lines
        yield None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the suite to end its processes and itself; kill it if it does not."""
    if process.poll() is None and here.UNIX:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    process.kill()
    process.wait()


def _tail(log: Path) -> str:
    return last_lines(log.read_text(encoding="utf-8", errors="replace"), 60)
