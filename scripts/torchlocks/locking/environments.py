"""Rendered environments → lockfiles, through conda-lock.

Each environment on each platform is one cell: conda-lock solves it with the named solver, and the cells of an
environment become one `conda-lock.yml`, one explicit file for each platform and one `pixi.lock`. Workers solve cells
and make texts; only this process writes. The files depend on template, matrix and channel records alone: they contain
no time, no path and no name of the machine.
"""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from torchlocks.core.errors import LockfileError, SolveError, TorchlocksError
from torchlocks.core.files import write_changed
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.core.workers import IN_FLIGHT, Here, processes, temporary_files_in_scratch
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, read_lock
from torchlocks.locking.cell import Cell, CellTask, content_hash, solve_cell
from torchlocks.locking.files import FilesTask, lock_files
from torchlocks.locking.options import LockOptions, RecordTask
from torchlocks.locking.solve_cache import (
    CacheEntry,
    hashes,
    is_cacheable,
    made_from,
    read_entry,
    unchanged,
    write_entry,
)
from torchlocks.locking.texts import platform_metadata, tool_metadata
from torchlocks.matrix.render import render
from torchlocks.matrix.target import Target

_PRELOAD = ("torchlocks.locking.cell", "conda_lock.conda_lock", "rattler")

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class LockResult:
    """The result of locking an environment. `changed` names the files whose bytes changed."""

    env: str
    folder: Path
    platforms: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LockFailure:
    """A cell that could not be locked, and why."""

    target: Target
    error: TorchlocksError


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A requested environment: its targets and their rendered files, in the order of its platforms.

    `metadata` is what the lock records of how it is made; `made_from` hashes all of its inputs, by platform, or is
    empty if they cannot be known.
    """

    env: str
    folder: Path
    rendered: tuple[tuple[Target, str], ...]
    metadata: Mapping[str, str]
    made_from: Mapping[str, str]

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(target for target, _ in self.rendered)


def expected_content_hash(target: Target, rendered: str) -> str:
    """Return conda-lock's content hash of the rendered environment: that of a current lock."""
    return content_hash(rendered, target.platform, target.virtual_packages)


def lock_environments(
    layout: Layout, targets: Sequence[Target], folder: Path, options: LockOptions, progress: Progress
) -> tuple[list[LockResult], list[LockFailure]]:
    """Lock `targets` in parallel and write them to `folder/<env>/`.

    An environment is written when all its targets were solved, and left unchanged otherwise. Platforms of an
    environment that are not among the targets keep their lock. Results are in the order of the targets. Raises
    SolveError for options that the solver does not support, and FleetError if the workers of a named scheduler cannot
    be used.
    """
    source = options.source
    if not options.solver.own and (source.snapshot or source.as_of or source.mirror or options.move is not None):
        # A conda that is given a mirror writes the mirror's URLs into the lock.
        raise SolveError(
            "A snapshot, a day, a mirror, and update need torchlocks' own solver.",
            where=f"CONDA_EXE={options.solver.executable}",
            fix="leave CONDA_EXE unset",
        )
    wanted = _wanted(layout, targets, folder, options)
    results: dict[str, LockResult] = {}
    failures: list[LockFailure] = []
    to_do = []
    for each in wanted:
        if each.made_from and options.cache is not None:
            entry = read_entry(options.cache, each.env)
            if unchanged(entry, each.made_from, each.targets[0].row_platforms, each.folder):
                results[each.env] = _result(each, ())
                continue
        to_do.append(each)
    if to_do:
        done, failures = _lock(to_do, options, progress)
        results.update({result.env: result for result in done})
        order = [(target.env, target.platform) for target in targets]
        failures.sort(key=lambda failure: order.index((failure.target.env, failure.target.platform)))
    return [results[each.env] for each in wanted if each.env in results], failures


def targets_with(targets: Sequence[Target], folder: Path, packages: Sequence[str]) -> list[Target]:
    """Return those of `targets` whose locks in `folder` contain one of `packages`.

    Raises LockfileError for a package that none of them contains, since it is a typo.
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
                f"No lock contains a package called {name!r}.",
                where=str(folder),
                fix=f"did you mean {' or '.join(near)}?" if near else "see `torchlocks why`, or the locks, for names",
            )
    wanted = {place for name in packages for place in held[name]}
    return [target for target in targets if (target.env, target.platform) in wanted]


def _wanted(layout: Layout, targets: Sequence[Target], folder: Path, options: LockOptions) -> list[_Wanted]:
    tools = tool_metadata(options.solver.name)
    by_env: dict[str, list[Target]] = {}
    for target in targets:
        by_env.setdefault(target.env, []).append(target)
    found = []
    for env, platforms in by_env.items():
        rendered = tuple((target, render(layout.root / target.template, target)) for target in platforms)
        metadata, made = dict(tools), {}
        for target, text in rendered:
            records = options.source.identity(target.channels, [target.platform, "noarch"])
            mine = platform_metadata(target.platform, target.virtual_packages, records)
            metadata.update(mine)
            if is_cacheable(options):
                made[target.platform] = made_from(target, text, {**tools, **mine})
        found.append(_Wanted(env=env, folder=folder / env, rendered=rendered, metadata=metadata, made_from=made))
    return found


def _lock(
    wanted: Sequence[_Wanted], options: LockOptions, progress: Progress
) -> tuple[list[LockResult], list[LockFailure]]:
    """Solve all cells, and write an environment's files as soon as its last cell is solved."""
    by_env = {each.env: each for each in wanted}
    cells: dict[str, dict[str, Cell]] = {each.env: {} for each in wanted}
    results: list[LockResult] = []
    failures: list[LockFailure] = []
    tasks = _cell_tasks(wanted, options)
    solving: dict[Future[Cell | TorchlocksError], Target] = {}
    writing: dict[Future[dict[str, str] | TorchlocksError], _Wanted] = {}
    # Finished futures are queued here, instead of searching all pending ones each time.
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    with workers(tasks, options) as pool, progress.task("Solving", total=len(tasks)) as task:
        waiting = iter(tasks)
        # With more, no lock would be written before most cells are solved and in memory.
        for each in islice(waiting, IN_FLIGHT):
            solving[_submit(pool, done, solve_cell, each)] = each.target
        while solving or writing:
            future = done.get()
            if future in solving and (following := next(waiting, None)) is not None:
                solving[_submit(pool, done, solve_cell, following)] = following.target
            if future in writing:
                mine, files = writing.pop(future), future.result()
                if isinstance(files, TorchlocksError):
                    failures.append(LockFailure(target=mine.targets[0], error=files))
                else:
                    results.append(_write(mine, files, options))
                continue
            target, cell = solving.pop(future), future.result()
            task.advance(1, note=f"{target.env} {target.platform}")
            if isinstance(cell, TorchlocksError):
                failures.append(LockFailure(target=target, error=cell))
                continue
            mine = by_env[target.env]
            cells[target.env][target.platform] = cell
            if len(cells[target.env]) == len(mine.targets):
                solved = cells.pop(target.env)
                made = FilesTask(
                    cells=tuple(solved[each.platform] for each in mine.targets),
                    metadata=mine.metadata,
                    conda_lock=_text(mine.folder / CONDA_LOCK),
                    pixi=_text(mine.folder / PIXI),
                )
                writing[_submit(pool, done, lock_files, made)] = mine
    return results, failures


def _submit(
    pool: Executor, done: SimpleQueue[Future[Any]], function: Callable[[Task], Result], task: Task
) -> Future[Result]:
    future = pool.submit(function, task)
    future.add_done_callback(done.put)
    return future


def _cell_tasks(wanted: Sequence[_Wanted], options: LockOptions) -> list[CellTask]:
    run = uuid.uuid4().hex
    return [
        CellTask(
            run=run,
            target=target,
            rendered=rendered,
            source=options.source,
            solver=options.solver,
            keep=None if options.move is None else _text(each.folder / PIXI),
            move=options.move or (),
        )
        for each in wanted
        for target, rendered in each.rendered
    ]


@contextmanager
def workers(
    tasks: Sequence[RecordTask], options: LockOptions, *, preload: Sequence[str] = _PRELOAD
) -> Iterator[Executor]:
    """Yield an executor for tasks that solve: on the cluster of `options`, else in processes of this machine.

    `preload` are the modules that worker processes of this machine import once. Raises what a cluster raises.
    """
    if options.cluster is not None:
        with options.cluster(tasks) as cluster:
            yield cluster
    elif len(tasks) == 1:
        with temporary_files_in_scratch():
            yield Here()
    else:
        with processes(len(tasks), preload=preload) as pool:
            yield pool


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _write(wanted: _Wanted, files: Mapping[str, str], options: LockOptions) -> LockResult:
    """Write the three formats of one environment; a file is replaced whole, and only if it changes."""
    folder = wanted.folder
    before = hashes(folder)
    entry = read_entry(options.cache, wanted.env) if options.cache is not None else None
    changed = write_changed(folder, files)
    for stale in folder.glob("conda-*.lock"):
        if stale.name not in files:
            stale.unlink()
            changed.append(stale.name)
    if options.cache is not None and wanted.made_from:
        # Keep cache entries of other platforms if their files are unchanged.
        others = entry.made_from if entry is not None and entry.files == before else {}
        write_entry(
            options.cache, wanted.env, CacheEntry(made_from={**others, **wanted.made_from}, files=hashes(folder))
        )
    return _result(wanted, changed)


def _result(wanted: _Wanted, changed: Sequence[str]) -> LockResult:
    return LockResult(
        env=wanted.env,
        folder=wanted.folder,
        platforms=tuple(target.platform for target in wanted.targets),
        changed=tuple(changed),
    )
