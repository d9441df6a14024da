"""Check one environment of the matrix by itself: the files of its folder, and its locks against its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torchlocks.check.lock import check_lock, finding_of
from torchlocks.check.model import Expectation, Report, Skipped, Subject, expectation
from torchlocks.check.rules import files
from torchlocks.check.rules.files import Contents, Folder, read_folder
from torchlocks.check.rules.parity import Side, side_of
from torchlocks.core.errors import LockfileError
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.cells import Parity
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

ContentHash = Callable[[Target, str], str]
"""From a target and its rendered environment file to the content hash of a current lock."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What `check_task` reads, for a machine that does not have it: the rendered `targets`, and the folder."""

    rendered: tuple[str, ...]
    contents: Contents


@dataclass(frozen=True, kw_only=True)
class CheckTask:
    """One environment to check, as values that can be sent to another process.

    `root` has the templates, `declared` what may differ between CPU and CUDA. With `inputs`, no file is read.
    """

    env: str
    folder: Path
    root: Path
    targets: tuple[Target, ...]
    declared: Parity
    inputs: Inputs | None = None

    @property
    def shown(self) -> str:
        """The folder's name in findings."""
        return f"locks/{self.env}"

    def rendered(self) -> tuple[str, ...]:
        """Return the environment files of the targets. Raises TemplateError."""
        from torchlocks.matrix.render import render

        if self.inputs is not None:
            return self.inputs.rendered
        return tuple(render(self.root / target.template, target) for target in self.targets)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result for one environment: its report, and by platform what is compared with other environments."""

    report: Report
    sides: Mapping[str, Side]


def task_of(layout: Layout, matrix: Matrix, env: str) -> CheckTask:
    """Return the task for an environment of the matrix. Raises NoSuchRowError."""
    return CheckTask(
        env=env,
        folder=layout.locks / env,
        root=layout.root,
        targets=matrix.select(env, None),
        declared=matrix.parity,
    )


def check_task(task: CheckTask, content_hash: ContentHash | None = None) -> Checked:
    """Check one environment. `content_hash` decides whether its locks are current (default: conda-lock's own).

    Raises TemplateError for a template that cannot be rendered.
    """
    if content_hash is None:
        from torchlocks.locking.environments import expected_content_hash

        content_hash = expected_content_hash
    contents = task.inputs.contents if task.inputs is not None else None
    report, subjects = check_environment(task.folder, rows_of(task, content_hash), shown=task.shown, contents=contents)
    return Checked(report=report, sides=_sides(task, subjects))


def sides_of(task: CheckTask) -> Mapping[str, Side]:
    """Return what is compared of an environment with others, by platform, without checking it."""
    rows = rows_of(task, None)
    return _sides(task, _subjects(read_folder(task.folder, task.env, rows), rows))


def check_environment(
    folder: Path, rows: Mapping[str, Expectation], *, shown: str | None = None, contents: Contents | None = None
) -> tuple[Report, dict[str, Subject]]:
    """Check the folder of one environment against its rows (by platform).

    Returns the report and the subjects by platform, for rules across environments. `shown` is the folder's name in
    findings. With `contents`, the folder is not read.
    """
    env = next((row.env for row in rows.values()), folder.name)
    base = shown or str(folder)
    held = read_folder(folder, env, rows, contents)
    report = Report(
        findings=tuple(
            finding_of(rule.id, problem, base, env, None) for rule in files.RULES for problem in rule.look(held)
        ),
        skipped=_without_hash(rows, base),
        locks=0 if held.conda_lock else 1,
        rules=tuple(rule.id for rule in files.RULES),
    )
    subjects = _subjects(held, rows)
    for platform, subject in subjects.items():
        report += check_lock(subject.lock, rows[platform], shown=f"{base}/{CONDA_LOCK}")
    return report, subjects


def rows_of(task: CheckTask, content_hash: ContentHash | None) -> dict[str, Expectation]:
    """Return what each platform of an environment should be; without `content_hash`, not whether it is current.

    Raises TemplateError if its template cannot be rendered.
    """
    return {
        target.platform: expectation(target, rendered, content_hash(target, rendered) if content_hash else None)
        for target, rendered in zip(task.targets, task.rendered(), strict=True)
    }


def _sides(task: CheckTask, subjects: Mapping[str, Subject]) -> dict[str, Side]:
    return {platform: side_of(subject, task.declared) for platform, subject in subjects.items()}


def _subjects(held: Folder, rows: Mapping[str, Expectation]) -> dict[str, Subject]:
    lock = _complete(held)
    return {
        platform: Subject(lock=lock, platform=platform, packages=lock.packages[platform], row=row)
        for platform, row in rows.items()
        if lock is not None and lock.packages.get(platform)
    }


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
