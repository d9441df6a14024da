"""Build the local channel, a conda channel from recipes, PyPI wheels and the running CPython.

For machines that reach PyPI and no conda channel. A recipe is a folder `recipes/local/<name>/` with a `recipe.yaml`
(conda-forge's format, version 1). One that names a PyPI project as `context.distribution` is built from that project's
wheel; its version is the wheel's pin in `wheels.txt` or `torch-….txt` beside the recipes. Tested on Linux.

There is one channel for the CPU and one for each CUDA version, since each has its own torch; common packages are built
once and hard-linked.

The channel is replaced atomically: packages are built in `<channel>.next`, which is kept between runs and renamed once
it is complete.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.disk import disk_full_as_error
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress, Task
from torchlocks.local_channel.channel import channel_lock, subdir_here, swap_channel, work_folder, write_repodata
from torchlocks.local_channel.jobs import Builders, job_of, wheel_size
from torchlocks.local_channel.recipes import CPU, Plan, Recipe, read_plan
from torchlocks.local_channel.space import announce
from torchlocks.local_channel.wheels import Wheel, fetch_wheels

if TYPE_CHECKING:
    from torchlocks.local_channel.manifest import Manifest, Record
    from torchlocks.local_channel.pack import Built, Job

NOTHING_LOST = "free some space and run the command again; finished packages are kept."


@dataclass(frozen=True, kw_only=True)
class LocalChannel:
    """A complete local channel.

    `url` is the channel's, without a subdir; `python` is the full version of its CPython; `versions` maps each
    package to its version; `rebuilt` names the packages that this run built.
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
    offline: bool = False,
    progress: Progress,
) -> LocalChannel:
    """Update the local channel: build missing, changed and damaged packages, and no others.

    `accelerator` is `cpu` or a CUDA version (`13.0`). `recipes` (default `<layout.recipes>/local`) and `channel`
    (default `local_channel(layout, accelerator)`) can be other folders. Wheels are kept in `<layout.build>/wheels` and
    logs in `<layout.build>/logs`. An existing channel stays until the new one is complete. Raises RecipeError,
    WheelError, FetchError or DiskFullError: the last before any download if the disk is too small for a CUDA build,
    together with the environment in the folder `installs_into`, if given. With `offline`, nothing is downloaded, and
    FetchError names the wheels that are missing.
    """
    recipes = recipes or layout.recipes / "local"
    channel = (channel or local_channel(layout, accelerator)).absolute()
    with disk_full_as_error(channel.parent, "the local channel could not be built", NOTHING_LOST):
        channel.parent.mkdir(parents=True, exist_ok=True)
        with channel_lock(channel, progress):
            return _bring_up_to_date(layout, recipes, channel, accelerator, installs_into, offline, progress)


def local_channel(layout: Layout, accelerator: str = CPU) -> Path:
    """Return the folder of the local channel for the CPU (`cpu`) or a CUDA version (`13.0`)."""
    suffix = "" if accelerator == CPU else f"-cu{accelerator.replace('.', '')}"
    return layout.channel.with_name(layout.channel.name + suffix)


def _bring_up_to_date(
    layout: Layout,
    folder: Path,
    channel: Path,
    accelerator: str,
    installs_into: Path | None,
    offline: bool,
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
    store = layout.build / "wheels"
    if offline:
        # All of them first, so that a failure comes before any build.
        fetch_wheels(pins, store, progress, offline=True)
    large = announce(layout, folder, accelerator, pins, installs_into, progress)
    logs = layout.build / "logs" / (channel.name if accelerator != CPU else "")
    logs.mkdir(parents=True, exist_ok=True)

    wheels: dict[str, Wheel] = {}

    def log_of(recipe: Recipe) -> Path:
        return logs / f"{recipe.name}.log"

    def jobs_of(recipes: Iterable[Recipe]) -> dict[Path, Job]:
        due = sorted(recipes, key=lambda recipe: -wheel_size(recipe, wheels))
        return {log_of(recipe): job_of(recipe, plan, wheels, following, work, logs) for recipe in due}

    def build(jobs: Mapping[Path, Job], task: Task) -> None:
        if jobs:
            write_repodata(following, records.values())
            builders.submit(jobs)
        for built in builders.results():
            records[built.name] = _record(built, plan)
            Manifest(packages=records).write(following)
            task.advance(1, built.name)

    with work_folder(channel) as work, Builders(work) as builders:
        write_repodata(following, records.values())
        # What needs no wheel is built while the wheels are on their way.
        begun = [recipe for recipe in missing if not recipe.distribution and not recipe.host]
        builders.submit(jobs_of(begun))
        small = [pin for pin in pins if pin.name not in large]
        wheels |= fetch_wheels(small, store, progress, offline=offline)
        waiting = jobs_of(recipe for recipe in missing if recipe not in begun and recipe.distribution not in large)
        # What is copied from a wheel needs no Python to be installed in.
        builders.submit({log: waiting.pop(log) for log in [log for log, job in waiting.items() if job.wheel]})
        for generation in plan.generations:
            due = {log: waiting.pop(log) for log in map(log_of, generation) if log in waiting}
            if builders.pending or due:
                with progress.task("Building the local channel", total=builders.pending + len(due)) as task:
                    build(due, task)
            # One by one, and each wheel removed once its package is there: a row has gigabytes of them.
            for recipe in generation:
                if recipe.name not in records and recipe.distribution and recipe.distribution in large:
                    pin = plan.pins[recipe.distribution]
                    wheels |= fetch_wheels([pin], store, progress, large=large, offline=offline)
                    with progress.task(f"Building {recipe.name}", total=1) as task:
                        build(jobs_of([recipe]), task)
                    wheels[pin.name].path.unlink(missing_ok=True)
    write_repodata(following, records.values())
    complete = Manifest(packages=dict(sorted(records.items())), repodata=repodata_hashes(following))
    complete.write(following)
    swap_channel(following, channel)
    return _result(channel, complete, rebuilt=tuple(recipe.name for recipe in missing))


def _prepare(following: Path, channel: Path, intact: Mapping[str, Record], plan: Plan) -> dict[str, Record]:
    """Fill `<channel>.next` with valid packages of the channel, of an interrupted run and of other channels."""
    from torchlocks.local_channel.manifest import FILE_NAME as MANIFEST
    from torchlocks.local_channel.manifest import Manifest, intact_records, package_files, read_manifest

    records = intact_records(read_manifest(following), following, plan.fingerprints)
    for subdir in ("noarch", subdir_here()):
        (following / subdir).mkdir(parents=True, exist_ok=True)
    wanted = {f"{record.subdir}/{record.file}" for record in records.values()}
    for stranger in package_files(following) - wanted:
        (following / stranger).unlink()
    for name, record in intact.items():
        if name not in records:
            _link(channel / record.subdir / record.file, following / record.subdir / record.file)
            records[name] = record
    # The channels for the CPU and other CUDA versions have many packages in common with this one.
    others = {path.parent for path in channel.parent.glob(f"channel*/{MANIFEST}")} - {channel, following}
    for other in sorted(others):
        wanting = {name: fingerprint for name, fingerprint in plan.fingerprints.items() if name not in records}
        for name, record in intact_records(read_manifest(other), other, wanting).items():
            # Another process may be replacing that channel; missing packages are built here.
            with contextlib.suppress(FileNotFoundError):
                _link(other / record.subdir / record.file, following / record.subdir / record.file)
                records[name] = record
    Manifest(packages=records).write(following)
    return records


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _record(built: Built, plan: Plan) -> Record:
    from torchlocks.local_channel.manifest import Record

    return Record(**built.model_dump(), fingerprint=plan.fingerprints[built.name])


def _result(channel: Path, manifest: Manifest, rebuilt: Iterable[str]) -> LocalChannel:
    return LocalChannel(
        url=channel.as_uri(),
        path=channel,
        subdir=subdir_here(),
        python=platform.python_version(),
        versions={name: record.version for name, record in sorted(manifest.packages.items())},
        rebuilt=tuple(rebuilt),
    )
