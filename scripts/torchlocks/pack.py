"""One recipe in, one conda package out: built by py-rattler-build, then repacked so that its bytes are reproducible.

Runs as a process of its own, `python -m torchlocks.pack`: the engine writes to the terminal, keeps the interpreter
busy and starts build scripts; a process can be given a log for all of that, and can be killed with all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from torchlocks.errors import DiskFullError, RecipeError, TorchlocksError
from torchlocks.wheels import sha256_of

if TYPE_CHECKING:
    import tarfile

    from rattler_build import RenderedVariant
    from rattler_build.progress import ProgressCallback

COMPRESSION_LEVEL = 3
"""zstd: of the levels that keep a build short, the last whose gain in size is worth its time (recipes/README.md)."""

COMPRESSION_THREADS = 2
"""zstd's output is the same for any number of threads from 1 on."""

PLACEHOLDER = "/torchlocks/" + "_placehold" * 30
"""Cut to the length of the engine's own placeholder, which holds the folder of the build, and put in its place."""

NOT_KEPT = ("info/recipe/", "info/hash_input.json")
"""What the engine adds that describes the build and not the package: paths and times of this machine."""

LOG_TAIL_LINES = 30


class Job(BaseModel):
    """What to build. `newest` is the package's timestamp, in seconds since 1970; `forbidden` are machine paths."""

    model_config = ConfigDict(frozen=True)

    recipe: Path
    variant: dict[str, str]
    platform: str
    channel: str
    work: Path
    target: Path
    newest: int
    forbidden: tuple[str, ...]


class Built(BaseModel):
    """A finished package file in the job's target folder, below its subdir."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    build: str
    subdir: str
    file: str
    sha256: str
    size: int


class Failure(BaseModel):
    """An error, on its way from the process that builds to the one that asked."""

    model_config = ConfigDict(frozen=True)

    kind: str
    what: str
    where: str | None = None
    fix: str | None = None
    details: str | None = None

    def error(self) -> TorchlocksError:
        kinds: dict[str, type[TorchlocksError]] = {"DiskFullError": DiskFullError, "RecipeError": RecipeError}
        return kinds.get(self.kind, RecipeError)(self.what, where=self.where, fix=self.fix, details=self.details)


class Outcome(BaseModel):
    """What the process writes to `result.json` in its work folder."""

    model_config = ConfigDict(frozen=True)

    built: Built | None = None
    failure: Failure | None = None


def pack(job: Job, log: Path) -> Built:
    """Build `job.recipe` and leave the package in `job.target/<subdir>/`.

    `log` is the file that holds the build's output, for the error message. Raises RecipeError or DiskFullError.
    """
    package = _build(_render(job), job, log)
    try:
        return _repack(package, job)
    except OSError as error:
        raise _os_error(error, job, log) from error


def _render(job: Job) -> RenderedVariant:
    from rattler_build import PlatformConfig, RattlerBuildError, RenderConfig, Stage0Recipe, VariantConfig

    try:
        recipe = Stage0Recipe.from_file(job.recipe)
        config = RenderConfig(platform=PlatformConfig(target_platform=job.platform))
        variants = recipe.render(VariantConfig({key: [value] for key, value in job.variant.items()}), config)
    except RattlerBuildError as error:
        raise RecipeError(
            "The recipe is not valid.",
            where=str(job.recipe),
            fix="correct the recipe; nothing in the channel was changed.",
            details=str(error),
        ) from error
    if len(variants) != 1:
        raise RecipeError(f"The recipe makes {len(variants)} packages; it must make one.", where=str(job.recipe))
    return variants[0]


def _build(variant: RenderedVariant, job: Job, log: Path) -> Path:
    from rattler_build import RattlerBuildError, ToolConfiguration

    try:
        result = variant.run_build(
            tool_config=ToolConfiguration(test_strategy="skip", compression_threads=COMPRESSION_THREADS),
            output_dir=job.work / "out",
            channels=[job.channel],
            progress_callback=_printer(),
            no_build_id=True,
            no_include_recipe=True,
            # Unpacked again at once: the least compression that there is.
            package_format="conda:-7",
        )
    except (RattlerBuildError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) or _is_disk_full(f"{error}\n{log_tail(log)}"):
            raise _os_error(error, job, log) from error
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
    """Writes what the engine says, and when, to standard output, which is the log."""
    from rattler_build.progress import LogEvent, ProgressCallback

    begin = time.monotonic()

    class Printer(ProgressCallback):
        def on_log(self, event: LogEvent) -> None:
            print(f"{time.monotonic() - begin:7.2f} s  {event.message}", flush=True)

    return Printer()


def _repack(package: Path, job: Job) -> Built:
    """Unpack what the engine made and pack it again with nothing in it of this machine or this moment."""
    from conda_package_streaming.create import conda_builder  # type: ignore[import-untyped]
    from rattler.package_streaming import extract

    tree = job.work / "tree"
    extract(package, tree)
    package.unlink()
    host_prefix = _canonical_prefix(tree)
    index = json.loads((tree / "info" / "index.json").read_text(encoding="utf-8"))
    index["timestamp"] = job.newest * 1000
    _write_json(tree / "info" / "index.json", index)

    target = job.target / index["subdir"]
    target.mkdir(parents=True, exist_ok=True)
    forbidden = [text.encode() for text in (*job.forbidden, str(job.work), *([host_prefix] if host_prefix else []))]
    with conda_builder(
        package.stem,
        job.work,
        compression_level=COMPRESSION_LEVEL,
        compression_threads=COMPRESSION_THREADS,
    ) as archive:
        for path in sorted(tree.rglob("*")):
            name = path.relative_to(tree).as_posix()
            if (path.is_symlink() or path.is_file()) and not name.startswith(NOT_KEPT):
                _add(archive, path, name, job, forbidden)
    file = job.work / package.name
    built = Built(
        name=index["name"],
        version=index["version"],
        build=index["build"],
        subdir=index["subdir"],
        file=package.name,
        sha256=sha256_of(file),
        size=file.stat().st_size,
    )
    file.replace(target / package.name)
    return built


def _canonical_prefix(tree: Path) -> str | None:
    """Put one fixed placeholder in the place of the engine's, in the files and in `info/paths.json`.

    Returns the engine's placeholder, or None where no file has it. Both have the same length, so that binaries stay
    valid and an installer pads as it would have.
    """
    import hashlib

    document = tree / "info" / "paths.json"
    paths = json.loads(document.read_text(encoding="utf-8"))
    found: str | None = None
    for entry in paths["paths"]:
        if "prefix_placeholder" not in entry:
            continue
        found = str(entry["prefix_placeholder"])
        canonical = PLACEHOLDER[: len(found)]
        file = tree / entry["_path"]
        data = file.read_bytes().replace(found.encode(), canonical.encode())
        file.write_bytes(data)
        entry["prefix_placeholder"] = canonical
        entry["sha256"] = hashlib.sha256(data).hexdigest()
        entry["size_in_bytes"] = len(data)
    _write_json(document, paths)
    return found


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _add(archive: tarfile.TarFile, path: Path, name: str, job: Job, forbidden: list[bytes]) -> None:
    import io
    import tarfile

    member = tarfile.TarInfo(name)
    member.mtime = job.newest
    if path.is_symlink():
        member.type = tarfile.SYMTYPE
        member.linkname = str(path.readlink())
        archive.addfile(member)
        return
    data = path.read_bytes()
    for text in forbidden:
        if text in data:
            raise RecipeError(
                f"The package would hold a path of this machine: {text.decode()} in {name}.",
                where=str(job.recipe),
                fix="let the build script write $PREFIX or a relative path instead.",
            )
    member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _is_disk_full(text: str) -> bool:
    return "No space left on device" in text or "os error 28" in text or "Errno 28" in text


def _os_error(error: Exception, job: Job, log: Path) -> TorchlocksError:
    if _is_disk_full(f"{error}\n{log_tail(log)}"):
        return DiskFullError(
            f"The disk is full: {job.recipe.parent.name} could not be built.",
            where=str(job.work),
            fix="free some space and run the command again; finished packages are kept.",
        )
    return RecipeError(f"The build failed: {error}", where=str(job.recipe), details=log_tail(log))


def log_tail(log: Path) -> str:
    """The end of a build's log; empty where there is none."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])
    return ""


def package_timestamp(newest: datetime) -> int:
    """Seconds since 1970 of a time in UTC, and not before 1980, where zip archives begin."""
    return max(int(newest.timestamp()), int(datetime(1980, 1, 1, tzinfo=timezone.utc).timestamp()))


def _die_with_parent() -> None:
    """End this process and its build scripts when standard input ends: the parent holds the other end."""
    # Not sys.stdin: its lock would keep the interpreter from ending.
    while os.read(0, 4096):
        pass
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Read a Job as one line of JSON from standard input, write an Outcome to `<work>/result.json`."""
    with os.fdopen(0, "rb", closefd=False) as stream:
        job = Job.model_validate_json(stream.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log = Path(sys.argv[1])
    try:
        outcome = Outcome(built=pack(job, log))
    except TorchlocksError as error:
        outcome = Outcome(
            failure=Failure(
                kind=type(error).__name__, what=error.what, where=error.where, fix=error.fix, details=error.details
            )
        )
    (job.work / "result.json").write_text(outcome.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
