"""Apply a plan: write `matrix.yml` and its tables, and lock new and changed environments."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from torchlocks.core.errors import MatrixError
from torchlocks.core.files import write_whole
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.evidence.tables import update_tables
from torchlocks.locking.environments import LockFailure, LockResult, lock_environments
from torchlocks.locking.options import LockOptions
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.model import Matrix
from torchlocks.publish.metapackages import update_generated
from torchlocks.update.matrix_file import rewrite
from torchlocks.update.refresh import Plan


@dataclass(frozen=True, kw_only=True)
class Applied:
    """The result of a plan: the new matrix, the removed environments, and the locks.

    `recipes` are the generated files that were written.
    """

    matrix: Matrix
    removed: tuple[str, ...]
    recipes: tuple[str, ...]
    locked: tuple[LockResult, ...]
    failures: tuple[LockFailure, ...]


def write_plan(layout: Layout, plan: Plan) -> Matrix:
    """Write the matrix of a plan, and the tables of README and docs; return the new matrix.

    Raises MatrixError if the written matrix is not valid; the old one is then restored.
    """
    before = layout.matrix.read_text(encoding="utf-8")
    write_whole(layout.matrix, rewrite(before, plan))
    try:
        matrix = load_matrix(layout.matrix)
    except MatrixError:
        write_whole(layout.matrix, before)
        raise
    update_tables(layout, matrix)
    return matrix


def apply(layout: Layout, plan: Plan, options: LockOptions, progress: Progress) -> Applied:
    """Write the matrix of a plan, lock the changed environments, and remove the locks of removed ones.

    Raises what `write_plan` and `lock_environments` raise.
    """
    matrix = write_plan(layout, plan)
    changed = [
        target
        for target in matrix.targets()
        if target.env not in plan.before.environments or _differs(plan.before, matrix, target.env)
    ]
    locked, failures = lock_environments(layout, changed, layout.locks, options, progress) if changed else ([], [])
    removed = remove_locks(layout, plan.before, matrix)
    # The tables show evidence, which may now be on previous locks.
    update_tables(layout, matrix)
    recipes = () if failures else update_generated(layout, matrix)
    return Applied(
        matrix=matrix,
        removed=removed,
        recipes=tuple(path.relative_to(layout.root).as_posix() for path in recipes),
        locked=tuple(locked),
        failures=tuple(failures),
    )


def remove_locks(layout: Layout, before: Matrix, after: Matrix) -> tuple[str, ...]:
    """Remove the locks of environments that are in `before` and not in `after`; return their names."""
    gone = [env for env in before.environments if env not in after.environments]
    for env in gone:
        shutil.rmtree(layout.locks / env, ignore_errors=True)
    return tuple(gone)


def _differs(before: Matrix, after: Matrix, env: str) -> bool:
    old, new = before.environments[env], after.environments[env]
    return any(
        platform not in old.platforms or before.target(env, platform) != after.target(env, platform)
        for platform in new.platforms
    ) or set(old.platforms) != set(new.platforms)
