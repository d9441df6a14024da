"""Build conda packages from recipes with py-rattler-build, so that their bytes are reproducible.

Runs as a separate process, `python -m torchlocks.local_channel.pack`: the engine writes to the terminal, does not
release the GIL and starts build scripts; a process has its own log and can be killed with its children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue

from torchlocks.core.disk import disk_full, free_bytes, reports_disk_full
from torchlocks.core.errors import DiskFullError, RecipeError, TorchlocksError
from torchlocks.core.files import EARLIEST_TIME_S, hash_file_with
from torchlocks.core.text import last_lines

if TYPE_CHECKING:
    from rattler_build import RenderedVariant
    from rattler_build.progress import ProgressCallback

ENGINE_NAMES = {
    *("PYTHON", "PREFIX", "BUILD_PREFIX", "RECIPE_DIR", "SRC_DIR"),
    *("target_platform", "build_platform", "host_platform", "linux", "osx", "win", "unix"),
    *("compiler", "stdlib", "cdt", "pin_subpackage", "pin_compatible", "match", "hash", "env", "load_from_file"),
}
"""Names that rattler-build defines in every recipe (its documentation of Jinja functions and variables)."""

LONGEST_PREFIX = 240
"""conda's 255 minus the characters that distinguish a placeholder from a plain path."""


KEPT = "free some space and run the command again; finished packages are kept."
"""Advice for a full disk."""


class Job(BaseModel):
    """A package to build.

    `newest` is the package's timestamp, in seconds since 1970; `forbidden` are paths of this machine that it must not
    contain. Only a metapackage `may_be_empty`. If `wheel` is set, the package is that wheel's files (`plain.py`).
    """

    model_config = ConfigDict(frozen=True)

    recipe: Path
    variant: dict[str, str]
    platform: str
    channel: str
    work: Path
    target: Path
    newest: int
    forbidden: tuple[str, ...]
    may_be_empty: bool = False
    wheel: Path | None = None


class Batch(BaseModel):
    """Packages that one process builds, one after the other: the log of each, and the job."""

    model_config = ConfigDict(frozen=True)

    jobs: tuple[tuple[Path, Job], ...]


class Built(BaseModel):
    """A finished package file in the job's target folder, below its subdir; `index` is its info/index.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    build: str
    subdir: str
    file: str
    sha256: str
    md5: str
    size: int
    index: dict[str, JsonValue]


class Outcome(BaseModel):
    """The result of a job, a line of the process's standard output; `failure` is from `TorchlocksError.as_data`."""

    model_config = ConfigDict(frozen=True)

    built: Built | None = None
    failure: dict[str, str | None] | None = None


def pack(job: Job, log: Path) -> Built:
    """Build `job.recipe` and write the package to `job.target/<subdir>/`.

    `log` is the file with the build's output, for error messages. Raises RecipeError or DiskFullError.
    """
    _refuse_long_path(job)
    try:
        if job.wheel is not None:
            return _package_wheel(job, job.wheel, log)
        return _repack(_build(_render(job), job, log), job)
    except OSError as error:
        raise _os_error(error, job, log) from error


def _render(job: Job, document: dict[str, Any] | None = None) -> RenderedVariant:
    """Render the job's recipe, or the `document` that replaces its text."""
    from rattler_build import PlatformConfig, RattlerBuildError, RenderConfig, Stage0Recipe, VariantConfig

    try:
        if document is None:
            recipe = Stage0Recipe.from_file(job.recipe)
        else:
            recipe = Stage0Recipe.from_dict(document, recipe_dir=job.work)
        config = RenderConfig(platform=PlatformConfig(target_platform=job.platform))
        variants = recipe.render(VariantConfig({key: [value] for key, value in job.variant.items()}), config)
    except RattlerBuildError as error:
        raise RecipeError(
            "The recipe is not valid.",
            where=str(job.recipe),
            fix="correct the recipe; nothing in the channel was changed.",
            details=str(error),
        ) from error
    _refuse_undefined(job, set(recipe.context))
    if len(variants) != 1:
        raise RecipeError(f"The recipe makes {len(variants)} packages; it must make one.", where=str(job.recipe))
    return variants[0]


def _refuse_long_path(job: Job) -> None:
    """Raise RecipeError if the path of the host environment, which the engine pads, is too long."""
    prefix = job.work / "out" / "bld" / f"rattler-build_{job.recipe.parent.name}" / "host_env"
    if (excess := len(os.fsencode(prefix)) - LONGEST_PREFIX) > 0:
        raise RecipeError(
            f"The path of this folder is too long to build packages in, by {excess} characters.",
            where=str(job.target.parent),
            fix="move the checkout to a folder with a shorter path.",
        )


def _refuse_undefined(job: Job, context: set[str]) -> None:
    """Raise RecipeError for an undefined variable, which the engine would replace by nothing in a script."""
    import jinja2
    from jinja2 import meta

    environment = jinja2.Environment(variable_start_string="${{", variable_end_string="}}")
    known = ENGINE_NAMES | context | job.variant.keys()
    for number, line in enumerate(job.recipe.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            names = meta.find_undeclared_variables(environment.parse(line))
        except jinja2.TemplateSyntaxError:
            continue  # an expression over several lines, or one that only the engine can parse
        if undefined := sorted(names - known):
            raise RecipeError(
                f"The recipe uses {', '.join(undefined)}, which is not defined.",
                where=f"{job.recipe}:{number}",
                fix=f"define it under `context`, or use one of: {', '.join(sorted(job.variant))}.",
            )


def _build(variant: RenderedVariant, job: Job, log: Path) -> Path:
    from rattler_build import RattlerBuildError, ToolConfiguration

    try:
        result = variant.run_build(
            # The engine takes many seconds to remove a large build; the job's folder is removed as a whole instead.
            tool_config=ToolConfiguration(test_strategy="skip", keep_build=True, compression_threads=2),
            output_dir=job.work / "out",
            channels=[job.channel] if job.wheel is None else [],
            progress_callback=_printer(),
            no_build_id=True,
            no_include_recipe=True,
            # The lowest compression, since the package is unpacked again at once.
            package_format="conda:-7",
        )
    except (RattlerBuildError, OSError, RuntimeError) as error:
        if isinstance(error, OSError):
            raise _os_error(error, job, log) from error
        silent = "write to file" in str(error) and _has_little_room(job.work)
        if silent or reports_disk_full(f"{error}\n{log_tail(log)}"):
            raise _disk_full(job) from error
        raise RecipeError(
            f"The build of {job.recipe.parent.name} failed: {str(error).splitlines()[0]}",
            where=str(job.recipe),
            fix=f"read the log, {log}, and correct the recipe; nothing in the channel was changed.",
            details=log_tail(log),
        ) from error
    if len(result.packages) != 1:
        raise RecipeError(f"The recipe made {len(result.packages)} packages.", where=str(job.recipe))
    return result.packages[0]


def _printer() -> ProgressCallback:
    """Return a callback that writes the engine's messages with times to standard output, which is the log."""
    from rattler_build.progress import LogEvent, SimpleProgressCallback

    begin = time.monotonic()

    class Printer(SimpleProgressCallback):
        def on_log(self, event: LogEvent) -> None:
            with contextlib.suppress(OSError):  # a log on a full disk
                print(f"{time.monotonic() - begin:7.2f} s  {event.message}", flush=True)

    return Printer()


def _package_wheel(job: Job, wheel: Path, log: Path) -> Built:
    """Let the engine build the package's metadata alone, and add the files of the wheel."""
    import yaml

    from torchlocks.local_channel.wheel_package import package_wheel

    document = yaml.safe_load(job.recipe.read_text(encoding="utf-8"))
    del document["source"], document["requirements"]["host"]
    document["build"]["script"] = {"content": []}
    metadata = _build(_render(job, document), job, log)
    file = job.work / metadata.name
    index = package_wheel(metadata, wheel, file, job.newest)
    return _into_channel(file, index, job)


def _repack(package: Path, job: Job) -> Built:
    """Write the package to the target folder, without paths of this machine or the current time."""
    from torchlocks.local_channel.repack import repack

    file = job.work / package.name
    try:
        forbidden = [*job.forbidden, str(job.work)]
        index = repack(package, file, newest=job.newest, forbidden=forbidden, may_be_empty=job.may_be_empty)
    except RecipeError as error:
        raise RecipeError(error.what, where=str(job.recipe), fix=error.fix) from error
    return _into_channel(file, index, job)


def _into_channel(file: Path, index: dict[str, Any], job: Job) -> Built:
    """Move a finished package into the job's target folder."""
    sha256, md5 = hash_file_with(file, "sha256", "md5")
    built = Built(
        name=index["name"],
        version=index["version"],
        build=index["build"],
        subdir=index["subdir"],
        file=file.name,
        sha256=sha256,
        md5=md5,
        size=file.stat().st_size,
        index=index,
    )
    (job.target / built.subdir).mkdir(parents=True, exist_ok=True)
    file.replace(job.target / built.subdir / built.file)
    return built


def _has_little_room(work: Path) -> bool:
    """Return whether the disk has less free space than the engine needs to pack the files in `work`.

    It copies the files and writes an archive of them. If that fails it does not report the reason, and cleans up.
    """
    size = sum(path.lstat().st_size for path in work.rglob("*") if not path.is_dir())
    return free_bytes(work) < 2 * size


def _os_error(error: OSError, job: Job, log: Path) -> TorchlocksError:
    if reports_disk_full(f"{error}\n{log_tail(log)}"):
        return _disk_full(job)
    return RecipeError(f"The build failed: {error}", where=str(job.recipe), details=log_tail(log))


def _disk_full(job: Job) -> DiskFullError:
    return disk_full(job.work, f"{job.recipe.parent.name} could not be built", KEPT)


def log_tail(log: Path) -> str:
    """Return the end of a build's log; empty if there is none."""
    with contextlib.suppress(OSError):
        return last_lines(log.read_text(encoding="utf-8", errors="replace"))
    return ""


def package_timestamp(newest: datetime) -> int:
    """Return a time in UTC as seconds since 1970, but at least the earliest that an archive can express."""
    return max(int(newest.timestamp()), EARLIEST_TIME_S)


def _die_with_parent() -> None:
    """Kill this process and its build scripts when standard input, the parent's pipe, is closed."""
    # Not sys.stdin: its lock would keep the interpreter from ending.
    while os.read(0, 4096):
        pass
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Read a Batch as one line of JSON from standard input, write an Outcome for each job as a line to standard output.

    All other output goes to the log of the job. The first failure ends the batch.
    """
    with os.fdopen(0, "rb", closefd=False) as stream:
        batch = Batch.model_validate_json(stream.readline())
    answer = os.dup(1)  # not inherited by build scripts
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with os.fdopen(answer, "w", encoding="utf-8") as stdout:
        for log, job in batch.jobs:
            with log.open("ab") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            job.work.mkdir(parents=True)
            os.chdir(job.work)
            os.environ["TMPDIR"] = str(job.work)
            try:
                outcome = Outcome(built=pack(job, log))
            except TorchlocksError as error:
                outcome = Outcome(failure=error.as_data())
            stdout.write(outcome.model_dump_json() + "\n")
            stdout.flush()
            if outcome.failure:
                break


if __name__ == "__main__":
    main()
