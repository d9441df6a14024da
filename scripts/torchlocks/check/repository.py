"""Check the environments of the matrix: their folders, their locks, and CPU against CUDA.

No network and no solver: only locks, the matrix and the templates are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torchlocks.check.lock import check_lock, finding_of
from torchlocks.check.model import Expectation, Finding, Report, Skipped, Subject, expectation
from torchlocks.check.rules import (
    evidence,
    files,
    parity,
    recipes,
)
from torchlocks.check.rules.files import Folder, read_folder
from torchlocks.check.rules.parity import Pair
from torchlocks.core.errors import LockfileError
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.specs import spec_name
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

_MANY = 4
"""From how many environments on they are checked in parallel."""

PRELOAD = ("torchlocks.check.repository", "torchlocks.locking.environments", "conda_lock.conda_lock")
"""What all worker processes import, once."""

ContentHash = Callable[[Target, str], str]
"""From a target and its rendered environment file to the content hash of a current lock."""


def check_environment(
    folder: Path, rows: Mapping[str, Expectation], *, shown: str | None = None
) -> tuple[Report, dict[str, Subject]]:
    """Check the folder of one environment against its rows (by platform).

    Returns the report and the subjects by platform, for rules across environments. `shown` is the folder's name in
    findings.
    """
    env = next((row.env for row in rows.values()), folder.name)
    base = shown or str(folder)
    held = read_folder(folder, env, rows)
    report = Report(
        findings=tuple(
            finding_of(rule.id, problem, base, env, None) for rule in files.RULES for problem in rule.look(held)
        ),
        skipped=_without_hash(rows, base),
        locks=0 if held.conda_lock else 1,
        rules=tuple(rule.id for rule in files.RULES),
    )
    complete = _complete(held)
    subjects: dict[str, Subject] = {}
    for platform, row in rows.items():
        if complete is not None and complete.packages.get(platform):
            report += check_lock(complete, row, shown=f"{base}/{CONDA_LOCK}")
            subjects[platform] = Subject(
                lock=complete, platform=platform, packages=complete.packages[platform], row=row
            )
    return report, subjects


def check_repository(
    layout: Layout,
    matrix: Matrix,
    envs: Sequence[str] | None = None,
    content_hash: ContentHash | None = None,
) -> Report:
    """Check the locks of the matrix's environments, or of those named.

    `content_hash` decides whether locks are current (default: conda-lock's own, through the lock stage). Raises
    NoSuchRowError for a name that is not in the matrix, TemplateError for a template that cannot be rendered.
    """
    names = list(envs or matrix.environments)
    tasks = [_task(layout, matrix, name) for name in names]
    report = Report()
    subjects: dict[tuple[str, str], Subject] = {}
    for task, (found, seen) in zip(tasks, _check_all(tasks, content_hash), strict=True):
        report += found
        subjects.update({(task.env, platform): subject for platform, subject in seen.items()})
    # A GPU environment that is checked alone is compared with its CPU counterpart all the same.
    counterparts = {_counterpart(matrix, *cell)[0] for cell in subjects}
    for name in sorted(each for each in counterparts if each is not None and each not in names):
        other = _task(layout, matrix, name)
        _, seen = check_environment(other.folder, _rows(other, None))
        subjects.update({(name, platform): subject for platform, subject in seen.items()})
    if not envs:
        report += recipes.check_recipes(layout, matrix)
        report += evidence.check_evidence(layout)
    return report + _unknown_folders(layout, matrix) + _parity(matrix, subjects)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One environment to check, as values that can be sent to another process."""

    env: str
    folder: Path
    root: Path
    targets: tuple[Target, ...]


def _task(layout: Layout, matrix: Matrix, env: str) -> _Task:
    return _Task(env=env, folder=layout.locks / env, root=layout.root, targets=matrix.select(env, None))


def _check_all(tasks: Sequence[_Task], content_hash: ContentHash | None) -> Iterator[tuple[Report, dict[str, Subject]]]:
    """Check environments, many of them in parallel, and return the results in their order.

    For a few, a pool costs more than it saves: it begins with an import of conda-lock.
    """
    if content_hash is not None or len(tasks) < _MANY:
        for task in tasks:
            yield _check_one(task, content_hash)
        return
    from torchlocks.core.workers import processes

    with processes(len(tasks), preload=PRELOAD) as pool:
        yield from pool.map(_check_one, tasks)


def _check_one(task: _Task, content_hash: ContentHash | None = None) -> tuple[Report, dict[str, Subject]]:
    if content_hash is None:
        from torchlocks.locking.environments import expected_content_hash

        content_hash = expected_content_hash
    return check_environment(task.folder, _rows(task, content_hash), shown=f"locks/{task.env}")


def rows_of(layout: Layout, matrix: Matrix, env: str) -> dict[str, Expectation]:
    """Return what each platform of an environment of the matrix should be, including the hash of its inputs.

    Raises NoSuchRowError, and TemplateError if its template cannot be rendered.
    """
    from torchlocks.locking.environments import expected_content_hash

    return _rows(_task(layout, matrix, env), expected_content_hash)


def _rows(task: _Task, content_hash: ContentHash | None) -> dict[str, Expectation]:
    """Return what each platform of an environment should be."""
    from torchlocks.matrix.render import render

    rows: dict[str, Expectation] = {}
    for target in task.targets:
        rendered = render(task.root / target.template, target)
        rows[target.platform] = expectation(target, rendered, content_hash(target, rendered) if content_hash else None)
    return rows


def _complete(folder: Folder) -> Lock | None:
    """Return the conda-lock file with the fields that only pixi.lock has, and both of two specs of one name."""
    lock, pixi = folder.conda_lock, folder.locks.get(PIXI)
    if lock is None or pixi is None:
        return lock
    try:
        return replace(merge(lock, pixi), virtual_packages=lock.virtual_packages or pixi.virtual_packages)
    except LockfileError:
        # They disagree on a hash; `formats-differ` reports it.
        return lock


def _without_hash(rows: Mapping[str, Expectation], path: str) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(rule="stale", path=path, platform=platform, reason="the content hash of the inputs was not computed")
        for platform, row in rows.items()
        if row.content_hash is None
    )


def _unknown_folders(layout: Layout, matrix: Matrix) -> Report:
    folders = sorted(path.name for path in layout.locks.iterdir() if path.is_dir()) if layout.locks.is_dir() else []
    return Report(
        findings=tuple(
            Finding(
                rule="file-unknown",
                severity="error",
                path=f"locks/{name}",
                message=f"there is no environment {name} in matrix.yml",
                fix="remove the folder, or add the row.",
            )
            for name in folders
            if name not in matrix.environments
        )
    )


def _counterpart(matrix: Matrix, env: str, platform: str) -> tuple[str | None, bool]:
    """Return the CPU environment to compare a CUDA one with, and whether the two are a pair.

    A pair has the same Python, PyTorch and torchvision. The default of a row without a pair is compared with the CPU
    default of its platform; a variant without one has nothing to be compared with.
    """
    if matrix.environment(env).accelerator == "cpu":
        return None, False
    if (pair := matrix.cpu_pair(env, platform)) is not None:
        return pair, True
    if env in matrix.rows:
        for name, row in matrix.rows.items():
            if row.accelerator == "cpu" and platform in row.platforms:
                return name, False
    return None, False


def _parity(matrix: Matrix, subjects: Mapping[tuple[str, str], Subject]) -> Report:
    """Compare every GPU environment with its CPU counterpart."""
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for (name, platform), subject in subjects.items():
        if subject.row is None or subject.row.accelerator == "cpu":
            continue
        other, paired = _counterpart(matrix, name, platform)
        if other is None:
            continue
        cpu = subjects.get((other, platform))
        for rule in parity.RULES if paired else parity.UNPAIRED:
            if cpu is None:
                skipped.append(
                    Skipped(
                        rule=rule.id,
                        path=f"locks/{name}",
                        platform=platform,
                        reason=f"there is no lock of {other} to compare it with",
                    )
                )
                continue
            pair = Pair(
                cpu=cpu,
                gpu=subject,
                constraints=frozenset(spec_name(spec) for spec in matrix.environment(name).constraints),
                accelerator=matrix.parity.accelerator,
                variant=matrix.parity.variant,
            )
            path = f"locks/{name}/{CONDA_LOCK}"
            findings += [finding_of(rule.id, problem, path, name, platform) for problem in rule.look(pair)]
    return Report(findings=tuple(findings), skipped=tuple(skipped), rules=tuple(rule.id for rule in parity.RULES))
