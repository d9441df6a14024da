"""Apply every rule to the environments of the matrix, or to any lockfile.

No network and no solver: only locks, the matrix and the templates are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchlocks.check.model import Expectation, Finding, Problem, Report, Rule, Skipped, Subject, expectation
from torchlocks.check.rules import (
    evidence,
    extended,
    files,
    graph,
    hardware,
    known_pairs,
    packages,
    parity,
    recipes,
    torch,
)
from torchlocks.check.rules.files import Folder, read_folder
from torchlocks.check.rules.packages import RELOCK
from torchlocks.check.rules.parity import Pair
from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.extend.built import read_built
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, merge, read_environments, read_lock
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.specs import spec_name
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

LOCK_RULES: tuple[Rule, ...] = (*packages.RULES, *graph.RULES, *torch.RULES, *hardware.RULES, *known_pairs.RULES)

RELOCK_ELSEWHERE = "make the lock again, with the tool that made it."

_MANY = 4
"""From how many environments on they are checked in parallel."""

PRELOAD = ("torchlocks.check.repository", "torchlocks.locking.environments", "conda_lock.conda_lock")
"""What all worker processes import, once."""

ContentHash = Callable[[Target, str], str]
"""From a target and its rendered environment file to the content hash of a current lock."""


def rule_reasons() -> dict[str, str]:
    """Return the id of every rule with its reason, in the order in which they are applied."""
    everything: tuple[Any, ...] = (*files.RULES, *LOCK_RULES, *parity.RULES)
    by_rule = {each.id: each.reason for each in everything}
    return by_rule | {recipes.RULE: recipes.REASON} | evidence.REASONS | extended.REASONS


def check_lock(lock: Lock, row: Expectation | None = None, *, shown: str | None = None) -> Report:
    """Apply every applicable rule to a lock.

    With a `row`, only its platform is checked, and compared with it; without one, all platforms are, and rules that
    require a row are reported as skipped. `shown` is the path in findings.
    """
    path = shown or str(lock.path)
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    rules: list[str] = []
    platforms = [row.platform] if row else list(lock.platforms)
    for platform in platforms:
        subject = Subject(lock=lock, platform=platform, packages=lock.packages.get(platform, ()), row=row)
        for rule in LOCK_RULES:
            why_not = next((why for need in rule.needs if (why := subject.lacks(need))), None)
            if why_not:
                skipped.append(Skipped(rule=rule.id, path=path, reason=why_not, platform=platform))
                continue
            rules.append(rule.id)
            for problem in rule.look(subject):
                findings.append(_finding(rule.id, problem, path, row.env if row else None, platform))
    return Report(
        findings=tuple(findings),
        skipped=tuple(skipped),
        locks=1,
        packages=sum(len(lock.packages.get(platform, ())) for platform in platforms),
        rules=tuple(dict.fromkeys(rules)),
    )


def check_environments(locks: Sequence[Lock], *, shown: str | None = None) -> Report:
    """Check every environment of a pixi.lock, or the only one of another lock.

    A problem of several environments is one finding that names them; a rule is skipped only if it could be applied to
    none. A package is counted once, in however many environments it is.
    """
    if len(locks) == 1:
        return check_lock(locks[0], shown=shown)
    path = shown or str(locks[0].path)
    reports = {lock.environment: check_lock(lock, shown=shown) for lock in locks}
    found: dict[Finding, list[str]] = {}
    skipped: dict[Skipped, None] = {}
    applied = {rule for report in reports.values() for rule in report.rules}
    for name, report in reports.items():
        for finding in report.findings:
            names = found.setdefault(finding, [])
            if name not in names:
                names.append(name)
        skipped.update({skip: None for skip in report.skipped if skip.rule not in applied})
    order = list(dict.fromkeys(rule for report in reports.values() for rule in report.rules))
    packages = {(platform, each.url) for lock in locks for platform, held in lock.packages.items() for each in held}
    return Report(
        findings=tuple(replace(finding, environments=tuple(names)) for finding, names in found.items()),
        skipped=tuple(skipped),
        locks=1,
        packages=len(packages),
        rules=tuple(order),
        environments={path: tuple(reports)},
    )


def check_files_of(paths: Sequence[Path], environment: str | None = None, *, fetch_base: bool = False) -> Report:
    """Check any lockfiles; of a pixi.lock every environment, or the one that is named.

    A folder stands for its conda-lock.yml. A lock that was built on a base is also compared with it, over the network
    only with `fetch_base`. A file that is no lock is a finding, so that the others are still checked. Raises
    MissingFileError for a path that does not exist.
    """
    report = Report()
    for named in paths:
        path = named / CONDA_LOCK if named.is_dir() else named
        try:
            locks = read_environments(path) if environment is None else (read_lock(path, environment),)
            report += check_environments(locks)
            for lock in locks:
                report += extended.check_extended(lock, str(path), fetch_base=fetch_base)
        except LockfileError as error:
            report += Report(
                findings=(
                    Finding(rule="unreadable", severity="error", path=str(path), message=error.what, fix=error.fix),
                ),
                locks=1,
                rules=("unreadable",),
            )
    return report


def require_bases(report: Report) -> Report:
    """Return the report with an error for every lock whose base was not read."""
    return report + Report(
        findings=tuple(
            Finding(
                rule=extended.BASE_UNSEEN,
                severity="error",
                path=path,
                message="the base was not looked at",
                fix="allow to fetch it (--fetch-base), or see that it can be read.",
            )
            for path in report.bases_not_checked
        )
    )


def lock_on_base(folder: Path) -> Path | None:
    """Return the conda-lock.yml in a folder if it was built on a base, or cannot be read and may have been."""
    path = folder / CONDA_LOCK
    try:
        return path if read_built(read_lock(path).metadata) else None
    except MissingFileError:
        return None
    except LockfileError:
        return path


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
            _finding(rule.id, problem, base, env, None) for rule in files.RULES for problem in rule.look(held)
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
        # They disagree on a hash; `formats-differ` says so.
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
            findings += [
                _finding(rule.id, problem, f"locks/{name}/{CONDA_LOCK}", name, platform) for problem in rule.look(pair)
            ]
    return Report(findings=tuple(findings), skipped=tuple(skipped), rules=tuple(rule.id for rule in parity.RULES))


def _finding(rule: str, problem: Problem, path: str, env: str | None, platform: str | None) -> Finding:
    return Finding(
        rule=rule,
        severity=problem.severity,
        path=f"{path}/{problem.file}" if problem.file else path,
        message=problem.message,
        env=env,
        platform=problem.platform or platform,
        package=problem.package,
        # A lock from elsewhere was not made by `make lock`.
        fix=problem.fix.replace(RELOCK, RELOCK_ELSEWHERE) if problem.fix and env is None else problem.fix,
    )
