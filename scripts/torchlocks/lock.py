"""Rendered environments to lockfiles, through conda-lock.

Each environment on each platform is one cell: conda-lock solves it with the solver that is named, and
the cells of an environment become one `conda-lock.yml`, one explicit file a platform and one `pixi.lock`.
Cells are solved in parallel. The files depend on template, matrix and channel records alone: no time, no
path and no name of the machine is in them.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchlocks import __version__
from torchlocks.errors import LockfileError, MissingFileError, SolveError, TorchlocksError
from torchlocks.files import write_whole
from torchlocks.layout import Layout
from torchlocks.lockfile import (
    CONDA_LOCK,
    PIXI,
    explicit_name,
    parse_lock,
    read_lock,
    select_records,
    write_explicit,
    write_pixi,
)
from torchlocks.matrix import Target
from torchlocks.models import Lock
from torchlocks.progress import Progress
from torchlocks.render import render
from torchlocks.repodata import RecordSource, records_by_url

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency
    from conda_lock.models.lock_spec import LockSpecification
    from conda_lock.virtual_package import FakeRepoData
    from rattler import RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The conda executable that conda-lock drives. `own` is the one that comes with torchlocks."""

    executable: Path
    own: bool

    @property
    def name(self) -> str:
        """What a lock's metadata says of it."""
        if self.own:
            return f"torchlocks-conda {__version__} (py-rattler {version('py-rattler')})"
        answer = subprocess.run([str(self.executable), "--version"], capture_output=True, text=True, check=False)
        return f"{self.executable.name} {answer.stdout.strip().removeprefix('conda ')}"


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """How to lock. With `move`, packages stay as the environment's pixi.lock has them, but for those named."""

    source: RecordSource
    solver: Solver
    move: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A solved target: conda-lock's packages for one platform, and the hash of what was asked."""

    target: Target
    packages: tuple[LockedDependency, ...]
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class LockResult:
    """What locking an environment did. `changed` names the files whose bytes are new."""

    env: str
    folder: Path
    platforms: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LockFailure:
    """A cell that has no lock, and why."""

    target: Target
    error: TorchlocksError


def find_solver(named: str | None = None) -> Solver:
    """The solver to use: `named` (a path or a command), else torchlocks' own.

    Raises MissingFileError when the named one is not there; conda-lock itself would silently download
    another.
    """
    import shutil

    if named:
        found = shutil.which(named)
        if found is None:
            raise MissingFileError(
                f"The conda executable {named!r} is not there, or cannot be run.",
                where="CONDA_EXE",
                fix="name a conda, mamba or micromamba, or leave CONDA_EXE unset to use torchlocks' own solver",
            )
        return Solver(executable=Path(found).absolute(), own=Path(found).stem == "torchlocks-conda")
    name = "torchlocks-conda.exe" if os.name == "nt" else "torchlocks-conda"
    # Beside the interpreter in a virtual environment; `pip install --user` and Windows have other folders.
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    folders = [Path(sys.executable).parent, *(Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes)]
    own = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if own is None:
        raise MissingFileError(
            "torchlocks is not completely installed: its solver is missing.",
            where=f"no {name} in {' or '.join(map(str, dict.fromkeys(folders)))}",
            fix="in a checkout, remove .venv and run make again; elsewhere, install torchlocks again with pip",
        )
    return Solver(executable=own, own=True)


def expected_content_hash(target: Target, rendered: str) -> str:
    """The content hash that conda-lock gives the rendered environment: what a current lock must carry."""
    return content_hash(rendered, target.platform, target.virtual_packages)


def content_hash(rendered: str, platform: str, virtual_packages: Mapping[str, str]) -> str:
    """conda-lock's content hash of an environment file on a platform, with its virtual packages (name → version)."""
    from conda_lock.content_hash import compute_content_hashes

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        spec, repo = _specification(rendered, platform, virtual_packages, Path(scratch))
        with repo:
            return str(compute_content_hashes(spec, repo)[platform])


def lock_environments(
    layout: Layout, targets: Sequence[Target], folder: Path, options: LockOptions, progress: Progress
) -> tuple[list[LockResult], list[LockFailure]]:
    """Lock `targets` in parallel and write them to `folder/<env>/`.

    An environment is written when all its targets were solved, and left as it was otherwise. Platforms
    of an environment that are not among the targets keep what its lock has for them.
    """
    jobs = [
        (
            target,
            render(layout.root / target.template, target),
            None if options.move is None else folder / target.env / PIXI,
        )
        for target in targets
    ]
    if not options.solver.own and (options.source.snapshot or options.source.as_of or options.move is not None):
        raise SolveError(
            "SNAPSHOT=, AS_OF= and update need torchlocks' own solver.",
            where=f"CONDA_EXE={options.solver.executable}",
            fix="unset CONDA_EXE",
        )
    cells: dict[str, list[Cell]] = {}
    failures: list[LockFailure] = []
    with progress.task("Solving", total=len(jobs)) as task:
        for target, outcome in _solve_all(jobs, options):
            if isinstance(outcome, TorchlocksError):
                failures.append(LockFailure(target=target, error=outcome))
            else:
                cells.setdefault(target.env, []).append(outcome)
            task.advance(1, note=f"{target.env} {target.platform}")
    failed = {failure.target.env for failure in failures}
    results = []
    for env in dict.fromkeys(target.env for target in targets):
        if env not in failed:
            order = [target.platform for target in targets if target.env == env]
            mine = sorted(cells[env], key=lambda cell: order.index(cell.target.platform))
            results.append(_write_environment(folder / env, mine, options))
    return results, failures


def targets_with(targets: Sequence[Target], folder: Path, packages: Sequence[str]) -> list[Target]:
    """Those of `targets` whose locks in `folder` hold one of `packages`.

    Raises LockfileError for a package that none of them holds, so that a typo is not taken for success.
    """
    held: dict[str, set[tuple[str, str]]] = {}
    for env in dict.fromkeys(target.env for target in targets):
        if (folder / env / PIXI).is_file():
            for platform, locked in read_lock(folder / env / PIXI).packages.items():
                for package in locked:
                    held.setdefault(package.name, set()).add((env, platform))
    for name in packages:
        if not any((target.env, target.platform) in held.get(name, ()) for target in targets):
            near = difflib.get_close_matches(name, held, n=3)
            raise LockfileError(
                f"No lock holds a package called {name!r}.",
                where=str(folder),
                fix=f"did you mean {' or '.join(near)}?" if near else "see `torchlocks why`, or the locks, for names",
            )
    wanted = {place for name in packages for place in held[name]}
    return [target for target in targets if (target.env, target.platform) in wanted]


def _solve_all(
    jobs: Sequence[tuple[Target, str, Path | None]], options: LockOptions
) -> Iterable[tuple[Target, Cell | TorchlocksError]]:
    if len(jobs) == 1:
        # A pool costs a second import of conda-lock, and buys nothing for one cell.
        yield jobs[0][0], _attempt(*jobs[0], options)
        return
    with ProcessPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1)) as pool:
        running: dict[Future[Cell | TorchlocksError], Target] = {
            pool.submit(_attempt, *job, options): job[0] for job in jobs
        }
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(target: Target, rendered: str, keep: Path | None, options: LockOptions) -> Cell | TorchlocksError:
    """Solve one cell; an expected failure is a result, so that the other cells go on."""
    try:
        return _solve_cell(target, rendered, keep, options)
    except TorchlocksError as error:
        return error


def _specification(
    rendered: str, platform: str, virtual_packages: Mapping[str, str], scratch: Path
) -> tuple[LockSpecification, FakeRepoData]:
    """conda-lock's reading of a rendered environment, with its virtual packages spelled out.

    conda-lock's own default says `__cuda 11.4` for every platform, which is how CUDA gets into CPU locks;
    so every platform says what it has, and a CPU environment has no `__cuda` at all.
    """
    import yaml
    from conda_lock.lookup import DEFAULT_MAPPING_URL
    from conda_lock.src_parser import make_lock_spec
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    environment = scratch / "environment.yml"
    environment.write_text(rendered, encoding="utf-8")
    virtual = scratch / "virtual-packages.yml"
    virtual.write_text(yaml.safe_dump({"subdirs": {platform: {"packages": dict(virtual_packages)}}}))
    spec = make_lock_spec(src_files=[environment], platform_overrides=[platform], mapping_url=DEFAULT_MAPPING_URL)
    return spec, virtual_package_repo_from_specification(virtual)


def _solve_cell(target: Target, rendered: str, keep: Path | None, options: LockOptions) -> Cell:
    from conda_lock.conda_lock import create_lockfile_from_spec
    from conda_lock.lookup import DEFAULT_MAPPING_URL

    from torchlocks.solver import KEEP, MOVE

    handed_down = {
        **options.source.environment(),
        KEEP: str(keep) if keep else "",
        MOVE: " ".join(options.move or ()),
        # The user's own CONDA_FLAGS would change what is solved, and the lock would not say so.
        "CONDA_FLAGS": "",
    }
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch, _environment_variables(handed_down):
        spec, repo = _specification(rendered, target.platform, target.virtual_packages, Path(scratch))
        chatter = io.StringIO()
        with repo, contextlib.redirect_stderr(chatter), contextlib.redirect_stdout(chatter):
            try:
                content = create_lockfile_from_spec(
                    conda=options.solver.executable,
                    spec=spec,
                    platforms=[target.platform],
                    lockfile_path=Path(scratch) / CONDA_LOCK,
                    virtual_package_repo=repo,
                    mapping_url=DEFAULT_MAPPING_URL,
                )
            except subprocess.CalledProcessError as error:
                raise _solver_said(target, error) from error
    return Cell(
        target=target,
        packages=tuple(content.package),
        content_hash=content.metadata.content_hash[target.platform],
    )


def _solver_said(target: Target, error: subprocess.CalledProcessError) -> TorchlocksError:
    """The solver's own message, out of the JSON that it answers with."""
    import torchlocks.errors

    where = f"{target.env} on {target.platform}"
    try:
        answer: dict[str, Any] = json.loads(error.stdout)
    except (TypeError, ValueError):
        said = "\n".join((str(error.stdout or "") + str(error.stderr or "")).strip().splitlines()[-20:])
        return SolveError("The solver failed without a reason.", where=where, details=said)
    kind = getattr(torchlocks.errors, str(answer.get("exception_name")), SolveError)
    if not (isinstance(kind, type) and issubclass(kind, TorchlocksError)):
        kind = SolveError
    what = str(answer.get("error") or answer.get("message") or "The solver found no solution.")
    inner = answer.get("where")
    return kind(
        what,
        where=f"{where}: {inner}" if inner else where,
        fix=answer.get("fix"),
        details=answer.get("details"),
    )


@contextlib.contextmanager
def _environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _write_environment(folder: Path, cells: Sequence[Cell], options: LockOptions) -> LockResult:
    """Write the three formats of one environment; a file is replaced whole, and only when it changes."""
    files = _formats(folder, cells, options)
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)
            changed.append(name)
    for stale in folder.glob("conda-*.lock"):
        if stale.name not in files:
            stale.unlink()
            changed.append(stale.name)
    return LockResult(
        env=folder.name,
        folder=folder,
        platforms=tuple(cell.target.platform for cell in cells),
        changed=tuple(changed),
    )


def _formats(folder: Path, cells: Sequence[Cell], options: LockOptions) -> dict[str, str]:
    """The texts of all files of one environment, by name."""
    import conda_lock.lockfile as conda_lock_files
    from conda_lock.lockfile.v1.models import LockMeta
    from conda_lock.lockfile.v2prelim.models import Lockfile
    from conda_lock.models.channel import Channel

    first = cells[0].target
    solved = {cell.target.platform: cell for cell in cells}
    metadata = _common_metadata(options)
    packages = [package for cell in cells for package in cell.packages]
    hashes = {platform: cell.content_hash for platform, cell in solved.items()}
    for cell in cells:
        metadata.update(_platform_metadata(cell.target, options))
    kept_records: dict[str, list[RepoDataRecord]] = {}
    if (folder / CONDA_LOCK).is_file():
        kept = conda_lock_files.parse_conda_lock_file(folder / CONDA_LOCK)
        others = [p for p in kept.metadata.platforms if p not in solved and p in first.row_platforms]
        packages += [package for package in kept.package if package.platform in others]
        hashes.update({platform: kept.metadata.content_hash[platform] for platform in others})
        suffixes = tuple(f" {platform}" for platform in others)
        old = kept.metadata.custom_metadata or {}
        metadata.update({key: value for key, value in old.items() if suffixes and key.endswith(suffixes)})
        if others:
            kept_records = _pixi_records(folder / PIXI, others)
    platforms = sorted(hashes)
    content = Lockfile(
        package=packages,
        metadata=LockMeta(
            content_hash={platform: hashes[platform] for platform in platforms},
            channels=[Channel.from_string(channel) for channel in first.channels],
            platforms=platforms,
            sources=[f"../../{first.template}"],
            custom_metadata=dict(sorted(metadata.items())),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        conda_lock_files.write_conda_lock_file(content, path, metadata_choices=None, include_help_text=False)
        body = path.read_text(encoding="utf-8")
    text = _HEADER.format(env=first.env, file=CONDA_LOCK) + body
    lock = parse_lock(text.encode(), folder / CONDA_LOCK)
    records = _records(lock, solved, kept_records, options)
    records = {platform: records[platform] for platform in platforms}
    files = {CONDA_LOCK: text}
    virtual = {platform: metadata[f"virtual-packages {platform}"].split() for platform in platforms}
    files[PIXI] = write_pixi(records, first.channels, virtual)
    for platform in platforms:
        files[explicit_name(platform)] = write_explicit(lock, platform)
    return files


_HEADER = """\
# The lock of the environment {env}: every package, by URL and hash. Written by torchlocks with conda-lock;
# do not edit it, change environment-*.yml or matrix.yml and run `make lock`.
#
# Install it with torchlocks (`torchlocks install {file} PREFIX`) or with conda-lock
# (`conda-lock install -p PREFIX {file}`). conda, mamba and micromamba take the explicit file
# conda-PLATFORM.lock beside this one (`conda create -p PREFIX --file conda-PLATFORM.lock`); given this
# file, plain conda makes an empty environment without a word. pixi takes pixi.lock.
"""


def _common_metadata(options: LockOptions) -> dict[str, str]:
    return {
        "torchlocks": __version__,
        "conda-lock": version("conda-lock"),
        "solver": options.solver.name,
    }


def _platform_metadata(target: Target, options: LockOptions) -> dict[str, str]:
    """What a platform was locked from; its keys end with the platform, so that others can stay as they are."""
    virtual = " ".join(
        "=".join([name, *value.split(" ", 1)]) for name, value in sorted(target.virtual_packages.items())
    )
    return {
        f"virtual-packages {target.platform}": virtual,
        f"records {target.platform}": options.source.identity(target.channels, [target.platform, "noarch"]),
    }


def _pixi_records(path: Path, platforms: Sequence[str]) -> dict[str, list[RepoDataRecord]]:
    """The complete records that an older pixi.lock has for `platforms`."""
    from rattler import LockFile

    if not path.is_file():
        raise LockfileError(
            f"{path.name} is missing, and with it the records of {', '.join(platforms)}.",
            where=str(path),
            fix="lock all platforms of the environment (leave PLATFORM unset)",
        )
    environment = LockFile.from_path(path).default_environment()
    found = environment.conda_repodata_records() if environment else {}
    return {str(name): records for name, records in found.items() if str(name) in platforms}


def _records(
    lock: Lock, solved: Mapping[str, Cell], kept: Mapping[str, list[RepoDataRecord]], options: LockOptions
) -> dict[str, list[RepoDataRecord]]:
    """The channel's complete record of every package of `lock`, by platform."""
    pool = [record for records in kept.values() for record in records]
    for platform, cell in solved.items():
        wanted = {package.url: package.name for package in lock.packages[platform]}
        pool += records_by_url(options.source, cell.target.channels, platform, wanted).values()
    return select_records(lock, pool)
