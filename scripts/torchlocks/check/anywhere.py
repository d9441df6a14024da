"""Lockfiles by path → findings: locks from anywhere, and those of the matrix, which are known by where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torchlocks.check.environment import check_environment, rows_of, task_of
from torchlocks.check.lock import check_environments
from torchlocks.check.model import Expectation, Finding, Report
from torchlocks.check.rules import extended
from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.extend.built import read_built
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, read_environments, read_lock
from torchlocks.matrix.load import load_matrix

RowsOf = Callable[[Path], Mapping[str, Expectation]]
"""From the path of a lockfile to what each of its platforms should be; empty for a lock from elsewhere."""


def no_rows(path: Path) -> Mapping[str, Expectation]:
    """Return the rows of a lock from elsewhere: none."""
    return {}


def rows_by_path(layout: Layout) -> RowsOf:
    """Return a function that knows the locks of a checkout: `locks/<env>/<file>` of an environment of its matrix.

    It raises what reading the matrix and its templates raises.
    """

    def rows(path: Path) -> Mapping[str, Expectation]:
        folder = path.resolve().parent
        if folder.parent != layout.locks.resolve():
            return {}
        matrix = load_matrix(layout.matrix)
        if folder.name not in matrix.environments:
            return {}
        from torchlocks.locking.environments import expected_content_hash

        return rows_of(task_of(layout, matrix, folder.name), expected_content_hash)

    return rows


def check_files_of(
    paths: Sequence[Path], environment: str | None = None, *, fetch_base: bool = False, rows: RowsOf = no_rows
) -> Report:
    """Check lockfiles from anywhere, of a pixi.lock every environment, or the one that is named.

    Raises MissingFileError for a path that is not there. Of a folder, its conda-lock.yml is read. A lock that was
    built on a base is also compared with that base, over the network only with `fetch_base`. A file that is no lock is
    a finding, so that the others are still checked. Locks for which there are `rows` are compared with those, with
    the other files of their folder: an explicit file alone has no dependencies.
    """
    report = Report()
    folders = set[Path]()
    for named in paths:
        path = named / CONDA_LOCK if named.is_dir() else named
        try:
            if path.is_file() and (known := rows(path)):
                if path.parent.resolve() not in folders:
                    report += check_environment(path.parent, known, shown=str(path.parent))[0]
                folders.add(path.parent.resolve())
                continue
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
                message="the base was not read",
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


def locks_in(folder: Path) -> tuple[Path, ...]:
    """Return the lockfiles of a project in a folder: conda-lock.yml and pixi.lock, or explicit files without these."""
    found = [folder / name for name in (CONDA_LOCK, PIXI) if (folder / name).is_file()]
    return tuple(found or sorted(path for path in folder.glob("conda-*.lock") if path.is_file()))
