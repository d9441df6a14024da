"""Check the environments of the matrix: their folders, their locks, and CPU against CUDA.

No network and no solver: only locks, the matrix and the templates are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from torchlocks.check.environment import Checked, CheckTask, ContentHash, check_task, sides_of, task_of
from torchlocks.check.lock import finding_of
from torchlocks.check.model import Finding, Report, Skipped
from torchlocks.check.rules import evidence, parity, recipes
from torchlocks.check.rules.parity import Pair, Side
from torchlocks.core.errors import TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress, Silent
from torchlocks.core.workers import Here, in_order, processes
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.lockfile.specs import spec_name
from torchlocks.matrix.model import Matrix

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from torchlocks.locking.options import Cluster

_MANY = 4
"""From how many environments on they are checked in parallel: a pool begins with an import of conda-lock."""

PRELOAD = ("torchlocks.check.environment", "torchlocks.locking.environments", "conda_lock.conda_lock")
"""What all worker processes import, once."""


def check_repository(
    layout: Layout,
    matrix: Matrix,
    envs: Sequence[str] | None = None,
    content_hash: ContentHash | None = None,
    *,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the locks of the matrix's environments, or of those named.

    `content_hash` decides whether locks are current (default: conda-lock's own, through the lock stage). With
    `cluster`, each environment is checked on one of its workers; the report is the same. Raises NoSuchRowError for a
    name that is not in the matrix, TemplateError for a template that cannot be rendered, and what a cluster raises.
    """
    names = list(envs or matrix.environments)
    tasks = [task_of(layout, matrix, name) for name in names]
    few = cluster is None and (content_hash is not None or len(tasks) < _MANY)
    report = Report()
    sides: dict[tuple[str, str], Side] = {}
    with (
        nullcontext(Here()) if few else _workers(len(tasks), cluster) as pool,
        (Silent() if few or progress is None else progress).task("Checking", total=len(tasks)) as bar,
    ):
        for task, checked in _check_all(tasks, content_hash, pool):
            report += checked.report
            sides.update({(task.env, platform): side for platform, side in checked.sides.items()})
            bar.advance(1, note=task.env)
    # A GPU environment that is checked alone is compared with its CPU counterpart all the same.
    counterparts = {_counterpart(matrix, *cell)[0] for cell in sides}
    for name in sorted(each for each in counterparts if each is not None and each not in names):
        others = sides_of(task_of(layout, matrix, name))
        sides.update({(name, platform): side for platform, side in others.items()})
    if not envs:
        report += recipes.check_recipes(layout, matrix)
        report += evidence.check_evidence(layout)
    return report + _unknown_folders(layout, matrix) + _parity(matrix, sides)


def _workers(count: int, cluster: Cluster | None) -> AbstractContextManager[Executor]:
    if cluster is None:
        return processes(count, preload=PRELOAD)
    from torchlocks.check.messages import register

    register()
    return cluster(())


def _check_all(
    tasks: Sequence[CheckTask], content_hash: ContentHash | None, pool: Executor
) -> Iterator[tuple[CheckTask, Checked]]:
    """Check environments in `pool`, and yield the results in their order."""
    function: Callable[[CheckTask], Checked | TorchlocksError | None] = check_task
    if content_hash is not None:
        function = partial(check_task, content_hash=content_hash)
    for task, found in in_order(pool, function, tasks):
        if isinstance(found, TorchlocksError):
            raise found
        # None is the answer of another machine that lacks what is needed.
        yield task, check_task(task) if found is None else found


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


def _parity(matrix: Matrix, sides: Mapping[tuple[str, str], Side]) -> Report:
    """Compare every GPU environment with its CPU counterpart."""
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for (name, platform), side in sides.items():
        other, paired = _counterpart(matrix, name, platform)
        if other is None:
            continue
        cpu = sides.get((other, platform))
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
                gpu=side,
                constraints=frozenset(spec_name(spec) for spec in matrix.environment(name).constraints),
            )
            path = f"locks/{name}/{CONDA_LOCK}"
            findings += [finding_of(rule.id, problem, path, name, platform) for problem in rule.look(pair)]
    return Report(findings=tuple(findings), skipped=tuple(skipped), rules=tuple(rule.id for rule in parity.RULES))
